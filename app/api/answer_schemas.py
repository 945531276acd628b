"""Defines marshmallow's schemas of answers; OpenAPI's description is made from them.

The views name them. Nothing is validated or written with them, which would take twice as long:
`app.services.serializers` writes answers by hand, and tests/http/test_description.py compares them
with these schemas.
"""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from app.api.coded import OneOf
from app.domain.delivery import DeliveryStatus
from app.domain.execution import CALLBACK_EVENTS, Phase, Status, StepStatus, TargetType


def time_field(description: str, **options: Any) -> fields.String:
    return fields.String(metadata={"format": "date-time", "description": description}, **options)


class StartedSchema(Schema):
    execution_id = fields.String(required=True)
    status = fields.String(required=True, validate=OneOf(["pending"]))
    message = fields.String(required=True)
    status_url = fields.String(required=True)
    retry_of = fields.String(metadata={"description": "The execution that this one retries."})
    created_at = time_field("When it was accepted.", required=True)


class WaitingForSchema(Schema):
    reason = fields.String(
        required=True,
        validate=OneOf(["backoff", "worker", "slot", "turn"]),
        metadata={
            "description": "`backoff`: the time before its next attempt. `worker`: no worker of "
            "its kind is alive, or none can start a process. `slot`: all are in use. `turn`: a "
            "worker takes it in a moment."
        },
    )
    detail = fields.String(required=True, metadata={"description": "The same as a sentence."})
    until = time_field("When its next attempt may start.")
    before = fields.Integer(
        metadata={
            "description": "How many executions are before it in its queue. Omitted if they are "
            "more than 1,000."
        }
    )


class ProgressSchema(Schema):
    current_step = fields.Integer(
        required=True, metadata={"description": "How many steps are finished."}
    )
    total_steps = fields.Integer(required=True)
    percentage = fields.Float(
        required=True,
        metadata={
            "description": "100 x current_step / total_steps; an unfinished batch counts by the "
            "items that are done."
        },
    )
    current_step_name = fields.String(required=True, allow_none=True)


class FailureSchema(Schema):
    type = fields.String(required=True)
    message = fields.String(required=True)
    details = fields.Dict(required=True)


class AttemptSchema(Schema):
    number = fields.Integer(required=True)
    worker = fields.String(required=True)
    started_at = time_field("When this attempt started.", required=True)
    ended_at = time_field("When it ended. Omitted while it runs.")
    outcome = fields.String(
        required=True,
        metadata={"description": "`running`, a final status, or `lost` if its process was lost."},
    )
    error = fields.String(metadata={"description": "The type of the error that ended it."})


class SummarySchema(Schema):
    execution_id = fields.String(required=True)
    type = fields.String(required=True, validate=OneOf([type.value for type in TargetType]))
    target_id = fields.String(required=True)
    status = fields.String(required=True, validate=OneOf([status.value for status in Status]))
    phase = fields.String(validate=OneOf([phase.value for phase in Phase]))
    attempt = fields.Integer(required=True)
    version = fields.Integer(
        required=True,
        metadata={"description": "Grows with every change. The same as in the `ETag`."},
    )
    created_at = time_field("When it was accepted.", required=True)
    retry_of = fields.String(metadata={"description": "The execution that this one retries."})
    tags = fields.List(fields.String(), metadata={"description": "As the start had them."})
    started_at = time_field("When the current or last attempt started.")
    completed_at = time_field("When it completed.")
    failed_at = time_field("When it failed.")
    cancelled_at = time_field("When it ended as cancelled.")


def _reported() -> fields.Integer:
    return fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Null if the model's server reported none."},
    )


class ModelUsageSchema(Schema):
    calls = fields.Integer(required=True)
    input_tokens = _reported()
    output_tokens = _reported()
    total_tokens = _reported()
    estimated_tokens = fields.Integer(
        metadata={
            "description": "Tokens of calls whose server reported none, estimated from their "
            "texts. Not part of the other counts."
        }
    )


class UsageSchema(Schema):
    tokens_used = _reported()
    models = fields.Dict(
        keys=fields.String(), values=fields.Nested(ModelUsageSchema), required=True
    )


class TokensSchema(Schema):
    input = _reported()
    output = _reported()
    total = _reported()


class ItemSchema(Schema):
    item = fields.Integer(
        required=True, metadata={"description": "Its position in the list, starting at 0."}
    )
    status = fields.String(required=True, validate=OneOf(["completed", "failed"]))
    error = fields.Nested(FailureSchema)


class StepSchema(Schema):
    id = fields.String(required=True)
    agent = fields.String(required=True, allow_none=True)
    flow = fields.String(required=True, allow_none=True)
    status = fields.String(required=True, validate=OneOf([status.value for status in StepStatus]))
    attempt = fields.Integer(
        required=True, metadata={"description": "How many times the step was started."}
    )
    output_key = fields.String(required=True)
    started_at = time_field("When its last attempt started.")
    ended_at = time_field("When it ended.")
    model = fields.String(metadata={"description": "The model of the last call."})
    tokens = fields.Nested(TokensSchema)
    usage = fields.Nested(UsageSchema)
    error = fields.Nested(FailureSchema)
    warnings = fields.List(
        fields.String(),
        metadata={
            "description": "What was skipped: conditions that could not be evaluated, and items "
            "that do not fit."
        },
    )
    items = fields.List(
        fields.Nested(ItemSchema),
        metadata={"description": "The finished items, if the step is a batch."},
    )


class StepsSchema(Schema):
    execution_id = fields.String(required=True)
    status = fields.String(required=True, validate=OneOf([status.value for status in Status]))
    steps = fields.List(fields.Nested(StepSchema), required=True)
    outputs = fields.Dict(metadata={"description": "By output key. Only with `include=outputs`."})


class ExecutionSchema(SummarySchema):
    definition = fields.String(
        metadata={
            "description": "A hash of the target's definition: of a pipeline's steps, or of an "
            "agent's folder."
        }
    )
    waiting_for = fields.Nested(
        WaitingForSchema, metadata={"description": "What it waits for, while it is pending."}
    )
    progress = fields.Nested(ProgressSchema)
    last_heartbeat_at = time_field("While it runs: when its worker last reported that it is alive.")
    outputs = fields.Dict(
        metadata={
            "description": "An agent has `output` and `metadata`. Its metadata are `model_used` "
            "and `tokens_used`; if a model was called, also `finish_reason` (`length`: the answer "
            "was cut off), and `refusal` if the model refused. A pipeline has its output keys and "
            "`metadata` with `tokens_used` and `models_used`."
        }
    )
    outputs_omitted = fields.Boolean(
        metadata={
            "description": "Only in a webhook: true if the outputs are too large for it. Get them "
            "from the status."
        }
    )
    outputs_partial = fields.Dict(
        metadata={
            "description": "The outputs of the finished steps of a pipeline that failed or was "
            "cancelled."
        }
    )
    usage = fields.Nested(
        UsageSchema, metadata={"description": "The tokens of its model calls, over all attempts."}
    )
    steps = fields.List(fields.Nested(StepSchema))
    inputs = fields.Dict(
        metadata={"description": "As the request had them. Only with `include=inputs`."}
    )
    config = fields.Dict(
        metadata={"description": "As the request had it. Only with `include=config`."}
    )
    error = fields.Nested(FailureSchema)
    attempts = fields.List(fields.Nested(AttemptSchema))
    traceparent = fields.String(
        metadata={"description": "The value that the start was sent with (W3C Trace Context)."}
    )


class PaginationSchema(Schema):
    page = fields.Integer(required=True)
    page_size = fields.Integer(required=True)
    total_items = fields.Integer(required=True)
    total_pages = fields.Integer(required=True)
    has_next = fields.Boolean(required=True)
    has_prev = fields.Boolean(required=True)


class PageSchema(Schema):
    executions = fields.List(fields.Nested(SummarySchema), required=True)
    pagination = fields.Nested(PaginationSchema, required=True)


class CancelledDataSchema(Schema):
    execution_id = fields.String(required=True)
    status = fields.String(required=True)
    phase = fields.String()
    cancelled_at = time_field("When it ended. Omitted while it is being cancelled.")


class CancelledSchema(Schema):
    message = fields.String(required=True)
    data = fields.Nested(CancelledDataSchema, required=True)


class TrySchema(Schema):
    at = time_field("When it began.", required=True)
    seconds = fields.Float(required=True, metadata={"description": "How long it took."})
    code = fields.Integer(
        metadata={
            "description": "The status that the receiver answered. Omitted without an answer."
        }
    )
    answer = fields.String(metadata={"description": "The first 1,024 bytes of the answer's body."})
    error = fields.String(metadata={"description": "Why it failed. Omitted if it was accepted."})


class DeliverySchema(Schema):
    number = fields.Integer(required=True)
    webhook_id = fields.String(
        required=True,
        metadata={"description": "The header `webhook-id`, which is the same for all tries."},
    )
    event = fields.String(
        required=True, metadata={"description": "The type, such as `execution.completed`."}
    )
    event_id = fields.Integer(
        required=True, metadata={"description": "The event's number in the execution's log."}
    )
    status = fields.String(
        required=True,
        validate=OneOf([status.value for status in DeliveryStatus]),
        metadata={
            "description": "`pending` (in the queue), `sending`, `waiting` (for `next_try_at`), "
            "`delivered`, `failed` (after the last try), or `stopped` (the receiver answered 410)."
        },
    )
    created_at = time_field("When the event happened.", required=True)
    next_try_at = time_field("When it is tried again.")
    ended_at = time_field("When it was delivered or given up.")
    error = fields.String(metadata={"description": "Why it ended without a try that says so."})
    tries_made = fields.Integer(required=True)
    tries = fields.List(
        fields.Nested(TrySchema), required=True, metadata={"description": "The last ones."}
    )


class DeliveriesSchema(Schema):
    execution_id = fields.String(required=True)
    callback_url = fields.String(metadata={"description": "As the start had it."})
    callback_events = fields.List(fields.String())
    total = fields.Integer(
        required=True, metadata={"description": "How many deliveries the execution has."}
    )
    deliveries = fields.List(fields.Nested(DeliverySchema), required=True)


class RedeliveredSchema(Schema):
    execution_id = fields.String(required=True)
    number = fields.Integer(required=True)
    status = fields.String(
        required=True, validate=OneOf([status.value for status in DeliveryStatus])
    )


class WebhookSchema(Schema):
    type = fields.String(
        required=True, validate=OneOf([f"execution.{type}" for type in CALLBACK_EVENTS])
    )
    timestamp = time_field("When the event happened.", required=True)
    data = fields.Nested(
        ExecutionSchema,
        required=True,
        metadata={"description": "The execution when the webhook is sent, as its status shows it."},
    )


class FieldErrorSchema(Schema):
    field = fields.String(
        required=True,
        metadata={"description": "The field's path with dots. Empty if the whole body is wrong."},
    )
    message = fields.String(required=True)
    code = fields.String(required=True)


class ProblemSchema(Schema):
    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    instance = fields.String(required=True, metadata={"description": "The path of the request."})
    request_id = fields.String(
        required=True, metadata={"description": "The same as in `X-Request-ID` and in the log."}
    )
    code = fields.String(
        required=True, metadata={"description": "A stable name for this kind of error."}
    )
    errors = fields.List(fields.Nested(FieldErrorSchema))
