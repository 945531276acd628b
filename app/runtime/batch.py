"""The items of a step in `batch_mode`: which are done, which run, which wait.

`pipeline.py` makes one `Batch` for each try of such a step and asks it which items to start next.
How much of the batch is done counts in the execution's progress.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from app.catalog.inputs import type_of
from app.catalog.model import Step
from app.runtime.errors import FlowError


class Batch:
    """One try of a batch. `done` has the outputs of items that succeeded in earlier tries."""

    def __init__(self, step: Step, given: Mapping[str, Any], done: Mapping[int, Any]):
        """Raises `FlowError` if there is not one list to run over."""
        self._given = given
        self._name = _list_name(step, given)
        self._items: list[Any] = given[self._name]
        self._items_at_once = step.items_at_once
        # The list may be shorter than in an earlier attempt: outputs beyond its end are ignored.
        self._done = {
            number: output for number, output in done.items() if number < len(self._items)
        }
        self._waiting = deque(
            number for number in range(len(self._items)) if number not in self._done
        )
        self._running: set[int] = set()

    @property
    def complete(self) -> bool:
        return len(self._done) == len(self._items)

    @property
    def share_done(self) -> float:
        """From 0.0 to 1.0."""
        return len(self._done) / len(self._items) if self._items else 1.0

    @property
    def has_next(self) -> bool:
        """Whether an item can be started now."""
        return bool(self._waiting) and len(self._running) < self._items_at_once

    @property
    def outputs(self) -> list[Any]:
        """In the order of the items, not in the order in which they ended. Only once `complete`."""
        return [self._done[number] for number in range(len(self._items))]

    def next_items(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and the inputs of each item to start now; the caller must start them."""
        while self.has_next:
            number = self._waiting.popleft()
            self._running.add(number)
            yield number, {**self._given, self._name: self._items[number]}

    def end(self, number: int, output: Any) -> None:
        """Notes that an item has ended well."""
        self._running.discard(number)
        self._done[number] = output


def _list_name(step: Step, given: Mapping[str, Any]) -> str:
    """The input whose items the batch runs over: the one that the step names, or the only list."""
    name = step.batch_over
    if name is not None and not isinstance(given[name], list):
        raise FlowError(
            f"batch_over of the step {step.id!r} names {name!r}, which needs a list; "
            f"{step.input_mapping[name]} is of the type {type_of(given[name])}."
        )
    lists = [name for name, value in given.items() if isinstance(value, list)]
    if name is None and len(lists) != 1:
        several = f" Name the one to run over: batch_over: {lists[0]}." if lists else ""
        raise FlowError(
            f"batch_mode needs exactly one list among the mapped inputs of {step.id!r}, "
            f"but found {', '.join(lists) or 'none'}.{several}"
        )
    return name or lists[0]
