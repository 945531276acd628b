"""Sends what people see of a run while it runs to the worker: log lines, and models' answers.

Used inside a child: `child` owns the `LiveReports`, `child_run` opens a `RunLive` for each run. An
event is sent as the text `"<type>",{data}`, in the form in which the store keeps it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from app.runtime.live import Place
from app.telemetry.log_fields import cleaned
from app.telemetry.masking import Mask
from app.worker.protocol import ChildSocket

INTERVAL_SECONDS = 0.1
"""The time from one piece of an answer to the next, however many answers come at once."""

MAX_DELTA_BYTES = 16 * 1024
MAX_LOG_BYTES = 8 * 1024

THREAD_NAME = "live"

_ROOMS = (6000, 3000, 1300, 600, 100)
"""Characters for the fields of an event `log`, tried in turn until it fits: some take six bytes in
JSON.
"""

_MANY_EVENTS = 200
_MANY_BYTES = 256 * 1024
"""A run that logs more than this between two messages waits until its worker has taken it."""


class LiveReports:
    """One for a process. The first piece of an answer starts its thread, which serves all runs."""

    def __init__(self, worker: ChildSocket, secrets: Iterable[str]):
        self.worker = worker
        self.hide = Mask(secrets)
        self._news: queue.SimpleQueue[RunLive] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def open(self, token: str) -> RunLive:
        """What a run that begins gets. `token` is its wire key."""
        return RunLive(token, self)

    def call_soon(self, run: RunLive) -> bool:
        """Has the thread call `run.tick`. False if the machine has no room for a thread now."""
        with self._starting:
            self._thread = self._thread or _started(self._serve)
        if self._thread:
            self._news.put(run)
        return self._thread is not None

    def _serve(self) -> None:
        due: dict[RunLive, float] = {}
        while True:
            with contextlib.suppress(queue.Empty):
                wait_seconds = max(0.0, min(due.values()) - time.monotonic()) if due else None
                due[self._news.get(timeout=wait_seconds)] = 0.0
            now = time.monotonic()
            for run in [run for run, moment in due.items() if moment <= now]:
                del due[run]
                with contextlib.suppress(Exception):
                    if (again := run.tick(now)) is not None:
                        due[run] = again


def _started(serve: Any) -> threading.Thread | None:
    thread = threading.Thread(target=serve, name=THREAD_NAME, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


class RunLive:
    """The `Live` of one run. Any thread may use it.

    Texts of answers wait until the thread takes them, one answer at a time: at most ten pieces a
    second, and an answer that has waited longest first. A line is sent at once, or with the others
    of the same tenth of a second.
    """

    def __init__(self, token: str, reports: LiveReports):
        self.listened = False
        self._token = token
        self._reports = reports
        self._calls = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._ready: list[str] = []
        self._ready_bytes = 0
        self._texts: dict[tuple[Place, int], list[str]] = {}
        self._sent_at = 0.0
        self._delta_at = 0.0
        self._called = False
        self._ended = False

    def new_call(self) -> int:
        return next(self._calls)

    def log(self, place: Place, message: str, fields: Mapping[str, Any]) -> None:
        """Takes a line. Texts of the same place come before it."""
        event = write_log(place, message, fields, self._reports.hide)
        with self._lock:
            if self._ended:
                return
            self._make_ready(key for key in list(self._texts) if key[0] == place)
            self._add(event)
            at_once = time.monotonic() - self._sent_at >= INTERVAL_SECONDS
            many = len(self._ready) >= _MANY_EVENTS or self._ready_bytes >= _MANY_BYTES
        if at_once or many:
            self._send()
        else:
            self._call_soon()

    def text(self, place: Place, call: int, text: str) -> None:
        """Takes a piece of an answer."""
        with self._lock:
            if self._ended:
                return
            self._texts.setdefault((place, call), []).append(text)
        self._call_soon()

    def flush(self, steps: Collection[str], items: Collection[Place]) -> None:
        """Sends the texts of steps and items that have ended, and all that is ready."""
        with self._lock:
            if not (self._texts or self._ready):
                return
            self._make_ready(
                key for key in list(self._texts) if key[0].step in steps or key[0] in items
            )
        self._send()

    def end(self) -> None:
        """Sends everything. Nothing is taken any more: what goes on running is no part of it."""
        with self._lock:
            self._ended = True
            self._make_ready(list(self._texts))
        self._send()

    def tick(self, now: float) -> float | None:
        """Sends what is ready, and a text if one is due. Returns when to be called again."""
        with self._lock:
            if self._texts and now >= self._delta_at:
                self._delta_at = now + INTERVAL_SECONDS
                self._make_ready([next(iter(self._texts))])
        self._send()
        with self._lock:
            # A text that comes after this has the thread called again.
            self._called = bool(self._texts or self._ready)
            again = self._delta_at if self._texts else now + INTERVAL_SECONDS
            return again if self._called else None

    def _call_soon(self) -> None:
        with self._lock:
            called, self._called = self._called, True
        if not called and not self._reports.call_soon(self):
            self._called = False  # the next piece tries again

    def _make_ready(self, keys: Iterable[tuple[Place, int]]) -> None:
        for key in keys:
            place, call = key
            for text in _cut("".join(self._texts.pop(key))):
                self._add(write_delta(place, call, text))

    def _add(self, event: str) -> None:
        self._ready.append(event)
        self._ready_bytes += len(event)

    def _send(self) -> None:
        # Two locks: a model's answer must not wait for a worker that is slow to read.
        with self._sending:
            with self._lock:
                events, self._ready, self._ready_bytes = self._ready, [], 0
                self._sent_at = time.monotonic() if events else self._sent_at
            if events:
                body = "\n".join(events).encode(errors="replace")
                with contextlib.suppress(OSError):  # the worker is gone: this process ends soon
                    self._reports.worker.send({"kind": "events", "token": self._token}, body)


def write_delta(place: Place, call: int, text: str) -> str:
    """The event of a piece of an answer."""
    data = {"step": place.step, "item": place.item, "call": call, "text": text}
    return write_event("output.delta", data)


def write_log(place: Place, message: str, fields: Mapping[str, Any], hide: Mask) -> str:
    """The event of a line, masked and bounded."""
    line = {"step": place.step, "item": place.item, "message": message, "fields": dict(fields)}
    for room in _ROOMS:
        event = write_event("log", cleaned(line, hide, room))
        if len(event.encode(errors="replace")) <= MAX_LOG_BYTES:
            break
    return event


def write_event(type: str, data: Mapping[str, Any]) -> str:
    """An event as the store keeps it."""
    return f'"{type}",{json.dumps(data, ensure_ascii=False, separators=(",", ":"))}'


def _cut(text: str) -> Iterator[str]:
    """Cuts a text into pieces of at most `MAX_DELTA_BYTES`."""
    data = text.encode(errors="replace")
    start = 0
    while start < len(data):
        end = min(start + MAX_DELTA_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # not inside of a character
            end -= 1
        yield data[start:end].decode()
        start = end
