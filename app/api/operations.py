"""What operators ask: is it ready, and how is it doing? Not part of the documented API.

Each web process counts its requests in memory and tells the store every few seconds, with its
reaper's beat, and before it answers `/metrics`: what other processes counted may be missing for
that long.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from flask import Request, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app.api.application import Application
from app.api.metrics import StoreCollector
from app.api.problems import problem
from app.catalog.model import Catalog
from app.catalog.names import models_of
from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store import counters
from app.store.executions import QUEUES
from app.store.readiness import Readiness
from app.store.statistics import Snapshot, Statistics
from app.store.store_check import Check

LOOK_SECONDS = 1.8
"""What a look at the store may take, so that the answer is there within two seconds. One that drips
its answers byte by byte is not waited for.
"""

SILENT_SECONDS = 1.0

Found = TypeVar("Found")

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Operations:
    """The two views, and the counting of requests. `flush` may be called from any thread."""

    def __init__(self, settings: Settings, catalog: Catalog):
        self._readiness = Readiness.connect(settings)
        self._statistics = Statistics.connect(settings)
        self._queues = queues_needed(catalog)
        self._looking = ThreadPoolExecutor(4, thread_name_prefix="look")
        self._silent_until = 0.0
        self._requests = counters.Reports()
        self._registry = CollectorRegistry()
        models = models_of(catalog) | {settings.openai_model_name}
        targets = {each.id for each in catalog}
        self._registry.register(StoreCollector(lambda: self._in_time(self._read), targets, models))

    def readyz(self) -> Response:
        """Whether what is started now would be kept and run."""
        try:
            checks = self._in_time(lambda: self._readiness.look(self._queues))
        except StoreUnavailable as error:
            checks = [Check("store", "failed", str(error), "REDIS_URL")]
        return _readiness(checks)

    def metrics(self) -> Response:
        """For Prometheus, in its text format or in OpenMetrics."""
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # it asks for a version that is none
            encode, content_type = choose_encoder("")
        return Response(encode(self._registry), content_type=content_type)

    def flush(self) -> None:
        """Tells the store what was counted here. While the store is away, it stays here."""
        try:
            self._statistics.add(self._requests)
        except StoreUnavailable:
            return

    def begin(self, _: Request, context: Any) -> None:
        context.began = time.perf_counter()

    def count(self, request: Request, context: Any, response: Response) -> None:
        """By the route's template, not the path: what no route takes is counted under an empty one."""
        route = request.url_rule.rule if request.url_rule else ""
        method = request.method if request.method in _METHODS else "other"
        seconds = time.perf_counter() - context.began
        self._requests.add(
            {
                f"h:{method}:{response.status_code}:{route}": 1,
                f"d:{method}:{counters.bucket(seconds)}:{route}": 1,
                f"d:{method}:sum:{route}": int(seconds * 1_000_000),
            }
        )

    def _read(self) -> Snapshot:
        self._statistics.add(self._requests)
        return self._statistics.read()

    def _in_time(self, look: Callable[[], Found]) -> Found:
        """Raises `StoreUnavailable` after `LOOK_SECONDS`, and for a second after that at once:
        those who wait for a thread of the process meanwhile do not wait as long again.
        """
        if time.monotonic() < self._silent_until:
            raise StoreUnavailable("The store does not answer in time.")
        try:
            return self._looking.submit(look).result(LOOK_SECONDS)
        except TimeoutError:
            self._silent_until = time.monotonic() + SILENT_SECONDS
            raise StoreUnavailable("The store does not answer in time.") from None


def register(app: Application, settings: Settings, catalog: Catalog) -> None:
    """Adds the views. Who may see them is decided where keys are checked."""
    operations = Operations(settings, catalog)
    app.extensions["operations"] = operations
    app.before.append(operations.begin)
    app.after.append(operations.count)
    app.add_url_rule("/readyz", view_func=operations.readyz)
    app.add_url_rule("/metrics", view_func=operations.metrics)


def queues_needed(catalog: Catalog) -> frozenset[str]:
    """The queues that some target may be put on: every flow of an agent can be asked for."""
    flows = [flow for agent in catalog.agents.values() for flow in agent.flows.values()]
    return frozenset(QUEUES[each.isolation] for each in (*flows, *catalog.pipelines.values()))


def _readiness(checks: list[Check]) -> Response:
    body = [{name: value for name, value in asdict(each).items() if value} for each in checks]
    failed = [each for each in checks if each.status == "failed"]
    if not failed:
        return Response(
            json.dumps({"status": "ready", "checks": body}), content_type="application/json"
        )
    detail = " ".join(each.detail for each in failed)
    return problem(503, "not_ready", detail, headers={"Retry-After": "2"}, more={"checks": body})
