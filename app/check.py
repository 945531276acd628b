"""Checks a release or a worker from the command line: `python -m app.check [worker]`.

Without an argument it checks settings, agents, pipelines and the store; the release phase of a
deployment calls it. It then ends, except under honcho, which would end the other processes with it:
there it waits for SIGTERM. With `worker` it checks whether a worker of this machine is alive; a
container's health check calls it. The exit code is 0 or 1; if it is 1, stderr has a sentence for
each problem.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from app import catalog, settings
from app.catalog import imports
from app.domain.errors import ConfigurationError, StoreUnavailable
from app.settings import Settings
from app.store import connection
from app.store.store_check import check_store, refuse_newer_format, worker_is_alive

STORE_SECONDS = 10.0
"""How long to wait for the store, which may be restarting during a deployment."""

SILENT_LEASES = 3.0
"""A worker counts as dead after this many leases without a heartbeat."""

BEAT_LEASES = 0.4
"""How many leases to wait for a heartbeat. Workers send one every third of a lease."""

UNDER_HONCHO = "HONCHO_PROCESS_NAME"
"""A variable that honcho sets for its processes."""

BEAT_SECONDS = 5.0
"""Longest wait for a heartbeat. If the lease is long, the next health check finds it."""


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 if all is well, 1 if not (with reasons), 2 for wrong arguments."""
    if arguments not in ([], ["worker"]):
        print("usage: python -m app.check [worker]", file=sys.stderr)
        return 2
    try:
        chosen = settings.load()
        problem = _problem(_check_worker if arguments else _check_release, chosen)
    except ConfigurationError as error:
        problem = str(error)
    if problem:
        print(problem, file=sys.stderr)
        return 1
    if not arguments and UNDER_HONCHO in os.environ:
        _wait_for_the_end()
    return 0


def _problem(check: Callable[[Settings], str | None], chosen: Settings) -> str | None:
    try:
        return check(chosen)
    except StoreUnavailable as error:
        return connection.explained(error, chosen)


def _wait_for_the_end() -> None:
    print("Waiting, because honcho ends all processes when one of them ends.", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    while True:
        signal.pause()


def _check_release(chosen: Settings) -> str | None:
    known = catalog.load(chosen.agents_path, chosen.pipelines_path)
    for warning in known.warnings:
        print(f"Warning: {warning}")
    if failing := "\n".join(imports.problems(known)):
        return failing
    for variable, setting in settings.warnings():
        print(f"Unknown variable {variable}. Did you mean {setting}?")
    client = connection.connect(chosen)
    _wait_for(client)
    checks = {check.name: check for check in check_store(client)}
    # A store that keeps nothing on disk may be meant to, so this is printed and not refused.
    print(checks.pop("disk").detail)
    if failed := [check for check in checks.values() if check.status == "failed"]:
        return "\n".join(f"{check.detail} To change: {check.setting}." for check in failed)
    targets = f"{len(known.agents)} agents, {len(known.pipelines)} pipelines"
    print(f"Ready for release: {targets}, and the store.")
    return None


def _check_worker(chosen: Settings) -> str | None:
    """Waits for one heartbeat: a store that was just emptied knows no worker until the next one."""
    client = connection.connect(chosen)
    refuse_newer_format(client)
    deadline = time.monotonic() + min(chosen.lease * BEAT_LEASES, BEAT_SECONDS)
    while not worker_is_alive(client, chosen.lease * SILENT_LEASES):
        if time.monotonic() > deadline:
            return "No worker is alive on this machine."
        time.sleep(min(0.5, chosen.lease / 10))
    return None


def _wait_for(client: Any) -> None:
    deadline = time.monotonic() + STORE_SECONDS
    while True:
        try:
            with connection.translated():
                client.ping()
            return
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
