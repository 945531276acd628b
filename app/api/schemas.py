"""What requests may hold and what answers do hold: the one description, from which OpenAPI is made."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import Regexp

from app.api.coded import (
    INVALID_TEXT,
    INVALID_TYPE,
    OUT_OF_RANGE,
    READ_ONLY,
    UNKNOWN_FIELD,
    UNKNOWN_PARAMETER,
    Coded,
    Length,
    OneOf,
    Range,
    give_codes,
)
from app.catalog.fields import ExactInteger, ExactNumber, StrictSchema, Table
from app.domain.execution import Phase, Status, StepStatus, TargetType

NAME = Regexp(
    r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+\Z",
    error=Coded("Must be plain text.", INVALID_TEXT),
)
"""No control, zero-width or direction-changing characters: a name must look like what it is."""

MAX_INPUTS = 256
MAX_PAGE = 999_999_999

IDEMPOTENCY_KEY = "Idempotency-Key"

SERVER_OWNED = frozenset(
    (
        *(
            "id",
            "execution_id",
            "status",
            "phase",
            "owner",
            "tenant",
            "created_at",
            "started_at",
            "completed_at",
        ),
        *(
            "attempt",
            "attempts",
            "progress",
            "outputs",
            "error",
            "result_ttl",
            "func",
            "queue",
            "retry_of",
        ),
    )
)


def composed(text: str) -> None:
    """Two names that look the same must be the same: they are accepted in one of Unicode's forms,
    and never changed.
    """
    if not unicodedata.is_normalized("NFC", text):
        raise ValidationError(Coded("Must be in Unicode's composed form (NFC).", INVALID_TEXT))


def _name(longest: int = 128) -> list[Any]:
    """The checks of a name of something."""
    return [Length(1, longest), NAME, composed]


class _RequestSchema(StrictSchema):
    """Every sentence of it has its code."""

    error_messages = {"type": Coded("Invalid input type.", INVALID_TYPE)}  # noqa: RUF012  marshmallow's own

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        give_codes(field_obj)

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **kwargs: Any) -> None:
        super().handle_error(error, data, many=many, **kwargs)
        if isinstance(error.messages, dict) and isinstance(data, Mapping):
            for name in error.messages.keys() & data.keys() - self.names:
                error.messages[name] = [self._unknown(name, error.messages[name][0])]

    def _unknown(self, name: str, sentence: str) -> Coded:
        if name in SERVER_OWNED:
            return Coded("This field is set by the service.", READ_ONLY)
        return Coded(sentence, UNKNOWN_FIELD)


class ShortList(fields.List[Any]):
    """A list that may be too long for its items to be worth a look."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            self._validate(value)
        return super()._deserialize(value, *args, **kwargs)


class RetriesSchema(_RequestSchema):
    max = ExactInteger(
        required=True,
        validate=Range(0, 10),
        metadata={"description": "How often it is started again."},
    )
    backoff_seconds = ShortList(
        ExactNumber(validate=Range(0, 86_400)),
        validate=Length(0, 10),
        metadata={"description": "The wait before each; the last one for all further ones."},
    )


class BudgetSchema(_RequestSchema):
    max_tokens = ExactInteger(
        validate=Range(1), metadata={"description": "Tokens of all model calls together."}
    )
    max_steps = ExactInteger(
        validate=Range(1), metadata={"description": "Steps of a pipeline; model calls of an agent."}
    )
    max_seconds = ExactNumber(
        validate=Range(0, min_inclusive=False),
        metadata={"description": "Seconds of an attempt, between calls."},
    )


class ConfigSchema(_RequestSchema):
    flow_id = fields.String(validate=_name(), metadata={"description": "Which flow of an agent."})
    max_workers = ExactInteger(
        validate=Range(1, 64), metadata={"description": "Steps of a pipeline side by side."}
    )
    timeout = ExactNumber(
        validate=Range(1, 86_400), metadata={"description": "Seconds that one attempt may take."}
    )
    model_override = fields.String(
        validate=_name(256), metadata={"description": "The model for this run."}
    )
    max_attempts = ExactInteger(
        validate=Range(1, 10), metadata={"description": "Runs that may lose their process."}
    )
    retries = fields.Nested(
        RetriesSchema, metadata={"description": "Starting again after a failure."}
    )
    variant = fields.String(
        validate=_name(), metadata={"description": "Which variant of a pipeline."}
    )
    budget = fields.Nested(
        BudgetSchema, metadata={"description": "What a run may spend, looked at before each call."}
    )


class Inputs(Table):
    """The inputs: a bounded number of them, each with a name that looks like what it is."""

    def __init__(self, **options: Any):
        super().__init__(keys=fields.String(validate=_name()), **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_INPUTS:
            raise ValidationError(Coded(f"Must be at most {MAX_INPUTS} inputs.", OUT_OF_RANGE))
        return super()._deserialize(value, *args, **kwargs)


class StartSchema(_RequestSchema):
    type = fields.String(required=True, validate=OneOf([each.value for each in TargetType]))
    target_id = fields.String(required=True, validate=_name())
    inputs = Inputs(
        required=True, metadata={"description": "By name; see the target's own list of inputs."}
    )
    config = fields.Nested(ConfigSchema, load_default=dict)
    expires_in = ExactInteger(
        validate=Range(1, 604_800),
        metadata={"description": "Seconds in which it must start, or it fails as Expired."},
    )


class StartHeadersSchema(Schema):
    idempotency_key = fields.String(
        attribute=IDEMPOTENCY_KEY,
        data_key=IDEMPOTENCY_KEY,
        validate=Regexp(
            r"[!-~]{1,255}\Z",
            error=Coded("Must be 1 to 255 visible ASCII characters, in one header.", OUT_OF_RANGE),
        ),
        metadata={
            "description": "Makes the start safe to repeat: with the same key and the same body it is answered as the "
            "first time, with `Idempotency-Replayed: true`; with another body it is refused. Kept for a day, "
            "unless IDEMPOTENCY_TTL says otherwise."
        },
    )


class CancelSchema(_RequestSchema):
    """There is nothing to say."""


class RetrySchema(_RequestSchema):
    from_ = fields.String(
        data_key="from",
        load_default="failure",
        validate=OneOf(["failure", "start"]),
        metadata={
            "description": "`failure` takes over the finished steps of a pipeline, `start` does all again."
        },
    )
    config = fields.Nested(
        ConfigSchema,
        load_default=dict,
        metadata={"description": "What is to be changed; the rest stays as it was."},
    )


class _DigitsField(fields.Integer):
    """A whole number as ASCII digits: not `+5`, ` 5 `, `1_000`, `5.0`, nor digits of other scripts."""

    def _validated(self, value: Any) -> int:
        if not (
            isinstance(value, str)
            and value.isascii()
            and value.isdigit()
            and len(value) <= len(str(MAX_PAGE))
        ):
            raise self.make_error("invalid")
        return int(value)


class _QuerySchema(_RequestSchema):
    def _unknown(self, name: str, sentence: str) -> Coded:
        return Coded(sentence.replace("field", "parameter", 1), UNKNOWN_PARAMETER)


class StatusQuerySchema(_QuerySchema):
    include = fields.String(
        validate=OneOf(["steps"]), metadata={"description": "`steps` adds the steps."}
    )


class StepsQuerySchema(_QuerySchema):
    include = fields.String(
        validate=OneOf(["outputs"]),
        metadata={"description": "`outputs` adds what the finished steps have put out."},
    )


class ListQuerySchema(_QuerySchema):
    status = fields.String(validate=OneOf([each.value for each in Status]))
    type = fields.String(validate=OneOf([each.value for each in TargetType]))
    target_id = fields.String(validate=[Length(1, 128), NAME])
    page = _DigitsField(load_default=1, validate=Range(1, MAX_PAGE))
    page_size = _DigitsField(load_default=50, validate=Range(1, 100))
    order = fields.String(load_default="desc", validate=OneOf(["desc", "asc"]))
    sort = fields.String(load_default="created_at", validate=OneOf(["created_at"]))


# Answers. They are written by `app.api.bodies`, without a pass through marshmallow; these describe
# them.


def _time(description: str, **options: Any) -> fields.String:
    return fields.String(metadata={"format": "date-time", "description": description}, **options)


class StartedSchema(Schema):
    execution_id = fields.String(required=True)
    status = fields.String(required=True, validate=OneOf(["pending"]))
    message = fields.String(required=True)
    status_url = fields.String(required=True)
    retry_of = fields.String(metadata={"description": "The execution that this one repeats."})
    created_at = _time("When it was accepted.", required=True)


class ProgressSchema(Schema):
    current_step = fields.Integer(
        required=True, metadata={"description": "How many steps are done."}
    )
    total_steps = fields.Integer(required=True)
    percentage = fields.Float(required=True)
    current_step_name = fields.String(required=True, allow_none=True)


class FailureSchema(Schema):
    type = fields.String(required=True)
    message = fields.String(required=True)
    details = fields.Dict(required=True)


class AttemptSchema(Schema):
    number = fields.Integer(required=True)
    worker = fields.String(required=True)
    started_at = _time("When this attempt began.", required=True)
    ended_at = _time("When it ended; left out while it runs.")
    outcome = fields.String(
        required=True,
        metadata={"description": "`running`, a final status, or `lost` with its process."},
    )
    error = fields.String(metadata={"description": "The type of the error it ended with."})


class SummarySchema(Schema):
    execution_id = fields.String(required=True)
    type = fields.String(required=True, validate=OneOf([each.value for each in TargetType]))
    target_id = fields.String(required=True)
    status = fields.String(required=True, validate=OneOf([each.value for each in Status]))
    phase = fields.String(validate=OneOf([each.value for each in Phase]))
    attempt = fields.Integer(required=True)
    created_at = _time("When it was accepted.", required=True)
    retry_of = fields.String(metadata={"description": "The execution that this one repeats."})
    started_at = _time("When the current or last attempt began.")
    completed_at = _time("When it completed.")
    failed_at = _time("When it failed.")
    cancelled_at = _time("When it was over, as cancelled.")


def _reported() -> fields.Integer:
    return fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Null where the model's server reported none."},
    )


class ModelUsageSchema(Schema):
    calls = fields.Integer(required=True)
    input_tokens = _reported()
    output_tokens = _reported()
    total_tokens = _reported()
    estimated_tokens = fields.Integer(
        metadata={
            "description": "Beside the reported ones: of calls whose server reported none, by their texts."
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
        required=True, metadata={"description": "Its position in the list, from 0."}
    )
    status = fields.String(required=True, validate=OneOf(["completed", "failed"]))
    error = fields.Nested(FailureSchema)


class StepSchema(Schema):
    id = fields.String(required=True)
    agent = fields.String(required=True, allow_none=True)
    flow = fields.String(required=True, allow_none=True)
    status = fields.String(required=True, validate=OneOf([each.value for each in StepStatus]))
    attempt = fields.Integer(required=True, metadata={"description": "How often it was started."})
    output_key = fields.String(required=True)
    started_at = _time("When its last attempt began.")
    ended_at = _time("When it ended.")
    model = fields.String(metadata={"description": "The model that was asked last."})
    tokens = fields.Nested(TokensSchema)
    usage = fields.Nested(UsageSchema)
    error = fields.Nested(FailureSchema)
    warnings = fields.List(
        fields.String(),
        metadata={
            "description": "What was passed over: conditions that could not be evaluated, odd items."
        },
    )
    items = fields.List(
        fields.Nested(ItemSchema), metadata={"description": "Of a batch: the items that ended."}
    )


class StepsSchema(Schema):
    execution_id = fields.String(required=True)
    status = fields.String(required=True, validate=OneOf([each.value for each in Status]))
    steps = fields.List(fields.Nested(StepSchema), required=True)
    outputs = fields.Dict(metadata={"description": "By output key, where they were asked for."})


class ExecutionSchema(SummarySchema):
    definition = fields.String(
        metadata={
            "description": "The version of the target: of a pipeline's steps, or of an agent's folder."
        }
    )
    progress = fields.Nested(ProgressSchema)
    outputs = fields.Dict(
        metadata={
            "description": "Of an agent `output` and `metadata`: `model_used` and `tokens_used`, where a model was "
            "asked also `finish_reason` (`length`: the answer was cut off), and `refusal` if it refused. Of a "
            "pipeline its output keys and `metadata`: `tokens_used`, `models_used`."
        }
    )
    outputs_partial = fields.Dict(
        metadata={
            "description": "Of a pipeline that failed or was cancelled: what its finished steps have put out."
        }
    )
    usage = fields.Nested(
        UsageSchema, metadata={"description": "What its model calls have used, over all attempts."}
    )
    steps = fields.List(fields.Nested(StepSchema))
    error = fields.Nested(FailureSchema)
    attempts = fields.List(fields.Nested(AttemptSchema))
    traceparent = fields.String(
        metadata={"description": "As it came with the start (W3C Trace Context)."}
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
    cancelled_at = _time("When it was over; left out while it is being stopped.")


class CancelledSchema(Schema):
    message = fields.String(required=True)
    data = fields.Nested(CancelledDataSchema, required=True)


class FieldErrorSchema(Schema):
    field = fields.String(
        required=True, metadata={"description": "In dotted form; empty for the body as a whole."}
    )
    message = fields.String(required=True)
    code = fields.String(required=True)


class ProblemSchema(Schema):
    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    instance = fields.String(
        required=True, metadata={"description": "The path that was asked for."}
    )
    request_id = fields.String(
        required=True, metadata={"description": "It is in `X-Request-ID` and in the log, too."}
    )
    code = fields.String(
        required=True, metadata={"description": "What is wrong, as a stable word."}
    )
    errors = fields.List(fields.Nested(FieldErrorSchema))
