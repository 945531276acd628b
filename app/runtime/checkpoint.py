"""What a pipeline's run stores on its way, and what it finds there when it goes on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from app.executions.model import Failure, Progress, StepRecord
from app.executions.payload import unpack
from app.runtime.errors import InvalidOutput

ITEMS_AT_ONCE = 1000
"""Items of batches in one checkpoint. The store serves nobody else while it takes one."""

DROPPED_AT_ONCE = 1000
"""Outputs that one checkpoint drops. The batch itself may have any number of items."""

NO_PROGRESS = Progress(0, 1)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What has changed since the last one; it is stored as a whole or not at all.

    `records` are the steps that changed, each with the moment that the change is (`started`, `ended`, or `""`
    for neither); `outcomes` and `values` have the names of `app.executions.steps`; `values` are JSON.
    `dropped` are values that are no longer needed.
    """

    progress: Progress
    records: list[tuple[StepRecord, str]] = field(default_factory=list)
    outcomes: dict[str, Failure | None] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


Save = Callable[[Checkpoint, bool], None]
"""Stores a checkpoint; waits until it is stored where the second argument is true.

Raises `Stopped` when the run is asked to stop while it waits. Checkpoints are stored in order.
"""


@dataclass(frozen=True)
class Found:
    """What earlier attempts stored, or the execution that a retry goes on from.

    `values` are packed JSON.
    """

    records: Mapping[str, StepRecord] = field(default_factory=dict)
    values: Mapping[str, bytes] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """An output; None where a step that is done has none (it was skipped, or failed and may)."""
        return json.loads(unpack(self.values[name])) if name in self.values else None

    def items(self, step_id: str) -> dict[int, Any]:
        """The outputs of those items of a batch that were done, if the batch has not ended."""
        names = self._items.get(step_id, ())
        return {int(name.partition(":")[2]): self.value(name) for name in names}

    @cached_property
    def leftovers(self) -> frozenset[str]:
        """Outputs of items whose batch has ended: the run before ended while it dropped them."""
        ended = (names for step, names in self._items.items() if self._has_ended(step))
        return frozenset(itertools.chain.from_iterable(ended))

    @cached_property
    def _items(self) -> dict[str, list[str]]:
        """The names of the items' outputs by step. There may be very many, and as many steps."""
        items: dict[str, list[str]] = {}
        for name in self.values:
            step, _, number = name.partition(":")
            if number:
                items.setdefault(step, []).append(name)
        return items

    def _has_ended(self, step_id: str) -> bool:
        record = self.records.get(step_id)
        return record is not None and record.done


class Journal:
    """Collects what is to be stored next, within `limit_bytes` for the outputs of all steps together."""

    def __init__(self, save: Save, limit_bytes: int, found: Found):
        leftovers = found.leftovers
        self._save, self._limit_bytes = save, limit_bytes
        counted = found.values.keys() - leftovers
        self._sizes = {name: len(unpack(found.values[name])) for name in counted}
        self._bytes = sum(self._sizes.values())
        self._next = Checkpoint(NO_PROGRESS, dropped=sorted(leftovers))

    def note(self, record: StepRecord, moment: str = "") -> None:
        self._next.records.append((record, moment))

    def note_item(self, name: str, failure: Failure | None = None) -> None:
        self._next.outcomes[name] = failure

    def keep(self, name: str, text: bytes) -> None:
        """An output. Raises `InvalidOutput` where it is one too many."""
        self._make_room(len(text))
        self._sizes[name], self._next.values[name] = len(text), text

    def join(self, name: str, text: bytes, items: int) -> None:
        """One output in place of those of a batch's items. Raises `InvalidOutput`; then they stay."""
        names = [f"{name}:{number}" for number in range(items)]
        self._make_room(len(text) - sum(self._sizes.get(item, 0) for item in names))
        self._sizes[name], self._next.values[name] = len(text), text
        self._forget(names)

    def drop_items(self, name: str, items: Iterable[int]) -> None:
        """Drops outputs of items that nobody will read: their batch failed, the pipeline goes on."""
        names = [f"{name}:{number}" for number in items]
        self._make_room(-sum(self._sizes.get(item, 0) for item in names))
        self._forget(names)

    def _make_room(self, more_bytes: int) -> None:
        together = self._bytes + more_bytes
        if more_bytes > 0 and together > self._limit_bytes:
            raise InvalidOutput(
                f"The outputs of the steps are {together} bytes together; MAX_RESULT_BYTES allows {self._limit_bytes}."
            )
        self._bytes = together

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._sizes.pop(name, None)
            self._next.values.pop(name, None)
            self._next.dropped.append(name)

    def flush(self, progress: Progress, wait: bool) -> None:
        """Stores what there is, in pieces that the store takes quickly; nothing if there is nothing.

        The first piece has all records and the outputs of whole steps. Most of the outputs that are
        dropped go after that is known to be stored, so only with `wait`: those that are left, the next
        attempt drops. See `Save`.
        """
        checkpoint, self._next = replace(self._next, progress=progress), Checkpoint(NO_PROGRESS)
        dropped = checkpoint.dropped
        if checkpoint.records or checkpoint.outcomes:
            *before, last = _pieces(checkpoint)
            for piece in before:
                self._save(piece, False)
            self._save(last, wait)
            dropped = dropped[DROPPED_AT_ONCE:]
        if wait:
            for names in _cut(dropped, DROPPED_AT_ONCE):
                self._save(Checkpoint(progress, dropped=names), True)


def _pieces(whole: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint as several, with at most `ITEMS_AT_ONCE` items each.

    Of what it drops, only the first names are among them.
    """
    names = _cut(list(whole.outcomes), ITEMS_AT_ONCE)
    outputs = {name: text for name, text in whole.values.items() if name not in whole.outcomes}
    first = replace(whole, outcomes={}, values=outputs, dropped=whole.dropped[:DROPPED_AT_ONCE])
    yield _with_items(first, next(names, []), whole)
    for more in names:
        yield _with_items(Checkpoint(whole.progress), more, whole)


def _with_items(piece: Checkpoint, names: Iterable[str], whole: Checkpoint) -> Checkpoint:
    for name in names:
        piece.outcomes[name] = whole.outcomes[name]
        if name in whole.values:
            piece.values[name] = whole.values[name]
    return piece


def _cut(names: list[str], size: int) -> Iterator[list[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))
