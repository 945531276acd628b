"""Keeps what a child has told of an attempt until the store has it. Used by `attempt`.

Events are numbered 1, 2, ... in each attempt. A call offers the first ones with the number of the
first, so the store takes none of them twice, whichever calls are repeated or overtake each other.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

MAX_EVENTS = 2000
MAX_BYTES = 1024 * 1024
"""What is kept for a store that does not answer. Beyond that, events are put together or left out.
"""

ENOUGH = 0.9
"""The share of both that may be left when pieces of answers have been put together. With more,
events are left out, up to a half: otherwise room would have to be made again at once.
"""

EVENTS_PER_OFFER = 500
BYTES_PER_CALL = 256 * 1024
"""What one call brings at most: the store serves nobody else while it takes them."""

_DELTA = '"output.delta",'


class Offer(NamedTuple):
    """Events for the store, as its scripts read them, and the number of the last one."""

    events: str
    last: int


NOTHING = Offer("", 0)


class EventBuffer:
    """The events of one attempt that are not stored yet, as texts: see `live_reports`."""

    def __init__(self) -> None:
        self._first = 1
        self._events: deque[str] = deque()
        self._bytes = 0
        self._offered = 0
        self._left_out = 0
        self._note = ""

    def __len__(self) -> int:
        return len(self._events)

    def add(self, events: Iterable[str]) -> None:
        """Adds events at the end."""
        for event in events:
            self._events.append(event)
            self._bytes += len(event)
        if len(self._events) > MAX_EVENTS or self._bytes > MAX_BYTES:
            self._shrink()

    def offer(self, size: int, count: int = EVENTS_PER_OFFER) -> Offer:
        """The first events, of about this size in bytes. They stay here until `confirm`."""
        taken: list[str] = []
        for event in self._events:
            size -= len(event)
            if len(taken) == count or (taken and size < 0):
                break
            taken.append(event)
        if not taken:
            return NOTHING
        last = self._first + len(taken) - 1
        self._offered = max(self._offered, last)
        return Offer(json.dumps([self._first, *taken], ensure_ascii=False), last)

    def offer_all(self) -> Offer:
        """All events, for a write that brings others which come after them."""
        return self.offer(self._bytes, len(self._events))

    def confirm(self, last: int) -> None:
        """Forgets the events up to this number: the store has them."""
        while self._events and self._first <= last:
            self._bytes -= len(self._events.popleft())
            self._first += 1

    def _shrink(self) -> None:
        """Makes room. What was offered stays as it is: the store may have it under its number."""
        fixed = max(0, self._offered - self._first + 1)
        events = list(self._events)
        free = _merged(events[fixed:])
        if len(free) > MAX_EVENTS * ENOUGH or sum(map(len, free)) > MAX_BYTES * ENOUGH:
            count, size = MAX_EVENTS // 2, MAX_BYTES // 2
            others = [event for event in free if event != self._note]
            kept = _shortened(others, count, size)
            self._left_out += len(others) - len(kept)
            # The last note, if it is not stored yet, is replaced by this one.
            self._note = _note(self._left_out)
            free = [self._note, *kept]
        self._events = deque([*events[:fixed], *free])
        self._bytes = sum(map(len, self._events))


def _merged(events: list[str]) -> list[str]:
    """Puts the pieces of each answer together, at the place of the first one."""
    merged: list[str | dict[str, Any]] = []
    pieces: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        if not event.startswith(_DELTA):
            merged.append(event)
            continue
        delta = json.loads(event[len(_DELTA) :])
        known = pieces.get((delta["step"], delta["item"], delta["call"]))
        if known is None:
            pieces[delta["step"], delta["item"], delta["call"]] = delta
            delta["text"] = [delta["text"]]
            merged.append(delta)
        else:
            known["text"].append(delta["text"])
    return [event if isinstance(event, str) else _delta(event) for event in merged]


def _delta(data: dict[str, Any]) -> str:
    whole = {**data, "text": "".join(data["text"])}
    return _DELTA + json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def _shortened(events: list[str], count: int, size: int) -> list[str]:
    """The newest events that fit. Pieces of answers go before lines."""
    order = range(len(events) - 1, -1, -1)
    kept: list[int] = []
    for place in sorted(order, key=lambda place: not events[place].startswith(_DELTA)):
        if len(kept) < count and len(events[place]) <= size:
            kept.append(place)
            size -= len(events[place])
    return [events[place] for place in sorted(kept)]


def _note(left_out: int) -> str:
    message = f"{left_out} events were left out so far: the store could not take them in time."
    data = {"step": None, "item": None, "message": message, "fields": {"left_out": left_out}}
    return f'"log",{json.dumps(data, separators=(",", ":"))}'
