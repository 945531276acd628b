"""The event loop of a process: one for all asynchronous flows, in a thread of its own, as long as the process.

Because it outlives runs, a client that a flow's module makes once works in each of them. What a run has
started in it is known by the run's context, which tasks and threads inherit, and ends with the run.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from app.models.base import Stopped
from app.runtime.stop import StopSignal

TASK_GRACE_SECONDS = 0.5
"""How long a run's left-over tasks may take to end once they are cancelled."""

MAX_HELPERS = 1000
"""Threads in which asynchronous flows do what blocks (`asyncio.to_thread`), at most at once."""

HELPER_NAME = "flow-helper"


class RunScope:
    """What one run has in the event loop. `names` say whose it is in the log."""

    def __init__(self, names: Mapping[str, Any]):
        self.names = names
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.helping: set[Future[Any]] = set()

    @property
    def unfinished(self) -> list[asyncio.Task[Any]]:
        """Its tasks that go on, but for the one that asks."""
        running = asyncio._get_running_loop()
        mine = asyncio.current_task(running) if running else None
        return [task for task in list(self.tasks) if not task.done() and task is not mine]


_scope: contextvars.ContextVar[RunScope | None] = contextvars.ContextVar("run_scope", default=None)


@contextlib.contextmanager
def scope_of_run(names: Mapping[str, Any]) -> Iterator[RunScope]:
    """What is started in the loop in here belongs to one run, and has ended when this is left, or is given up.

    Gives a `RunScope`. Not to be used in the loop's own thread.
    """
    scope = RunScope(names)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


class _Helpers(ThreadPoolExecutor):
    """The loop's threads for what blocks; knows for which run each works."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        if scope := _scope.get():
            scope.helping.add(future)
            future.add_done_callback(scope.helping.discard)
        return future


class _Loop(asyncio.SelectorEventLoop):
    """Notes which run each task belongs to. A task factory would do, but a flow may set its own."""

    def create_task(
        self, coro: Any, *, name: Any = None, context: Any = None, **options: Any
    ) -> Any:
        task = super().create_task(coro, name=name, context=context, **options)
        scope = context.get(_scope) if context is not None else _scope.get()
        if scope is not None:
            scope.tasks.add(task)
            owners[task] = scope
        return task


owners: weakref.WeakKeyDictionary[asyncio.Task[Any], RunScope] = weakref.WeakKeyDictionary()
"""The run of each task, for whoever looks at the loop from outside."""


class FlowLoop:
    """Starts with its first use, so that a process without asynchronous flows has no such thread."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: _Loop | None = None
        self.thread: threading.Thread | None = None

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """The event loop; None as long as nobody needed it."""
        return self._loop

    def started(self) -> asyncio.AbstractEventLoop:
        """The event loop. Raises `RuntimeError` where no thread can be started for it."""
        with self._starting:
            if self._loop is None:
                loop = _Loop()
                self._helpers = _Helpers(MAX_HELPERS, thread_name_prefix=HELPER_NAME)
                loop.set_default_executor(self._helpers)
                run = functools.partial(_run_for_ever, loop)
                # An empty context: the loop belongs to no run, though one of them starts it.
                thread = threading.Thread(
                    target=contextvars.Context().run, args=(run,), name="flow-loop", daemon=True
                )
                thread.start()
                self._loop, self.thread = loop, thread
            return self._loop

    def run(self, awaitable: Awaitable[Any], stop: StopSignal) -> Any:
        """Waits in the calling thread for what runs in the loop; see `awaited`."""
        if self.thread is threading.current_thread():
            raise RuntimeError("What runs in the event loop cannot wait there in its thread.")
        loop, context, done = self.started(), contextvars.copy_context(), Future[Any]()

        def end(task: asyncio.Task[Any]) -> None:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is None:
                done.set_result(task.result())
            else:
                done.set_exception(error)

        def begin() -> None:
            task = loop.create_task(awaited(awaitable, stop), context=context)
            task.add_done_callback(end)

        loop.call_soon_threadsafe(begin)
        return done.result()

    def end_of_run(self, scope: RunScope) -> int:
        """Cancels what a run has left in the loop. Returns how much of it goes on, deaf to that.

        Not to be called in the loop's own thread; there `end_tasks` does the same.
        """
        left = 0
        if self._loop is not None and scope.unfinished:
            ended = asyncio.run_coroutine_threadsafe(end_tasks(scope), self._loop)
            try:
                left = ended.result(TASK_GRACE_SECONDS * 2)
            except concurrent.futures.TimeoutError:
                left = len(scope.unfinished)  # one of them does not let go of the loop
        helping = concurrent.futures.wait(set(scope.helping), TASK_GRACE_SECONDS).not_done
        return left + len(helping)

    def put_back(self) -> str:
        """Undoes what a flow has set on the loop, with no run in it. Why it is unfit for another, or nothing."""
        loop = self._loop
        if loop is None:
            return ""
        if loop.is_closed() or self.thread is None or not self.thread.is_alive():
            return "A flow has ended the event loop."
        if loop._default_executor is not self._helpers:  # type: ignore[attr-defined]
            return "A flow has replaced or ended the helpers of the event loop."
        loop.set_debug(False)
        loop.set_exception_handler(None)
        loop.set_task_factory(None)
        return ""


async def end_tasks(scope: RunScope) -> int:
    """Cancels a run's tasks, and those that they start meanwhile. Returns how many are deaf to that."""
    deadline = time.monotonic() + TASK_GRACE_SECONDS
    cancelled: set[asyncio.Task[Any]] = set()
    while tasks := scope.unfinished:
        for task in [task for task in tasks if task not in cancelled]:
            task.cancel()
        cancelled.update(tasks)
        if time.monotonic() > deadline:
            return len(tasks)
        await asyncio.wait(tasks, timeout=0.05)
    return 0


async def awaited(awaitable: Awaitable[Any], stop: StopSignal) -> Any:
    """The awaitable's result. A stop cancels the task that waits, and raises `Stopped` there."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel)

    unsubscribe = stop.subscribe(cancel)
    try:
        return await awaitable
    except BaseException as error:
        if stop.requested:
            raise Stopped from error
        raise
    finally:
        unsubscribe()


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    """`sys.exit()` in a task, and `loop.stop()`, end `run_forever`; the task has its error all the same."""
    asyncio.set_event_loop(loop)
    while True:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


the_loop = FlowLoop()
"""The one of this process. A process that is forked before the first use has one of its own."""
