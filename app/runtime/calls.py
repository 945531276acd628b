"""The threads that run the steps of a pipeline. `pipeline.py` submits calls and takes results."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

MAX_THREADS = 10_000
"""More threads than ever run at once. The pipeline's loop limits how many steps run. The pool must
never be the limit, because threads of abandoned steps would then keep new steps waiting."""


def call_name(step_id: str, item: int | None) -> str:
    """`step` or `step:item`. Checkpoints and the flow's `step_key` use this name."""
    return step_id if item is None else f"{step_id}:{item}"


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call returned: the output, the same as JSON, and warnings for the step's record."""

    output: Any
    text: bytes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a step's agent: for the whole step (`item` is None), or for a batch's item."""

    name: str
    item: int | None
    future: Future[CallResult]


class CallThreads:
    """A pool of threads, one for each running call. Only the loop's thread uses this object."""

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix=name)
        self._futures: set[Future[CallResult]] = set()

    def submit(self, step_id: str, item: int | None, work: Callable[[], CallResult]) -> Call:
        """Starts `work` in a thread. It sees the context variables of the caller."""
        future = self._pool.submit(copy_context().run, work)
        self._futures.add(future)
        return Call(call_name(step_id, item), item, future)

    def take_ended(self, calls: list[Call]) -> list[Call]:
        """Removes the calls that have ended from the list and returns them, in their order."""
        ended = [call for call in calls if call.future.done()]
        for call in ended:
            calls.remove(call)
            self._futures.remove(call.future)
        return ended

    @property
    def unfinished(self) -> list[Future[CallResult]]:
        """All that still run, those of abandoned steps included."""
        return [future for future in self._futures if not future.done()]

    def close(self) -> int:
        """Takes no more calls. Returns how many threads still run; nothing waits for them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return len(self.unfinished)


def wait_for_first(futures: Collection[Future[CallResult]], timeout_seconds: float | None) -> None:
    """Returns once one of the futures has ended, or after the timeout (None: no timeout)."""
    wait(futures, timeout_seconds, FIRST_COMPLETED)
