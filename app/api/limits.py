"""Limits how many requests a caller may send, with Flask-Limiter and counters in the store.

`app.api.build` registers it. Requests are limited only if a RATE_LIMIT_... setting is set; without
one, no request is counted. The limits on executions are not here: the store checks them in the step
that stores an execution (`admission.lua`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from flask import Flask, Response, current_app, request
from flask_limiter import Limiter, RequestLimit
from limits.storage import RedisStorage

from app.api import quotas
from app.api.access import identity, scope_of
from app.domain.errors import StoreFull, StoreUnavailable
from app.domain.key import Scope
from app.services.executions import ExecutionService
from app.settings import Settings
from app.store.execution_reader import REQUEST_COUNTS
from app.store.executions import ExecutionStore

LIMITED_BLUEPRINTS = ("executions", "deliveries", "events", "targets", "pages")


def register(
    app: Flask,
    settings: Settings,
    service: ExecutionService,
    earlier_answer: Callable[[], Response | None],
) -> None:
    """Adds the limits that the settings ask for.

    `earlier_answer` is called for a request over its limit. What it returns is sent instead of the
    429, so that a start can be repeated with its idempotency key at any time.
    """
    if not (settings.rate_limit_start or settings.rate_limit_cancel or settings.rate_limit_read):
        return
    limiter = Limiter(
        _caller,
        default_limits=[lambda: _limit(settings)],
        storage_uri="executions://",
        storage_options={"store": service.store},  # type: ignore[dict-item]  # it is handed on to the class below
        strategy="fixed-window",
        on_breach=lambda _: earlier_answer(),
    )
    app.after_request(lambda response: _note_requests(limiter, response))
    limiter.init_app(app)


class _Counters(RedisStorage):
    """Keeps the counters in the executions' store.

    A window begins with a caller's first request and ends by the store's clock. Raises
    `StoreUnavailable` within 2 s if the store does not answer.
    """

    STORAGE_SCHEME = ["executions"]  # noqa: RUF012  limits' own

    def __init__(self, uri: str, store: ExecutionStore, wrap_exceptions: bool = False):
        super().__init__("redis://", store.connection_pool, key_prefix=REQUEST_COUNTS)
        self._store = store

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        try:
            with self._store.guard():
                return super().incr(key, expiry, amount)
        except StoreFull:
            return 0  # nothing can be counted, and reads and cancels must still work

    def get(self, key: str) -> int:
        with self._store.guard():
            return super().get(key)

    def get_expiry(self, key: str) -> float:
        with self._store.guard():
            return super().get_expiry(key)


def _caller() -> str:
    """The name under which a request counts: its API key, or its address if no key is required."""
    caller = identity()
    if caller.key is None:
        return f"address:{request.remote_addr}"
    return f"key:{caller.tenant}:{caller.key}"


def _limit(settings: Settings) -> str:
    """The limit of this request in Flask-Limiter's notation; empty if it has none."""
    blueprint, endpoint = request.blueprint, request.endpoint
    if blueprint not in LIMITED_BLUEPRINTS or endpoint is None or request.method == "OPTIONS":
        return ""
    scope = scope_of(current_app.view_functions[endpoint])
    limits = {Scope.START: settings.rate_limit_start, Scope.CANCEL: settings.rate_limit_cancel}
    if blueprint != "pages":  # a page that is open asks again and again
        limits[Scope.READ] = settings.rate_limit_read
    return limits.get(scope) or ""


def _note_requests(limiter: Limiter, response: Response) -> Response:
    try:
        for limit in limiter.current_limits:
            quota = _quota(limit)
            quotas.note(quota)
            if limit.breached and response.status_code == 429:
                response.headers["Retry-After"] = str(quota.reset_seconds)
    except StoreUnavailable:
        # The store went away after the request was counted. The answer is right without headers.
        pass
    return response


def _quota(limit: RequestLimit) -> quotas.Quota:
    reset, remaining = limit.window
    seconds = max(1, math.ceil(reset - time.time()))
    kind = (request.endpoint or "").partition(".")[2]
    per = limit.limit.GRANULARITY.name
    return quotas.Quota(
        f"{kind}-per-{per}", limit.limit.amount, remaining, limit.limit.get_expiry(), seconds
    )
