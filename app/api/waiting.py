"""Lets a request wait: `?wait=` of a status, and `Prefer: wait=N` (RFC 7240) of a start.

`app.api.executions` calls it. `app.services.waiting` does the waiting.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.request import parse_http_list

from flask import g, request

from app.services.waiting import Stranger

_SECONDS = re.compile(r'"?([0-9]{1,9})"?')


class OtherServer(Stranger):
    """Stands for the client if another server than gunicorn runs the application."""

    def forget_body(self) -> None:
        """Does nothing."""

    def begin_stream(self) -> None:
        """Does nothing."""


_OTHER_SERVER = OtherServer()


def client() -> Any:
    """The client of this request: `app.web.client.Client`, which puts itself there, or the like."""
    return request.environ.get("app.client", _OTHER_SERVER)


def timed(wait: Callable[[Any], None]) -> float:
    """Calls `wait` with the caller of this request. Returns how many seconds it took.

    They do not count as the duration of the request in the metrics: it was the client's wish.
    """
    began = time.perf_counter()
    wait(client())
    waited = time.perf_counter() - began
    g.began += waited
    return waited


def forget_body(body: dict[str, Any]) -> None:
    """Gives the memory of the request's body back before a wait: many wait at the same time."""
    body.clear()
    client().forget_body()


def preferred_seconds(header: str) -> int:
    """N of the preference `wait=N` in a `Prefer` header; 0 if there is none, or a wrong one.

    If it is there twice, the first one counts. Other preferences are ignored.
    """
    for preference in parse_http_list(header):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = _SECONDS.fullmatch(value.strip())
            return int(seconds[1]) if seconds else 0
    return 0
