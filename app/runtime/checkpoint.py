"""What a pipeline's run stores on its way, and what it finds there when it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from app.executions.model import Failure, Progress, StepRecord
from app.executions.payload import unpack
from app.runtime.errors import InvalidOutput


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


@dataclass(frozen=True, slots=True)
class Found:
    """What earlier attempts stored, or the execution that a retry goes on from. `values` are packed JSON."""

    records: Mapping[str, StepRecord] = field(default_factory=dict)
    values: Mapping[str, bytes] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """An output; None where a step that is done has none (it was skipped, or failed and may)."""
        return json.loads(unpack(self.values[name])) if name in self.values else None

    def items(self, step_id: str) -> dict[int, Any]:
        """The outputs of those items of a batch that were done."""
        names = ((name, name.partition(":")) for name in self.values)
        return {int(number): self.value(name) for name, (step, _, number) in names if step == step_id and number}


class Journal:
    """Collects what is to be stored next, within `limit_bytes` for the outputs of all steps together."""

    def __init__(self, save: Save, limit_bytes: int, found: Found):
        self._save, self._limit_bytes = save, limit_bytes
        self._bytes = sum(len(unpack(value)) for value in found.values.values())
        self._next = Checkpoint(Progress(0, 1))

    def note(self, record: StepRecord, moment: str = "") -> None:
        self._next.records.append((record, moment))

    def note_item(self, name: str, failure: Failure | None = None) -> None:
        self._next.outcomes[name] = failure

    def keep(self, name: str, text: bytes) -> None:
        """An output. Raises `InvalidOutput` where it is one too many."""
        together = self._bytes + len(text)
        if together > self._limit_bytes:
            raise InvalidOutput(
                f"The outputs of the steps are {together} bytes together; MAX_RESULT_BYTES allows {self._limit_bytes}."
            )
        self._bytes = together
        self._next.values[name] = text

    def join(self, name: str, text: bytes, items: int) -> None:
        """One output in place of those of a batch's items, which have been counted."""
        self._next.values[name] = text
        self._next.dropped.extend(f"{name}:{number}" for number in range(items))

    def flush(self, progress: Progress, wait: bool) -> None:
        """Stores what there is; nothing where there is nothing. See `Save`."""
        checkpoint, self._next = self._next, Checkpoint(Progress(0, 1))
        if checkpoint.records or checkpoint.outcomes:
            self._save(replace(checkpoint, progress=progress), wait)
