"""The stored steps of an execution: written only with its token, copied by a retry, removed with
the execution.
"""

from __future__ import annotations

import pytest

from app.catalog.model import Catalog, Pipeline, Step
from app.domain.errors import InvalidRequest, NotFound
from app.domain.execution import Failure, Include, ModelUsage, StepRecord, StepStatus, TargetType
from app.services.executions import ExecutionService, RetryCommand
from app.services.starts import StartCommand
from app.settings import Settings
from app.store.steps import read_usage, write_usage
from tests.store.driver import Driver, new_execution

COMPLETED = StepRecord(
    "first",
    0,
    StepStatus.COMPLETED,
    "one",
    agent="work",
    flow="default",
    done=True,
    attempt=1,
    usage={"m": ModelUsage(1, 11, 5, 16)},
)
RUNNING = StepRecord("second", 1, StepStatus.RUNNING, "two", agent="work", attempt=1)


def running_pipeline(driver: Driver) -> tuple[str, str]:
    driver.submit(type=TargetType.PIPELINE, total_steps=2, definition_hash="d1")
    [claimed] = driver.claim()
    return claimed


@pytest.mark.parametrize(
    "used",
    [
        ModelUsage(1, 11, 5, 16),
        ModelUsage(2, None, None, None),
        ModelUsage(2, None, 5, 5, 30),
        ModelUsage(),
    ],
    ids=str,
)
def test_usage_is_read_back_as_it_was_written_also_where_nothing_was_reported(
    used: ModelUsage,
) -> None:
    assert read_usage(write_usage({"m": used})) == {"m": used}


def test_usage_that_an_earlier_version_wrote_is_read() -> None:
    assert read_usage('{"m": [1, 11, 5, 16]}') == {"m": ModelUsage(1, 11, 5, 16)}
    assert write_usage({"m": ModelUsage(1, 11, 5, 16)}) == '{"m": [1, 11, 5, 16]}'


def test_records_outputs_progress_and_usage_are_stored_together(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    usage = write_usage(COMPLETED.usage)
    records = ((COMPLETED, "ended"), (RUNNING, "started"))
    assert driver.checkpoint(id, token, *records, values={"first": b'"1"'}, usage=usage) == "ok"
    execution = driver.stored(id)
    first, second = execution.steps
    assert (first.status, first.agent, first.usage, first.failure) == (
        StepStatus.COMPLETED,
        "work",
        COMPLETED.usage,
        None,
    )
    assert first.ended_at is not None
    assert (second.status, second.started_at is not None, second.ended_at) == (
        StepStatus.RUNNING,
        True,
        None,
    )
    assert execution.step_outputs == {"one": b'"1"'}
    assert execution.progress is not None
    assert (execution.progress.finished, execution.usage) == (1, COMPLETED.usage)


def test_a_stale_token_stores_nothing(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.release(id, token)
    driver.claim()
    assert driver.checkpoint(id, token, (COMPLETED, "ended"), values={"first": b"1"}) == "lost"
    assert driver.stored(id).steps == ()
    assert driver.client.exists(f"rq:job:{id}:values") == 0


def test_after_a_cancel_request_the_answer_says_so_and_the_work_is_kept(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.store.cancel(id, "default")
    assert driver.checkpoint(id, token, (COMPLETED, "ended")) == "cancel"
    assert driver.finish(id, token) == "cancelled"
    assert [step.status for step in driver.stored(id).steps] == [StepStatus.COMPLETED]


def test_what_another_definition_left_is_dropped(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.checkpoint(id, token, (COMPLETED, "ended"), values={"first": b"1"})
    driver.checkpoint(id, token, (RUNNING, "started"), definition="d2")
    assert [step.id for step in driver.stored(id).steps] == ["second"]
    assert driver.client.exists(f"rq:job:{id}:values") == 0


def test_items_of_a_batch_have_outcomes_and_their_outputs_give_way_to_the_whole(
    driver: Driver,
) -> None:
    id, token = running_pipeline(driver)
    failed = '{"type": "ValueError", "message": "no", "details": {}}'
    outcomes = {"second:0": "null", "second:1": failed}
    driver.checkpoint(id, token, (RUNNING, "started"), outcomes=outcomes, values={"second:0": b"1"})
    [step] = driver.stored(id).steps
    assert step.items == {0: None, 1: Failure("ValueError", "no", {})}
    driver.checkpoint(id, token, values={"second": b"[1]"}, dropped=("second:0", "second:1"))
    assert set(driver.client.hgetall(f"rq:job:{id}:values")) == {b"second"}


def test_what_did_not_end_is_pending_between_attempts_and_cancelled_at_the_end(
    driver: Driver,
) -> None:
    id, token = running_pipeline(driver)
    driver.checkpoint(id, token, (RUNNING, "started"))
    driver.release(id, token)
    assert driver.stored(id).steps[0].status is StepStatus.PENDING
    [(_, token)] = driver.claim()
    driver.finish(id, token, "failed")
    assert driver.stored(id).steps[0].status is StepStatus.CANCELLED


def test_outputs_of_steps_are_read_where_asked_for_and_where_a_pipeline_broke_off(
    driver: Driver,
) -> None:
    id, token = running_pipeline(driver)
    driver.checkpoint(id, token, (COMPLETED, "ended"), values={"first": b"1"})
    for include, read in (
        (Include.STATUS, {}),
        (Include.STEPS, {}),
        (Include.OUTPUTS, {"one": b"1"}),
    ):
        assert driver.stored(id, include).step_outputs == read
    driver.finish(id, token, "failed")
    assert driver.stored(id, Include.STATUS).step_outputs == {"one": b"1"}


def test_a_retry_takes_over_the_steps_in_the_same_step(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.checkpoint(id, token, (COMPLETED, "ended"), values={"first": b"1"})
    driver.finish(id, token, "failed")
    again = new_execution(
        type=TargetType.PIPELINE, definition_hash="d1", retry_of=id, take_over=True
    )
    driver.store.submit(again)
    taken = driver.stored(again.id)
    assert [(step.id, step.status) for step in taken.steps] == [("first", StepStatus.COMPLETED)]
    assert (taken.step_outputs, taken.retry_of) == ({"one": b"1"}, id)


def test_a_retry_that_takes_over_steps_is_of_the_same_variant(driver: Driver) -> None:
    variants = {name: {"one": {"flow": name}} for name in ("quick", "good")}
    pipeline = Pipeline("p", (Step("one", "one", agent="work"),), (), "thread", variants=variants)
    service = ExecutionService(driver.store, Catalog({}, {"p": pipeline}), Settings())
    id = service.start(
        StartCommand(TargetType.PIPELINE, "p", {}, {"variant": "quick"})
    ).execution_id
    service.cancel(id)
    with pytest.raises(InvalidRequest) as refused:
        service.retry(RetryCommand(id, config={"variant": "good"}))
    assert [(error.field, error.code) for error in refused.value.errors] == [
        ("from", "definition_changed")
    ]
    for command in (
        RetryCommand(id),
        RetryCommand(id, config={"variant": "good"}, from_start=True),
    ):
        assert service.retry(command).retry_of == id


def test_a_retry_does_not_start_over_because_what_it_repeats_has_just_left(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.finish(id, token, "failed")
    driver.let_retention_be_over()
    again = new_execution(
        type=TargetType.PIPELINE, definition_hash="d1", retry_of=id, take_over=True
    )
    with pytest.raises(NotFound, match=id):
        driver.store.submit(again)
    assert driver.store.get(again.id, again.tenant) is None


def test_steps_leave_with_their_execution(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.checkpoint(id, token, (COMPLETED, "ended"), values={"first": b"1"})
    driver.finish(id, token)
    driver.let_retention_be_over()
    assert [key for key in driver.client.scan_iter() if id.encode() in key] == []


def test_usage_that_is_not_said_again_stays(driver: Driver) -> None:
    id, token = running_pipeline(driver)
    driver.checkpoint(id, token, usage='{"m": [1, 11, 5, 16]}')
    driver.finish(id, token, "failed")
    assert driver.stored(id).usage == read_usage('{"m": [1, 11, 5, 16]}')
