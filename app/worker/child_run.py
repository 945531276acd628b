"""Runs one attempt inside a child process: reads its request, runs its flow, reports its outcome.

`child` makes a `ChildRun` of each `start` message and decides where it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from functools import partial

import structlog

from app.catalog.model import Catalog, PythonFlow
from app.domain.execution import Progress
from app.domain.key import DEFAULT_TENANT
from app.domain.payload import pack, read_call
from app.providers.base import ModelProvider, Stopped
from app.runtime.checkpoint import SavedState
from app.runtime.errors import RunFailed, failure_from, is_a
from app.runtime.failure_log import log_failure
from app.runtime.python_flow import entry_point, is_loaded
from app.runtime.run import (
    Ports,
    Run,
    execute,
    execute_as_task,
    flow_that_only_waits,
    python_flows,
    usage_before,
)
from app.runtime.stop import StopSignal
from app.runtime.usage import Usage
from app.settings import Settings
from app.store.steps import read_records, read_usage, write_usage
from app.worker.live_reports import LiveReports
from app.worker.protocol import ChildSocket, Head, split
from app.worker.reports import ProgressReports, StepReports

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What the runs of a process share. `models_for` returns the provider for a traceparent."""

    worker: ChildSocket
    settings: Settings
    catalog: Catalog
    progress: ProgressReports
    live: LiveReports
    models_for: Callable[[str | None], ModelProvider]


class ChildRun:
    """One run. `blocking` or `as_task` runs it; neither raises, whatever the flow does.

    `token` is the attempt's wire key, `names` are the fields of its log lines.
    """

    def __init__(self, start: Head, body: bytes, services: Services):
        self.token: str = start["token"]
        self.names: Head = start["names"]
        self.stop = StopSignal()
        self.steps: StepReports | None = None
        self.usage = Usage()
        self.live = services.live.open(self.token)
        self.live.listened = bool(start.get("listened"))
        self.leaked_threads = 0
        self.has_waited = False
        """Whether it has waited for another run to load its code. It waits only once."""
        self._start, self._body, self._services = start, body, services
        self._read_run: Run | None = None

    @property
    def run(self) -> Run:
        """What to run, read at the first call. Raises `ValueError` if it cannot be read."""
        if self._read_run is None:
            self._read_run = self._read()
            self._body = b""  # it may be large, and is not needed any more
        return self._read_run

    def parts(self) -> list[tuple[Hashable, Callable[[], bool]]]:
        """The Python flows that it may run: for each a key, and a function that loads its code and
        returns whether that worked.
        """
        with contextlib.suppress(Exception):  # an unreadable request fails when it is run
            run, catalog = self.run, self._services.catalog
            flows = python_flows(catalog, run.target_id, run.config)
            return [((flow.entrypoint, flow.folder), partial(_loads, flow)) for flow in flows]
        return []

    def is_fresh(self) -> bool:
        """Whether it needs a process that has run nothing before."""
        with contextlib.suppress(Exception):  # an unreadable request fails when it is run
            return self._services.catalog.is_fresh(
                self.run.target_id, self.run.config.get("flow_id")
            )
        return False

    def code(self) -> Hashable | None:
        """The key of the code to load for an agent's Python flow; None for anything else."""
        with contextlib.suppress(Exception):
            if self.run.target_id in self._services.catalog.agents:
                return next((key for key, _ in self.parts()), None)
        return None

    def is_loaded(self) -> bool:
        """Whether its flow's code is loaded, so that `only_waits` takes no time."""
        with contextlib.suppress(Exception):
            agent = self._services.catalog.agents.get(self.run.target_id)
            flow = agent.flow(self.run.config.get("flow_id")) if agent else None
            return isinstance(flow, PythonFlow) and is_loaded(flow)
        return False

    def only_waits(self) -> bool:
        """Whether it may run as a task in the event loop. Loads the flow's code."""
        with contextlib.suppress(Exception):
            return flow_that_only_waits(self.run, self._services.catalog) is not None
        return False

    def blocking(self) -> tuple[Head, bytes]:
        """Runs it in this thread. Returns the fields of the `ended` message, and the outputs."""
        limit_bytes = self._services.settings.max_result_bytes
        return self._outcome(lambda: execute(self.run, self._ports(), limit_bytes))

    def broken(self, error: BaseException) -> tuple[Head, bytes]:
        """Returns the same for a run that an error ended where no flow is called any more."""
        return _ended_by(error), b""

    async def as_task(self) -> Callable[[], tuple[Head, bytes]]:
        """Runs it in the event loop. Returns a function that returns what `blocking` does: it
        serializes the outputs, which may take too long for the loop.
        """
        limit_bytes = self._services.settings.max_result_bytes
        try:
            encoded = await execute_as_task(self.run, self._ports(), limit_bytes)
        except BaseException as error:
            ended = _ended_by(error)
            return lambda: (ended, b"")
        return lambda: self._outcome(encoded)

    def note_leaked_threads(self, count: int) -> None:
        """Notes how many threads or tasks of the run are still running after it."""
        self.leaked_threads = max(self.leaked_threads, count)

    def _outcome(self, act: Callable[[], bytes]) -> tuple[Head, bytes]:
        """Returns how the run ended. BaseException, since a flow may raise SystemExit."""
        try:
            return {"outcome": "completed"}, pack(act())
        except BaseException as error:
            return _ended_by(error), b""

    def _read(self) -> Run:
        start = self._start
        data, *stored = split(start["lengths"], self._body) if "lengths" in start else [self._body]
        call = read_call(data)
        saved = _saved_state(start, stored)
        if saved.records and self._definition_hash(call["target_id"]) != start["definition_hash"]:
            # The steps of one definition do not fit another: their inputs may differ.
            log.bind(**self.names).warning("definition_changed", target=call["target_id"])
            saved = SavedState()
        return Run(
            execution_id=start["id"],
            attempt=start["attempt"],
            target_type=call["type"],
            target_id=call["target_id"],
            inputs=call["inputs"],
            config=call["config"],
            traceparent=start["traceparent"],
            tenant=self.names.get("tenant", DEFAULT_TENANT),
            saved=saved,
        )

    def _definition_hash(self, target_id: str) -> str:
        pipeline = self._services.catalog.pipelines.get(target_id)
        return pipeline.definition_hash if pipeline else ""

    def _ports(self) -> Ports:
        services, run = self._services, self.run
        self.usage = usage_before(read_usage(self._start.get("usage", "")), run.saved)
        self.usage.on_change = self._send_usage
        definition_hash = self._definition_hash(run.target_id)
        self.steps = StepReports(
            services.worker, self.token, definition_hash, self.stop, self.usage, self.live
        )
        return Ports(
            catalog=services.catalog,
            models=services.models_for(run.traceparent),
            stop=self.stop,
            usage=self.usage,
            report=self._report,
            save=self.steps.save,
            leaked_threads=self.note_leaked_threads,
            log=log.bind(**self.names).info,
            live=self.live,
        )

    def _report(self, progress: Progress) -> None:
        self._services.progress.report(self.token, progress)

    def _send_usage(self, usage: Usage) -> None:
        """Sent after each model call, so that the usage of a run that is killed is known, too."""
        if usage.total.calls:
            with contextlib.suppress(OSError):
                self._services.worker.send(
                    {"kind": "used", "token": self.token, "usage": write_usage(usage.models)}
                )


def _loads(flow: PythonFlow) -> bool:
    """Loads a flow's code; returns whether that worked. Its error is reported when it runs."""
    with contextlib.suppress(BaseException):
        entry_point(flow)
        return True
    return False


def _ended_by(error: BaseException) -> Head:
    if is_a(error, Stopped):
        return {"outcome": "stopped"}
    if isinstance(error, RunFailed):
        log_failure(error)
        retry = {"retryable": error.retryable, "retry_after_seconds": error.retry_after_seconds}
        return {"outcome": "failed", "error": asdict(error.failure), **retry}
    log.error("run_crashed", exc_info=error)
    return {"outcome": "failed", "error": asdict(failure_from(error, {})), "retryable": True}


def _saved_state(start: Head, stored: list[bytes]) -> SavedState:
    """What earlier attempts stored. The head has the names, the body's parts the values: first the
    records of steps, then outputs.
    """
    names = start.get("steps", [])
    fields = dict(zip(names, stored, strict=False))
    values = dict(zip(start.get("values", []), stored[len(names) :], strict=True))
    return SavedState({record.id: record for record in read_records(fields)}, values)
