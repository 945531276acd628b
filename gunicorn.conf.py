"""gunicorn's settings: `gunicorn wsgi:app` reads this file by itself."""

from __future__ import annotations

import os
from typing import Any

from app import logs

# Bound to this machine alone, unless told otherwise: an open run API is an open wallet. Heroku's router
# comes from outside.
host = os.environ.get("HOST") or ("0.0.0.0" if "DYNO" in os.environ else "127.0.0.1")  # noqa: S104
bind = f"{host}:{os.environ.get('PORT') or 8000}"

workers = int(os.environ.get("WEB_CONCURRENCY") or 2)
worker_class = "gthread"
threads = 32  # a cancel may hold one for five seconds
control_socket_disable = True

timeout = 30  # for a process that hangs as a whole; threads are not interrupted
graceful_timeout = 20
keepalive = 30
limit_request_line = 4094
limit_request_fields = 64
accesslog = None  # a line a request costs more than the request; refusals are logged by the application

ONCE = ("IDEMPOTENCY-KEY",)
"""Headers that are refused where they come twice."""


def on_starting(server: Any) -> None:
    """Sends the server's own messages the way of all others. (A `logconfig` would bring back the access log.)"""
    logs.configure(os.environ.get("LOG_LEVEL") or "INFO")
    server.log.error_log.handlers.clear()
    server.log.error_log.propagate = True


def pre_request(worker: Any, request: Any) -> None:
    """Makes it visible that a header came twice, where that must not be.

    gunicorn joins the values with a comma alone, which may as well be part of one; with a space in between,
    which is just as right, the result is no valid value.
    """
    for name in ONCE:
        values = [value for each, value in request.headers if each == name]
        if len(values) > 1:
            request.headers[:] = [each for each in request.headers if each[0] != name] + [(name, ", ".join(values))]


def post_worker_init(worker: Any) -> None:
    """Every web process helps to move on what is lost, so that this happens even where no worker lives."""
    from app.executions.reaper import start_reaper  # after the fork, like everything that knows the store

    service = worker.wsgi.extensions["executions"]
    start_reaper(service.store, service.settings.lease)
