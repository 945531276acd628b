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
from app.executions.store_check import doubtful_about, worker_beats, wrong_with

STORE_SECONDS = 10.0
"""A store may be restarting while a release is checked."""

SILENT_LEASES = 3.0


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
    if wrong := wrong_with(client):
        return wrong
    if doubtful := doubtful_about(client):
        print(doubtful)
    print(f"Fit for release: {len(known.agents)} agents, {len(known.pipelines)} pipelines, and the store.")
    return None


def _worker(chosen: settings.Settings) -> str | None:
    client = connection.connect(chosen)
    return None if worker_beats(client, chosen.lease * SILENT_LEASES) else "No worker of this machine is alive."


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
