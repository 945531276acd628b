"""Groups of errors, as a `TaskGroup` raises them: the first real reason is the run's failure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.providers.base import ModelRateLimited, ModelRejected, Stopped
from app.runtime.errors import InvalidOutput, RunFailed, reason_and_others
from app.runtime.stop import StopSignal
from app.runtime.usage import BudgetExceeded

TARGETS = pytest.mark.parametrize("target", ["coded", "line"])

GROUP = """
import asyncio
from app.providers.base import ModelRateLimited, ModelRejected
from app.runtime.usage import BudgetExceeded

async def run(inputs, context):
    async def fails(name, error):
        await asyncio.sleep(0.01 * name)
        raise error
    async def outlasts():
        await asyncio.sleep(60)
    async with asyncio.TaskGroup() as outer:
        outer.create_task(outlasts())
        async with asyncio.TaskGroup() as inner:
            for number, error in enumerate(ERRORS):
                inner.create_task(fails(0, error))
"""


def failed(run_code: Callable, errors: str, target: str = "coded") -> RunFailed:
    with pytest.raises(RunFailed) as raised:
        run_code(GROUP + f"\nERRORS = [{errors}]\n", target=target)
    return raised.value


@TARGETS
def test_the_first_real_reason_of_a_group_is_the_runs(run_code: Callable, target: str) -> None:
    told = failed(
        run_code, 'ValueError("the real reason"), KeyError("key sk-abcdefghijkl")', target
    )
    assert (told.failure.type, told.failure.message) == ("ValueError", "the real reason")
    [other] = told.failure.details["other_errors"]
    assert other["type"] == "KeyError"
    assert "sk-abc" not in other["message"]
    assert told.failure.details.keys() - {"other_errors"} >= {"agent_id"}


def test_a_failure_without_others_has_no_other_errors(run_code: Callable) -> None:
    assert "other_errors" not in failed(run_code, 'ValueError("alone")').failure.details


def test_a_groups_reason_says_whether_and_when_to_try_again(run_code: Callable) -> None:
    told = failed(run_code, 'ModelRateLimited("too many", 7.0), ValueError("x")')
    assert (told.retryable, told.retry_after_seconds) == (True, 7.0)
    told = failed(run_code, 'ModelRejected("no such model"), ValueError("x")')
    assert (told.retryable, told.retry_after_seconds) == (False, None)


@TARGETS
def test_a_spent_budget_goes_before_the_other_errors_of_its_group(
    run_code: Callable, target: str
) -> None:
    told = failed(run_code, 'ValueError("x"), BudgetExceeded("all is spent")', target)
    assert (told.failure.type, told.retryable) == ("BudgetExceeded", False)


def test_a_stop_inside_a_group_is_a_stop(run_code: Callable) -> None:
    stop = StopSignal()
    source = """
    from app.providers.base import Stopped
    def run(inputs, context):
        import time
        while not context.cancelled:
            time.sleep(0.01)
        raise BaseExceptionGroup("stopped", [ValueError("x"), Stopped()])
    """
    import threading

    threading.Timer(0.1, stop.request).start()
    with pytest.raises(Stopped):
        run_code(source, stop=stop)


@pytest.mark.parametrize(
    ("error", "reason", "others"),
    [
        (ValueError("a"), "ValueError", []),
        (ExceptionGroup("g", [OSError(), ValueError()]), "OSError", ["ValueError"]),
        (
            ExceptionGroup("g", [ExceptionGroup("h", [OSError()]), ValueError()]),
            "OSError",
            ["ValueError"],
        ),
        (BaseExceptionGroup("g", [GeneratorExit(), ValueError()]), "ValueError", ["GeneratorExit"]),
        (BaseExceptionGroup("g", [ModelRejected("x"), Stopped()]), "Stopped", ["ModelRejected"]),
        (
            BaseExceptionGroup("g", [InvalidOutput(), BudgetExceeded()]),
            "BudgetExceeded",
            ["InvalidOutput"],
        ),
    ],
)
def test_the_reason_is_the_first_error_that_is_not_a_consequence(
    error: BaseException, reason: str, others: list[str]
) -> None:
    found, rest = reason_and_others(error)
    assert type(found).__name__ == reason
    assert [type(other).__name__ for other in rest] == others


def test_of_a_large_group_a_few_errors_are_reported_in_short(run_code: Callable) -> None:
    told = failed(run_code, '*(ValueError(f"{number}" * 5000) for number in range(1, 40))')
    others = told.failure.details["other_errors"]
    assert len(others) == 10
    assert all(len(other["message"]) <= 512 for other in others)
    assert isinstance(told.failure.message, str)
    assert not isinstance(told, ModelRateLimited)
