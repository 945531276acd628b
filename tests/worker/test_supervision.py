"""Errors in the worker's own code, at any place: each ends only the attempt that it belongs to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from app.catalog.model import Catalog
from app.domain.payload import write_call
from app.settings import Settings
from app.store.write import Write
from app.telemetry.tracing import Tracing
from app.worker.attempt import Attempt
from app.worker.child import ChildConfig
from app.worker.claim import Claim
from app.worker.ending import Stopping
from app.worker.forkserver import Forkserver
from app.worker.loops import for_life
from app.worker.orphans import OrphanSweeper
from app.worker.pool import Pool
from app.worker.start_message import StartMessage

CLAIM = Claim(
    "exec_1",
    "w:1:1",
    1,
    data=write_call(type="agent", target_id="a", inputs={}, config={}),
    timeout_seconds=5,
)


class FakeChild:
    """A child of threads, which is told things and does nothing."""

    pid, slots, runs, stuck_threads, leaked_threads = 1, 4, 0, 0, 0
    ready, retiring, gone, killed, full = True, False, False, False, False

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.final_outcomes: dict[str, Any] = {}
        self.to_abandon: dict[str, int] = {}
        self.asked = 0
        self.pool: Pool | None = None
        self.told: list[str] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None

    @property
    def free_slots(self) -> int:
        return self.slots - len(self.attempts) - self.stuck_threads

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        if self.error:
            raise self.error
        self.told.append(head["kind"])

    def send_message(self, message: bytes) -> None:
        # Not decoded: that would take as long as the encoding, on the loop that is measured.
        assert b'"kind":"start"' in message[:200].replace(b" ", b"")
        self.sizes.append(len(message))
        self.send({"kind": "start"})

    def ask(self) -> int:
        """Answers in the next turn of the loop."""
        self.asked += 1
        head = {"kind": "alive", "token": "", "number": self.asked}
        asyncio.get_running_loop().call_soon(
            lambda: self.pool and self.pool._on_message(self, head, b"")
        )  # type: ignore[arg-type]
        return self.asked

    def kill(self) -> None:
        self.killed = True


class FakeWriter:
    """Remembers what was to be written; raises what it is told to, once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.written = error, []  # type: ignore[var-annotated]

    async def write(self, write: Write) -> str:
        error, self.error = self.error, None
        if error:
            raise error
        self.written.append((write.script, write.arguments[0]))
        return "ok"


class FakeStore:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def read_steps(self, _: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
        if self.error:
            raise self.error
        return {}, {}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Errors are logged with their places, at length."""
    with structlog.testing.capture_logs():
        yield


def pool_with(child: FakeChild) -> Pool:
    forkserver = Forkserver()
    config = ChildConfig(Settings(), Catalog(agents={}, pipelines={}), child.slots, 9.0)
    pool = Pool(config, 1, forkserver, OrphanSweeper(forkserver))
    pool._children.append(child)  # type: ignore[arg-type]
    child.pool = pool
    pool._supervisor.closed = True  # it starts no successors, which would be processes
    return pool


Act = Callable[[Pool, FakeChild, Attempt], None]


async def run_beside_a_neighbour(
    act: Act, claim: Claim = CLAIM, **fakes: Any
) -> tuple[FakeWriter, FakeChild, Attempt]:
    """Runs an attempt, does something to it, waits for its end; the neighbour in the same child
    must go on.
    """
    child, writer = FakeChild(), fakes.get("writer") or FakeWriter()
    pool, store = pool_with(child), fakes.get("store") or FakeStore()
    attempt, neighbour = (
        Attempt(one, Settings(), Tracing())
        for one in (claim, replace(CLAIM, id="exec_2", token="w:1:2"))
    )
    tasks = [
        asyncio.ensure_future(one.run(pool.acquire(one), pool, store, writer))  # type: ignore[arg-type]
        for one in (attempt, neighbour)
    ]
    await asyncio.sleep(0.01)
    act(pool, child, attempt)
    await asyncio.wait_for(tasks[0], 30)
    assert not tasks[1].done()
    assert not child.killed
    neighbour.stop(Stopping.LOST)
    await asyncio.wait_for(tasks[1], 3)
    return writer, child, attempt


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


KEY = "exec_1/w:1:1"
USAGE = {"usage": "", "leaked_threads": 0, "memory_bytes": 1, "counts": {}}


@pytest.mark.parametrize(
    "head",
    [
        {"kind": "progress"},
        {"kind": "used"},
        {"kind": "checkpoint"},
        {"kind": "ended"},
        {"kind": "ended", "outcome": "odd", **USAGE},
        {"kind": "ended", "outcome": "failed", **USAGE},
        {"kind": "ended", "outcome": "failed", "error": "text", "retryable": 1, **USAGE},
        {"kind": "ended", "outcome": "completed", **USAGE, "counts": 5},
        {"kind": "ended", "outcome": "completed", **USAGE, "leaked_threads": "many"},
    ],
    ids=lambda head: "-".join(map(str, head.values()))[:40],
)
def test_a_message_that_makes_no_sense_ends_the_attempt_that_it_is_about(
    head: dict[str, Any],
) -> None:
    def act(pool: Pool, child: FakeChild, _: Attempt) -> None:
        pool._on_message(child, {"token": KEY, **head}, b"")  # type: ignore[arg-type]

    writer, _, _ = run(run_beside_a_neighbour(act))
    assert writer.written == [("release", "lost")]


@pytest.mark.parametrize(
    "head", [{}, {"kind": None}, {"kind": "progress", "token": ["list"]}, {"kind": "ready!"}]
)
def test_a_message_about_nothing_ends_nothing(head: dict[str, Any]) -> None:
    def act(pool: Pool, child: FakeChild, attempt: Attempt) -> None:
        pool._on_message(child, head, b"")  # type: ignore[arg-type]
        assert not attempt.concluded
        pool._on_message(
            child, {"kind": "ended", "token": KEY, "outcome": "completed", **USAGE}, b"{}"
        )  # type: ignore[arg-type]

    writer, _, _ = run(run_beside_a_neighbour(act))
    assert writer.written == [("finish", "completed")]


def test_a_checkpoint_that_makes_no_sense_ends_its_attempt() -> None:
    def act(pool: Pool, child: FakeChild, _: Attempt) -> None:
        head = {
            "kind": "checkpoint",
            "token": KEY,
            "number": 1,
            "usage": "",
            "values": ["a"],
            "lengths": [],
        }
        pool._on_message(child, head, b"")  # type: ignore[arg-type]

    writer, _, _ = run(run_beside_a_neighbour(act))
    assert writer.written == [("release", "lost")]


def test_an_error_on_the_way_to_a_child_ends_the_attempt() -> None:
    """The steps were read in the meantime, say, and the child cannot be told of them."""
    child_error = TypeError("not JSON")

    class Reading(FakeStore):
        async def read_steps(self, _: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
            await asyncio.sleep(0.05)
            return {}, {}

    def act(_: Pool, child: FakeChild, __: Attempt) -> None:
        child.error = child_error

    writer, _, _ = run(run_beside_a_neighbour(act, replace(CLAIM, resumes=True), store=Reading()))
    assert writer.written == [("release", "lost")]


def longest_hold(steps: dict[str, bytes]) -> float:
    """For how long the start of a resumed batch holds the loop, as a share of what putting it
    together takes. Both in CPU time of the loop's thread, which a busy machine does not change.
    """

    class Large(FakeStore):
        async def read_steps(self, _: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
            await begun.wait()
            return steps, steps

    begun = asyncio.Event()
    turns: list[float] = []
    beats: list[asyncio.Task[None]] = []

    def act(pool: Pool, child: FakeChild, attempt: Attempt) -> None:
        began = time.thread_time()
        message = StartMessage(attempt.claim, KEY, attempt.names(), None, (steps, steps)).encoded()
        in_one_piece = time.thread_time() - began

        async def beat() -> None:
            begun.set()
            last = time.thread_time()
            while child.told.count("start") != 2:
                await asyncio.sleep(0.001)
                turns.append((time.thread_time() - last) / in_one_piece)
                last = time.thread_time()
            assert child.sizes[-1] == len(message)
            pool._on_message(
                child, {"kind": "ended", "token": KEY, "outcome": "completed", **USAGE}, b"{}"
            )  # type: ignore[arg-type]

        beats.append(asyncio.ensure_future(beat()))

    claim = replace(CLAIM, resumes=True, timeout_seconds=60)
    writer, _, _ = run(run_beside_a_neighbour(act, claim, store=Large()))
    assert writer.written == [("finish", "completed")]
    assert beats[0].exception() is None
    return max(turns)


def test_the_start_of_a_batch_with_very_many_items_does_not_hold_the_loop() -> None:
    steps = {f"batch:{number}": b"what the item has put out" for number in range(100_000)}
    assert longest_hold(steps) < 0.5


def test_an_error_in_reading_steps_ends_the_attempt() -> None:
    store = FakeStore(RuntimeError("a bug"))
    writer, _, _ = run(
        run_beside_a_neighbour(lambda *_: None, replace(CLAIM, resumes=True), store=store)
    )
    assert writer.written == [("release", "lost")]


def test_an_error_in_storing_a_checkpoint_ends_the_attempt() -> None:
    def act(pool: Pool, child: FakeChild, _: Attempt) -> None:
        lists: dict[str, Any] = {
            name: [] for name in ("records", "outcomes", "values", "lengths", "dropped")
        }
        head = {
            "kind": "checkpoint",
            "token": KEY,
            "number": 1,
            "usage": "",
            "progress": "",
            "definition_hash": "d",
        }
        pool._on_message(child, {**head, **lists}, b"")  # type: ignore[arg-type]

    writer, _, _ = run(run_beside_a_neighbour(act, writer=FakeWriter(RuntimeError("a bug"))))
    assert writer.written == [("release", "lost")]


def test_a_timer_that_comes_due_while_nothing_else_happens_ends_the_attempt() -> None:
    claim = replace(CLAIM, timeout_seconds=0.05)
    writer, child, _ = run(run_beside_a_neighbour(lambda *_: None, claim))
    assert writer.written == [("finish", "failed")]
    assert child.told == ["start", "start", "stop", "stop"]  # the latter is the neighbour's


def test_a_loop_of_the_worker_that_meets_an_error_goes_on() -> None:
    turns: list[int] = []

    async def loop() -> None:
        turns.append(len(turns))
        if len(turns) < 3:
            raise RuntimeError("a bug")

    run(asyncio.wait_for(for_life(loop), 10))
    assert turns == [0, 1, 2]
