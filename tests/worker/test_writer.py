"""`app.worker.writer`: writes are sent together and in order; a refused one delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
import structlog

from app.domain.errors import StoreUnavailable
from app.store.worker_connection import LARGE_BYTES
from app.store.write import Write
from app.worker import writer as writer_module
from app.worker.outage import OutageLog
from app.worker.writer import PAUSES_SECONDS, ResultWriter, WriteRefused


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pauses are a thousand times shorter."""
    monkeypatch.setattr(writer_module, "RETRY_STORE_SECONDS", 0.0005)
    monkeypatch.setattr(
        writer_module, "PAUSES_SECONDS", tuple(pause / 1000 for pause in PAUSES_SECONDS)
    )
    with structlog.testing.capture_logs():
        yield


def write(name: str, size: int = 10) -> Write:
    return Write(name, "w:1:1", "finish", ("completed", b"x" * size, ""), str)


Decide = Callable[[list[str]], "list[str] | Exception"]


class FakeStore:
    """Answers what `decide` says of the executions that are written together."""

    def __init__(self, decide: Decide):
        self._decide = decide
        self.calls: list[list[str]] = []

    async def write(self, writes: Sequence[Write]) -> list[str]:
        names = [one.id for one in writes]
        self.calls.append(names)
        await asyncio.sleep(0)
        answer = self._decide(names)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answers(self) -> bool:
        return True


def unavailable(cause: Exception) -> StoreUnavailable:
    error = StoreUnavailable()
    error.__cause__ = cause
    return error


def written(store: FakeStore, *writes: Write) -> list[str | BaseException]:
    async def run() -> list[str | BaseException]:
        writer = ResultWriter(store, OutageLog(), 64, lambda: None)  # type: ignore[arg-type]
        serving = asyncio.ensure_future(writer.run())
        try:
            together = asyncio.gather(
                *(writer.write(one) for one in writes), return_exceptions=True
            )
            return await asyncio.wait_for(together, 10)
        finally:
            serving.cancel()

    return asyncio.run(run())


def test_what_waits_is_written_together_and_answered_one_by_one() -> None:
    store = FakeStore(lambda names: [f"word of {name}" for name in names])
    assert written(store, *map(write, "abc")) == ["word of a", "word of b", "word of c"]
    assert len(store.calls) <= 2


@pytest.mark.parametrize(
    "cause",
    [
        redis.ReadOnlyError("READONLY"),
        redis.ResponseError("NOREPLICAS"),
        redis.ResponseError("OOM"),
    ],
)
def test_a_store_that_takes_no_writes_for_long_costs_no_outcome(cause: Exception) -> None:
    """It answers a PING all the while, so that one might take the write for the culprit."""
    tries = iter(range(1000))
    store = FakeStore(
        lambda names: unavailable(cause) if next(tries) < 100 else ["ok"] * len(names)
    )
    assert written(store, write("a"), write("b")) == ["ok", "ok"]


def test_one_write_that_the_store_hangs_up_on_holds_up_no_other_and_is_given_up_in_the_end() -> (
    None
):
    def hang_up(names: list[str]) -> list[str] | Exception:
        return (
            unavailable(redis.ConnectionError("closed")) if "bad" in names else ["ok"] * len(names)
        )

    store = FakeStore(hang_up)
    first, bad, last = written(store, write("a"), write("bad"), write("b"))
    assert (first, last) == ("ok", "ok")
    assert isinstance(bad, WriteRefused)
    assert store.calls.count(["bad"]) == len(PAUSES_SECONDS) + 1
    assert store.calls.index(["b"]) < len(store.calls) - len(PAUSES_SECONDS)


def test_one_write_that_is_refused_for_itself_is_tried_again_and_may_be_taken_later() -> None:
    tries = iter(range(1000))
    store = FakeStore(
        lambda names: ["! WRONGTYPE" if name == "a" and next(tries) < 3 else "ok" for name in names]
    )
    assert written(store, write("a"), write("b")) == ["ok", "ok"]


def test_an_error_of_our_own_costs_the_one_write_and_no_lane() -> None:
    def break_on(names: list[str]) -> list[str] | Exception:
        return TypeError("a bug") if "bad" in names else ["ok"] * len(names)

    for size in (10, LARGE_BYTES + 1):
        first, bad, last = written(
            FakeStore(break_on), write("a", size), write("bad", size), write("b", size)
        )
        assert (first, last) == ("ok", "ok")
        assert isinstance(bad, WriteRefused)


def test_writes_that_are_nearly_large_do_not_go_together() -> None:
    store = FakeStore(lambda names: ["ok"] * len(names))
    assert (
        written(store, *(write(str(number), LARGE_BYTES // 2 - 100) for number in range(9)))
        == ["ok"] * 9
    )
    assert max(map(len, store.calls)) == 2
