"""The use cases: start, get, list, cancel, retry. Knows the catalog and the store; knows neither
HTTP nor RQ.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from app.catalog.inputs import check_inputs
from app.catalog.model import Catalog, Isolation, Pipeline, Target
from app.domain import key as keys
from app.domain.errors import AlreadyEnded, FieldError, InvalidRequest, NotFound, NotRetryable
from app.domain.execution import (
    Execution,
    Idempotency,
    Include,
    NewExecution,
    Page,
    Retries,
    Started,
    Status,
    StepRecord,
    StepStatus,
    TargetType,
)
from app.domain.identifiers import new_id
from app.settings import Settings
from app.store.executions import QUEUES, ExecutionStore, index_keys
from app.store.steps import as_seen

DEFAULT_TENANT = keys.DEFAULT_TENANT
DEFAULT_MAX_ATTEMPTS = 3
CANCEL_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class StartCommand:
    """A start as it was asked for, its shape already checked. `config` has only keys of the
    contract.
    """

    type: TargetType
    target_id: str
    inputs: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    expires_in_seconds: int | None = None
    tenant: str = DEFAULT_TENANT
    request_id: str | None = None
    traceparent: str | None = None
    idempotency: Idempotency | None = None
    body_bytes: int = 0  # about how much was sent


@dataclass(frozen=True, slots=True)
class RetryCommand:
    """A retry as it was asked for. `config` has what is to be changed; the rest stays as it was."""

    execution_id: str
    from_start: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    tenant: str = DEFAULT_TENANT
    request_id: str | None = None
    traceparent: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which executions, and which page of them. `page` from 1, `page_size` 1 to 100."""

    status: Status | None = None
    type: TargetType | None = None
    target_id: str | None = None
    page: int = 1
    page_size: int = 50
    descending: bool = True
    tenant: str = DEFAULT_TENANT


class ExecutionService:
    """Raises `StoreUnavailable` from every method when the store does not answer in time."""

    def __init__(self, store: ExecutionStore, catalog: Catalog, settings: Settings):
        self.store, self.catalog, self.settings = store, catalog, settings

    def start(self, command: StartCommand) -> Started:
        """Stores and queues an execution in one step, or finds the one that its idempotency key
        started.

        Raises `NotFound` (target), `InvalidRequest`, `KeyReused`, and `TooManyUnfinished` or
        `QueueFull` where a limit is reached: nothing is stored then, and a repeated start is not
        refused.
        """
        return self._submit_or_recall(command, lambda: self._checked(command))

    def recall(self, command: StartCommand | RetryCommand) -> Started | None:
        """The receipt of an earlier start or retry with the same idempotency key and body, if there
        was one.
        """
        return (
            self.store.recall(command.tenant, command.idempotency) if command.idempotency else None
        )

    def retry(self, command: RetryCommand) -> Started:
        """Starts a failed or cancelled execution again, as a new one that takes over its finished
        steps.

        Raises `NotFound`, `NotRetryable`, what `start` raises at a limit, and `InvalidRequest`
        where the pipeline's definition or its variant is another one than that of the finished
        steps, unless it is asked for from the start. Repeated with its idempotency key it finds the
        execution that it started.
        """
        old = self.store.get(command.execution_id, command.tenant)
        if old is None:  # now; it may have been there when it was first asked
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
        )

        def checked() -> NewExecution:
            new = replace(self._checked(same), retry_of=old.id)
            if old.type is TargetType.AGENT or command.from_start:
                return new
            if new.definition != old.definition or config.get("variant") != call["config"].get(
                "variant"
            ):
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
        """One execution, with what `include` says. Raises `NotFound`, and `TooManyLarge` if it may
        be large, and as many of those as may be are on their way to clients. What is large of it is
        there until `held` is closed.
        """
        execution = self._stored(execution_id, tenant, include, held)
        if include is Include.STATUS or execution.steps:
            return execution
        if execution.type is TargetType.PIPELINE:
            return replace(execution, steps=self._planned_steps(execution))
        outputs = _agent_outputs(execution) if include is Include.OUTPUTS else {}
        return replace(execution, steps=(_agent_step(execution),), step_outputs=outputs)

    def list(self, query: ListQuery) -> Page:
        """One page, in one round trip; its cost does not grow with the number of executions stored."""
        keys = index_keys(query.tenant, query.status, query.type, query.target_id)
        offset = (query.page - 1) * query.page_size
        found, total = self.store.page(
            query.tenant, keys, offset, query.page_size, query.descending
        )
        return Page(tuple(found), query.page, query.page_size, total)

    def cancel(self, execution_id: str, tenant: str = DEFAULT_TENANT) -> Execution:
        """Cancels and waits up to 5 s for the end.

        The answer is `cancelled` only when that is true, else `running` with `phase` `cancelling`.
        Raises `NotFound`, and `AlreadyEnded` for a completed or failed one. Repeating is harmless.
        """
        status = self.store.cancel(execution_id, tenant) or self._unknown(execution_id)
        execution = (
            self._stored(execution_id, tenant)
            if status.ended
            else self._at_end(execution_id, tenant)
        )
        if execution.status in (Status.COMPLETED, Status.FAILED):
            raise AlreadyEnded(execution_id, execution.status)
        return execution

    def _at_end(self, execution_id: str, tenant: str) -> Execution:
        """The execution when it has ended, or as it is after `CANCEL_WAIT_SECONDS`."""
        deadline = time.monotonic() + CANCEL_WAIT_SECONDS
        with self.store.watching(execution_id) as wait:
            while True:
                wait(deadline - time.monotonic())
                execution = self._stored(execution_id, tenant)
                if execution.status.ended or time.monotonic() >= deadline:
                    return execution

    def _checked(self, command: StartCommand) -> NewExecution:
        target = self._target(command.type, command.target_id)
        isolation, flow, total_steps = self._plan(target, command.config)
        errors = check_inputs(target.inputs, command.inputs)
        if errors:
            raise InvalidRequest(errors)
        config = command.config
        retries = config.get("retries") or {}
        return NewExecution(
            id=new_id(),
            tenant=command.tenant,
            type=command.type,
            target_id=command.target_id,
            inputs=command.inputs,
            config=config,
            queue=QUEUES[isolation],
            total_steps=total_steps,
            timeout_seconds=config.get("timeout", self.settings.default_timeout),
            max_attempts=config.get("max_attempts", DEFAULT_MAX_ATTEMPTS),
            retries=Retries(retries.get("max", 0), tuple(retries.get("backoff_seconds", ()))),
            expires_in_seconds=command.expires_in_seconds,
            request_id=command.request_id,
            traceparent=command.traceparent,
            flow=flow,
            definition=target.definition,
            idempotency=command.idempotency,
            body_bytes=command.body_bytes,
        )

    def _submit_or_recall(
        self, command: StartCommand, checked: Callable[[], NewExecution]
    ) -> Started:
        """Submits what is `checked`. What is refused now may have been right when it was first
        asked.
        """
        try:
            new = checked()
        except (NotFound, InvalidRequest):
            if earlier := self.recall(command):
                return earlier
            raise
        return self.store.submit(new)

    def _call(self, execution_id: str) -> dict[str, Any]:
        """What was asked of it. Raises `NotFound`, and `InvalidRequest` where that cannot be read
        any more.
        """
        try:
            call = self.store.call(execution_id)
            if call is None or (
                isinstance(call["inputs"], dict) and isinstance(call["config"], dict)
            ):
                return call or self._unknown(execution_id)
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error):
            pass
        message = f"What {execution_id} was asked to do cannot be read any more. Start a new execution instead."
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
        """Those of a pipeline's execution that has stored none, as the catalog knows them."""
        pipeline = self.catalog.pipelines.get(execution.target_id)
        return tuple(
            as_seen(
                StepRecord(each.id, place, StepStatus.PENDING, each.output_key, each.agent),
                execution.status,
            )
            for place, each in enumerate(pipeline.steps if pipeline else ())
        )

    def _target(self, type: TargetType, target_id: str) -> Target:
        known = self.catalog.agents if type is TargetType.AGENT else self.catalog.pipelines
        if target_id not in known:
            raise NotFound(f"There is no {type} with the id {target_id!r}.")
        return known[target_id]

    def _plan(self, target: Target, config: dict[str, Any]) -> tuple[Isolation, str | None, int]:
        """Where it runs, by which flow, in how many steps. Raises `InvalidRequest` for an unknown
        flow or variant.
        """
        if isinstance(target, Pipeline):
            variant = config.get("variant")
            if variant is not None and variant not in target.variants:
                raise InvalidRequest(
                    [_unknown_name("variant", variant, target.id, target.variants)]
                )
            return target.isolation, None, len(target.steps)
        flow = target.flow(config.get("flow_id"))
        if flow is None:
            raise InvalidRequest(
                [_unknown_name("flow_id", config["flow_id"], target.id, target.flows)]
            )
        return flow.isolation, flow.name, 1

    def _unknown(self, execution_id: str) -> NoReturn:
        raise NotFound.of_execution(execution_id)


def _unknown_name(field: str, name: str, target_id: str, known: Iterable[str]) -> FieldError:
    choices = ", ".join(sorted(known)) or "none"
    return FieldError(
        f"config.{field}", f"{target_id} has no {name!r}; it has: {choices}.", f"unknown_{field}"
    )


def _changed(old: Execution) -> FieldError:
    message = f"{old.target_id} is another one than when {old.id} ran, so its finished steps do not fit; say 'start'."
    return FieldError("from", message, "definition_changed")


def _agent_step(execution: Execution) -> StepRecord:
    """The one step of an agent's execution is the agent."""
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
    """What that step has put out, by its output key; nothing where it did not complete."""
    outputs = execution.outputs  # a large text is read for a status alone, which has no steps
    if not isinstance(outputs, bytes):
        return {}
    return {"output": json.dumps(json.loads(outputs).get("output"), ensure_ascii=False).encode()}
