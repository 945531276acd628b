"""Implements gunicorn's hooks: the start, reload and end of the web server and of its processes.

`gunicorn.conf.py` passes them to gunicorn, which calls them.
"""

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

from app import settings
from app.process import gc_tuning
from app.settings import Settings
from app.telemetry import logs, tracing
from app.web import binding
from app.web.loop_monitor import LoopMonitor

ONCE = ("IDEMPOTENCY-KEY",)
"""The service refuses a request that has one of these headers twice."""

SWITCH_SECONDS = 0.001
"""How long the thread of `app.process.aside` keeps the interpreter when the event loop asks for it.
Python's default of 5 ms would slow down every request while the thread works.
"""

_SHOWN_OF_A_REASON = 4096  # the end of a traceback or a list of errors, as one log line

log = structlog.get_logger("web")


def logger_class(chosen: Settings) -> type[Logger]:
    """Makes a logger class that writes gunicorn's own messages to the service's log.

    gunicorn's setting `logconfig` cannot be used for this: it would turn the access log on again.
    """

    class OwnLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
        def setup(self, cfg: Any) -> None:
            super().setup(cfg)
            logs.configure(chosen.log_level, chosen.secrets)
            self.error_log.handlers.clear()
            self.error_log.propagate = True

    return OwnLogger


def on_starting(chosen: Settings, server: Any) -> None:
    """Logs warnings about settings once, in the master, not in each web process."""
    tracing.warn_if_missing(chosen)
    for variable, setting in settings.warnings():
        log.warning("setting_unknown", variable=variable, meant=setting)
    # gunicorn has no hook that runs before it ends the old processes, so its handler is wrapped.
    server.handle_hup = partial(reload_what_loads, server.handle_hup)


def reload_what_loads(reload: Callable[[], None]) -> None:
    """Handles SIGHUP: new processes load the present agents, pipelines and code, and take over.

    gunicorn would end the old processes before the new ones have loaded anything. So another
    process loads everything first, and if that fails, the old processes keep serving.
    """
    tried = subprocess.run(  # noqa: S603  our own command line
        [sys.executable, *sys.argv, "--check-config"], capture_output=True, text=True
    )
    if tried.returncode:
        _, _, reason = tried.stderr.rpartition("ConfigurationError: ")
        log.error("reload_refused", reason=reason[-_SHOWN_OF_A_REASON:])
    else:
        reload()


def when_ready(chosen: Settings, server: Any) -> None:
    """Ends the server before it serves anybody, if strangers could reach it without a key.

    It checks the sockets, not the settings, since `--bind` or systemd may have chosen others.
    """
    listeners = [
        listener for listener in server.LISTENERS if listener.sock.family != socket.AF_UNIX
    ]
    hosts = [listener.getsockname()[0] for listener in listeners]
    if reason := binding.refusal(chosen, hosts, on_heroku="DYNO" in os.environ):
        sys.exit(reason)
    if remark := binding.remark(chosen):
        structlog.get_logger("app.web.binding").warning("no_keys_asked_for", remark=remark)


def post_fork(server: Any, worker: Any) -> None:
    """Has a new web process heed signals from its first moment."""
    if hasattr(worker, "heed_signals"):  # another `--worker-class` than ours has none
        worker.heed_signals(server.SIG_QUEUE)


def pre_request(worker: Any, request: Any) -> None:
    """Joins the values of a repeated header so that the API refuses the result.

    gunicorn joins them with a comma alone, and a single value may contain a comma too. The space
    after our comma makes the result an invalid key.
    """
    names = [name for name, _ in request.headers]
    for name in ONCE:
        if names.count(name) < 2:
            continue
        values = [value for given, value in request.headers if given == name]
        others = [header for header in request.headers if header[0] != name]
        request.headers[:] = [*others, (name, ", ".join(values))]


def post_worker_init(worker: Any) -> None:
    """Every web process also runs the reaper, so that lost executions are recovered even if no
    worker is running.
    """
    # Imported after the fork, like everything that connects to the store.
    from app.store.reaper import start_reaper

    service = worker.wsgi.extensions["executions"]
    worker.max_body_bytes = service.settings.max_content_length
    start_reaper(
        service.store, service.settings.lease, also=worker.wsgi.extensions["operations"].flush
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    LoopMonitor().start()
    gc_tuning.settle()
    log.info("web_process_ready")


def worker_exit(server: Any, worker: Any) -> None:
    """Sends what a web process counted and traced last, before it ends."""
    if hasattr(worker, "wsgi"):  # otherwise the process ended before it loaded the application
        worker.wsgi.extensions["operations"].flush()
        worker.wsgi.extensions["tracing"].close()
