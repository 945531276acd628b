"""What people see of a run while it runs: what it logs, and models' answers as they come.

A child process gives each run a `Live` (`app/worker/live_reports.py`); `context.py` speaks to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Place(NamedTuple):
    """Where in a run something happens: the step of a pipeline, and the item of its batch."""

    step: str | None = None
    item: int | None = None


class Live(Protocol):
    """Takes what a run has to show. Thread-safe; `text` neither waits nor raises."""

    @property
    def listened(self) -> bool:
        """Whether somebody follows the run now."""
        ...

    def log(self, place: Place, message: str, fields: Mapping[str, Any]) -> None:
        """Takes a line that a flow logs."""
        ...

    def new_call(self) -> int:
        """The number of the next model call whose answer is shown: 1, 2, ... in one attempt."""
        ...

    def text(self, place: Place, call: int, text: str) -> None:
        """Takes a piece of a model's answer."""
        ...


class NotShown:
    """The `Live` of a run that nobody can see."""

    listened = False

    def log(self, place: Place, message: str, fields: Mapping[str, Any]) -> None:
        pass

    def new_call(self) -> int:
        return 0

    def text(self, place: Place, call: int, text: str) -> None:
        pass


class ShownAnswer:
    """Shows one answer of a model. It is the `on_text` of a provider.

    A call that is repeated in the middle of its answer gets a new number: what was shown under the
    old one is no part of the answer. A call without any text gets none.
    """

    def __init__(self, live: Live, place: Place):
        self._live = live
        self._place = place
        self._retries = -1
        self._call = 0

    def __call__(self, text: str, retries: int = 0) -> None:
        if retries != self._retries:
            self._retries, self._call = retries, self._live.new_call()
        self._live.text(self._place, self._call, text)
