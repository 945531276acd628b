"""Implements the use cases of executions: start, retry, get, list and cancel.

The views in `app.api.executions` call `ExecutionService`, which checks a request against the
catalog and reads and writes the store. It knows nothing of HTTP.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from app.catalog.inputs import check_inputs
from app.catalog.model import Catalog, Isolation, Pipeline, Target
from app.catalog.suggestions import did_you_mean
from app.domain import callback_url
from app.domain import key as keys
from app.domain.errors import AlreadyEnded, FieldError, InvalidRequest, NotFound, NotRetryable
from app.domain.execution import (
    Callback,
    Execution,
    Glance,
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
from app.services.waiting import Caller, Waiting
from app.settings import Settings
from app.store.executions import QUEUES, ExecutionStore, index_keys
from app.store.steps import as_seen

DEFAULT_TENANT = keys.DEFAULT_TENANT
DEFAULT_MAX_ATTEMPTS = 3  # a flow that kills its process must not do so for ever
MAX_IDS_COMPARED = 50  # for a suggestion, which takes up to 0.2 ms an id from all other callers
CANCEL_WAIT_SECONDS = 5.0  # most flows stop within it, and callers do not wait long for an answer


@dataclass(frozen=True, slots=True)
class StartCommand:
    """A request to start an execution. Its form is checked already, so `config` has known fields
    only; whether the target, inputs and names exist is not.
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
    body_bytes: int = 0  # the size of the request, at most
    sees_targets: bool = False  # may the caller know the ids of agents and pipelines?
    callback: Callback | None = None
    tags: tuple[str, ...] = ()


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
        self._waiting = Waiting(store, settings.most_waiters)

    def start(self, command: StartCommand) -> Started:
        """Stores and queues an execution in one step.

        A repeat with the same idempotency key returns the first receipt, even at a limit. Raises
        `NotFound` for an unknown target, `InvalidRequest`, `KeyReused`, and `TooManyUnfinished` or
        `QueueFull` at a limit. Nothing is stored if it raises.
        """

        def checked() -> NewExecution:
            if command.callback and (error := self._callback_error(command.callback)):
                raise InvalidRequest([error])
            return self._checked(command)

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
            new = replace(self._checked(same), retry_of=old.id)
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
        found, total = self.store.page(
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
        return dict(zip(Status, self.store.counts(keys), strict=True))

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

    def _checked(self, command: StartCommand) -> NewExecution:
        """Checks a start against the catalog. Raises `NotFound` and `InvalidRequest`."""
        target = self._target(command)
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
            definition_hash=target.definition_hash,
            idempotency=command.idempotency,
            body_bytes=command.body_bytes,
            callback=command.callback,
            tags=command.tags,
        )

    def _callback_error(self, callback: Callback) -> FieldError | None:
        """Why no webhook can be sent to this callback; None if that is not known before trying."""
        if not self.settings.webhook_secrets:
            message = "This service sends no webhooks: WEBHOOK_SECRET is not set."
            return FieldError("callback_url", message, "webhooks_not_configured")
        problem = callback_url.check(
            callback.url, allow_private=self.settings.webhook_allow_private
        )
        return FieldError("callback_url", problem, "url_not_allowed") if problem else None

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

    def _target(self, command: StartCommand) -> Target:
        catalog, id = self.catalog, command.target_id
        of_type: Mapping[str, Target] = catalog.pipelines
        others: Mapping[str, Target] = catalog.agents
        if command.type is TargetType.AGENT:
            of_type, others = others, of_type
        if id in of_type:
            return of_type[id]
        near = ""
        if command.sees_targets:
            other = next(type for type in TargetType if type is not command.type)
            is_other = f' But there is such a {other}: send "type": "{other}".'
            near = is_other if id in others else suggested_id(id, of_type)
        raise NotFound(f"There is no {command.type} with the id {id!r}.{near}")

    def _plan(self, target: Target, config: dict[str, Any]) -> tuple[Isolation, str | None, int]:
        """Returns the isolation, the flow's name (of an agent) and the number of steps.

        Raises `InvalidRequest` for an unknown flow or variant.
        """
        if isinstance(target, Pipeline):
            variant = config.get("variant")
            if variant is not None and variant not in target.variants:
                error = _unknown_name("variant", "variant", variant, target.id, target.variants)
                raise InvalidRequest([error])
            return target.isolation, None, len(target.steps)
        flow = target.flow(config.get("flow_id"))
        if flow is None:
            name = config["flow_id"]
            raise InvalidRequest([_unknown_name("flow_id", "flow", name, target.id, target.flows)])
        return flow.isolation, flow.name, 1

    def _unknown(self, execution_id: str) -> NoReturn:
        raise NotFound.of_execution(execution_id)


def suggested_id(id: str, known: Collection[str]) -> str:
    """` Did you mean 'x'?` for the id of a target, or nothing. Only for who may see all ids."""
    nearest = sorted(known, key=lambda other: abs(len(other) - len(id)))
    return did_you_mean(id, nearest[:MAX_IDS_COMPARED])


def _unknown_name(
    field: str, noun: str, name: str, target_id: str, known: Collection[str]
) -> FieldError:
    choices = ", ".join(sorted(known)) or "none"
    near = did_you_mean(name, known)
    message = f"{target_id} has no {noun} {name!r}. Available: {choices}.{near}"
    return FieldError(f"config.{field}", message, f"unknown_{field}")


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
