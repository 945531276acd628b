"""What operators ask: is it ready? Not part of the documented API, and not in its description."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from flask import Flask, Response

from app.api.problems import problem
from app.catalog.model import Catalog
from app.executions.readiness import Check, Readiness
from app.executions.store import QUEUES
from app.settings import Settings

READY_SECONDS = 1.8
"""What a look at the store may take, so that the answer is there within two seconds."""


def register(app: Flask, settings: Settings, catalog: Catalog) -> None:
    """Adds the views. Who may see them is decided where keys are checked."""
    readiness, queues = Readiness.connect(settings), queues_needed(catalog)
    looking = ThreadPoolExecutor(1, thread_name_prefix="readiness")

    def readyz() -> Response:
        """Whether requests can be served now. A store that drips its answers is not waited for."""
        try:
            checks = looking.submit(readiness.look, queues).result(READY_SECONDS)
        except TimeoutError:
            checks = [Check("store", "failed", "The store does not answer in time.", "REDIS_URL")]
        return _answer(checks)

    app.add_url_rule("/readyz", view_func=readyz)


def queues_needed(catalog: Catalog) -> frozenset[str]:
    """The queues that some target may be put on: every flow of an agent can be asked for."""
    flows = [flow for agent in catalog.agents.values() for flow in agent.flows.values()]
    return frozenset(QUEUES[each.isolation] for each in (*flows, *catalog.pipelines.values()))


def _answer(checks: list[Check]) -> Response:
    body = [{name: value for name, value in asdict(each).items() if value} for each in checks]
    failed = [each for each in checks if each.status == "failed"]
    if not failed:
        return Response(json.dumps({"status": "ready", "checks": body}), content_type="application/json")
    detail = " ".join(each.detail for each in failed)
    return problem(503, "not_ready", detail, headers={"Retry-After": "2"}, more={"checks": body})
