"""Defines marshmallow's schemas of requests: bodies, headers and query parameters.

The views name them, `app.api.parsing` validates requests with them, and OpenAPI's description is
made from them. `answer_schemas` has those of answers, `event_schemas` both of the event streams.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Regexp

from app.api.coded import (
    INVALID_CHOICE,
    INVALID_TEXT,
    INVALID_TYPE,
    OUT_OF_RANGE,
    READ_ONLY,
    REQUIRED,
    UNKNOWN_FIELD,
    UNKNOWN_PARAMETER,
    Coded,
    Length,
    OneOf,
    Range,
    give_codes,
)
from app.catalog.fields import ExactInteger, ExactNumber, StrictSchema, Table
from app.domain.callback_url import MAX_CHARACTERS
from app.domain.execution import CALLBACK_EVENTS, Status, TargetType

NAME = Regexp(
    r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+\Z",
    error=Coded("Must not contain control, zero-width or text direction characters.", INVALID_TEXT),
)
"""Refuses invisible characters, because two names that look the same must be the same."""

MAX_INPUTS = 256
MAX_PAGE = 999_999_999  # the store counts up to 2**63; this times the page size is far below

MAX_TAGS = 10

IDEMPOTENCY_KEY = "Idempotency-Key"
IF_NONE_MATCH = "If-None-Match"
PREFER = "Prefer"

MAX_WAIT_ASKED = 3600
"""A longer wait is a mistake: who asks for it means milliseconds."""

# fmt: off
SERVER_OWNED = frozenset((
    "id", "execution_id", "status", "phase", "owner", "tenant", "created_at", "started_at",
    "completed_at", "attempt", "attempts", "progress", "outputs", "error", "result_ttl", "func",
    "queue", "retry_of",
))
# fmt: on
"""Names that callers may expect to set. They get their own message instead of a suggestion."""


def composed(text: str) -> None:
    """Refuses text that is not in NFC, instead of changing a name that answers have to repeat."""
    if not unicodedata.is_normalized("NFC", text):
        raise ValidationError(Coded("Must be in Unicode normalization form C (NFC).", INVALID_TEXT))


def without_slash(text: str) -> None:
    """Refuses `/`, which separates the tenant from the name in the thread that a graph gets."""
    if "/" in text:
        raise ValidationError(Coded("Must not contain '/'.", INVALID_TEXT))


def _name(max_length: int = 128) -> list[Any]:
    """The validators of a name."""
    return [Length(1, max_length), NAME, composed]


class _RequestSchema(StrictSchema):
    """The base of all request schemas: strict, and with a code beside each message."""

    error_messages = {"type": Coded("Must be an object.", INVALID_TYPE)}  # noqa: RUF012  marshmallow's own

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        give_codes(field_obj)

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **kwargs: Any) -> None:
        super().handle_error(error, data, many=many, **kwargs)
        if isinstance(error.messages, dict) and isinstance(data, Mapping):
            for name in error.messages.keys() & data.keys() - self.names:
                error.messages[name] = [self._unknown(name, error.messages[name][0])]

    def _unknown(self, name: str, message: str) -> Coded:
        if name in SERVER_OWNED:
            return Coded("This field is read-only: the service sets it.", READ_ONLY)
        return Coded(message, UNKNOWN_FIELD)


class ShortList(fields.List[Any]):
    """A list whose length is checked before its items are."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        # marshmallow checks the items first, which would report one error for each of them.
        if isinstance(value, list):
            self._validate(value)
        return super()._deserialize(value, *args, **kwargs)


class RetriesSchema(_RequestSchema):
    max = ExactInteger(
        required=True,
        validate=Range(0, 10),
        metadata={"description": "How many times a failed execution is tried again."},
    )
    backoff_seconds = ShortList(
        ExactNumber(validate=Range(0, 86_400)),
        validate=Length(0, 10),
        metadata={
            "description": "Seconds to wait before each retry. "
            "The last value applies to all further retries."
        },
    )


class BudgetSchema(_RequestSchema):
    max_tokens = ExactInteger(
        validate=Range(1), metadata={"description": "Maximum tokens of all model calls together."}
    )
    max_steps = ExactInteger(
        validate=Range(1),
        metadata={"description": "Maximum steps of a pipeline, or model calls of an agent."},
    )
    max_seconds = ExactNumber(
        validate=Range(0, min_inclusive=False),
        metadata={"description": "Maximum seconds of one attempt. Checked before each model call."},
    )


class ConfigSchema(_RequestSchema):
    flow_id = fields.String(
        validate=_name(),
        metadata={"description": "The agent's flow to run. If omitted, its default flow."},
    )
    max_workers = ExactInteger(
        validate=Range(1, 64),
        metadata={"description": "How many steps of a pipeline run at the same time."},
    )
    timeout = ExactNumber(
        validate=Range(1, 86_400), metadata={"description": "Maximum seconds of one attempt."}
    )
    model_override = fields.String(
        validate=_name(256),
        metadata={"description": "The model to use instead of the configured one."},
    )
    max_attempts = ExactInteger(
        validate=Range(1, 10),
        metadata={"description": "How many attempts may be lost with their process."},
    )
    retries = fields.Nested(
        RetriesSchema, metadata={"description": "Automatic retries after a failure."}
    )
    variant = fields.String(
        validate=_name(), metadata={"description": "The variant of the pipeline to run."}
    )
    thread_id = fields.String(
        validate=[*_name(), without_slash],
        metadata={
            "description": "The thread of a LangGraph checkpointer to go on with. If omitted, the "
            "execution has one of its own."
        },
    )
    budget = fields.Nested(
        BudgetSchema,
        metadata={"description": "Limits on what a run may use. Checked before each model call."},
    )


class Inputs(Table):
    """The inputs by name. Checks how many there are, and their names; the catalog checks values."""

    def __init__(self, **options: Any):
        super().__init__(keys=fields.String(validate=_name()), **options)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_INPUTS:
            raise ValidationError(Coded(f"Must have at most {MAX_INPUTS} inputs.", OUT_OF_RANGE))
        return super()._deserialize(value, *args, **kwargs)


class StartSchema(_RequestSchema):
    type = fields.String(required=True, validate=OneOf([type.value for type in TargetType]))
    target_id = fields.String(required=True, validate=_name())
    inputs = Inputs(
        required=True,
        metadata={
            "description": "Values by input name. The target's description lists its inputs."
        },
    )
    config = fields.Nested(ConfigSchema, load_default=dict)
    expires_in = ExactInteger(
        validate=Range(1, 604_800),
        metadata={
            "description": "Seconds in which it must start. Otherwise it fails with `Expired`."
        },
    )
    callback_url = fields.String(
        validate=Length(1, MAX_CHARACTERS),
        metadata={
            "description": "Where to send webhooks about this execution: a public http or https "
            "address. Needs WEBHOOK_SECRET, which they are signed with."
        },
    )
    callback_events = ShortList(
        fields.String(validate=OneOf([f"execution.{type}" for type in CALLBACK_EVENTS])),
        validate=Length(1, len(CALLBACK_EVENTS)),
        metadata={
            "description": "Which events to send. If omitted, the final ones: "
            "`execution.completed`, `execution.failed` and `execution.cancelled`."
        },
    )
    tags = ShortList(
        fields.String(validate=_name(64)),
        validate=Length(0, MAX_TAGS),
        metadata={
            "description": "Names of your own. A status and a list show them, and `GET /events` "
            "can filter by them."
        },
    )

    @validates_schema
    def _events_have_a_url(self, data: dict[str, Any], **_: Any) -> None:
        if "callback_events" in data and "callback_url" not in data:
            message = Coded("Required with callback_events.", REQUIRED)
            raise ValidationError({"callback_url": [message]})


class StartHeadersSchema(Schema):
    idempotency_key = fields.String(
        attribute=IDEMPOTENCY_KEY,
        data_key=IDEMPOTENCY_KEY,
        validate=Regexp(
            r"[!-~]{1,255}\Z",
            error=Coded("Must be 1 to 255 visible ASCII characters, in one header.", OUT_OF_RANGE),
        ),
        metadata={
            "description": "Makes the start safe to repeat. The same key with the same body "
            "returns the first answer again, with `Idempotency-Replayed: true`; with another body "
            "it is refused. A key is kept for one day, unless IDEMPOTENCY_TTL is set."
        },
    )
    prefer = fields.String(
        attribute=PREFER,
        data_key=PREFER,
        metadata={
            "description": "`wait=N` (RFC 7240) waits up to N seconds, and at most MAX_WAIT, for "
            "the end. The answer is then 200 with the final status, or else the usual 202. The key "
            "needs the scope `read`, too. Other preferences are ignored.",
            "example": "wait=10",
        },
    )


class CancelSchema(_RequestSchema):
    """A cancel has no fields, so its body is `{}` or is left out."""


class RedeliverSchema(_RequestSchema):
    """A delivery that is sent again has no fields, so its body is `{}` or is left out."""


class RetrySchema(_RequestSchema):
    from_ = fields.String(
        data_key="from",
        load_default="failure",
        validate=OneOf(["failure", "start"]),
        metadata={
            "description": "`failure` keeps the finished steps of a pipeline, "
            "`start` runs every step again."
        },
    )
    config = fields.Nested(
        ConfigSchema,
        load_default=dict,
        metadata={"description": "The fields to change. The others keep their values."},
    )


MAX_NUMBER = 32  # characters
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


class DigitsField(fields.Integer):
    """An integer in ASCII digits. Refuses `+5`, ` 5 `, `1_000`, `5.0` and other scripts' digits."""

    def _validated(self, value: Any) -> int:
        if not (
            isinstance(value, str)
            and value.isascii()
            and value.isdigit()
            and len(value) <= len(str(MAX_PAGE))
        ):
            raise self.make_error("invalid")
        return int(value)


class SecondsField(fields.Float):
    """Seconds as JSON writes numbers. Refuses `+5`, `5.`, `nan` and other scripts' digits."""

    def _validated(self, value: Any) -> float:
        if not (isinstance(value, str) and len(value) <= MAX_NUMBER and _NUMBER.fullmatch(value)):
            raise self.make_error("invalid")
        return float(value)


class QuerySchema(_RequestSchema):
    def _unknown(self, name: str, message: str) -> Coded:
        # The catalog's sentence, which may end with a suggestion: "Unknown field. Did you mean ..."
        return Coded(message.replace("field", "parameter", 1), UNKNOWN_PARAMETER)


STATUS_PARTS = ("steps", "inputs", "config")
"""What a status can include besides its own fields."""


def _known_parts(text: str) -> None:
    if not set(text.split(",")) <= set(STATUS_PARTS):
        known = ", ".join(STATUS_PARTS)
        raise ValidationError(Coded(f"Must be one or more of {known}, by commas.", INVALID_CHOICE))


class StatusQuerySchema(QuerySchema):
    include = fields.String(
        validate=_known_parts,
        metadata={
            "description": "Adds to the answer: `steps`, and the `inputs` and the `config` of the "
            "request. Separate several by commas.",
            "pattern": "^(steps|inputs|config)(,(steps|inputs|config))*$",
            "example": "inputs,config",
        },
    )
    wait = SecondsField(
        validate=Range(0, MAX_WAIT_ASKED),
        metadata={
            "description": "Answers at the end of the execution, or after so many seconds with "
            "what is there. It may answer earlier. No request waits longer than MAX_WAIT.",
            "example": 30,
        },
    )
    since_version = DigitsField(
        validate=Range(0, MAX_PAGE),
        metadata={
            "description": "With `wait`: answers as soon as the execution's `version` is another "
            "one than this.",
            "example": 3,
        },
    )


class StatusHeadersSchema(Schema):
    if_none_match = fields.String(
        attribute=IF_NONE_MATCH,
        data_key=IF_NONE_MATCH,
        metadata={
            "description": "The `ETag` of an earlier answer. If the version is still the same, the "
            "answer is 304, without a body.",
            "example": '"v3"',
        },
    )


class StepsQuerySchema(QuerySchema):
    include = fields.String(
        validate=OneOf(["outputs"]),
        metadata={"description": "`outputs` adds the outputs of the finished steps."},
    )


class DeliveriesQuerySchema(QuerySchema):
    after = DigitsField(
        load_default=0,
        validate=Range(0, MAX_PAGE),
        metadata={"description": "Only deliveries with higher numbers."},
    )


class ListQuerySchema(QuerySchema):
    status = fields.String(validate=OneOf([status.value for status in Status]))
    type = fields.String(validate=OneOf([type.value for type in TargetType]))
    target_id = fields.String(validate=[Length(1, 128), NAME])
    page = DigitsField(load_default=1, validate=Range(1, MAX_PAGE))
    page_size = DigitsField(load_default=50, validate=Range(1, 100))
    order = fields.String(load_default="desc", validate=OneOf(["desc", "asc"]))
    sort = fields.String(load_default="created_at", validate=OneOf(["created_at"]))
