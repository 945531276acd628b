"""What people see of an event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.domain.events import Event
from app.domain.execution import Failure, Progress
from app.services import serializers
from app.store.events import read_entry

AT = datetime(2026, 11, 27, 10, 0, 0, 13_000, UTC)

SHOWN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("created", {}, {}),
    ("started", {"attempt": 2}, {"attempt": 2}),
    (
        "progress",
        {"progress": Progress(1, 4, "reading", 0.5)},
        {
            "current_step": 1,
            "total_steps": 4,
            "percentage": 37.5,
            "current_step_name": "reading",
        },
    ),
    (
        "retrying",
        {
            "attempt": 1,
            "outcome": "failed",
            "error": "ValueError",
            "due_at": AT + timedelta(seconds=5),
        },
        {
            "attempt": 1,
            "outcome": "failed",
            "error": "ValueError",
            "next_attempt_at": "2026-11-27T10:00:05.013Z",
        },
    ),
    (
        "retrying",
        {"attempt": 1, "outcome": "released", "error": None, "due_at": None},
        {"attempt": 1, "outcome": "released"},
    ),
    (
        "failed",
        {"error": Failure("ValueError", "no", {"agent_id": "echo"})},
        {"error": {"type": "ValueError", "message": "no", "details": {"agent_id": "echo"}}},
    ),
    ("log", {"message": "hello"}, {"message": "hello"}),
]


@pytest.mark.parametrize(("type", "data", "shown"), SHOWN)
def test_an_event_is_shown_in_the_words_of_the_status(
    type: str, data: dict[str, Any], shown: dict[str, Any]
) -> None:
    assert serializers.event(Event(7, type, AT, data), "exec_1") == {
        "id": 7,
        "type": f"execution.{type}",
        "at": "2026-11-27T10:00:00.013Z",
        "execution_id": "exec_1",
        "data": shown,
    }


@pytest.mark.parametrize(
    "entry",
    [
        *(b'[0,"failed",{}]', b'[0,"failed",{"error":1}]', b'[0,"failed",{"error":{"type":1}}]'),
        *(b'[0,"progress",null]', b'[0,"progress",[9,1,2]]', b'[0,"progress",{}]'),
        *(b'[0,"retrying",{}]', b'[0,"retrying",{"attempt":1,"outcome":"x","error":1,"due":"x"}]'),
        *(b'[1e300,"log",{}]', b'[-1e300,"log",{}]', b'[0,"log",[]]', b"[0,[],{}]", b"\xff"),
    ],
)
def test_whatever_the_store_holds_can_be_shown(entry: bytes) -> None:
    event = serializers.event(read_entry(entry, 3), "exec_1")
    assert (event["id"], isinstance(event["data"], dict)) == (3, True)
