"""gunicorn's settings: `gunicorn wsgi:app` reads this file by itself."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from gunicorn.glogging import Logger

from app import logs, settings, tracing
from app.errors import ConfigurationError

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


class logger_class(Logger):  # type: ignore[misc]  # noqa: N801  gunicorn has no types, and wants this name
    """Sends the server's own messages the way of all others. (A `logconfig` would bring back the access log.)"""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logs.configure(os.environ.get("LOG_LEVEL") or "INFO")
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def on_starting(_: Any) -> None:
    """Says once, not in each web process, what is missing. A mistake in the settings is said by these."""
    with contextlib.suppress(ConfigurationError):
        tracing.warn_if_missing(settings.load())


def post_worker_init(worker: Any) -> None:
    """Every web process helps to move on what is lost, so that this happens even where no worker lives."""
    from app.executions.reaper import start_reaper  # after the fork, like everything that knows the store

    service = worker.wsgi.extensions["executions"]
    start_reaper(service.store, service.settings.lease, also=worker.wsgi.extensions["operations"].flush)


def worker_exit(_: Any, worker: Any) -> None:
    """What a web process counted last must not go with it."""
    if hasattr(worker, "wsgi"):  # else it ended before it began
        worker.wsgi.extensions["operations"].flush()
        worker.wsgi.extensions["tracing"].close()
