"""Follows what LangChain and LangGraph do inside a run: tokens, budget, stop, and nodes.

`python_flow.py` opens `followed` around each flow. LangChain calls the handler of
`langchain_handler.py` for every model call, tool and node below it, whether the flow is a graph or
a function that calls one. The service needs neither library: the handler is imported when, and if,
a flow imports LangChain.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import structlog
import wrapt

from app.runtime.context import Context
from app.runtime.live import ShownAnswer

log = structlog.get_logger(__name__)


class Followed:
    """One run of a flow. `context` counts its model calls, `nodes` its nodes. Thread-safe."""

    def __init__(self, context: Context):
        self.context = context
        self.nodes: NodeProgress | None = None
        """Only if the flow is a graph. A function that calls graphs reports its own progress."""
        self.sent: dict[Any, list[str]] = {}
        """The texts that went to models which have not answered yet, for an estimate of tokens."""
        self._shown: dict[Any, ShownAnswer] = {}

    def show(self, run_id: Any, text: str) -> None:
        """Shows a piece of the answer of a model that streams by itself, if somebody follows."""
        if self.context.listened:
            if run_id not in self._shown:
                self._shown[run_id] = self.context.shown_answer()
            self._shown[run_id](text)

    def end_call(self, run_id: Any) -> list[str]:
        """Forgets a model call. Returns the texts that went to the model."""
        self._shown.pop(run_id, None)
        return self.sent.pop(run_id, [])


def is_node_name(name: Any) -> bool:
    """Whether a node is the author's: LangGraph's own are `__start__` and `__end__`."""
    return not str(name).startswith("__")


class NodeProgress:
    """Reports each node of a graph as a step.

    How many nodes will run is unknown: a graph may skip some and repeat others. So the total is the
    number of its nodes or, once more have run, one more than have finished. That share never falls.
    """

    def __init__(self, context: Context, node_count: int):
        self._context = context
        self._node_count = node_count
        self._lock = threading.Lock()
        self._running: dict[Any, str] = {}
        self._finished = 0

    def start(self, run_id: Any, name: str) -> None:
        with self._lock:
            self._running[run_id] = name
            self._report()

    def end(self, run_id: Any, *, failed: bool) -> None:
        """Ends a node. Ignores runs that are no node."""
        with self._lock:
            if self._running.pop(run_id, None) is not None and not failed:
                self._finished += 1
                # Without a running node, nobody knows yet whether another one follows.
                if self._running:
                    self._report()

    def finish(self) -> None:
        """All nodes are done."""
        with self._lock:
            self._context.progress(self._finished, self._finished)

    def _report(self) -> None:
        first = next(iter(self._running.values()))
        total = max(self._node_count, self._finished + 1)
        self._context.progress(self._finished, total, first)


_followed: ContextVar[Followed | None] = ContextVar("followed", default=None)


@contextlib.contextmanager
def followed(context: Context) -> Iterator[None]:
    """What runs in here, in threads and tasks too, belongs to this run of a flow."""
    token = _followed.set(Followed(context))
    try:
        yield
    finally:
        _followed.reset(token)


def current() -> Followed | None:
    """The run of the flow that calls; None outside of `followed`."""
    return _followed.get()


@wrapt.when_imported("langchain_core.tracers.context")
def _register(module: ModuleType) -> None:
    """Gives LangChain the handler for all its runs in this process."""
    try:
        from app.runtime.langchain_handler import Handler
    except Exception:  # an old version of LangChain must still be of use to the flow
        log.warning("langchain_not_followed", exc_info=True)
        return
    # One for all runs: it finds the flow's run in `current`. LangChain reads the variable whenever
    # a run of its own begins.
    handler = Handler()
    module.register_configure_hook(ContextVar("followed_handler", default=handler), True)
