"""What a worker keeps of an attempt's events until the store has them."""

from __future__ import annotations

import json
import random
from typing import Any

from app.domain.execution import Failure, StepRecord, StepStatus
from app.runtime.live import Place
from app.telemetry.masking import Mask
from app.worker.event_buffer import BYTES_PER_CALL, MAX_BYTES, MAX_EVENTS, EventBuffer
from app.worker.live_reports import MAX_LOG_BYTES, write_delta, write_log
from app.worker.reports import write_step_event


def line(number: int, text: str = "") -> str:
    return f'"log",{{"message":"{number}{text}"}}'


def delta(text: str, call: int = 1) -> str:
    return write_delta(Place("write", 2), call, text)


class Store:
    """Takes events as the scripts do: those that it has already are left out."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def take(self, offered: str) -> None:
        if offered:
            first, *texts = json.loads(offered)
            assert first <= len(self.events) + 1, "A number is missing."
            self.events += texts[len(self.events) + 1 - first :]


def read(event: str) -> tuple[str, dict[str, Any]]:
    type, data = json.loads(f"[{event}]")
    return type, data


def test_an_empty_buffer_offers_nothing() -> None:
    assert EventBuffer().offer(BYTES_PER_CALL) == ("", 0)


def test_events_stay_until_they_are_confirmed() -> None:
    buffer, store = EventBuffer(), Store()
    buffer.add([line(1), line(2)])
    lost = buffer.offer(BYTES_PER_CALL)
    buffer.add([line(3)])
    kept = buffer.offer(BYTES_PER_CALL)
    store.take(kept.events)
    store.take(lost.events)  # the network has delivered it late
    buffer.confirm(kept.last)
    buffer.confirm(lost.last)
    assert store.events == [line(1), line(2), line(3)]
    assert not buffer


def test_whatever_gets_lost_repeated_or_late_nothing_is_missing_and_nothing_comes_twice() -> None:
    chance = random.Random(7)
    for _ in range(200):
        buffer, store, told, late = EventBuffer(), Store(), 0, []
        for _ in range(100):
            if chance.random() < 0.5:
                told += 1
                buffer.add([line(told)])
            offer = buffer.offer(BYTES_PER_CALL, chance.randint(1, 20))
            fate = chance.random()
            if fate < 0.4:
                store.take(offer.events)
                buffer.confirm(offer.last)
            elif fate < 0.6:
                store.take(offer.events)  # the answer gets lost
            elif fate < 0.8:
                late.append(offer)
            if late and chance.random() < 0.3:
                store.take(late.pop().events)
        store.take(buffer.offer_all().events)
        assert store.events == [line(number) for number in range(1, told + 1)]


def test_one_heartbeat_brings_a_bounded_number_of_events_and_bytes() -> None:
    buffer = EventBuffer()
    buffer.add([line(number) for number in range(1000)])
    assert buffer.offer(BYTES_PER_CALL).last == 500
    large = EventBuffer()
    large.add([line(number, "x" * 100_000) for number in range(5)])
    assert large.offer(BYTES_PER_CALL).last == 2
    assert large.offer_all().last == 5


def test_in_a_long_outage_pieces_of_an_answer_are_put_together() -> None:
    buffer = EventBuffer()
    pieces = [f"{number} " for number in range(MAX_EVENTS + 1)]
    for number, piece in enumerate(pieces):
        buffer.add([delta(piece, call=number % 2)])
    _, *events = json.loads(buffer.offer_all().events)
    assert len(events) == 2
    texts = {data["call"]: data["text"] for _, data in map(read, events)}
    assert texts == {0: "".join(pieces[::2]), 1: "".join(pieces[1::2])}


def test_in_a_longer_outage_the_oldest_lines_give_way_and_a_line_says_so() -> None:
    buffer = EventBuffer()
    buffer.add([delta("The answer.")])
    for number in range(3 * MAX_EVENTS):
        buffer.add([line(number)])
    _, note, answer, *rest = json.loads(buffer.offer_all().events)
    said = read(note)[1]["message"]
    assert read(answer)[1]["text"] == "The answer."
    assert rest == [line(number) for number in range(3 * MAX_EVENTS - len(rest), 3 * MAX_EVENTS)]
    assert len(rest) >= MAX_EVENTS // 2 - 1
    assert said.startswith(f"{3 * MAX_EVENTS - len(rest)} events were left out")


def test_what_is_kept_has_a_bound_in_bytes() -> None:
    buffer = EventBuffer()
    for number in range(100):
        buffer.add([line(number, "x" * 50_000), delta("y" * 50_000, call=number)])
    assert sum(map(len, json.loads(buffer.offer_all().events)[1:])) <= MAX_BYTES


def test_what_was_offered_is_not_changed_afterwards() -> None:
    """The store may have it under its number, although nobody knows yet."""
    buffer, store = EventBuffer(), Store()
    buffer.add([delta("a"), delta("b")])
    store.take(buffer.offer(BYTES_PER_CALL).events)
    buffer.add([delta("c") for _ in range(MAX_EVENTS)])
    store.take(buffer.offer_all().events)
    assert "".join(read(event)[1]["text"] for event in store.events) == "ab" + "c" * MAX_EVENTS


def test_a_line_is_masked_and_bounded() -> None:
    fields = {"token": "x", "note": "the key is sk-0123456789abcdef", "n": 1, "set": {1}}
    event = write_log(Place(), "my-own-secret", fields, Mask(["my-own-secret"]))
    type, data = read(event)
    assert type == "log"
    assert data["message"] == "[masked]"
    assert data["fields"]["token"] == "[masked]"
    assert data["fields"]["note"] == "the key is [masked]"
    assert (data["fields"]["n"], data["step"], data["item"]) == (1, None, None)


def test_a_line_of_any_size_and_kind_fits() -> None:
    for message in ("x" * 1_000_000, "\x00" * 1_000_000, "好" * 1_000_000, "\ud800" * 100_000, 7):
        event = write_log(Place("a", 1), message, {"more": ["y" * 9000] * 100}, Mask())  # type: ignore[arg-type]
        assert len(event.encode(errors="replace")) <= MAX_LOG_BYTES
        assert read(event)[1]["step"] == "a"


def record(status: StepStatus, **more: Any) -> StepRecord:
    return StepRecord("write", 0, status, "text", "writer", "draft", attempt=2, **more)


def test_steps_have_events_when_they_start_and_end() -> None:
    failure = Failure("FlowError", "It broke.", {})
    shown = {
        ("started", StepStatus.RUNNING): "step.started",
        ("ended", StepStatus.COMPLETED): "step.completed",
        ("ended", StepStatus.SKIPPED): "step.skipped",
    }
    for (moment, status), type in shown.items():
        expected = (type, {"step": "write", "attempt": 2})
        assert read(write_step_event(record(status), moment)) == expected
    failed = read(write_step_event(record(StepStatus.FAILED, failure=failure), "ended"))
    error = {"type": "FlowError", "message": "It broke.", "details": {}}
    assert failed == (
        "step.failed",
        {"step": "write", "attempt": 2, "error": error, "retrying": False},
    )


def test_a_try_that_is_repeated_has_failed_and_says_that_another_follows() -> None:
    waiting = record(StepStatus.PENDING, failure=Failure("FlowError", "It broke.", {}))
    type, data = read(write_step_event(waiting, ""))
    assert (type, data["retrying"]) == ("step.failed", True)


def test_other_changes_of_a_step_have_no_event() -> None:
    for status in (StepStatus.PENDING, StepStatus.RUNNING, StepStatus.CANCELLED):
        assert write_step_event(record(status), "") == ""
    assert write_step_event(record(StepStatus.CANCELLED), "ended") == ""
