"""`app.worker.ending.decide`: what is written when an attempt is over, case by case."""

from __future__ import annotations

import json
import math
import random

import pytest

from app.domain.payload import write_call
from app.worker.claim import Claim
from app.worker.ending import Finish, Outcome, Release, Stopping, decide

DATA = write_call(type="agent", target_id="greeter", inputs={}, config={})
ERROR = {"type": "ValueError", "message": "no", "details": {}}

COMPLETED = Outcome("completed", outputs=b"{}")
FAILED = Outcome("failed", error=ERROR, retryable=True)
HOPELESS = Outcome("failed", error=ERROR)
STOPPED, DIED = Outcome("stopped"), Outcome("died", reason="It died.")
UNSTARTED = Outcome("unstarted", reason="No thread.")
UNSAVED = Outcome("unsaved", reason="Too big.")
HUNG = Outcome("hung", reason="It held its process.")
EVERY = [COMPLETED, FAILED, HOPELESS, STOPPED, DIED, UNSTARTED, UNSAVED, HUNG]
BY_OTHERS = [
    (Outcome("displaced"), Release("handed_back")),
    (Outcome("set_apart"), Release("set_apart")),
    (Outcome("suspected", reason="It died."), Release("suspected", reason="It died.")),
    (Outcome("disturbed", reason="It died."), Release("disturbed", reason="It died.")),
]


def claim(retried: int = 0, retry_max: int = 1, backoff: tuple[float, ...] = ()) -> Claim:
    return Claim("exec_1", "w:1:1", 1, retried, 600, retry_max, backoff, data=DATA)


def error_type(ending: object) -> str:
    assert isinstance(ending, Finish)
    assert ending.status == "failed"
    error = json.loads(ending.error)
    assert error["details"] == {"agent_id": "greeter"}
    return str(error["type"])


@pytest.mark.parametrize("outcome", EVERY, ids=lambda outcome: outcome.kind)
def test_the_reason_to_stop_goes_before_every_outcome(outcome: Outcome) -> None:
    assert decide(claim(), Stopping.LOST, outcome, 0) is None
    assert decide(claim(), Stopping.CANCEL, outcome, 0) == Finish("cancelled")
    assert error_type(decide(claim(), Stopping.TIMEOUT, outcome, 0)) == "Timeout"


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        (COMPLETED, Finish("completed", b"{}")),
        (FAILED, Release("failed", 1.0, "ValueError")),
        (HOPELESS, Finish("failed", error=json.dumps(ERROR))),
        (DIED, Release("lost", reason="It died.")),
        (UNSTARTED, Release("handed_back", reason="unstarted")),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_without_a_reason_to_stop_the_outcome_decides(
    outcome: Outcome, ending: Finish | Release
) -> None:
    assert decide(claim(), None, outcome, 0) == ending


@pytest.mark.parametrize(
    ("outcome", "ending"), BY_OTHERS, ids=lambda value: getattr(value, "kind", "")
)
def test_what_another_run_may_have_ended_is_not_failed_also_if_its_time_ran_out_meanwhile(
    outcome: Outcome, ending: Release
) -> None:
    assert decide(claim(), None, outcome, 0) == ending
    assert decide(claim(), Stopping.TIMEOUT, outcome, 0) == ending
    assert decide(claim(), Stopping.CANCEL, outcome, 0) == Finish("cancelled")
    assert decide(claim(), Stopping.LOST, outcome, 0) is None
    assert decide(claim(), Stopping.SHUTDOWN, outcome, 0) == Release("handed_back")


def test_what_held_its_process_alone_has_failed() -> None:
    ending = decide(claim(retry_max=9), None, HUNG, 0)
    assert error_type(ending) == "Unresponsive"
    assert "It held its process." in ending.error  # type: ignore[union-attr]


def test_what_found_no_room_is_handed_back_for_a_while() -> None:
    outcome = Outcome("unstarted", retry_after_seconds=2.0)
    assert decide(claim(), None, outcome, 0) == Release("handed_back", 2.0, "unstarted")


def test_a_run_that_stops_without_being_asked_has_failed() -> None:
    assert error_type(decide(claim(), None, STOPPED, 0)) == "FlowError"


def test_outputs_that_cannot_be_stored_fail_the_execution_with_the_reason() -> None:
    ending = decide(claim(), None, UNSAVED, 0)
    assert error_type(ending) == "InvalidOutput"
    assert "Too big." in ending.error  # type: ignore[union-attr]


@pytest.mark.parametrize("outcome", [STOPPED, DIED], ids=lambda outcome: outcome.kind)
def test_a_shutdown_hands_back_what_did_not_end_by_itself(outcome: Outcome) -> None:
    assert decide(claim(), Stopping.SHUTDOWN, outcome, 0) == Release("handed_back")


def test_what_ended_by_itself_during_a_shutdown_is_not_run_again() -> None:
    assert decide(claim(), Stopping.SHUTDOWN, COMPLETED, 0) == Finish("completed", b"{}")
    assert decide(claim(), Stopping.SHUTDOWN, HOPELESS, 0) == Finish(
        "failed", error=json.dumps(ERROR)
    )


def test_a_failure_is_tried_again_only_while_retries_are_left() -> None:
    assert decide(claim(retried=1), None, FAILED, 0) == Finish("failed", error=json.dumps(ERROR))


def pause(claimed: Claim, wish: object = None) -> float:
    outcome = Outcome("failed", error=ERROR, retryable=True, retry_after_seconds=wish)  # type: ignore[arg-type]
    ending = decide(claimed, None, outcome, random.random())
    assert isinstance(ending, Release)
    return ending.delay_seconds


def test_the_configured_pauses_are_taken_in_turn_with_jitter_and_the_last_one_stays() -> None:
    for retried, seconds in ((0, 1), (1, 5), (2, 30), (7, 30)):
        pauses = {pause(claim(retried, 9, (1, 5, 30))) for _ in range(50)}
        assert len(pauses) > 10
        assert all(seconds * 0.8 <= found <= seconds for found in pauses)


def test_the_providers_own_wish_goes_first_to_the_second() -> None:
    assert pause(claim(0, 1, (1.0,)), 17.0) == 17.0


@pytest.mark.parametrize("wish", [math.inf, -math.inf, math.nan, -1.0, 1e12])
def test_a_wish_that_no_timer_can_hold_is_passed_over(wish: float) -> None:
    assert 0.8 <= pause(claim(0, 1, (1.0,)), wish) <= 1.0


@pytest.mark.parametrize("data", [b"", b"garbage", b"x garbage"])
def test_an_execution_whose_data_makes_no_sense_ends_all_the_same(data: bytes) -> None:
    ending = decide(Claim("exec_1", "w:1:1", 1, data=data), Stopping.TIMEOUT, STOPPED, 0)
    assert isinstance(ending, Finish)
    assert json.loads(ending.error)["details"] == {}
