"""What the page of an execution shows of answers and of the log, from its events."""

from __future__ import annotations

from datetime import UTC, datetime

from app.domain.events import Event
from app.pages import transcript as module
from app.pages.transcript import transcript

NOW = datetime(2026, 11, 27, 1, 0, tzinfo=UTC)


def delta(text: str, step: str | None = None, item: int | None = None, call: int = 1) -> Event:
    return Event(1, "output.delta", NOW, {"step": step, "item": item, "call": call, "text": text})


def started(attempt: int) -> Event:
    return Event(1, "started", NOW, {"attempt": attempt})


def test_pieces_of_the_same_call_are_one_answer() -> None:
    found = transcript([started(1), delta("One "), delta("other", call=2), delta("two.")])
    assert [(answer.title, answer.text) for answer in found.answers] == [
        ("Answer", "One two."),
        ("call 2", "other"),
    ]


def test_steps_items_and_attempts_have_answers_of_their_own() -> None:
    events = [started(1), delta("a", "read"), delta("b", "read", 0), started(2), delta("c", "read")]
    found = transcript(events)
    assert [(answer.key, answer.title, answer.text) for answer in found.answers] == [
        ("1/read//1", "read", "a"),
        ("1/read/0/1", "read, item 0", "b"),
        ("2/read//1", "read, attempt 2", "c"),
    ]
    assert found.attempt == 2


def test_of_a_long_answer_the_end_is_shown() -> None:
    [answer] = transcript([delta("x" * module.MAX_ANSWER), delta("end")]).answers
    assert answer.is_cut
    assert len(answer.text) == module.MAX_ANSWER
    assert answer.text.endswith("xend")


def test_lines_of_the_log_are_in_order_and_only_the_last_ones_are_shown() -> None:
    events = [
        Event(1, "log", NOW, {"step": "a", "item": 2, "message": f"line {n}", "fields": {"n": n}})
        for n in range(300)
    ]
    found = transcript(events)
    assert found.are_lines_cut
    assert len(found.lines) == module.MAX_LINES
    last = found.lines[-1]
    assert (last.source, last.message, last.fields) == ("a, item 2", "line 299", '{"n": 299}')


def test_damaged_events_do_no_harm() -> None:
    events = [Event(1, type, NOW) for type in ("started", "log", "output.delta")]
    found = transcript(events)
    assert [line.message for line in found.lines] == [""]
    assert [answer.text for answer in found.answers] == [""]
