"""gunicorn's settings: `gunicorn wsgi:app` reads this file by itself."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import structlog

from app import binding, logs
from app.errors import ConfigurationError
from app.settings import load

try:
    settings = load()
except ConfigurationError as error:
    sys.exit(str(error))

host = os.environ.get("HOST") or binding.default_host(settings)
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


def on_starting(server: Any) -> None:
    """Sends the server's own messages the way of all others. (A `logconfig` would bring back the access log.)"""
    logs.configure(settings.log_level, settings.secrets)
    server.log.error_log.handlers.clear()
    server.log.error_log.propagate = True


def when_ready(server: Any) -> None:
    """Looks at the sockets themselves, as `--bind` and systemd may have chosen others; nobody is served yet."""
    hosts = [each.getsockname()[0] for each in server.LISTENERS if each.sock.family != socket.AF_UNIX]
    if reason := binding.refusal(settings, hosts, on_heroku="DYNO" in os.environ):
        sys.exit(reason)
    if remark := binding.remark(settings):
        structlog.get_logger("app.binding").warning("no_keys_asked_for", remark=remark)


def post_worker_init(worker: Any) -> None:
    """Every web process helps to move on what is lost, so that this happens even where no worker lives."""
    from app.executions.reaper import start_reaper  # after the fork, like everything that knows the store

    service = worker.wsgi.extensions["executions"]
    start_reaper(service.store, service.settings.lease)
