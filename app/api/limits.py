"""How much a caller may ask for: Flask-Limiter counts requests, the store counts executions.

Requests are limited only where RATE_LIMIT_... says so; otherwise nothing here costs a request
anything. The limits on executions are checked by the store itself, in the step that would store
them (`admission.lua`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from flask import Flask, Response, request
from flask_limiter import Limiter, RequestLimit
from limits.storage import RedisStorage

from app.api import quotas
from app.api.access import identity
from app.domain.errors import StoreFull, StoreUnavailable
from app.services.executions import ExecutionService
from app.settings import Settings
from app.store.executions import ExecutionStore

LIMITED_BLUEPRINTS = ("executions", "targets")


def register(
    app: Flask,
    settings: Settings,
    service: ExecutionService,
    earlier_answer: Callable[[], Response | None],
) -> None:
    """Limits requests, and tells of every quota. `earlier_answer` is given instead of a 429 where
    there is one.
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
    """Counters in the executions' store, reached like everything there: 503 within 2 s where it is
    away.

    The windows are the store's: they begin with a caller's first request and end by its clock.
    Where the store is full nothing can be counted; then nothing is limited, so that reads and
    cancels go on.
    """

    STORAGE_SCHEME = ["executions"]  # noqa: RUF012  limits' own

    def __init__(self, uri: str, store: ExecutionStore, wrap_exceptions: bool = False):
        super().__init__("redis://", store.connection_pool, key_prefix="exec:requests")
        self._store = store

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        try:
            with self._store.guard():
                return super().incr(key, expiry, amount)
        except StoreFull:
            return 0

    def get(self, key: str) -> int:
        with self._store.guard():
            return super().get(key)

    def get_expiry(self, key: str) -> float:
        with self._store.guard():
            return super().get_expiry(key)


def _caller() -> str:
    """Whom a request counts for: its key; without keys, the peer's address."""
    who = identity()
    return (
        f"key:{who.tenant}:{who.key}" if who.key is not None else f"address:{request.remote_addr}"
    )


def _limit(settings: Settings) -> str:
    """The limit that is in force for this request, as Flask-Limiter reads it; empty for none."""
    limit: str | None = None
    if request.blueprint in LIMITED_BLUEPRINTS and request.method == "POST":
        cancels = request.endpoint == "executions.cancel_execution"
        limit = settings.rate_limit_cancel if cancels else settings.rate_limit_start
    elif request.blueprint in LIMITED_BLUEPRINTS and request.method in ("GET", "HEAD"):
        limit = settings.rate_limit_read
    return limit or ""


def _note_requests(limiter: Limiter, response: Response) -> Response:
    try:
        for each in limiter.current_limits:
            quota = _quota(each)
            quotas.note(quota)
            if each.breached and response.status_code == 429:
                response.headers["Retry-After"] = str(quota.reset_seconds)
    except StoreUnavailable:
        # it went away after the request was counted; the answer is right without these headers
        pass
    return response


def _quota(limit: RequestLimit) -> quotas.Quota:
    reset, remaining = limit.window
    seconds = max(1, math.ceil(reset - time.time()))
    kind, per = (request.endpoint or "").partition(".")[2], limit.limit.GRANULARITY.name
    return quotas.Quota(
        f"{kind}-per-{per}", limit.limit.amount, remaining, limit.limit.get_expiry(), seconds
    )
