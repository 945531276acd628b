"""Runs flows inside a child process: one at a time in the main thread, or many at once.

`forkserver` calls `main` in each new child, which then serves one execution after another. A child
never talks to the store: requests and results go over a socket to the worker, which holds the
leases. A child ends itself when its worker is gone or has been silent for too long, because then
other workers may get the executions that it runs.

With many slots, an asynchronous flow is a task in the process's one event loop, and every other
flow has a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import os
import queue
import resource
import signal
import socket
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import structlog

from app.catalog.model import Catalog
from app.catalog.names import models_of
from app.process.prctl import adopt_orphans, die_with_parent, set_name
from app.providers.base import ModelProvider
from app.providers.openai_provider import OpenAIProvider
from app.runtime import flow_files
from app.runtime.errors import RunFailed, failure_from
from app.runtime.failure_log import log_failure
from app.runtime.loop import end_tasks, owners, scope_of_run, the_loop
from app.settings import Settings
from app.store.counters import Counts
from app.store.steps import write_usage
from app.telemetry import logs, tracing
from app.worker.child_run import ChildRun, Services
from app.worker.cleanup import Cleanup, Streams, ThreadLoops, forks_are_plain
from app.worker.flow_threads import FlowThreads
from app.worker.live_reports import LiveReports
from app.worker.loop_watch import FlowLoopWatch
from app.worker.model_calls import WatchedModels, traced
from app.worker.output_pipes import OutputPipes, RunNames, private_copy
from app.worker.protocol import ChildSocket, Head
from app.worker.reports import ProgressReports
from app.worker.thread_stats import STACK_SIGNAL, thread_name

NO_FRESH_PROCESS = "fresh"
"""The reason of an `unstarted`: the flow needs a process that has run nothing before."""

OUTPUT_NOT_READ = "The parent of this process no longer reads what flows write."

_OOM_SCORE = "500"
"""Makes a child, not the worker, the first process that the kernel kills if memory runs out."""

_ENDERS = 2
"""Threads that serialize and send the outputs of asynchronous flows: JSON is CPU work, so more of
them would only compete for the interpreter.
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What a child needs to know at its start. `slots` is 1 for a process that runs one flow at a
    time. `silence_seconds`: how long it goes on without a message of its worker.
    """

    settings: Settings
    catalog: Catalog
    slots: int
    silence_seconds: float


def main(
    end: socket.socket, config: ChildConfig, parent: int, output: OutputPipes | None = None
) -> None:
    """Runs a child. `end` is its socket to the worker, `parent` the pid of its keeper, which reads
    `output`. Without it, what is written to the descriptors goes out unchanged.

    Never returns: the process ends with `os._exit`, since threads that flows left behind would keep
    a normal exit waiting.
    """
    _become_a_child(parent, alone=config.slots == 1)
    logs.configure(config.settings.log_level, config.settings.secrets, private_copy(1))
    names = output.take_over() if output else None
    streams = Streams()
    streams.put_back()
    forks_are_plain(end)
    flow_files.forget_main()
    Child(ChildSocket(end), config, OpenAIProvider(config.settings), streams, names).run()


def _become_a_child(parent: int, alone: bool) -> None:
    """Sets what the kernel has to know about this process."""
    die_with_parent(parent)
    # A process that runs one flow at a time adopts what the flow leaves behind, and ends it after
    # the run. With many flows nobody knows whose it is, so there the worker adopts it.
    if alone:
        adopt_orphans()
    # A SIGTERM or SIGINT that is sent to every process (Heroku, Ctrl-C) is for the worker. They are
    # caught, not ignored: an ignored signal would stay ignored in programs that a flow starts.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


class Child:
    """The runs in this process, by their attempts' wire keys, and its socket to the worker."""

    def __init__(
        self,
        worker: ChildSocket,
        config: ChildConfig,
        models: ModelProvider,
        streams: Streams,
        output: RunNames | None,
    ):
        self._worker = worker
        self._output = output
        self._alone = config.slots == 1
        self._thread_loops = ThreadLoops()
        if not self._alone:
            asyncio.set_event_loop_policy(self._thread_loops)
        self._counts = Counts()
        settings = config.settings
        watched = WatchedModels(
            models, settings.openai_model_name, models_of(config.catalog), self._counts.add
        )
        spans = tracing.connect(settings)
        self._progress = ProgressReports(worker)
        self._services = Services(
            worker,
            settings,
            config.catalog,
            self._progress,
            LiveReports(worker, settings.secrets),
            lambda parent: traced(watched, spans, parent, settings.openai_model_name),
        )
        self._starts: queue.SimpleQueue[ChildRun] = queue.SimpleQueue()
        self._runs: dict[str, ChildRun] = {}
        self._lock = threading.Lock()
        self._loading: dict[Hashable, list[ChildRun]] = {}
        self._threads = FlowThreads(self._for_life)
        self._enders = ThreadPoolExecutor(_ENDERS, thread_name_prefix="end")
        self._streams = streams
        self._cleanup = Cleanup(streams, alone=self._alone)
        self._served = 0
        self._silence_seconds = config.silence_seconds
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)

    def run(self) -> None:
        """Listens in a thread of its own. The main thread runs flows, or passes them to others."""
        # Starts the threads of the executor now: later, the machine may have no room for them.
        for _ in range(_ENDERS if not self._alone else 0):
            self._enders.submit(int)
        if not self._alone:
            limit_seconds = self._services.settings.child_hung_seconds
            FlowLoopWatch(the_loop, limit_seconds, self._report_held).start()
        threading.Thread(
            target=self._for_life, args=(self._listen,), name="listen", daemon=True
        ).start()
        self._cleanup.begin()
        self._worker.send({"kind": "ready", "pid": os.getpid(), "stacks": self._offer_stacks()})
        self._for_life(self._run_alone if self._alone else self._start_next)

    def _offer_stacks(self) -> int:
        """Returns the descriptor of a file into which a thread that gets `STACK_SIGNAL` writes its
        stack. `faulthandler` does that even while another thread holds the interpreter.
        """
        self._stacks = os.memfd_create("stacks")
        faulthandler.register(STACK_SIGNAL, file=self._stacks, all_threads=False)
        return self._stacks

    def _for_life(self, act: Callable[[], None]) -> NoReturn:
        """Repeats `act` until the process ends. An error in it ends the process: a child that does
        not listen, or does not run what it was given, must not go on.
        """
        try:
            while True:
                act()
        except (EOFError, OSError):
            pass  # the worker is gone, so other workers may run these executions from now on
        except BaseException:
            log.exception("child_crashed")
        finally:
            os._exit(1)

    # Messages of the worker.

    def _listen(self) -> None:
        head, body = self._worker.receive(self._silence_seconds)
        run = self._runs.get(head.get("token", ""))
        if head["kind"] == "start":
            self._runs[head["token"]] = run = ChildRun(head, body, self._services)
            self._starts.put(run)
        elif head["kind"] == "alive":
            self._send({"kind": "alive", "token": "", "number": head.get("number", 0)})
        elif head["kind"] == "stop" and run:
            run.stop.request()
        elif head["kind"] == "listen" and run:
            run.live.listened = True
        elif head["kind"] == "stored" and run and run.steps:
            run.steps.stored(head["number"])
        # What follows happens at least once a second: the worker sends a message that often.
        self._progress.send_late()
        if counts := self._counts.take():
            self._send({"kind": "counted", "counts": counts})
        logs.flush()

    def _send(self, head: Head, body: bytes = b"") -> None:
        with contextlib.suppress(OSError):  # the listening thread notices, and ends the process
            self._worker.send(head, body)

    def _report_held(self, names: Mapping[str, Any], places: list[str]) -> None:
        """Tells the worker which run keeps all asynchronous flows of this process waiting."""
        self._send({"kind": "held", "token": "", "id": names.get("execution_id", ""), "at": places})

    # One at a time, in the main thread.

    def _run_alone(self) -> None:
        run = self._starts.get()
        fresh = run.is_fresh()
        if fresh and self._served:
            self._refuse(run, NO_FRESH_PROCESS, unfit=NO_FRESH_PROCESS)
            return
        self._served += 1
        if self._output:
            self._output.begin(run.names)
        with self._cleanup.around(run) as found:
            ended, outputs = contextvars.copy_context().run(self._blocking, run)
        unfit = found.unfit or self._end_output(run)
        self._end(run, ended, outputs, NO_FRESH_PROCESS if fresh else unfit)

    def _end_output(self, run: ChildRun) -> str:
        """Waits until all that the run and its programs wrote is logged. Returns why the process is
        unfit, or an empty string.
        """
        if self._output is None or self._output.end():
            return ""
        log.warning("process_unfit", **run.names, reason=OUTPUT_NOT_READ)
        return OUTPUT_NOT_READ

    def _blocking(self, run: ChildRun) -> tuple[Head, bytes]:
        """Runs a flow in this thread. Log lines of libraries carry the names of the run, too."""
        with structlog.contextvars.bound_contextvars(**run.names), scope_of_run(run.names) as scope:
            if self._alone:
                outcome = self._cleanup.call(run.blocking, run.broken)
            else:
                outcome = run.blocking()
            run.note_leaked_threads(the_loop.end_of_run(scope))
            self._streams.end_lines()
            return outcome

    # Many at once.

    def _start_next(self) -> None:
        """Takes the next run. A flow that is known to only wait becomes a task; every other one
        needs a thread, if only to load its code.
        """
        run = self._starts.get()
        try:
            if run.is_loaded() and run.only_waits():
                self._start_task(run)
            elif not self._wait_for_the_load(run):
                self._threads.start(lambda: self._run_in_thread(run))
        except (RuntimeError, MemoryError) as error:
            self._refuse(run, f"No thread could be started: {error}")
            self._end_wait(run)

    def _wait_for_the_load(self, run: ChildRun) -> bool:
        """Returns True if another run is loading the same code: it then starts this one, too.

        Otherwise a thousand runs that arrive together would need a thousand threads to load it.
        """
        key = run.code()
        if key is None or run.is_loaded() or run.has_waited:
            return False
        with self._lock:
            if key in self._loading:
                self._loading[key].append(run)
                return True
            self._loading[key] = []
            return False

    def _end_wait(self, run: ChildRun) -> None:
        """Starts the runs that waited for this one's code, which is loaded, or failed to load."""
        with self._lock:
            waiting = self._loading.pop(run.code(), [])
        for other in waiting:
            other.has_waited = True
            self._starts.put(other)

    def _run_in_thread(self, run: ChildRun) -> None:
        set_name(thread_name(str(run.names.get("execution_id", ""))))
        try:
            self._run_named(run)
        finally:
            set_name("flow")

    def _run_named(self, run: ChildRun) -> None:
        only_waits = run.only_waits()
        self._end_wait(run)
        if only_waits:
            try:
                self._start_task(run)
            except (RuntimeError, MemoryError) as error:
                self._refuse(run, f"No thread could be started: {error}")
            return
        ended, outputs = contextvars.copy_context().run(self._blocking, run)
        self._thread_loops.end_run()
        self._end(run, ended, outputs, self._cleanup.beside_others())

    def _start_task(self, run: ChildRun) -> None:
        task = asyncio.run_coroutine_threadsafe(self._as_task(run), the_loop.started())
        task.add_done_callback(partial(self._end_what_broke, run))

    def _end_what_broke(self, run: ChildRun, task: Future[None]) -> None:
        """Reports the end of a run whose task did not: a flow may cancel all tasks of the loop."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and run.token in self._runs:
            failed = RunFailed(failure_from(error, {}), retryable=False, error=error)
            with structlog.contextvars.bound_contextvars(**run.names):
                log_failure(failed)
            ended = {"outcome": "failed", "error": asdict(failed.failure), "retryable": False}
            self._end(run, ended, b"", "")

    async def _as_task(self, run: ChildRun) -> None:
        """Runs a flow that only waits. It has a task of its own, which a stop may cancel."""
        with structlog.contextvars.bound_contextvars(**run.names), scope_of_run(run.names) as scope:
            flow: asyncio.Task[Callable[[], tuple[Head, bytes]]] = asyncio.ensure_future(
                run.as_task()
            )
            owners[flow] = scope
            await asyncio.wait({flow})
            run.note_leaked_threads(await end_tasks(scope) + len(scope.helping))
            self._streams.end_lines()
        await asyncio.get_running_loop().run_in_executor(self._enders, self._end_task, run, flow)

    def _end_task(
        self, run: ChildRun, flow: asyncio.Task[Callable[[], tuple[Head, bytes]]]
    ) -> None:
        with structlog.contextvars.bound_contextvars(**run.names):
            ended, outputs = flow.result()()
        self._end(run, ended, outputs, self._cleanup.beside_others())

    # Messages to the worker.

    def _end(self, run: ChildRun, ended: Head, outputs: bytes, unfit: str) -> None:
        self._forget(run)
        run.live.end()
        facts: dict[str, Any] = {
            "usage": write_usage(run.usage.models),
            "leaked_threads": run.leaked_threads,
            "memory_bytes": int(os.pread(self._statm, 100, 0).split()[1]) * resource.getpagesize(),
            "counts": self._counts.take(),
        }
        if unfit:
            facts["unfit"] = unfit
        self._send({"kind": "ended", "token": run.token, **ended, **facts}, outputs)

    def _refuse(self, run: ChildRun, reason: str, **more: str) -> None:
        """Reports that nothing of the run was started. The worker releases the execution."""
        self._forget(run)
        log.warning("run_unstarted", **run.names, reason=reason)
        self._send({"kind": "unstarted", "token": run.token, "reason": reason, **more})

    def _forget(self, run: ChildRun) -> None:
        self._runs.pop(run.token, None)
        self._progress.forget(run.token)
