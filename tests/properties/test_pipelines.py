"""Any pipeline, with any number of threads and interrupted at any checkpoint, keeps the promises of
`app.runtime.pipeline`.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.catalog.model import DEFAULT_ITEMS_AT_ONCE, Agent, Catalog, PythonFlow, Step
from app.domain.execution import StepStatus
from app.providers.base import Stopped
from app.runtime import checkpoint as checkpoints
from app.runtime.checkpoint import Checkpoint
from app.runtime.errors import RunFailed
from app.runtime.stop import StopSignal
from tests.properties.graphs import INPUTS, MAX_STEPS, Graph, answer, graphs
from tests.support.runtime import Recorder

EXAMPLES = int(os.environ.get("EXAMPLES", "150"))


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Iterator[None]:
    """Checkpoints take one item each, so a run can be interrupted between the items of a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "ITEMS_AT_ONCE", 1)
        patch.setattr(checkpoints, "DROPPED_AT_ONCE", 1)
        yield


class Killed(BaseException):
    """The process ends here: nothing that comes later is stored."""


@dataclass(frozen=True)
class Break:
    """What keeps a run from its end.

    `dies`: its process, when it is to store the checkpoint with the number `at`; `dies_after`: when
    it has stored that one. `stopped`: it is asked to stop then. `fails`: the step with that number
    does, if required. Steps that are asked to stop may be `deaf`.
    """

    how: str
    at: int
    deaf: bool


BREAKS = st.builds(
    Break,
    st.sampled_from(["dies", "dies_after", "stopped", "fails"]),
    st.integers(0, MAX_STEPS - 1),
    st.booleans(),
)


class Store(Recorder):
    """Goes on from what `before` has, looks at what it is given, and breaks the run off at its
    moment.
    """

    def __init__(self, before: Recorder, breaks: Break | None):
        super().__init__(records=dict(before.records), values=dict(before.values))
        self.stop = StopSignal()
        self.broken_promises: list[str] = []
        self._breaks, self._dead = breaks, False

    def save(self, checkpoint: Checkpoint, wait: bool) -> None:
        how = self._breaks.how if self._breaks and self._breaks.at == len(self.checkpoints) else ""
        self._dead = self._dead or how == "dies"
        if not self._dead:
            super().save(checkpoint, wait)
            self._look_at(checkpoint)
        if how == "stopped":
            self.stop.request()
        if wait and self.stop.requested and not how.startswith("dies"):
            raise Stopped  # as the real one, which has sent it all the same
        if how.startswith("dies"):
            self._dead = True
            raise Killed

    def _look_at(self, checkpoint: Checkpoint) -> None:
        """Progress is, at any moment, the number of steps that the store knows as finished."""
        progress = checkpoint.progress
        finished = sum(record.done for record in self.records.values())
        if (progress.finished, progress.total) != (finished, len(self.records)):
            self.broken_promises.append(f"{progress} when {finished} steps were finished")
        for id, record in self.records.items():
            if record.status is StepStatus.COMPLETED and id not in self.values:
                self.broken_promises.append(f"{id} was completed, and its output was not there")


@dataclass
class World:
    """One run, seen by its steps."""

    graph: Graph
    store: Store
    max_workers: int
    failing: str | None
    deaf: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)

    @contextmanager
    def call(self, step: Step, name: str) -> Iterator[None]:
        """From the begin to the end of a call for a step, or for one item of it."""
        with self.lock:
            self.running[step.id] += 1
            self.calls[name] += 1
            self.store.broken_promises += self._broken_by(step, name)
        try:
            yield
            with self.lock:
                self.ended.add(name)
        finally:
            with self.lock:
                self.running[step.id] -= 1

    def _broken_by(self, step: Step, name: str) -> Iterator[str]:
        records = self.store.records
        if not all(records[earlier].done for earlier in step.depends_on):
            yield f"{name} began before the store had what it depends on"
        if records[step.id].status is not StepStatus.RUNNING:
            yield f"{name} began when the store had it as {records[step.id].status}"
        if name in self.ended or name in self.store.values:
            yield f"{name} was finished, and is run again"
        if sum(calls > 0 for calls in self.running.values()) > self.max_workers:
            yield f"{name} is one step too many at once"
        items_at_once = (
            (step.max_workers or DEFAULT_ITEMS_AT_ONCE)
            if step.batch_mode and step.concurrent
            else 1
        )
        if self.running[step.id] > items_at_once:
            yield f"{name} is one item too many at once"

    def fails(self, step: Step, name: str) -> bool:
        graph = self.graph
        return (
            step.id == self.failing
            or name in graph.fails
            or (name in graph.fails_once and self.calls[name] == 1)
        )


world: World


def work(inputs: dict[str, Any], context: Any) -> str:
    """Fails as the graph says and, if not deaf, when it is asked to stop. Its lists are its own: it
    empties them.
    """
    name = context.step_key.partition(":")[2]
    step = world.graph.step(name.partition(":")[0])
    with world.call(step, name):
        if world.fails(step, name):
            raise ValueError("told to fail")
        text = answer(name, inputs)
        for value in inputs.values():
            if isinstance(value, list):
                value.clear()
        time.sleep(0.0005 * (zlib.crc32(name.encode()) % 3))
        if context.cancelled and not world.deaf:
            raise ValueError("asked to stop")
        return text


AGENT = Agent("work", {"default": PythonFlow("default", f"{__name__}:work", None)}, "default")  # type: ignore[arg-type]


def run(
    graph: Graph, max_workers: int, before: Recorder, breaks: Break | None = None
) -> tuple[Any, Store]:
    """The outputs (None where it was broken off), and the store as it is left. Checks what has to
    hold at any time.
    """
    global world
    failing = None
    if breaks and breaks.how == "fails":
        step = graph.steps[breaks.at % len(graph.steps)]
        failing = step.id if step.required else None
    store, outputs, ended = Store(before, breaks), None, "completed"
    world = World(graph, store, max_workers, failing, deaf=breaks is not None and breaks.deaf)
    catalog = Catalog({"work": AGENT}, {"p": graph.pipeline})
    try:
        outputs = store.run(catalog, "p", INPUTS, stop=store.stop, max_workers=max_workers)
    except Stopped:
        ended = "stopped"
    except RunFailed as failed:
        ended = failed.failure.details.get("step_id", failed.failure.type)
    may_end = {"dies": "Killed", "dies_after": "Killed", "stopped": "stopped", "fails": failing}
    assert ended in ("completed", may_end[breaks.how] if breaks else None)
    assert store.broken_promises == []
    if ended != "Killed":
        kept = {
            name
            for name in world.ended
            if store.records[name.partition(":")[0]].done or name in store.values
        }
        assert kept == world.ended
    return outputs, store


@settings(max_examples=EXAMPLES, deadline=None)
@given(graph=graphs(), max_workers=st.integers(1, 4))
def test_order_parallelism_progress_and_outputs(graph: Graph, max_workers: int) -> None:
    outputs, store = run(graph, max_workers, Recorder())
    expected = graph.expected()
    assert {id: record.status for id, record in store.records.items()} == {
        id: step[0] for id, step in expected.items()
    }
    del outputs["metadata"]
    assert outputs == {id: step[1] for id, step in expected.items()}
    finished = [report.finished for report in store.reports]
    assert finished == sorted(finished)
    after_the_end = store.checkpoints[finished.index(len(graph.steps)) + 1 :]
    assert not any(checkpoint.records or checkpoint.values for checkpoint in after_the_end)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    graph=graphs(), max_workers=st.integers(1, 4), breaks=st.lists(BREAKS, min_size=1, max_size=4)
)
def test_where_it_was_broken_off_makes_no_difference(
    graph: Graph, max_workers: int, breaks: list[Break]
) -> None:
    store, finished = Recorder(), 0
    for broken_off in [*breaks, None]:
        outputs, store = run(graph, max_workers, store, broken_off)
        progress = [report.finished for report in store.reports]
        assert [finished, *progress] == sorted(
            [finished, *progress]
        )  # a later run begins where the last one was
        finished = max([finished, *progress])
    del outputs["metadata"]
    assert outputs == {id: value for id, (_, value) in graph.expected().items()}
    assert not [name for name in store.values if ":" in name]
