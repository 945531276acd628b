"""`python -m app.check`: are settings, agents, pipelines and the store fit for a release?

Exit code 0, or 1 with what is wrong in one sentence for each thing. `python -m app.check worker` asks instead
whether a worker of this machine lives, for a container's health check.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from app import catalog, settings
from app.errors import ConfigurationError, StoreUnavailable
from app.executions import connection
from app.executions.store_check import look, worker_beats

STORE_SECONDS = 10.0
"""A store may be restarting while a release is checked."""

SILENT_LEASES = 3.0

BEAT_LEASES = 0.4
"""Workers beat three times in a lease."""

BEAT_SECONDS = 5.0
"""With a lease that is longer than usual, the next health check finds the beat."""


def main(arguments: list[str]) -> int:
    """The exit code: 0 where all is well, 1 with the reasons on stderr where it is not, 2 for a wrong call."""
    if arguments not in ([], ["worker"]):
        print("usage: python -m app.check [worker]", file=sys.stderr)
        return 2
    try:
        chosen = settings.load()
        wrong = _worker(chosen) if arguments else _release(chosen)
    except (ConfigurationError, StoreUnavailable) as error:
        wrong = str(error)
    if wrong:
        print(wrong, file=sys.stderr)
    return 1 if wrong else 0


def _release(chosen: settings.Settings) -> str | None:
    known = catalog.load(chosen.agents_path, chosen.pipelines_path)
    for variable, setting in settings.warnings():
        print(f"{variable} is set, but no setting has this name. Is {setting} meant?")
    client = connection.connect(chosen)
    _wait_for(client)
    checks = {each.name: each for each in look(client)}
    print(checks.pop("disk").detail)  # may be as it is, but should be known
    if wrong := [each for each in checks.values() if each.status == "failed"]:
        return "\n".join(f"{each.detail} To change: {each.setting}." for each in wrong)
    print(f"Fit for release: {len(known.agents)} agents, {len(known.pipelines)} pipelines, and the store.")
    return None


def _worker(chosen: settings.Settings) -> str | None:
    """A store that was emptied a moment ago knows of no worker until its next beat, which is waited for."""
    client = connection.connect(chosen)
    deadline = time.monotonic() + min(chosen.lease * BEAT_LEASES, BEAT_SECONDS)
    while not worker_beats(client, chosen.lease * SILENT_LEASES):
        if time.monotonic() > deadline:
            return "No worker of this machine is alive."
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
