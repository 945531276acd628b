"""`make run`: an embedded store and the processes of the Procfile until Ctrl-C, for development.

It says when the service is ready, watches the agents and pipelines, and has the processes load
them again when they change. A process that ends by itself is started again, as a platform would do.
(A process manager such as honcho ends everything when one process ends, watches no files, and has
no place for a store that outlives the others.)

It also loads `.env`, or the file that ENV_FILE names. gunicorn and the workers read no file, so a
`.env` that was left on a server changes nothing there. (The `flask` command reads one too, unless
FLASK_SKIP_DOTENV=1.)
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from dotenv import load_dotenv

from app import catalog, settings
from app.catalog.model import Catalog
from app.domain.errors import ConfigurationError
from app.settings import Settings
from app.telemetry.sink import Sink
from tools.embedded_store import EmbeddedStore, StoreError
from tools.launcher import Launcher

ROOT = Path(__file__).resolve().parent.parent

_out = Sink(1)
_err = Sink(2)


def main() -> int:
    """Returns the exit code: 0 after Ctrl-C or SIGTERM, 1 if something does not start."""
    launcher = Launcher(_say, _complain)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, launcher.request_stop)
    load_dotenv(os.environ.get("ENV_FILE") or ROOT / ".env")  # existing variables win
    try:
        chosen, known = _checked()
        store = _store()
    except (ConfigurationError, StoreError) as error:
        _complain(str(error))
        return 1
    try:
        return launcher.run(chosen, known, store)
    finally:
        if store is not None:
            store.stop(launcher.store_seconds)


def _checked() -> tuple[Settings, Catalog]:
    """Finds mistakes before anything is started, so that they are printed once.

    Raises `ConfigurationError`.
    """
    chosen = settings.load()
    known = catalog.load(chosen.agents_path, chosen.pipelines_path)
    if reason := _port_problem(chosen.port):
        raise ConfigurationError(reason)
    os.environ["PORT"] = str(chosen.port)
    return chosen, known


def _store() -> EmbeddedStore | None:
    """Starts the embedded store, unless REDIS_URL names another one. Raises `StoreError`."""
    if os.environ.get("REDIS_URL"):
        return None
    store = EmbeddedStore(Path(os.environ.get("DATA_DIR") or ROOT / ".data"))
    store.start()
    os.environ["REDIS_URL"] = store.url
    return store


def _port_problem(port: int) -> str | None:
    with socket.socket() as probe:
        # As gunicorn does: connections that have just ended must not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return (
                f"Port {port} cannot be used ({error.strerror}). "
                "Choose another one: PORT=8001 make run"
            )
    return None


def _say(text: str) -> None:
    # Through a sink: a terminal that was stopped with Ctrl-S must not keep Ctrl-C from working.
    _out.write(f"{text}\n".encode(errors="backslashreplace"))


def _complain(text: str) -> None:
    _err.write(f"{text}\n".encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main())
