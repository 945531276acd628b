"""Texts that take a careless pattern minutes: in an error's message, in a log line, in a body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.hostile.neighbours import unharmed
from tests.support.service import Service

FLOW = """
def run(inputs, context):
    text = inputs["unit"] * inputs["times"]
    context.log(text, field=text, nested={"list": [text]})
    raise ValueError(text)
"""
AGENT = """
flows:
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
"""


@pytest.fixture
def service(make_service: Callable[..., Service], tmp_path: Path) -> Service:
    folder = tmp_path / "agents" / "shouts"
    folder.mkdir(parents=True)
    (folder / "agent.yaml").write_text(AGENT)
    (folder / "flow.py").write_text(FLOW)
    return make_service(agents=tmp_path / "agents", WORKER_THREADS=20)


@pytest.mark.timeout(240)
def test_a_message_that_looks_like_half_a_secret_over_and_over_harms_nobody(service: Service) -> None:
    """It ran in one process with the neighbours, whose interpreter it held."""
    with unharmed(service, "thread"):
        units = ("eyJ-", "eyJ.", "token=", "://a:", "bearer ")
        attacks = [service.start("shouts", {"unit": unit, "times": 5_000_000 // len(unit)}) for unit in units]
    for id in attacks:
        error = service.ended(id, seconds=120)["error"]
        assert error["type"] == "ValueError"
        assert len(error["message"].encode()) <= 4096


@pytest.mark.timeout(240)
def test_a_body_that_ends_in_the_middle_of_an_escape_harms_nobody(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    with unharmed(service, "thread"):
        for head in (b"[" * 100 + b'"', b"," * 200_000 + b'"', b"{" * 70 + b'"'):
            body = head + b'\\"' * 300_000 + b"\\"
            url = f"{service.url}/api/v1/executions"
            assert requests.post(url, data=body, headers=headers, timeout=60).status_code == 400
