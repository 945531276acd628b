"""What the page of an execution offers and says, depending on its state and on the caller."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.delivery import Delivery, DeliveryPage, DeliveryStatus, Try
from app.domain.execution import (
    Attempt,
    Execution,
    Phase,
    Progress,
    Status,
    StepRecord,
    StepStatus,
    TargetType,
)
from app.domain.key import Scope
from app.pages.execution_facts import (
    MAX_CURL_BYTES,
    MOST_OUTPUTS,
    Facts,
    curl,
    facts,
    partial,
    start_body,
)

NOW = datetime(2026, 11, 27, 1, 0, tzinfo=UTC)
ALL = frozenset(Scope)
NONE = DeliveryPage((), 0)


def execution(status: Status = Status.RUNNING, **more: object) -> Execution:
    values = {
        "type": TargetType.PIPELINE,
        "target_id": "review",
        "phase": None,
        "created_at": NOW - timedelta(seconds=10),
        "ended_at": NOW if status.ended else None,
        **more,
    }
    return Execution(id="exec_1", status=status, **values)  # type: ignore[arg-type]


def shown(
    found: Execution,
    scopes: frozenset[Scope] = ALL,
    deliveries: DeliveryPage = NONE,
    is_known: bool = True,
) -> Facts:
    return facts(found, deliveries, scopes, NOW, is_known=is_known)


def offered(found: Facts) -> set[str]:
    names = ("cancel", "retry", "retry_from_start", "again")
    return {name for name in names if getattr(found.actions, name)}


DONE = StepRecord("a", 0, StepStatus.COMPLETED, "a", done=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (execution(Status.PENDING), {"cancel", "again"}),
        (execution(Status.RUNNING), {"cancel", "again"}),
        (execution(Status.RUNNING, phase=Phase.CANCELLING), {"again"}),
        (execution(Status.COMPLETED), {"again"}),
        (execution(Status.FAILED), {"retry", "again"}),
        (execution(Status.CANCELLED), {"retry", "again"}),
        (execution(Status.FAILED, steps=(DONE,)), {"retry", "retry_from_start", "again"}),
        (execution(Status.FAILED, steps=(DONE,), type=TargetType.AGENT), {"retry", "again"}),
    ],
)
def test_what_can_be_done_depends_on_the_state(found: Execution, expected: set[str]) -> None:
    assert offered(shown(found)) == expected


@pytest.mark.parametrize("status", Status)
def test_a_key_is_offered_only_what_it_may_do(status: Status) -> None:
    found = execution(status)
    assert offered(shown(found, frozenset({Scope.READ}))) == set()
    assert offered(shown(found, frozenset({Scope.CANCEL}))) <= {"cancel"}
    assert "cancel" not in offered(shown(found, frozenset({Scope.START})))


def test_a_target_that_is_gone_can_neither_be_run_again_nor_retried() -> None:
    assert offered(shown(execution(Status.FAILED), is_known=False)) == set()


def test_the_times_are_those_of_the_first_start() -> None:
    def attempt(number: int, start: float, end: float) -> Attempt:
        moments = [NOW - timedelta(seconds=seconds) for seconds in (start, end)]
        return Attempt(number, "w", *moments, outcome="failed", error="KeyError")

    attempts = (attempt(1, 8, 6), attempt(2, 3, 0))
    found = shown(execution(Status.FAILED, attempts=attempts, started_at=attempts[1].started_at))
    assert (found.waited_seconds, found.seconds) == (2, 8)
    assert found.started_at == attempts[0].started_at
    assert [(row.why, row.seconds) for row in found.attempts] == [("KeyError", 2), ("KeyError", 3)]


def test_what_has_not_begun_has_only_waited() -> None:
    found = shown(execution(Status.PENDING))
    assert (found.waited_seconds, found.seconds) == (10, None)


def test_progress_is_shown_in_percent_and_in_words() -> None:
    found = shown(execution(progress=Progress(1, 4, "score", 0.5)))
    assert (found.percentage, found.done) == (37.5, "38 % · 1 of 4 steps · score")
    assert shown(execution(Status.COMPLETED, progress=Progress(4, 4))).percentage is None


@pytest.mark.parametrize("outcome", ["running", "completed", "cancelled", "lost", "released"])
def test_every_end_of_an_attempt_has_a_reason(outcome: str) -> None:
    attempt = Attempt(1, "w", NOW, NOW, outcome)
    [row] = shown(execution(attempts=(attempt,))).attempts
    assert row.why.endswith(".")


@pytest.mark.parametrize("status", DeliveryStatus)
def test_every_state_of_a_delivery_has_words_and_the_last_try(status: DeliveryStatus) -> None:
    tries = (Try(NOW, 500, "The receiver answered 500.", 0.1), Try(NOW, None, "It hung up.", 0.1))
    delivery = Delivery("d", 1, "completed", 3, status, NOW, tries=tries, tries_made=2)
    found = shown(execution(Status.COMPLETED), deliveries=DeliveryPage((delivery,), 5))
    [row] = found.deliveries
    assert row.word
    assert (row.last_code, row.why) == ("", "It hung up.")
    assert found.more_deliveries == 4


def test_the_page_is_live_as_long_as_something_may_change() -> None:
    sent = Delivery("d", 1, "completed", 3, DeliveryStatus.DELIVERED, NOW, ended_at=NOW)
    waiting = Delivery("d", 2, "completed", 3, DeliveryStatus.WAITING, NOW)
    ended = execution(Status.COMPLETED)
    assert shown(execution()).is_live
    assert not shown(ended).is_live
    assert not shown(ended, deliveries=DeliveryPage((sent,), 1)).is_live
    assert shown(ended, deliveries=DeliveryPage((sent, waiting), 2)).is_live


def test_the_command_survives_a_shell_whatever_the_inputs_are() -> None:
    inputs = {"text": 'it\'s $HOME `id` "x" \\ \n <b>'}
    body = start_body(execution(), {"inputs": json.dumps(inputs).encode(), "config": b"{}"})
    words = shlex.split(curl("http://127.0.0.1:8000/api/v1/executions", body, with_key=True))
    assert words[0] == "curl"
    sent = json.loads(words[words.index("-d") + 1])
    assert sent == {"type": "pipeline", "target_id": "review", "inputs": inputs}
    assert "X-API-Key: $API_KEY" in words
    assert words[-1] == "http://127.0.0.1:8000/api/v1/executions"


def test_inputs_that_do_not_fit_into_a_command_have_none() -> None:
    asked = {"inputs": json.dumps({"text": "x" * MAX_CURL_BYTES}).encode(), "config": b"{}"}
    assert start_body(execution(), asked) is None


def test_partial_outputs_belong_to_what_did_not_complete() -> None:
    def keys(status: Status) -> list[str]:
        found = partial(execution(status, step_outputs={"a": b"[1]"}))
        return [key for key, _ in found.outputs]

    assert keys(Status.FAILED) == keys(Status.RUNNING) == ["a"]
    assert keys(Status.COMPLETED) == []


def test_the_outputs_of_many_steps_are_bounded_together() -> None:
    text = json.dumps(["word " * 20] * 500).encode()
    found = partial(execution(Status.FAILED, step_outputs={f"k{n}": text for n in range(100)}))
    assert [key for key, _ in found.outputs] == [f"k{n}" for n in range(100 - MOST_OUTPUTS, 100)]
    assert found.left_out == 100 - MOST_OUTPUTS
    assert all(shown.is_cut for _, shown in found.outputs)
    nodes = [shown.node for _, shown in found.outputs if shown.node]
    assert sum(len(child.text) for node in nodes for child in node.children) < 100_000
