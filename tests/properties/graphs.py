"""Generates random pipelines (batches, conditions, retries, failing steps) and computes the results
that they must have.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from app.catalog.model import Output, Pipeline, Source, Step
from app.domain.execution import StepStatus

MAX_STEPS = 8
INPUTS = {"items": ["i", "j", "k"], "nothing": [], "yes": True, "no": False}


@dataclass(frozen=True)
class Graph:
    """A pipeline, and which of its calls fail: the first one in each run of `fails_once`, every one
    of `fails`.

    Both hold steps (`s1`) and items of batches (`s1:0`). In `steps` each comes after what it
    depends on; the pipeline has them in another order.
    """

    pipeline: Pipeline
    steps: tuple[Step, ...]
    fails_once: frozenset[str]
    fails: frozenset[str]

    def step(self, id: str) -> Step:
        return next(step for step in self.steps if step.id == id)

    def expected(self) -> dict[str, tuple[StepStatus, Any]]:
        """How each step ends, and its output: worked out one by one, with no loop, no threads and
        no store.
        """
        ends: dict[str, tuple[StepStatus, Any]] = {}
        values: dict[str, Any] = dict(INPUTS)
        for step in self.steps:
            ends[step.id] = self._end(step, values)
            values[step.id] = ends[step.id][1]
        return ends

    def _end(self, step: Step, values: Mapping[str, Any]) -> tuple[StepStatus, Any]:
        if step.when and bool(values[step.when.lstrip("!")]) is step.when.startswith("!"):
            return StepStatus.SKIPPED, None
        given = {name: values[str(source)] for name, source in step.input_mapping.items()}
        calls = {step.id: given}
        if step.batch_mode:
            calls = {
                f"{step.id}:{number}": {**given, "each": item}
                for number, item in enumerate(given["each"])
            }
        if self.fails.intersection(calls):
            return StepStatus.FAILED, None
        answers = [answer(name, inputs) for name, inputs in calls.items()]
        return StepStatus.COMPLETED, answers if step.batch_mode else answers[0]


def answer(name: str, given: Mapping[str, Any]) -> str:
    """Another one for each step, each item and all that it was given; and short, however long the
    graph.
    """
    return f"{name}-{zlib.crc32(repr(sorted(given.items())).encode()):08x}"


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Each step reads any of the earlier ones, so that there is no cycle; the file's order is
    another one.
    """
    steps: list[Step] = []
    failing: dict[str, set[str]] = {"never": set(), "once": set(), "always": set()}
    for number in range(draw(st.integers(1, MAX_STEPS))):
        fails = draw(st.sampled_from(["never", "never", "once", "always"]))
        step = draw(_steps(number, steps, fails))
        steps.append(step)
        failing[fails].add(f"{step.id}:{draw(st.integers(0, 2))}" if step.batch_mode else step.id)
    ordered = tuple(draw(st.permutations(steps)))
    outputs = tuple(Output(step.output_key) for step in ordered)
    pipeline = Pipeline("p", ordered, outputs, "thread")  # type: ignore[arg-type]
    return Graph(pipeline, tuple(steps), frozenset(failing["once"]), frozenset(failing["always"]))


@st.composite
def _steps(draw: st.DrawFn, number: int, before: list[Step], fails: str) -> Step:
    """One that always fails is not required, and one that fails once may be tried again."""
    id, earlier, batch = f"s{number}", [step.id for step in before], draw(st.booleans())
    sources = [step.id for step in before if not step.batch_mode] if batch else ["items", *earlier]
    mapping = (
        {source: source for source in draw(st.lists(st.sampled_from(sources), max_size=3))}
        if sources
        else {}
    )
    if batch:
        always_lists = [
            step.id for step in before if step.batch_mode and step.required and not step.when
        ]
        mapping["each"] = draw(st.sampled_from(["items", "nothing", *always_lists]))
    condition = draw(st.none() | st.sampled_from(["yes", "no", *earlier]))
    waits_for = draw(st.sets(st.sampled_from(earlier), max_size=1)) if earlier else set()
    return Step(
        id,
        id,
        agent="work",
        input_mapping={name: Source(key) for name, key in mapping.items()},
        depends_on=frozenset(waits_for | {condition, *mapping.values()}.intersection(earlier)),
        required=fails != "always" and draw(st.booleans()),
        retries=draw(st.integers(1 if fails == "once" else 0, 2)),
        backoff_seconds=(0.001,),
        when=condition and draw(st.sampled_from(["", "!"])) + condition,
        batch_mode=batch,
        concurrent=draw(st.booleans()),
        max_workers=draw(st.none() | st.integers(1, 3)),
    )
