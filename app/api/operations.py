"""The views `/readyz` and `/metrics` for operators, and the counters of HTTP requests.

Neither view is part of the documented API. Each web process counts its requests in memory. It adds
them to the store every few seconds, when its reaper runs, and before it answers `/metrics`; so the
counts of other processes are a few seconds old.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from flask import Request, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app.api.application import Application
from app.api.metrics import StoreCollector
from app.api.problems import problem
from app.catalog.model import Catalog
from app.catalog.names import models_of
from app.domain.errors import StoreUnavailable
from app.services.in_time import InTime
from app.services.overview import queues_needed
from app.settings import Settings
from app.store import counters
from app.store.readiness import Readiness
from app.store.statistics import Snapshot, Statistics
from app.store.store_check import Check, failed_store

# Other methods are counted as one, since a client may send any word as a method.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Operations:
    """The two views and the request counters. `flush` may be called from any thread."""

    def __init__(self, settings: Settings, catalog: Catalog):
        self._readiness = Readiness.connect(settings)
        self._statistics = Statistics.connect(settings)
        self._queues = queues_needed(catalog)
        self._in_time = InTime(4)
        self._requests = counters.Reports()
        self._registry = CollectorRegistry()
        models = models_of(catalog) | {settings.openai_model_name}
        targets = {target.id for target in catalog}
        self._registry.register(StoreCollector(lambda: self._in_time(self._read), targets, models))

    def readyz(self) -> Response:
        """Answers 200 if an execution that is started now would be stored and run, else 503."""
        try:
            checks = self._in_time(lambda: self._readiness.run_checks(self._queues))
        except StoreUnavailable as error:
            checks = [failed_store(error)]
        return _readiness(checks)

    def metrics(self) -> Response:
        """Answers with the metrics in Prometheus' text format, or in OpenMetrics if asked to."""
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # the header names a version that does not exist
            encode, content_type = choose_encoder("")
        return Response(encode(self._registry), content_type=content_type)

    def flush(self) -> None:
        """Adds this process's counts to the store, or keeps them for later if the store is away."""
        try:
            self._statistics.add(self._requests)
        except StoreUnavailable:
            return

    def begin(self, _: Request, context: Any) -> None:
        context.began = time.perf_counter()

    def count(self, request: Request, context: Any, response: Response) -> None:
        """Counts an answered request under its route, method and status."""
        # The route's template, not the path: paths have ids in them, and would be without number.
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


def register(app: Application, settings: Settings, catalog: Catalog) -> None:
    """Adds the views. `app.api.access` decides who may call them."""
    operations = Operations(settings, catalog)
    app.extensions["operations"] = operations
    app.before.append(operations.begin)
    app.after.append(operations.count)
    app.add_url_rule("/readyz", view_func=operations.readyz)
    app.add_url_rule("/metrics", view_func=operations.metrics)


def _readiness(checks: list[Check]) -> Response:
    body = [{name: value for name, value in asdict(check).items() if value} for check in checks]
    failed = [check for check in checks if check.status == "failed"]
    if not failed:
        return Response(
            json.dumps({"status": "ready", "checks": body}), content_type="application/json"
        )
    detail = " ".join(check.detail for check in failed)
    return problem(503, "not_ready", detail, headers={"Retry-After": "2"}, more={"checks": body})
