"""gunicorn's hooks: what happens as the server and its processes start, are reloaded and end.

`gunicorn.conf.py` takes them from here by name.
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
"""Headers that are refused where they come twice."""

SWITCH_SECONDS = 0.001
"""How long the thread beside the loop (`app.process.aside`) keeps the interpreter when the loop
asks for it.
"""

_SHOWN_OF_A_REASON = 4096

log = structlog.get_logger("web")


def logger_class(chosen: Settings) -> type[Logger]:
    """Sends the server's own messages the way of all others. (A `logconfig` would bring back the
    access log.)
    """

    class OwnLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
        def setup(self, cfg: Any) -> None:
            super().setup(cfg)
            logs.configure(chosen.log_level, chosen.secrets)
            self.error_log.handlers.clear()
            self.error_log.propagate = True

    return OwnLogger


def on_starting(chosen: Settings, server: Any) -> None:
    """Says once, not in each web process, what is missing or not understood."""
    tracing.warn_if_missing(chosen)
    for variable, setting in settings.warnings():
        log.warning("setting_unknown", variable=variable, meant=setting)
    # gunicorn asks no hook before it ends the old processes, so its handler is wrapped.
    server.handle_hup = partial(reload_what_loads, server.handle_hup)


def reload_what_loads(reload: Callable[[], None]) -> None:
    """SIGHUP: new processes take over, with the agents, pipelines and code as they are now.

    gunicorn ends the old ones before the new ones have loaded anything, so all is loaded once
    beforehand, in a process of its own. Where that fails, the old ones serve on.
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
    """Looks at the sockets themselves, as `--bind` and systemd may have chosen others; nobody is
    served yet.
    """
    listeners = [
        listener for listener in server.LISTENERS if listener.sock.family != socket.AF_UNIX
    ]
    hosts = [listener.getsockname()[0] for listener in listeners]
    if reason := binding.refusal(chosen, hosts, on_heroku="DYNO" in os.environ):
        sys.exit(reason)
    if remark := binding.remark(chosen):
        structlog.get_logger("app.web.binding").warning("no_keys_asked_for", remark=remark)


def pre_request(worker: Any, request: Any) -> None:
    """Makes it visible that a header came twice, where that must not be.

    gunicorn joins the values with a comma alone, which may as well be part of one; with a space in
    between, which is just as right, the result is no valid value.
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
    from app.store.reaper import (
        start_reaper,
    )  # after the fork, like everything that knows the store

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
    if hasattr(worker, "wsgi"):  # else it ended before it began
        worker.wsgi.extensions["operations"].flush()
        worker.wsgi.extensions["tracing"].close()
