"""Waits until the service of `make run` can run executions, and says what is missing."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable

SAY_SECONDS = 15.0
"""After this time without success, what is missing is said, once."""

ASK_SECONDS = 0.2
ANSWER_SECONDS = 5.0  # /readyz answers within 2 s; the machine may be busy


class Readiness:
    """Asks `/readyz` in a thread of its own. Calls `on_ready`, or `on_missing` with reasons."""

    def __init__(
        self, host: str, port: int, on_ready: Callable[[], None], on_missing: Callable[[str], None]
    ):
        self._host, self._port = host, port
        self._on_ready, self._on_missing = on_ready, on_missing
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        say_at: float | None = time.monotonic() + SAY_SECONDS
        while (missing := self._missing()) is not None:
            if say_at and time.monotonic() > say_at:
                say_at = None
                self._on_missing(missing)
            if self._stop.wait(ASK_SECONDS):
                return
        self._on_ready()

    def _missing(self) -> str | None:
        """Returns None if the service is ready, and otherwise why not."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read()
            return None if answer.status == 200 else _reasons(body)
        except (OSError, http.client.HTTPException) as error:
            return f"The web process does not answer ({error})."
        finally:
            connection.close()


def _reasons(body: bytes) -> str:
    try:
        checks = json.loads(body)["checks"]
        return " ".join(check["detail"] for check in checks if check["status"] == "failed")
    except (ValueError, KeyError, TypeError):
        return "/readyz does not answer as this service does: another program uses the port."
