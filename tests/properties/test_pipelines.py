"""Any graph of steps, run with any number of workers and killed anywhere, keeps the promises of the loop."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.catalog.model import Agent, Catalog, Output, Pipeline, PythonFlow, Step
from app.executions.model import StepStatus
from app.runtime.checkpoint import Checkpoint
from app.runtime.errors import RunFailed
from tests.support.runtime import Recorder

MAX_STEPS = 8


class Killed(BaseException):
    """The process ends here: nothing that comes later is stored."""


@dataclass
class World:
    """What the steps do, seen from outside. `calls` are the runs of each step."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    running: int = 0
    most: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    early: list[str] = field(default_factory=list)


world = World()
graph: dict[str, frozenset[str]] = {}


def work(inputs: dict[str, Any], context: Any) -> str:
    name = context.step_key.partition(":")[2]
    with world.lock:
        world.running += 1
        world.most = max(world.most, world.running)
        world.calls[name] = world.calls.get(name, 0) + 1
        if not graph[name] <= world.ended:
            world.early.append(name)
    time.sleep(0.0005 * (int(name[1:]) % 3))
    with world.lock:
        world.running -= 1
        world.ended.add(name)
    return f"{name}({','.join(str(inputs[each]) for each in sorted(inputs))})"


AGENT = Agent("work", {"default": PythonFlow("default", f"{__name__}:work", None)}, "default")  # type: ignore[arg-type]


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    """Each step reads any of the earlier ones, so that there is no cycle; the file's order is another one."""
    count = draw(st.integers(1, MAX_STEPS))
    steps = []
    for number in range(count):
        reads = draw(st.frozensets(st.integers(0, number - 1), max_size=3)) if number else frozenset()
        mapping = {f"s{each}": f"s{each}" for each in reads}
        steps.append(
            Step(f"s{number}", f"s{number}", agent="work", input_mapping=mapping, depends_on=frozenset(mapping))
        )
    ordered = tuple(draw(st.permutations(steps)))
    outputs = tuple(Output(step.output_key) for step in ordered)
    return Pipeline("p", ordered, outputs, "thread")


class DiesAt(Recorder):
    """Is killed when it is to store its checkpoint with this number: before it is stored, or right after."""

    def __init__(self, store: Recorder, at: int, stored: bool):
        super().__init__(records=store.records, values=store.values)
        self._at, self._stored = at, stored

    def save(self, checkpoint: Checkpoint, wait: bool) -> None:
        if len(self.checkpoints) == self._at and wait:
            if self._stored:
                super().save(checkpoint, wait)
            raise Killed
        if wait:
            super().save(checkpoint, wait)


def run(pipeline: Pipeline, store: Recorder, max_workers: int) -> Any:
    global world
    world = World(ended={id for id, record in store.records.items() if record.done})
    graph.clear()
    graph.update({step.id: step.depends_on for step in pipeline.steps})
    return store.run(Catalog({"work": AGENT}, {"p": pipeline}), "p", {}, max_workers=max_workers)


@settings(max_examples=60, deadline=None)
@given(pipeline=pipelines(), max_workers=st.integers(1, 4))
def test_order_parallelism_and_progress(pipeline: Pipeline, max_workers: int) -> None:
    store = Recorder()
    outputs = run(pipeline, store, max_workers)
    assert world.early == []
    assert world.most <= max_workers
    assert world.calls == {step.id: 1 for step in pipeline.steps}
    finished = [each.finished for each in store.reports]
    assert finished == sorted(finished)
    assert finished.index(len(pipeline.steps)) == len(finished) - 1
    assert {record.status for record in store.records.values()} == {StepStatus.COMPLETED}
    assert outputs == run(pipeline, Recorder(), 1)


@settings(max_examples=60, deadline=None)
@given(
    pipeline=pipelines(),
    max_workers=st.integers(1, 4),
    kills=st.lists(st.tuples(st.integers(0, MAX_STEPS), st.booleans()), max_size=4),
)
def test_where_it_was_killed_makes_no_difference(
    pipeline: Pipeline, max_workers: int, kills: list[tuple[int, bool]]
) -> None:
    expected = run(pipeline, Recorder(), max_workers)
    store = Recorder()
    for at, stored in kills:
        dying = DiesAt(store, at, stored)
        done_before = {id for id, record in store.records.items() if record.done}
        how = "completed"
        try:
            run(pipeline, dying, max_workers)
        except RunFailed as failed:
            how = failed.failure.type
        assert how in ("completed", "Killed")
        assert done_before.isdisjoint(world.calls)  # what was stored as finished is never run again
        store = Recorder(records=dying.records, values=dying.values)
    assert run(pipeline, store, max_workers) == expected
