"""A child process: runs flows for its worker, one at a time in its main thread, or many in threads.

It is forked warm and reused for one execution after the other. It never talks to the store: what it is
to do, and what became of it, goes over the socket to the worker, which holds the leases. A child ends
itself when its worker is gone or has been silent for too long, because then somebody else may be given
what it runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import resource
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import structlog

from app import logs, tracing
from app.catalog.model import Catalog
from app.catalog.names import models_of
from app.executions.counters import Counts
from app.executions.model import Progress
from app.executions.payload import pack, read_call
from app.models.base import ModelProvider, Stopped
from app.models.openai_provider import OpenAIProvider
from app.runtime.errors import RunFailed, failure_from
from app.runtime.run import Ports, Run, execute
from app.runtime.stop import StopSignal
from app.settings import Settings
from app.work.model_calls import WatchedModels, traced
from app.work.protocol import ChildSocket, Head

PROGRESS_INTERVAL_SECONDS = 0.2

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What a child is born with. `silence_seconds`: how long it goes on without a word from its worker."""

    settings: Settings
    catalog: Catalog
    slots: int
    silence_seconds: float


def main(end: socket.socket, config: ChildConfig) -> None:
    """The child's life. Never returns: it ends with `os._exit`, past whatever flows have left behind."""
    _become_a_child()
    logs.configure(config.settings.log_level)
    Child(ChildSocket(end), config, OpenAIProvider(config.settings)).run()


def _become_a_child() -> None:
    """Dies with its parent, adopts what flows leave behind, is the first that a full machine kills.

    A SIGTERM or SIGINT that is sent to every process (Heroku, Ctrl-C) is the worker's business. They are
    caught, not ignored, since what is ignored stays ignored in the programs that a flow starts.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


class Child:
    """The running executions of this process, by id, and the two sides of its socket."""

    def __init__(self, worker: ChildSocket, config: ChildConfig, models: ModelProvider):
        self._worker, self._config = worker, config
        self._counts = Counts()
        self._tracing = tracing.connect(config.settings)
        self._models = WatchedModels(
            models, config.settings.openai_model_name, models_of(config.catalog), self._counts.add
        )
        self._stops: dict[str, StopSignal] = {}
        self._progress = ProgressReports(worker)

    def run(self) -> None:
        """Listens in a thread of its own; flows get the main thread, or threads, for themselves."""
        starts: queue.SimpleQueue[tuple[Head, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(starts,), name="listen", daemon=True).start()
        self._worker.send({"kind": "ready"})
        if self._config.slots == 1:
            while True:
                self._run_one(*starts.get())
        pool = ThreadPoolExecutor(self._config.slots, thread_name_prefix="flow")
        while True:
            pool.submit(self._run_one, *starts.get())

    def _listen(self, starts: queue.SimpleQueue[tuple[Head, bytes]]) -> None:
        try:
            while True:
                head, body = self._worker.receive(self._config.silence_seconds)
                if head["kind"] == "start":
                    self._stops[head["id"]] = StopSignal()
                    starts.put((head, body))
                elif head["kind"] == "stop" and (stop := self._stops.get(head["id"])):
                    stop.request()
                self._progress.send_late()
                self._send_counts()
        except (EOFError, OSError):
            os._exit(1)  # the worker is gone: nobody may see what happens from here on

    def _run_one(self, start: Head, data: bytes) -> None:
        with structlog.contextvars.bound_contextvars(**start["names"]):  # also for what libraries log meanwhile
            ended, outputs = self._outcome(start, data)
        self._stops.pop(start["id"], None)
        self._progress.forget(start["id"])
        if self._config.slots == 1:
            kill_descendants(os.getpid())
        memory_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        self._send_counts()
        with contextlib.suppress(OSError):  # the listener notices, and ends this process
            self._worker.send({"kind": "ended", "id": start["id"], "memory_bytes": memory_bytes, **ended}, outputs)

    def _send_counts(self) -> None:
        """What was counted meanwhile. At least once a second, as the worker speaks that often."""
        if counts := self._counts.take():
            with contextlib.suppress(OSError):
                self._worker.send({"kind": "counted", "counts": counts})

    def _outcome(self, start: Head, data: bytes) -> tuple[Head, bytes]:
        """How the run ended, whatever the flow did; only a signal or `os._exit` gets past this."""
        try:
            return {"outcome": "completed"}, pack(self._execute(start, data))
        except Stopped:
            return {"outcome": "stopped"}, b""
        except RunFailed as failed:
            error = asdict(failed.failure)
            retry = {"retryable": failed.retryable, "retry_after_seconds": failed.retry_after_seconds}
            return {"outcome": "failed", "error": error, **retry}, b""
        except BaseException as error:
            log.exception("run_crashed")
            return {"outcome": "failed", "error": asdict(failure_from(error, {})), "retryable": True}, b""

    def _execute(self, start: Head, data: bytes) -> bytes:
        call = read_call(data)
        run = Run(
            execution_id=start["id"],
            attempt=start["attempt"],
            target_type=call["type"],
            target_id=call["target_id"],
            inputs=call["inputs"],
            config=call["config"],
            traceparent=start["traceparent"],
        )
        bound = log.bind(**start["names"])
        ports = Ports(
            catalog=self._config.catalog,
            models=traced(self._models, self._tracing, start["traceparent"], self._config.settings.openai_model_name),
            stop=self._stops[run.execution_id],
            report=lambda progress: self._progress.report(run.execution_id, progress),
            log=bound.info,
        )
        return execute(run, ports, self._config.settings.max_result_bytes)


class ProgressReports:
    """Sends progress at most five times a second for each execution; the last word is late, never lost."""

    def __init__(self, worker: ChildSocket):
        self._worker = worker
        self._lock = threading.Lock()
        self._sent_at: dict[str, float] = {}
        self._late: dict[str, Progress] = {}

    def report(self, execution_id: str, progress: Progress) -> None:
        with self._lock:
            if time.monotonic() - self._sent_at.get(execution_id, 0.0) < PROGRESS_INTERVAL_SECONDS:
                self._late[execution_id] = progress
                return
            self._send(execution_id, progress)

    def send_late(self) -> None:
        """Called at least once a second: the worker speaks that often."""
        with self._lock:
            late, self._late = self._late, {}
            for execution_id, progress in late.items():
                self._send(execution_id, progress)

    def forget(self, execution_id: str) -> None:
        with self._lock:
            self._late.pop(execution_id, None)
            self._sent_at.pop(execution_id, None)

    def _send(self, execution_id: str, progress: Progress) -> None:
        self._late.pop(execution_id, None)
        self._sent_at[execution_id] = time.monotonic()
        numbers = json.dumps([progress.finished, progress.total, progress.step_name])
        with contextlib.suppress(OSError):
            self._worker.send({"kind": "progress", "id": execution_id, "progress": numbers})


def adopt_orphans() -> None:
    """From now on, what a descendant leaves behind becomes this process's child, also if it detached itself."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants(pid: int) -> None:
    """Ends every process that a flow started and left behind, also what detached itself."""
    children = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    with contextlib.suppress(OSError, psutil.Error):
        if any(children):
            descendants = psutil.Process(pid).children(recursive=True)
            for each in descendants:
                kill_process(each)
            psutil.wait_procs(descendants, timeout=1)


def kill_process(process: Any) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
