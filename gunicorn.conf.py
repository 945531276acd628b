"""gunicorn's settings: `gunicorn wsgi:app` reads this file by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from gunicorn.glogging import Logger

from app import binding, files, garbage, logs, settings, tracing
from app.errors import ConfigurationError

log = structlog.get_logger("web")

try:
    chosen = settings.load()
except ConfigurationError as error:
    sys.exit(str(error))

host = chosen.host or binding.default_host(chosen)
bind = f"{host}:{chosen.port}"

workers = chosen.web_concurrency
worker_class = "app.server.PatientWorker"  # gthread, with a deadline for slow clients
threads = chosen.web_threads  # a cancel may hold one for five seconds; `make bench ARGS='--only servers'` compares
worker_connections = 1000  # open ones of a process, waiting or served; those who drip hold no thread
files.allow(worker_connections + 32 * threads)  # beside them each thread has some to the store
backlog = 1024  # those who wait while a process is replaced
control_socket_disable = True  # it would be a file in HOME, which may be read-only

timeout = 30  # for a process that hangs as a whole; threads are not interrupted
graceful_timeout = 20  # what runs may end, and Heroku kills after 30 s; a cancel takes five
keepalive = 30  # polling clients come back within it

limit_request_line = 4094  # the longest address that the API answers is far shorter
limit_request_fields = 64  # proxies add a dozen
limit_request_field_size = 8190  # a bearer token with room to spare
accesslog = None  # a line a request costs more than the request; refusals are logged by the application

ONCE = ("IDEMPOTENCY-KEY",)
"""Headers that are refused where they come twice."""


class logger_class(Logger):  # type: ignore[misc]  # noqa: N801  gunicorn has no types, and wants this name
    """Sends the server's own messages the way of all others. (A `logconfig` would bring back the access log.)"""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logs.configure(chosen.log_level, chosen.secrets)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def on_starting(server: Any) -> None:
    """Says once, not in each web process, what is missing or not understood."""
    tracing.warn_if_missing(chosen)
    for variable, setting in settings.warnings():
        log.warning("setting_unknown", variable=variable, meant=setting)
    server.handle_hup = partial(reload_what_loads, server.handle_hup)


def reload_what_loads(reload: Callable[[], None]) -> None:
    """SIGHUP: new processes take over, with the agents, pipelines and code as they are now.

    gunicorn ends the old ones before the new ones have loaded anything, so all is loaded once beforehand, in
    a process of its own. Where that fails, the old ones serve on.
    """
    tried = subprocess.run([sys.executable, *sys.argv, "--check-config"], capture_output=True, text=True)  # noqa: S603
    if tried.returncode:
        log.error("reload_refused", reason=tried.stderr[-4096:])
    else:
        reload()


def post_fork(server: Any, worker: Any) -> None:
    """Tells a process that replaces one which died (see `wsgi.py`)."""
    os.environ["WEB_PROCESS_IS_FIRST"] = "1" if worker.age <= server.cfg.workers else ""


def when_ready(server: Any) -> None:
    """Looks at the sockets themselves, as `--bind` and systemd may have chosen others; nobody is served yet."""
    hosts = [each.getsockname()[0] for each in server.LISTENERS if each.sock.family != socket.AF_UNIX]
    if reason := binding.refusal(chosen, hosts, on_heroku="DYNO" in os.environ):
        sys.exit(reason)
    if remark := binding.remark(chosen):
        structlog.get_logger("app.binding").warning("no_keys_asked_for", remark=remark)


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
    worker.max_body_bytes = service.settings.max_content_length
    start_reaper(service.store, service.settings.lease, also=worker.wsgi.extensions["operations"].flush)
    garbage.settle()
    log.info("web_process_ready")


def worker_exit(_: Any, worker: Any) -> None:
    """What a web process counted last must not go with it."""
    if hasattr(worker, "wsgi"):  # else it ended before it began
        worker.wsgi.extensions["operations"].flush()
        worker.wsgi.extensions["tracing"].close()
