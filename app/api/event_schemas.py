"""Defines what the endpoints for events read and answer, beside `schemas` and `answer_schemas`."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields

from app.api.answer_schemas import time_field
from app.api.coded import INVALID_CHOICE, INVALID_TYPE, Coded, Length, OneOf, Range
from app.api.schemas import NAME, DigitsField, QuerySchema
from app.domain.events import TYPES
from app.domain.execution import TargetType
from app.store.feed import Position

LAST_EVENT_ID = "Last-Event-ID"
MAX_LIMIT = 1000

NAMES = sorted(f"execution.{type}" for type in TYPES)
"""The types of events as clients see them."""


class _Types(fields.String):
    """Types by commas. Gives the stored types, as a set."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        names = super()._deserialize(value, *args, **kwargs).split(",")
        if not set(names) <= set(NAMES):
            message = f"Must be one or more of {', '.join(NAMES)}, by commas."
            raise ValidationError(Coded(message, INVALID_CHOICE))
        return frozenset(name.removeprefix("execution.") for name in names)


class _PositionField(fields.String):
    """A position in a feed, as `id:` of its events has it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        position = Position.parse(super()._deserialize(value, *args, **kwargs))
        if position is None:
            message = "Must be the id of an event of this stream, such as 1767609000000-0."
            raise ValidationError(Coded(message, INVALID_TYPE))
        return position


class EventsQuerySchema(QuerySchema):
    after = DigitsField(
        validate=Range(0, 999_999_999),
        metadata={
            "description": "Only events with larger numbers. A `Last-Event-ID` takes its place."
        },
    )
    types = _Types(
        metadata={
            "description": "Only events of these types, by commas. The stream ends after the final "
            "event in any case.",
            "pattern": f"^({'|'.join(NAMES)})(,({'|'.join(NAMES)}))*$".replace(".", "[.]"),
            "example": "execution.progress,execution.completed",
        },
    )
    limit = DigitsField(
        load_default=100,
        validate=Range(1, MAX_LIMIT),
        metadata={"description": "How many events a page of JSON has. A stream has no limit."},
    )


class FeedQuerySchema(QuerySchema):
    type = fields.String(validate=OneOf([type.value for type in TargetType]))
    target_id = fields.String(validate=[Length(1, 128), NAME])
    tag = fields.String(
        validate=[Length(1, 64), NAME],
        metadata={"description": "Only executions whose start had this tag."},
    )
    after = _PositionField(
        metadata={
            "description": "Only changes after the one with this id. A `Last-Event-ID` takes its "
            "place.",
            "pattern": "^[0-9]{1,15}-[0-9]{1,15}$",
            "example": "1767609000000-0",
        },
    )


class ResumeHeadersSchema(Schema):
    last_event_id = fields.String(
        attribute=LAST_EVENT_ID,
        data_key=LAST_EVENT_ID,
        metadata={
            "description": "The `id` of the last event that the client has. Browsers send it when "
            "they connect again. Anything that is no such id is ignored."
        },
    )


class EventSchema(Schema):
    id = fields.Integer(
        required=True, metadata={"description": "Its number in the log, from 1 without a gap."}
    )
    type = fields.String(required=True, validate=OneOf(NAMES))
    at = time_field("When it happened.", required=True)
    execution_id = fields.String(required=True)
    data = fields.Dict(required=True, metadata={"description": "Depends on the type."})


class LogSchema(Schema):
    execution_id = fields.String(required=True)
    events = fields.List(fields.Nested(EventSchema), required=True)
    first = fields.Integer(
        required=True,
        metadata={
            "description": "The number of the first event that is still stored. If it is above "
            "`after` + 1, those between are gone."
        },
    )
    version = fields.Integer(
        required=True, metadata={"description": "The number of the latest event."}
    )
    ended = fields.Boolean(
        required=True, metadata={"description": "Whether the latest event is the final one."}
    )
    has_more = fields.Boolean(required=True)
    next = fields.Integer(
        metadata={"description": "The `after` of the next page. Omitted at the end of the log."}
    )
