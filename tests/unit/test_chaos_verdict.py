"""`tests.chaos.verdict`: a correct history passes; forged ones show each broken promise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.breaker import Fault
from tests.chaos.listeners import Heard
from tests.chaos.load import Accepted
from tests.chaos.verdict import Verdict

BEGAN = 1_800_000_000.0
FIRST, SECOND = (1, 100), (2, 200)
"""An attempt and its process."""


def at(seconds: float) -> str:
    return datetime.fromtimestamp(BEGAN + seconds, UTC).isoformat()


def history() -> Verdict:
    """`moved` lost its first attempt and completed in the second; `stopped` was cancelled."""
    moved, stopped = (
        Accepted(f"exec_{name}", kind, Path(f"/marks/{name}"), told_at=[BEGAN])
        for name, kind in (("moved", "work"), ("stopped", "cancel"))
    )
    moved.calls_back = True
    stopped.cancel_answers.append(200)
    lost = {"number": 1, "outcome": "lost", "ended_at": at(14)}
    return Verdict(
        accepted=[moved, stopped],
        last={
            moved.id: {
                "status": "completed",
                "completed_at": at(16),
                "attempt": 2,
                "outputs": {"output": {"attempt": 2, "ticks": "/marks/moved"}},
                "attempts": [lost],
            },
            stopped.id: {"status": "cancelled", "cancelled_at": at(5)},
        },
        ticks={
            moved.id: [(*FIRST, BEGAN + 1), (*FIRST, BEGAN + 2), (*SECOND, BEGAN + 15)],
            stopped.id: [(*FIRST, BEGAN + 4)],
        },
        listed={"completed": {moved.id}, "failed": set(), "cancelled": {stopped.id}},
        leased=[],
        codes={200: 9, 202: 2, 400: 1, 503: 3},
        slowest_seconds=1.0,
        faults=[Fault("kill a worker", BEGAN + 2, BEGAN + 2, 0.5)],
        frozen=set(),
        set_back=[],
        held=[],
        streams={
            moved.id: Heard(
                BEGAN,
                BEGAN + 16,
                [(1, "execution.created"), (2, "execution.started"), (3, "execution.completed")],
                204,
            )
        },
        waits={stopped.id: Heard(BEGAN, BEGAN + 5, status="cancelled")},
        callbacks={moved.id: ["execution.completed"]},
        unsigned=0,
    )


def found(verdict: Verdict) -> list[str]:
    return [promise for promise, cases in verdict.broken().items() if cases]


def test_a_sound_history_breaks_no_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert found(history()) == []
    assert history().report()
    assert "2 accepted = 1 completed + 0 failed + 1 cancelled" in capsys.readouterr().out


def lose(it: Verdict) -> None:
    it.last["exec_moved"] = {"status": 404}
    it.listed["completed"].clear()


def stick(it: Verdict) -> None:
    it.last["exec_moved"] |= {"status": "running"}


def cancel_after_a_no(it: Verdict) -> None:
    it.accepted[1].cancel_answers[:] = [400]


def complete_after_a_yes(it: Verdict) -> None:
    it.accepted[0].cancel_answers.append(200)


def take_the_old_outputs(it: Verdict) -> None:
    it.last["exec_moved"]["outputs"]["output"]["attempt"] = 1


def take_the_outputs_of_another(it: Verdict) -> None:
    it.last["exec_moved"]["outputs"]["output"]["ticks"] = "/marks/stopped"


def hold_the_loop(it: Verdict) -> None:
    it.held.append("app/somewhere.py:1 callback")


def run_twice_at_a_time(it: Verdict) -> None:
    it.ticks["exec_moved"].append((*FIRST, BEGAN + 16))


def go_on(it: Verdict) -> None:
    it.ticks["exec_stopped"].append((*FIRST, BEGAN + 5.1))


def list_elsewhere(it: Verdict) -> None:
    it.listed["failed"].add("exec_moved")
    it.listed["completed"].clear()


def keep_a_lease(it: Verdict) -> None:
    it.leased.append("exec_moved")


def answer_500(it: Verdict) -> None:
    it.codes[500] = 1


def answer_a_cancel_with_404(it: Verdict) -> None:
    it.codes[404] = 1
    it.accepted[1].cancel_answers[:] = [404]
    it.last["exec_stopped"] = {"status": 404}
    it.listed["cancelled"].clear()


def miss_an_event(it: Verdict) -> None:
    del it.streams["exec_moved"].events[1]


def repeat_an_event(it: Verdict) -> None:
    it.streams["exec_moved"].events.insert(1, (1, "execution.created"))


def stop_before_the_end(it: Verdict) -> None:
    del it.streams["exec_moved"].events[2]


def go_on_after_the_end(it: Verdict) -> None:
    it.streams["exec_moved"].events.append((4, "execution.progress"))


def end_with_another_end(it: Verdict) -> None:
    it.streams["exec_moved"].events[2] = (3, "execution.failed")


def tell_a_waiter_otherwise(it: Verdict) -> None:
    it.waits["exec_stopped"].status = "failed"


def wait_for_ever(it: Verdict) -> None:
    it.waits["exec_stopped"] = Heard(BEGAN)


def forget_a_callback(it: Verdict) -> None:
    it.callbacks.clear()


def call_back_otherwise(it: Verdict) -> None:
    it.callbacks["exec_moved"].append("execution.failed")


def sign_falsely(it: Verdict) -> None:
    it.unsigned = 1


def move_on_late(it: Verdict) -> None:
    it.last["exec_moved"]["attempts"][0]["ended_at"] = at(22.5)


def recover_late(it: Verdict) -> None:
    it.faults[0].recovery_seconds = 20.5


def never_recover(it: Verdict) -> None:
    it.faults[0].recovery_seconds = None


@pytest.mark.parametrize(
    ("forge", "promises"),
    [
        (
            lose,
            [
                "lost (accepted, not found)",
                "list and status differ",
                "a stream did not end with the true end",
                "a callback told otherwise",
            ],
        ),
        (
            stick,
            [
                "stuck (not ended)",
                "list and status differ",
                "a stream did not end with the true end",
                "the callback did not arrive",
                "a callback told otherwise",
            ],
        ),
        (cancel_after_a_no, ["cancel lied"]),
        (complete_after_a_yes, ["cancel lied"]),
        (take_the_old_outputs, ["outputs of another attempt"]),
        (take_the_outputs_of_another, ["outputs of another execution"]),
        (hold_the_loop, ["a worker's event loop was held"]),
        (run_twice_at_a_time, ["two runs at a time"]),
        (go_on, ["went on after cancelled"]),
        (list_elsewhere, ["list and status differ"]),
        (keep_a_lease, ["list and status differ"]),
        (
            answer_a_cancel_with_404,
            [
                "lost (accepted, not found)",
                "list and status differ",
                "a waiting request was told otherwise",
                "an answer other than 2xx, 400, 503",
            ],
        ),
        (answer_500, ["an answer other than 2xx, 400, 503"]),
        (miss_an_event, ["a stream had a hole or a repeat"]),
        (repeat_an_event, ["a stream had a hole or a repeat"]),
        (stop_before_the_end, ["a stream did not end with the true end"]),
        (go_on_after_the_end, ["a stream did not end with the true end"]),
        (end_with_another_end, ["a stream did not end with the true end"]),
        (tell_a_waiter_otherwise, ["a waiting request was told otherwise"]),
        (wait_for_ever, ["a waiting request was told otherwise"]),
        (forget_a_callback, ["the callback did not arrive"]),
        (call_back_otherwise, ["a callback told otherwise"]),
        (sign_falsely, ["a webhook had no valid signature"]),
        (move_on_late, ["moved on after more than 20 s"]),
        (recover_late, ["recovered after more than 20 s"]),
        (never_recover, ["recovered after more than 20 s"]),
    ],
)
def test_each_broken_promise_is_found(
    forge: Callable[[Verdict], None], promises: list[str]
) -> None:
    verdict = history()
    forge(verdict)
    assert found(verdict) == promises
    assert not verdict.report()


def test_a_process_that_was_frozen_is_excused_once() -> None:
    verdict = history()
    verdict.frozen.add(FIRST[1])
    run_twice_at_a_time(verdict)
    go_on(verdict)
    assert found(verdict) == []
    verdict.ticks["exec_stopped"].append((*FIRST, BEGAN + 5.2))
    assert found(verdict) == ["went on after cancelled"]


def test_an_outage_of_the_store_is_counted_from_its_end() -> None:
    verdict = history()
    move_on_late(verdict)
    verdict.faults.append(Fault("freeze the store", BEGAN + 1, BEGAN + 10, 0.5))
    assert found(verdict) == []


@pytest.mark.parametrize(
    "forge",
    [
        *(lose, complete_after_a_yes, run_twice_at_a_time, go_on, answer_a_cancel_with_404),
        *(repeat_an_event, end_with_another_end, tell_a_waiter_otherwise, call_back_otherwise),
    ],
)
def test_what_was_said_in_a_second_that_the_store_lost_is_excused(
    forge: Callable[[Verdict], None],
) -> None:
    verdict = history()
    verdict.set_back.append((BEGAN - 1, BEGAN + 16))
    forge(verdict)
    assert found(verdict) == []
    verdict.set_back[:] = [(BEGAN + 100, BEGAN + 101)]
    assert found(verdict) != []


@pytest.mark.parametrize("forge", [take_the_outputs_of_another, stick, list_elsewhere, answer_500])
def test_a_lost_second_excuses_nothing_else(forge: Callable[[Verdict], None]) -> None:
    verdict = history()
    verdict.set_back.append((BEGAN - 1, BEGAN + 16))
    forge(verdict)
    assert found(verdict) != []
