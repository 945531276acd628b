"""What a pipeline's run stores (`Checkpoint`), and what a later run continues from (`SavedState`).

`outcomes.py` notes changes in a `Journal`; the journal sends them to the worker as checkpoints.
Outputs have names: `step` for a step's output, `step:3` for the output of item 3 of its batch.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from app.domain.execution import Failure, Progress, StepRecord
from app.domain.payload import unpack
from app.runtime.errors import InvalidOutput

ITEMS_AT_ONCE = 1000
"""Items of batches in one checkpoint. While the store writes one, all other calls to it wait."""

DROPPED_AT_ONCE = 1000
"""Outputs that one checkpoint drops, for the same reason. A batch may have any number of items."""

NO_PROGRESS = Progress(0, 1)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The changes since the last checkpoint. The store takes all of them or none.

    `records` are the steps that changed, with the moment of each change: `started`, `ended`, or
    `""` for neither. `outcomes` has the failure of each item that ended, None if it succeeded.
    `values` are outputs as JSON; `dropped` are names of outputs that are no longer needed.
    """

    progress: Progress
    records: list[tuple[StepRecord, str]] = field(default_factory=list)
    outcomes: dict[str, Failure | None] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


Save = Callable[[Checkpoint, bool], None]
"""Stores a checkpoint. Returns once it is stored if the second argument is true, else at once.

Checkpoints are stored in the order of the calls. Raises `Stopped` if the run is asked to stop while
it waits.
"""


@dataclass(frozen=True)
class SavedState:
    """What earlier attempts stored, or the execution that a retry continues.

    `values` are outputs as packed JSON (`app.domain.payload`).
    """

    records: Mapping[str, StepRecord] = field(default_factory=dict)
    values: Mapping[str, bytes] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """An output, or None: the step was skipped, or failed without being required."""
        return json.loads(unpack(self.values[name])) if name in self.values else None

    def items(self, step_id: str) -> dict[int, Any]:
        """The outputs of a batch's items that are done, by their numbers."""
        names = self._items.get(step_id, ())
        return {int(name.partition(":")[2]): self.value(name) for name in names}

    @cached_property
    def leftovers(self) -> frozenset[str]:
        """Outputs of items whose batch has ended: the earlier run ended while it dropped them."""
        ended = (names for step, names in self._items.items() if self._has_ended(step))
        return frozenset(itertools.chain.from_iterable(ended))

    @cached_property
    def _items(self) -> dict[str, list[str]]:
        """The names of the items' outputs by step. Made once, because there may be very many."""
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
    """Collects the next checkpoint. `limit_bytes` bounds the outputs of all steps together."""

    def __init__(self, save: Save, limit_bytes: int, saved: SavedState):
        leftovers = saved.leftovers
        self._save = save
        self._limit_bytes = limit_bytes
        # Leftovers do not count: the output of their batch counts in their place.
        counted = saved.values.keys() - leftovers
        self._sizes = {name: len(unpack(saved.values[name])) for name in counted}
        self._bytes = sum(self._sizes.values())
        self._next = Checkpoint(NO_PROGRESS, dropped=sorted(leftovers))

    def note(self, record: StepRecord, moment: str = "") -> None:
        """Adds a changed record; for `moment` see `Checkpoint`."""
        self._next.records.append((record, moment))

    def note_item(self, name: str, failure: Failure | None = None) -> None:
        """Adds the outcome of a batch's item: its failure, or None if it succeeded."""
        self._next.outcomes[name] = failure

    def keep(self, name: str, text: bytes) -> None:
        """Adds an output. Raises `InvalidOutput`, and adds nothing, if it exceeds the limit."""
        self._make_room(len(text))
        self._sizes[name] = len(text)
        self._next.values[name] = text

    def join(self, name: str, text: bytes, items: int) -> None:
        """Replaces the outputs of a batch's items by one output of the step.

        If this raises `InvalidOutput`, the outputs of the items stay.
        """
        names = [f"{name}:{number}" for number in range(items)]
        self._make_room(len(text) - sum(self._sizes.get(item, 0) for item in names))
        self._sizes[name] = len(text)
        self._next.values[name] = text
        self._forget(names)

    def drop_items(self, name: str, items: Iterable[int]) -> None:
        """Drops outputs that no step will read: their batch failed, and the pipeline continues."""
        names = [f"{name}:{number}" for number in items]
        self._make_room(-sum(self._sizes.get(item, 0) for item in names))
        self._forget(names)

    def _make_room(self, more_bytes: int) -> None:
        total = self._bytes + more_bytes
        # What shrinks the total is always allowed: a lower limit may have been set in between.
        if more_bytes > 0 and total > self._limit_bytes:
            raise InvalidOutput(
                f"The outputs of the steps are {total} bytes in total; "
                f"MAX_RESULT_BYTES allows {self._limit_bytes}."
            )
        self._bytes = total

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._sizes.pop(name, None)
            self._next.values.pop(name, None)
            self._next.dropped.append(name)

    def flush(self, progress: Progress, wait: bool) -> None:
        """Stores what was noted, if anything was, in pieces that the store writes quickly.

        The first piece has all records and the outputs of whole steps. For `wait` see `Save`.
        """
        checkpoint, self._next = replace(self._next, progress=progress), Checkpoint(NO_PROGRESS)
        dropped = checkpoint.dropped
        if checkpoint.records or checkpoint.outcomes:
            *before, last = _pieces(checkpoint)
            for piece in before:
                self._save(piece, False)
            self._save(last, wait)
            dropped = dropped[DROPPED_AT_ONCE:]
        # The other names are dropped only once the output of their batch is known to be stored.
        # Without `wait` that is unknown, and the next attempt drops them as leftovers.
        if wait:
            for names in _cut(dropped, DROPPED_AT_ONCE):
                self._save(Checkpoint(progress, dropped=names), True)


def _pieces(whole: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint as several, with at most `ITEMS_AT_ONCE` items each.

    The first has the first `DROPPED_AT_ONCE` names that are dropped; the caller drops the others.
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
