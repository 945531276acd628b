"""Implements the use cases of executions: start, retry, get, list and cancel.

The views in `app.api.executions` and the pages call `ExecutionService`, which reads and writes the
store. `app.services.starts` checks what is to be started. Neither knows anything of HTTP.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from app.catalog.model import Catalog
from app.domain.errors import AlreadyEnded, FieldError, InvalidRequest, NotFound, NotRetryable
from app.domain.execution import (
    Execution,
    Glance,
    Idempotency,
    Include,
    NewExecution,
    Page,
    Started,
    Status,
    StepRecord,
    StepStatus,
    TargetType,
)
from app.domain.key import DEFAULT_TENANT
from app.services.starts import StartCommand, StartPlanner
from app.services.waiting import Caller, Waiting
from app.settings import Settings
from app.store.execution_lists import index_keys
from app.store.executions import ExecutionStore
from app.store.steps import as_seen

CANCEL_WAIT_SECONDS = 5.0  # most flows stop within it, and callers do not wait long for an answer


@dataclass(frozen=True, slots=True)
class RetryCommand:
    """A request to retry an execution. Fields in `config` replace those of the first start."""

    execution_id: str
    from_start: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    tenant: str = DEFAULT_TENANT
    request_id: str | None = None
    traceparent: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Filters for a list, and the page to return: `page` from 1, `page_size` from 1 to 100.

    `with_attempts`: also read the attempts of executions, and why they failed.
    """

    status: Status | None = None
    type: TargetType | None = None
    target_id: str | None = None
    page: int = 1
    page_size: int = 50
    descending: bool = True
    tenant: str = DEFAULT_TENANT
    with_attempts: bool = False


class ExecutionService:
    """Safe to use from many threads.

    Every method raises `StoreUnavailable` if the store does not answer in time.
    """

    def __init__(self, store: ExecutionStore, catalog: Catalog, settings: Settings):
        self.store = store
        self.catalog = catalog
        self.settings = settings
        self._planner = StartPlanner(catalog, settings)
        self._waiting = Waiting(store, settings.most_waiters)

    def start(self, command: StartCommand) -> Started:
        """Stores and queues an execution in one step.

        A repeat with the same idempotency key returns the first receipt, even at a limit. Raises
        `NotFound` for an unknown target, `InvalidRequest`, `KeyReused`, and `TooManyUnfinished` or
        `QueueFull` at a limit. Nothing is stored if it raises.
        """

        def checked() -> NewExecution:
            if command.callback and (error := self._planner.callback_error(command.callback)):
                raise InvalidRequest([error])
            return self._planner.plan(command)

        return self._submit_or_recall(command, checked)

    def recall(self, command: StartCommand | RetryCommand) -> Started | None:
        """The receipt of an earlier start or retry with the same idempotency key and body; None if
        there was none.
        """
        if command.idempotency is None:
            return None
        return self.store.recall(command.tenant, command.idempotency)

    def retry(self, command: RetryCommand) -> Started:
        """Starts a new execution from a failed or cancelled one, with its inputs and, unless
        `from_start`, its finished steps.

        A repeat with the same idempotency key returns the first receipt. Raises `NotFound`,
        `NotRetryable`, what `start` raises at a limit, and `InvalidRequest` if the finished steps
        belong to another definition or variant of the pipeline.
        """
        old = self.store.get(command.execution_id, command.tenant)
        if old is None:
            # It may have existed when this retry was sent for the first time.
            return self.recall(command) or self._unknown(command.execution_id)
        if old.status not in (Status.FAILED, Status.CANCELLED):
            raise NotRetryable(old.id, old.status)
        call = self._call(old.id)
        config = {**call["config"], **command.config}
        same = StartCommand(
            old.type,
            old.target_id,
            call["inputs"],
            config,
            tenant=command.tenant,
            request_id=command.request_id,
            traceparent=command.traceparent,
            idempotency=command.idempotency,
            # Not checked again: the worker checks the address before it sends, and says so.
            callback=old.callback,
            tags=old.tags,
        )

        def checked() -> NewExecution:
            new = replace(self._planner.plan(same), retry_of=old.id)
            if old.type is TargetType.AGENT or command.from_start:
                return new
            if new.definition_hash != old.definition_hash or config.get("variant") != call[
                "config"
            ].get("variant"):
                raise InvalidRequest([_changed(old)])
            return replace(new, take_over=True)

        return self._submit_or_recall(same, checked)

    def get(
        self,
        execution_id: str,
        tenant: str = DEFAULT_TENANT,
        include: Include = Include.STATUS,
        held: ExitStack | None = None,
    ) -> Execution:
        """Returns one execution, with its steps or outputs if `include` asks for them.

        Raises `NotFound`, and `TooManyLarge` if the outputs are large and this process is already
        sending as many large ones as it may. Large outputs are readable until `held` is closed.
        """
        execution = self._stored(execution_id, tenant, include, held)
        if include is Include.STATUS or execution.steps:
            return execution
        if execution.type is TargetType.PIPELINE:
            return replace(execution, steps=self._planned_steps(execution))
        outputs = _agent_outputs(execution) if include is Include.OUTPUTS else {}
        return replace(execution, steps=(_agent_step(execution),), step_outputs=outputs)

    def glance(self, execution_id: str, tenant: str) -> Glance:
        """The version of an execution and whether it has ended, much cheaper than `get`.

        Raises `NotFound`.
        """
        return self.store.glance(execution_id, tenant) or self._unknown(execution_id)

    def wait(
        self,
        execution_id: str,
        tenant: str,
        seconds: float,
        caller: Caller,
        since: int | None = None,
    ) -> None:
        """Returns when the execution has ended; with `since`, when it has another version.

        Returns earlier after `seconds` or MAX_WAIT, if the caller has gone, if this process stops,
        and if MAX_WAITERS requests wait already. Raises `NotFound`.
        """
        seconds = min(seconds, self.settings.max_wait)
        self._waiting.wait(execution_id, tenant, seconds, caller, since)

    def request_of(
        self, execution: Execution, names: Iterable[str], held: ExitStack
    ) -> dict[str, bytes]:
        """Returns `inputs` and `config` of the execution's start, as JSON; only those in `names`.

        Raises what `get` does, and `InvalidRequest` if the stored request is damaged.
        """
        wanted = tuple(names)
        if not wanted:
            return {}
        call = self._call(execution.id, held)
        return {
            name: json.dumps(call[name], separators=(",", ":"), ensure_ascii=False).encode()
            for name in wanted
        }

    def list(self, query: ListQuery) -> Page:
        """Returns one page in one round trip. The number of stored executions does not slow it."""
        keys = index_keys(query.tenant, query.status, query.type, query.target_id)
        offset = (query.page - 1) * query.page_size
        found, total = self.store.lists.page(
            query.tenant,
            keys,
            offset,
            query.page_size,
            query.descending,
            with_attempts=query.with_attempts,
        )
        return Page(tuple(found), query.page, query.page_size, total)

    def counts(self, query: ListQuery) -> dict[Status, int]:
        """Returns how many executions of each status there are, with the query's other filters.

        One round trip. The number of stored executions does not slow it.
        """
        keys = [index_keys(query.tenant, status, query.type, query.target_id) for status in Status]
        return dict(zip(Status, self.store.lists.counts(keys), strict=True))

    def cancel(self, execution_id: str, tenant: str = DEFAULT_TENANT) -> Execution:
        """Cancels an execution, and waits for its end for up to `CANCEL_WAIT_SECONDS`.

        Returns it as `cancelled` if it has ended, otherwise as `running` with the phase
        `cancelling`. A repeat changes nothing. Raises `NotFound`, and `AlreadyEnded` for a
        completed or failed execution.
        """
        status = self.store.cancel(execution_id, tenant) or self._unknown(execution_id)
        if not status.ended:
            self._waiting.follow(execution_id, tenant, CANCEL_WAIT_SECONDS)
        execution = self._stored(execution_id, tenant)
        if execution.status in (Status.COMPLETED, Status.FAILED):
            raise AlreadyEnded(execution_id, execution.status)
        return execution

    def _submit_or_recall(
        self, command: StartCommand, checked: Callable[[], NewExecution]
    ) -> Started:
        """Submits what `checked` returns, or returns the receipt of an earlier submission."""
        try:
            new = checked()
        except (NotFound, InvalidRequest):
            # The catalog may have changed since the first request, which must stay repeatable.
            if earlier := self.recall(command):
                return earlier
            raise
        return self.store.submit(new)

    def _call(self, execution_id: str, held: ExitStack | None = None) -> dict[str, Any]:
        """Returns the stored inputs and config. Raises `NotFound`, and `InvalidRequest` if they
        are damaged.
        """
        try:
            call = self.store.call(execution_id, held)
            if call is None or (
                isinstance(call["inputs"], dict) and isinstance(call["config"], dict)
            ):
                return call or self._unknown(execution_id)
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error):
            pass
        message = (
            f"The stored inputs of {execution_id} cannot be read. Start a new execution instead."
        )
        raise InvalidRequest([FieldError("", message, "record_unreadable")])

    def _stored(
        self,
        execution_id: str,
        tenant: str,
        include: Include = Include.STATUS,
        held: ExitStack | None = None,
    ) -> Execution:
        return self.store.get(execution_id, tenant, include, held) or self._unknown(execution_id)

    def _planned_steps(self, execution: Execution) -> tuple[StepRecord, ...]:
        """The steps of a pipeline's execution that has stored none yet, from the catalog."""
        pipeline = self.catalog.pipelines.get(execution.target_id)
        return tuple(
            as_seen(
                StepRecord(step.id, position, StepStatus.PENDING, step.output_key, step.agent),
                execution.status,
            )
            for position, step in enumerate(pipeline.steps if pipeline else ())
        )

    def _unknown(self, execution_id: str) -> NoReturn:
        raise NotFound.of_execution(execution_id)


def _changed(old: Execution) -> FieldError:
    message = (
        f"The definition or the variant of {old.target_id} has changed since {old.id} ran, so its "
        'finished steps cannot be reused. Retry with "from": "start".'
    )
    return FieldError("from", message, "definition_changed")


def _agent_step(execution: Execution) -> StepRecord:
    """The agent itself, shown as the only step of its execution."""
    return StepRecord(
        id=execution.target_id,
        position=0,
        status=StepStatus(execution.status),
        output_key="output",
        agent=execution.target_id,
        flow=execution.flow,
        done=execution.status is Status.COMPLETED,
        attempt=execution.attempt,
        started_at=execution.started_at,
        ended_at=execution.ended_at if execution.started_at else None,
        usage=execution.usage,
        failure=execution.failure,
    )


def _agent_outputs(execution: Execution) -> dict[str, bytes]:
    """The outputs of that step by output key; empty if it did not complete."""
    outputs = execution.outputs  # large outputs are only read for a status, which has no steps
    if not isinstance(outputs, bytes):
        return {}
    return {"output": json.dumps(json.loads(outputs).get("output"), ensure_ascii=False).encode()}
