"""Attacks by texts that take a careless program minutes: in errors, bodies, prompts and answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.hostile.conftest import STRANGER, Town
from tests.hostile.neighbours import unharmed
from tests.support.model_server import Answer

pytestmark = pytest.mark.timeout(240)


def test_a_message_that_looks_like_half_a_secret_over_and_over_harms_nobody(town: Town) -> None:
    """Runs in one process with the neighbours: a slow pattern would hold their interpreter."""
    with unharmed(town, "thread"):
        units = ("eyJ-", "eyJ.", "token=", "://a:", "bearer ")
        attacks = [
            town.start("shouts", {"unit": unit, "times": 1_000_000 // len(unit)}) for unit in units
        ]
        for id in attacks:
            error = town.ended(id, seconds=120)["error"]
            assert error["type"] == "ValueError"
            assert len(error["message"].encode()) <= 4096


def test_a_body_that_ends_in_the_middle_of_an_escape_harms_nobody(town: Town) -> None:
    headers = {"Content-Type": "application/json", "X-API-Key": STRANGER}
    with unharmed(town, "thread"):
        for head in (b"[" * 100 + b'"', b"," * 200_000 + b'"', b"{" * 70 + b'"'):
            body = head + b'\\"' * 300_000 + b"\\"
            url = f"{town.url}/api/v1/executions"
            assert requests.post(url, data=body, headers=headers, timeout=60).status_code == 400


GROWTH: dict[str, dict[str, Any]] = {
    "center": {"text": "x", "width": 10**9},
    "zeros": {"text": "1", "width": 10**9},
    "indent": {"data": [[[[1]]]], "width": 10**8},
    "product": {"text": "x" * 1000, "width": 10**8},
    "doubling": {"text": "x"},
    "loops": {"numbers": list(range(300))},
}


def test_prompts_that_grow_from_their_inputs_harm_nobody(town: Town) -> None:
    with unharmed(town, "thread"):
        attacks = [
            town.start("grows", inputs, config={"flow_id": flow}) for flow, inputs in GROWTH.items()
        ] * 3
        for id in attacks:
            assert town.ended(id, seconds=120)["error"]["type"] == "TemplateError"


def test_a_pattern_that_takes_for_ever_on_a_models_answer_harms_nobody(town: Town) -> None:
    town.model.reply = lambda _: Answer(text=json.dumps({"a": "a" * 100_000 + "!"}))
    with unharmed(town, "thread"):
        attacks = [
            town.start("grows", {"text": "x"}, config={"flow_id": "pattern"}) for _ in range(10)
        ]
        for id in attacks:
            assert town.ended(id, seconds=120)["error"]["type"] == "InvalidOutput"
