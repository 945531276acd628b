"""Checks a start against the catalog, and plans the execution that it asks for.

`app.services.executions` calls it for each start and retry. Nothing is stored here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.catalog.inputs import check_inputs
from app.catalog.model import Catalog, Isolation, Pipeline, Target
from app.catalog.suggestions import did_you_mean, suggested_id
from app.domain import callback_url
from app.domain.errors import FieldError, InvalidRequest, NotFound
from app.domain.execution import Callback, Idempotency, NewExecution, Retries, TargetType
from app.domain.identifiers import new_id
from app.domain.key import DEFAULT_TENANT
from app.settings import Settings
from app.store.executions import QUEUES

DEFAULT_MAX_ATTEMPTS = 3  # a flow that kills its process must not do so for ever


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


class StartPlanner:
    """Plans executions. Its answers depend on the catalog and the settings only."""

    def __init__(self, catalog: Catalog, settings: Settings):
        self._catalog = catalog
        self._settings = settings

    def plan(self, command: StartCommand) -> NewExecution:
        """Returns the execution to store. Raises `NotFound` for an unknown target, and
        `InvalidRequest`.
        """
        target = self._target(command)
        isolation, flow, total_steps = self._resources(target, command.config)
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
            timeout_seconds=config.get("timeout", self._settings.default_timeout),
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

    def callback_error(self, callback: Callback) -> FieldError | None:
        """Why no webhook can be sent to this callback; None if that is not known before trying."""
        if not self._settings.webhook_secrets:
            message = "This service sends no webhooks: WEBHOOK_SECRET is not set."
            return FieldError("callback_url", message, "webhooks_not_configured")
        problem = callback_url.check(
            callback.url, allow_private=self._settings.webhook_allow_private
        )
        return FieldError("callback_url", problem, "url_not_allowed") if problem else None

    def _target(self, command: StartCommand) -> Target:
        catalog, id = self._catalog, command.target_id
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

    def _resources(
        self, target: Target, config: dict[str, Any]
    ) -> tuple[Isolation, str | None, int]:
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


def _unknown_name(
    field: str, noun: str, name: str, target_id: str, known: Collection[str]
) -> FieldError:
    choices = ", ".join(sorted(known)) or "none"
    near = did_you_mean(name, known)
    message = f"{target_id} has no {noun} {name!r}. Available: {choices}.{near}"
    return FieldError(f"config.{field}", message, f"unknown_{field}")
