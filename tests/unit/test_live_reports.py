"""What a child sends of a run while it runs: lines at once, answers at most ten times a second."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, cast

import pytest

from app.runtime.live import Place, ShownAnswer
from app.worker.live_reports import MAX_DELTA_BYTES, LiveReports, RunLive
from app.worker.protocol import ChildSocket

NOWHERE = Place()


class Worker:
    """Stands for the worker: keeps what it gets, with the time. While `held`, it reads nothing."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, list[tuple[str, dict[str, Any]]]]] = []
        self.held = threading.Lock()

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        with self.held:
            assert head == {"kind": "events", "token": "token"}
            events = [tuple(json.loads(f"[{line}]")) for line in body.decode().split("\n")]
            self.messages.append((time.monotonic(), events))  # type: ignore[arg-type]

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [event for _, events in self.messages for event in events]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [data for type, data in self.events if type == "output.delta"]

    def until(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.events) < count:
            assert time.monotonic() < deadline, self.events
            time.sleep(0.005)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def live(worker: Worker) -> RunLive:
    reports = LiveReports(cast(ChildSocket, worker), [])
    return reports.open("token")


def threads() -> int:
    return sum(thread.name == "live" for thread in threading.enumerate())


def test_a_line_is_sent_at_once_and_without_a_thread(worker: Worker, live: RunLive) -> None:
    before = threads()
    live.log(NOWHERE, "reading", {"page": 1})
    expected = {"step": None, "item": None, "message": "reading", "fields": {"page": 1}}
    assert worker.events == [("log", expected)]
    assert threads() == before


def test_a_run_that_shows_nothing_sends_nothing(worker: Worker, live: RunLive) -> None:
    before = threads()
    live.flush({"a"}, ())
    live.end()
    assert worker.messages == []
    assert threads() == before


def test_many_lines_share_few_messages_and_keep_their_order(worker: Worker, live: RunLive) -> None:
    for number in range(1000):
        live.log(NOWHERE, str(number), {})
    live.end()
    assert [data["message"] for _, data in worker.events] == [str(n) for n in range(1000)]
    assert len(worker.messages) < 100


def test_an_answer_comes_in_at_most_ten_pieces_a_second(worker: Worker, live: RunLive) -> None:
    began = time.monotonic()
    answer = ShownAnswer(live, NOWHERE)
    words = [f"word{number} " for number in range(100)]
    for word in words:
        answer(word)
        time.sleep(0.005)
    live.end()
    took = time.monotonic() - began
    assert "".join(delta["text"] for delta in worker.deltas) == "".join(words)
    assert {delta["call"] for delta in worker.deltas} == {1}
    assert 2 <= len(worker.deltas) <= 10 * took + 2


def test_answers_that_come_side_by_side_share_the_ten_pieces(worker: Worker, live: RunLive) -> None:
    answers = [ShownAnswer(live, Place("ask", item)) for item in range(5)]
    began = time.monotonic()
    for number in range(60):
        for answer in answers:
            answer(f"{number} ")
        time.sleep(0.01)
    took = time.monotonic() - began
    during = len(worker.deltas)
    live.end()
    assert during <= 10 * took + 2
    assert len({delta["item"] for delta in worker.deltas[:5]}) == 5, "one has waited too long"
    for item in range(5):
        texts = [delta["text"] for delta in worker.deltas if delta["item"] == item]
        assert "".join(texts) == "".join(f"{number} " for number in range(60))


def test_the_first_piece_does_not_wait(worker: Worker, live: RunLive) -> None:
    ShownAnswer(live, NOWHERE)("First")
    worker.until(1)
    assert worker.deltas[0]["text"] == "First"


def test_a_line_comes_after_the_answer_that_came_before_it(worker: Worker, live: RunLive) -> None:
    answer = ShownAnswer(live, NOWHERE)
    answer("a")
    worker.until(1)
    answer("b")
    live.log(NOWHERE, "done", {})
    worker.until(3)
    shown = [data.get("text") or data["message"] for _, data in worker.events]
    assert shown == ["a", "b", "done"]


def test_the_answer_of_a_step_comes_before_its_end(worker: Worker, live: RunLive) -> None:
    one, other = ShownAnswer(live, Place("one")), ShownAnswer(live, Place("other", 3))
    one("1")
    worker.until(1)
    one("2")
    other("3")
    live.flush({"one"}, ())
    assert [delta["text"] for delta in worker.deltas[:2]] == ["1", "2"]
    live.flush((), {Place("other", 3)})
    assert worker.deltas[2]["text"] == "3"


def test_a_repeat_in_the_middle_of_an_answer_is_a_new_call(worker: Worker, live: RunLive) -> None:
    answer = ShownAnswer(live, NOWHERE)
    answer("wrong", 0)
    answer("right", 1)
    ShownAnswer(live, NOWHERE)("next")
    live.end()
    assert [(delta["call"], delta["text"]) for delta in worker.deltas] == [
        (1, "wrong"),
        (2, "right"),
        (3, "next"),
    ]


def test_a_long_text_is_cut_between_characters(worker: Worker, live: RunLive) -> None:
    text = "x" + "好" * 20_000
    ShownAnswer(live, NOWHERE)(text)
    live.end()
    pieces = [delta["text"] for delta in worker.deltas]
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= MAX_DELTA_BYTES
    assert len(pieces) == 4


def test_what_comes_after_the_end_is_not_sent(worker: Worker, live: RunLive) -> None:
    live.end()
    live.log(NOWHERE, "late", {})
    ShownAnswer(live, NOWHERE)("late")
    live.end()
    assert worker.messages == []


def test_a_model_never_waits_for_a_worker_that_reads_nothing(worker: Worker, live: RunLive) -> None:
    with worker.held:
        for number in range(1000):
            ShownAnswer(live, Place("ask", number % 7))("x")
    live.end()
    assert sum(len(delta["text"]) for delta in worker.deltas) == 1000


def test_without_room_for_a_thread_the_answer_comes_at_the_end(
    worker: Worker, live: RunLive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    answer = ShownAnswer(live, NOWHERE)
    with monkeypatch.context() as without_room:
        without_room.setattr(threading.Thread, "start", refuse)
        answer("a")
        answer("b")
    assert worker.messages == []
    answer("c")  # there is room again
    worker.until(1)
    live.end()
    assert "".join(delta["text"] for delta in worker.deltas) == "abc"
