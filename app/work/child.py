"""A child process: runs flows for its worker, one at a time in its main thread, or many in threads.

It is forked warm and reused for one execution after the other. It never talks to the store: what it is
to do, and what became of it, goes over the socket to the worker, which holds the leases. A child ends
itself when its worker is gone or has been silent for too long, because then somebody else may be given
what it runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import resource
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from app import logs, tracing
from app.catalog.model import Catalog
from app.catalog.names import models_of
from app.executions.counters import Counts
from app.executions.payload import pack, read_call
from app.executions.steps import read_records, read_usage, write_usage
from app.models.base import ModelProvider, Stopped
from app.models.openai_provider import OpenAIProvider
from app.runtime.checkpoint import Found
from app.runtime.errors import RunFailed, failure_from
from app.runtime.run import Ports, Run, execute, usage_before
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage
from app.settings import Settings
from app.work.cleanup import Surroundings, cleaned_up
from app.work.model_calls import WatchedModels, traced
from app.work.protocol import ChildSocket, Head, split
from app.work.reports import ProgressReports, StepReports

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """What a child is born with. `silence_seconds`: how long it goes on without a word from its worker."""

    settings: Settings
    catalog: Catalog
    slots: int
    silence_seconds: float


def main(end: socket.socket, config: ChildConfig, worker: int) -> None:
    """The child's life. Never returns: it ends with `os._exit`, past whatever flows have left behind."""
    _become_a_child(worker, config)
    logs.configure(config.settings.log_level, config.settings.secrets)
    logs.keep_prints_from_waiting()
    Child(ChildSocket(end), config, OpenAIProvider(config.settings)).run()


def _become_a_child(worker: int, config: ChildConfig) -> None:
    """Dies with its worker, leads a session, is the first that a full machine kills.

    It adopts what its flow leaves behind if there is only one; what many leave, the worker adopts.

    A SIGTERM or SIGINT that is sent to every process (Heroku, Ctrl-C) is the worker's business. They are
    caught, not ignored, since what is ignored stays ignored in the programs that a flow starts.
    """
    die_with_parent(worker)
    os.setsid()  # so that what a flow sends to its process group does not reach the worker
    if config.slots == 1:
        adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


class Child:
    """The attempts that run in this process, by token, and the two sides of its socket."""

    def __init__(self, worker: ChildSocket, config: ChildConfig, models: ModelProvider):
        self._worker, self._config = worker, config
        self._counts = Counts()
        self._tracing = tracing.connect(config.settings)
        self._models = WatchedModels(
            models, config.settings.openai_model_name, models_of(config.catalog), self._counts.add
        )
        self._starts: queue.SimpleQueue[tuple[Head, bytes]] = queue.SimpleQueue()
        self._stops: dict[str, StopSignal] = {}
        self._steps: dict[str, StepReports] = {}
        self._progress = ProgressReports(worker)
        self._runners = 1
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)

    def run(self) -> None:
        """Listens in a thread of its own; flows get the main thread, and more as they are needed, for themselves."""
        threading.Thread(target=self._for_life, args=(self._listen,), name="listen", daemon=True).start()
        self._worker.send({"kind": "ready"})
        self._for_life(self._run_next)

    def _for_life(self, act: Callable[[], None]) -> NoReturn:
        """A child that does not listen, or does not run what it was given, must not go on."""
        try:
            while True:
                act()
        except (EOFError, OSError):
            pass  # the worker is gone: nobody may see what happens from here on
        except BaseException:
            log.exception("child_crashed")
        finally:
            os._exit(1)

    def _run_next(self) -> None:
        self._run_one(*self._starts.get())

    def _take(self, start: Head, body: bytes) -> None:
        """Queues an attempt for the threads that run them; there are as many as were ever needed at once.

        If no thread can be started for it, the worker is told so: the neighbours go on.
        """
        self._stops[start["token"]] = StopSignal()
        if len(self._stops) > self._runners:
            try:
                threading.Thread(target=self._for_life, args=(self._run_next,), name="flow", daemon=True).start()
            except (RuntimeError, MemoryError) as error:
                del self._stops[start["token"]]
                self._worker.send({"kind": "unstarted", "token": start["token"], "reason": str(error)})
                return
            self._runners += 1
        self._starts.put((start, body))

    def _listen(self) -> None:
        head, body = self._worker.receive(self._config.silence_seconds)
        if head["kind"] == "start":
            self._take(head, body)
        elif head["kind"] == "stop" and (stop := self._stops.get(head["token"])):
            stop.request()
        elif head["kind"] == "stored" and (steps := self._steps.get(head["token"])):
            steps.stored(head["number"])
        self._progress.send_late()
        self._send_counts()
        logs.flush()

    def _run_one(self, start: Head, body: bytes) -> None:
        surroundings = Surroundings()
        around = contextlib.nullcontext() if self._config.slots > 1 else cleaned_up(surroundings)
        with around, structlog.contextvars.bound_contextvars(**start["names"]):  # also for what libraries log
            ended, outputs = self._outcome(start, body, surroundings)
        self._stops.pop(start["token"], None)
        self._steps.pop(start["token"], None)
        self._progress.forget(start["token"])
        ended |= {
            "usage": write_usage(surroundings.usage.models),
            "left_behind": surroundings.left_behind,
            "memory_bytes": int(os.pread(self._statm, 100, 0).split()[1]) * resource.getpagesize(),
            "counts": self._counts.take(),
        }
        with contextlib.suppress(OSError):  # the listener notices, and ends this process
            self._worker.send({"kind": "ended", "token": start["token"], **ended}, outputs)

    def _send_counts(self) -> None:
        """What was counted meanwhile. At least once a second, as the worker speaks that often."""
        if counts := self._counts.take():
            with contextlib.suppress(OSError):
                self._worker.send({"kind": "counted", "counts": counts})

    def _outcome(self, start: Head, body: bytes, surroundings: Surroundings) -> tuple[Head, bytes]:
        """How the run ended, whatever the flow did; only a signal or `os._exit` gets past this."""
        try:
            return {"outcome": "completed"}, pack(self._execute(start, body, surroundings))
        except Stopped:
            return {"outcome": "stopped"}, b""
        except RunFailed as failed:
            error = asdict(failed.failure)
            retry = {"retryable": failed.retryable, "retry_after_seconds": failed.retry_after_seconds}
            return {"outcome": "failed", "error": error, **retry}, b""
        except BaseException as error:
            log.exception("run_crashed")
            return {"outcome": "failed", "error": asdict(failure_from(error, {})), "retryable": True}, b""

    def _execute(self, start: Head, body: bytes, surroundings: Surroundings) -> bytes:
        data, *stored = split(start["lengths"], body) if "lengths" in start else [body]
        call = read_call(data)
        token, id, target_id = start["token"], start["id"], call["target_id"]
        bound = log.bind(**start["names"])
        pipeline = self._config.catalog.pipelines.get(target_id)
        definition = pipeline.definition if pipeline else ""
        found = _found(start, stored)
        if found.records and definition != start["definition"]:
            bound.warning("definition_changed", target=target_id)  # what another one did does not fit this one
            found = Found()
        run = Run(
            execution_id=id,
            attempt=start["attempt"],
            target_type=call["type"],
            target_id=target_id,
            inputs=call["inputs"],
            config=call["config"],
            traceparent=start["traceparent"],
            found=found,
        )
        surroundings.usage = usage_before(read_usage(start.get("usage", "")), found)
        surroundings.usage.on_change = lambda usage: self._say_used(token, usage)
        stop = self._stops[token]
        steps = self._steps[token] = StepReports(self._worker, token, definition, stop, surroundings.usage)
        ports = Ports(
            catalog=self._config.catalog,
            models=traced(self._models, self._tracing, start["traceparent"], self._config.settings.openai_model_name),
            stop=stop,
            usage=surroundings.usage,
            report=lambda progress: self._progress.report(token, progress),
            save=steps.save,
            left_behind=surroundings.leave_behind,
            log=bound.info,
        )
        return execute(run, ports, self._config.settings.max_result_bytes)

    def _say_used(self, token: str, usage: Usage) -> None:
        """After each model call, so that what was spent is known even of a run that is ended by force."""
        if usage.total.calls:
            with contextlib.suppress(OSError):
                self._worker.send({"kind": "used", "token": token, "usage": write_usage(usage.models)})


def _found(start: Head, stored: list[bytes]) -> Found:
    """What earlier attempts have stored of their steps."""
    names = start.get("steps", [])
    fields = dict(zip(names, stored, strict=False))
    values = dict(zip(start.get("values", []), stored[len(names) :], strict=True))
    return Found({record.id: record for record in read_records(fields)}, values)


def die_with_parent(parent: int) -> None:
    """From now on the kernel kills this process when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it was too late for the kernel


def adopt_orphans() -> None:
    """From now on, what a descendant leaves behind becomes this process's child, also if it detached itself."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
