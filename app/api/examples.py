"""Examples of requests and answers, for the API's description: those of `examples.yaml`."""

from __future__ import annotations

import http
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_WRITTEN: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8")
)

STARTS, RETRIES, CANCELS = _WRITTEN["starts"], _WRITTEN["retries"], _WRITTEN["cancels"]
STARTED, RETRIED = _WRITTEN["started"], _WRITTEN["retried"]
EXECUTIONS, STEPS, PAGE = _WRITTEN["executions"], _WRITTEN["steps"], _WRITTEN["page"]
CANCELLED, CANCELLING = _WRITTEN["cancelled"], _WRITTEN["cancelling"]
INDEX, AGENT, PIPELINE = _WRITTEN["index"], _WRITTEN["agent"], _WRITTEN["pipeline"]

PROBLEMS: dict[str, dict[str, Any]] = _WRITTEN["problems"]
"""What each code of a problem looks like: its status, its detail, and the errors of its fields."""


def problems(codes: Iterable[str]) -> dict[int, dict[str, Any]]:
    """Examples of these problems, by status, as OpenAPI has them."""
    found: dict[int, dict[str, Any]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(PROBLEMS[code]["status"], {})[code] = {"value": problem(code)}
    return found


def problem(code: str) -> dict[str, Any]:
    """The whole body of a problem."""
    shown = PROBLEMS[code]
    status: int = shown["status"]
    body: dict[str, Any] = {
        "type": f"urn:problem:{code.replace('_', '-')}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": shown["detail"],
        "instance": "/api/v1/executions",
        "request_id": "5f0c7a9e3b1d4f62",
        "code": code,
    }
    return {**body, "errors": shown["errors"]} if "errors" in shown else body
