"""Runs all asynchronous flows of a child process in one event loop, in a thread of its own.

`python_flow.py` runs flows in `the_loop`; `app/worker/child.py` puts a `scope_of_run` around each
run, and calls `end_of_run` or `end_tasks` after it.

The loop lives as long as the process, so that a client which a flow's module makes once works in
every run. Tasks and threads inherit the context variables of the run that started them; by these it
is known what a run has left in the loop when it ends.
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

from app.providers.base import Stopped
from app.runtime.stop import StopSignal

TASK_GRACE_SECONDS = 0.5
"""How long the remaining tasks of a run may take to end once they are cancelled."""

MAX_HELPERS = 1000
"""Threads for blocking code of asynchronous flows (`asyncio.to_thread`), started as needed."""

HELPER_NAME = "flow-helper"
"""The names of these threads begin with it, so that the clean-up after a run spares them."""


class RunScope:
    """The tasks and threads of one run in the event loop. `names` identify the run in the log."""

    def __init__(self, names: Mapping[str, Any]):
        self.names = names
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.helping: set[Future[Any]] = set()

    @property
    def unfinished(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended, without the task that asks."""
        # `get_running_loop` raises in a thread without a loop; this one returns None there.
        running = asyncio._get_running_loop()
        mine = asyncio.current_task(running) if running else None
        return [task for task in list(self.tasks) if not task.done() and task is not mine]


_scope: contextvars.ContextVar[RunScope | None] = contextvars.ContextVar("run_scope", default=None)


@contextlib.contextmanager
def scope_of_run(names: Mapping[str, Any]) -> Iterator[RunScope]:
    """Everything that is started in the loop within this context belongs to one run.

    Only marks it: end it with `end_of_run` or `end_tasks`. Not to be used in the loop's own thread.
    """
    scope = RunScope(names)
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


class _Helpers(ThreadPoolExecutor):
    """The loop's threads for blocking code. Notes the run that each works for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        if scope := _scope.get():
            scope.helping.add(future)
            future.add_done_callback(scope.helping.discard)
        return future


class _Loop(asyncio.SelectorEventLoop):
    """Notes the run that each task belongs to. Not by a task factory: a flow may set its own."""

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
"""The run of each task. `app/worker/loop_watch.py` names the run that blocks the loop with it."""


class FlowLoop:
    """Starts on first use, so that processes without asynchronous flows do not have the thread."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: _Loop | None = None
        self.thread: threading.Thread | None = None

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """The event loop; None before its first use."""
        return self._loop

    def started(self) -> asyncio.AbstractEventLoop:
        """The event loop. Raises `RuntimeError` if no thread can be started for it."""
        with self._starting:
            if self._loop is None:
                loop = _Loop()
                self._helpers = _Helpers(MAX_HELPERS, thread_name_prefix=HELPER_NAME)
                loop.set_default_executor(self._helpers)
                run = functools.partial(_run_for_ever, loop)
                # An empty context: the loop belongs to no run, although one of them starts it.
                thread = threading.Thread(
                    target=contextvars.Context().run, args=(run,), name="flow-loop", daemon=True
                )
                thread.start()
                # Noted only once the thread has started; if it cannot, the next call tries again.
                self._loop, self.thread = loop, thread
            return self._loop

    def run(self, awaitable: Awaitable[Any], stop: StopSignal) -> Any:
        """Runs an awaitable in the loop and waits for it in the calling thread; see `awaited`.

        Raises `RuntimeError` in the loop's own thread, which would wait for itself.
        """
        if self.thread is threading.current_thread():
            raise RuntimeError(
                "Code that runs in the event loop cannot block it to wait for a flow."
            )
        loop = self.started()
        context = contextvars.copy_context()
        done = Future[Any]()

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
        """Cancels the remaining tasks of a run, and waits for its threads.

        Returns how many tasks and threads go on nevertheless. Not to be called in the loop's own
        thread: use `end_tasks` there.
        """
        left = 0
        if self._loop is not None and scope.unfinished:
            ended = asyncio.run_coroutine_threadsafe(end_tasks(scope), self._loop)
            try:
                left = ended.result(TASK_GRACE_SECONDS * 2)
            except concurrent.futures.TimeoutError:
                left = len(scope.unfinished)  # one of them blocks the loop
        helping = concurrent.futures.wait(set(scope.helping), TASK_GRACE_SECONDS).not_done
        return left + len(helping)

    def put_back(self) -> str:
        """Resets what a flow may have set on the loop. To be called while no run uses it.

        Returns why the loop is unfit for another run, or nothing.
        """
        loop = self._loop
        if loop is None:
            return ""
        if loop.is_closed() or self.thread is None or not self.thread.is_alive():
            return "A flow has closed the event loop or ended its thread."
        if loop._default_executor is not self._helpers:  # type: ignore[attr-defined]
            return "A flow has replaced or shut down the default executor of the event loop."
        loop.set_debug(False)
        loop.set_exception_handler(None)
        loop.set_task_factory(None)
        return ""


async def end_tasks(scope: RunScope) -> int:
    """Cancels a run's tasks, and those that they start meanwhile. Returns how many do not end."""
    deadline = time.monotonic() + TASK_GRACE_SECONDS
    cancelled: set[asyncio.Task[Any]] = set()
    while tasks := scope.unfinished:
        # Each task once: a second cancel would interrupt the clean-up that the first one started.
        for task in [task for task in tasks if task not in cancelled]:
            task.cancel()
        cancelled.update(tasks)
        if time.monotonic() > deadline:
            return len(tasks)
        await asyncio.wait(tasks, timeout=0.05)
    return 0


async def awaited(awaitable: Awaitable[Any], stop: StopSignal) -> Any:
    """The awaitable's result. A stop cancels the task that waits, and raises `Stopped` in it."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
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
    # `sys.exit()` in a task ends `run_forever`, and so does `loop.stop()`. The loop must go on for
    # the other runs; the task has its error nevertheless.
    asyncio.set_event_loop(loop)
    while True:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


the_loop = FlowLoop()
"""The loop of this process. A process that is forked before the first use gets its own."""
