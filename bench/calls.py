"""Counts what a request costs inside the application: `python -m bench.calls`.

Prints, for each kind of request, how many Python functions it calls (cProfile; the same on every
machine) and its CPU time (the smallest of some rounds). The requests go to the WSGI application
itself, with a real store: no socket, no gunicorn, one at a time.
"""

from __future__ import annotations

import cProfile
import io
import json
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder

from tools.embedded_store import EmbeddedStore

WARM_UP, COUNTED, TIMED, ROUNDS = 50, 100, 500, 7

START = {"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Input text"}}


def main() -> None:
    """Prints the table."""
    print("| | calls of functions | CPU |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder) / "store", durable=False)
        store.start()
        try:
            os.environ |= {"REDIS_URL": store.url, "LOG_LEVEL": "ERROR", "MAX_QUEUE_LENGTH": "0"}
            for name, ask in _requests():
                print(f"| {name} | {_calls(ask):,.0f} | {_cpu_us(ask):.0f} us |", flush=True)
        finally:
            store.stop()


def _requests() -> Iterator[tuple[str, Callable[[], bytes]]]:
    from app import create_app  # reads the environment, which names the store

    bare = Flask("bare")
    bare.add_url_rule("/", view_func=lambda: {"status": "ok"})
    yield "a bare view of Flask", _asker(bare, "/")
    application = create_app()
    yield "`/healthz`", _asker(application, "/healthz")
    start = _asker(application, "/api/v1/executions", json.dumps(START).encode())
    path = json.loads(start())["status_url"]
    yield "a status", _asker(application, path)
    yield "a start", start


def _asker(application: Any, path: str, body: bytes = b"") -> Callable[[], bytes]:
    method = "POST" if body else "GET"
    builder = EnvironBuilder(path, method=method, data=body, content_type="application/json")
    environ = builder.get_environ()

    def ask() -> bytes:
        answered: list[str] = []
        asked = {**environ, "wsgi.input": io.BytesIO(body)}
        pieces = application(asked, lambda status, *_: answered.append(status))
        answer = b"".join(pieces)
        if hasattr(pieces, "close"):
            pieces.close()
        if not answered[0].startswith("2"):
            raise RuntimeError(f"{method} {path} was answered {answered[0]}: {answer!r}")
        return answer

    return ask


def _calls(ask: Callable[[], bytes]) -> float:
    for _ in range(WARM_UP):
        ask()
    profile = cProfile.Profile()
    with profile:
        for _ in range(COUNTED):
            ask()
    return pstats.Stats(profile).total_calls / COUNTED  # type: ignore[attr-defined]


def _cpu_us(ask: Callable[[], bytes]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(TIMED):
            ask()
        rounds.append((time.thread_time() - began) / TIMED * 1_000_000)
    return min(rounds)


if __name__ == "__main__":
    main()
