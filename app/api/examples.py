"""Loads the examples of requests and answers in `examples.yaml`, for the API's description.

The views in `executions` and `targets` pass the constants to `ApiBlueprint.operation`: the bodies
of requests and of successful answers. `blueprint` and `security` add the problems, by their codes.
"""

from __future__ import annotations

import http
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_EXAMPLES: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("examples.yaml").read_text(encoding="utf-8")
)

# Bodies of requests.
STARTS = _EXAMPLES["starts"]
RETRIES = _EXAMPLES["retries"]
CANCELS = _EXAMPLES["cancels"]
REDELIVERS = _EXAMPLES["redelivers"]

# Bodies of successful answers.
STARTED = _EXAMPLES["started"]
RETRIED = _EXAMPLES["retried"]
EXECUTIONS = _EXAMPLES["executions"]
ENDED = {name: shown for name, shown in EXECUTIONS.items() if name in ("completed", "failed")}
STEPS = _EXAMPLES["steps"]
PAGE = _EXAMPLES["page"]
CANCELLED = _EXAMPLES["cancelled"]
CANCELLING = _EXAMPLES["cancelling"]
DELIVERIES = _EXAMPLES["deliveries"]
WEBHOOK = _EXAMPLES["webhook"]
REDELIVERED = _EXAMPLES["redelivered"]
INDEX = _EXAMPLES["index"]
AGENT = _EXAMPLES["agent"]
PIPELINE = _EXAMPLES["pipeline"]
LOG = _EXAMPLES["log"]

# Server-Sent Events.
STREAM = _EXAMPLES["stream"]
FEED = _EXAMPLES["feed"]

PROBLEMS: dict[str, dict[str, Any]] = _EXAMPLES["problems"]
"""By code: the status, the detail and the field errors of a problem."""


def problems(codes: Iterable[str]) -> dict[int, dict[str, Any]]:
    """Returns examples of these problems in OpenAPI's form, by status."""
    found: dict[int, dict[str, Any]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(PROBLEMS[code]["status"], {})[code] = {"value": problem(code)}
    return found


def problem(code: str) -> dict[str, Any]:
    """Returns the complete body of an example, as `app.api.problems.problem` would write it."""
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
