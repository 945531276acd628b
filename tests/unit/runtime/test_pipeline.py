"""The pipeline loop: order, parallelism, failures, conditions, batches, variants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import catalog
from app.domain.errors import ConfigurationError
from app.domain.execution import Progress, StepStatus
from app.providers.base import Stopped
from app.runtime.errors import RunFailed
from app.runtime.stop import StopSignal
from tests.support.agents import write_agent
from tests.support.cpu_time import cpu_seconds
from tests.support.runtime import Recorder

AGENT = """
flows:
  - {name: default, entrypoint: "flow.py:run", isolation: thread}
  - {name: other, entrypoint: "flow.py:other", isolation: thread}
  - {name: greedy, entrypoint: "flow.py:greedy", isolation: thread}
"""

FLOW = """
import time

running, most, calls = 0, 0, []

def run(inputs, context):
    global running, most
    running += 1
    most = max(most, running)
    calls.append(dict(inputs))
    try:
        deadline = time.monotonic() + (inputs.get("seconds") or 0)
        while time.monotonic() < deadline and not context.cancelled:
            time.sleep(0.005)
        if inputs.get("fail"):
            raise ValueError(inputs["fail"])
        metadata = {"model_used": None, "tokens_used": 3}
        return {"output": inputs.get("value", "done"), "metadata": metadata}
    finally:
        running -= 1

def other(inputs, context):
    return "other"

def greedy(inputs, context):
    return [inputs["items"].pop() for _ in range(2)]
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Runs a pipeline given as YAML; returns its outputs. `.recorder` has what was stored."""
    write_agent(tmp_path / "agents", "work", AGENT, FLOW)
    (tmp_path / "pipelines").mkdir()

    def run_it(
        yaml: str,
        inputs: dict[str, Any] | None = None,
        stop: StopSignal | None = None,
        **config: Any,
    ) -> Any:
        (tmp_path / "pipelines/p.yaml").write_text(yaml)
        known = catalog.load([tmp_path / "agents"], [tmp_path / "pipelines"])
        run_it.recorder = Recorder()  # type: ignore[attr-defined]
        return run_it.recorder.run(known, "p", inputs or {}, stop=stop, **config)  # type: ignore[attr-defined]

    return run_it


def module(tmp_path: Path) -> Any:
    """The flow's module, as loaded by the runtime."""
    from app.runtime import flow_files

    return flow_files.load((tmp_path / "agents" / "work" / "flow.py").resolve())


DIAMOND = """
inputs: [{name: t}]
steps:
  - {id: a, agent: work, input_mapping: {seconds: t}}
  - {id: b, agent: work, input_mapping: {seconds: t}, depends_on: [a]}
  - {id: c, agent: work, input_mapping: {seconds: t}, depends_on: [a]}
  - {id: d, agent: work, input_mapping: {seconds: t}, depends_on: [a]}
  - {id: e, agent: work, input_mapping: {seconds: t}, depends_on: [b, c, d]}
outputs: [{key: e}]
"""


@pytest.mark.parametrize(("max_workers", "rounds", "most"), [(4, 3, 3), (2, 4, 2), (1, 5, 1)])
def test_what_does_not_depend_on_each_other_runs_side_by_side(
    run: Callable[..., Any], tmp_path: Path, max_workers: int, rounds: int, most: int
) -> None:
    began = time.monotonic()
    outputs = run(DIAMOND, {"t": 0.2}, max_workers=max_workers)
    took = time.monotonic() - began
    assert outputs == {"e": "done", "metadata": {"tokens_used": 15, "models_used": []}}
    # No upper bound, which a busy machine could pass: `most` shows what ran side by side.
    assert took >= rounds * 0.2
    assert module(tmp_path).most == most


def test_progress_counts_finished_steps_and_never_goes_back(run: Callable[..., Any]) -> None:
    run(DIAMOND, {"t": 0.05})
    finished = [report.finished for report in run.recorder.reports]  # type: ignore[attr-defined]
    assert finished == sorted(finished)
    assert run.recorder.reports[0] == Progress(0, 5, "a")  # type: ignore[attr-defined]
    assert {report.total for report in run.recorder.reports} == {5}  # type: ignore[attr-defined]


def test_a_skipped_step_counts_as_finished_in_the_progress(run: Callable[..., Any]) -> None:
    run(
        """
inputs: [{name: go}]
steps:
  - {id: skipped, agent: work, when: go}
  - {id: after, agent: work, depends_on: [skipped]}
""",
        {"go": False},
    )
    assert run.recorder.reports == [Progress(1, 2, "after"), Progress(2, 2)]  # type: ignore[attr-defined]


def test_a_chain_of_a_hundred_empty_steps_is_quick(run: Callable[..., Any]) -> None:
    steps = "\n".join(
        f"  - {{id: s{n}, agent: work, input_mapping: {{value: {f's{n - 1}' if n else 'x'}}}}}"
        for n in range(100)
    )
    yaml = f"inputs: [{{name: x}}]\nsteps:\n{steps}\noutputs: [{{key: s99}}]"
    assert run(yaml, {"x": "through"})["s99"] == "through"
    assert cpu_seconds(lambda: run(yaml, {"x": "through"})) < 1


def test_a_required_step_that_fails_stops_the_others_and_is_named(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(RunFailed) as raised:
        run(
            """
inputs: [{name: t}, {name: why}]
steps:
  - {id: slow, agent: work, input_mapping: {seconds: t}}
  - {id: bad, agent: work, input_mapping: {fail: why}}
  - {id: never, agent: work, depends_on: [bad]}
""",
            {"t": 10, "why": "No."},
        )
    assert time.monotonic() - began < 8
    failure = raised.value.failure
    assert (failure.type, failure.message) == ("ValueError", "No.")
    assert failure.details.pop("location")["function"] == "run"
    assert failure.details == {
        "pipeline_id": "p",
        "step_id": "bad",
        "agent_id": "work",
        "flow_id": "default",
    }
    assert len(module(tmp_path).calls) == 2


def test_a_step_that_is_not_required_may_fail(run: Callable[..., Any]) -> None:
    outputs = run(
        """
inputs: [{name: why}]
steps:
  - {id: bad, agent: work, input_mapping: {fail: why}, required: false, output_key: maybe}
  - {id: after, agent: work, input_mapping: {value: maybe}}
outputs: [{key: maybe}, {key: after}]
""",
        {"why": "No."},
    )
    assert (outputs["maybe"], outputs["after"]) == (None, None)


def test_a_step_is_tried_again_and_has_its_own_timeout(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(RunFailed) as raised:
        run(
            """
inputs: [{name: why}]
steps:
  - {id: bad, agent: work, input_mapping: {fail: why}, retries: {max: 2, backoff_seconds: [0.01]}}
""",
            {"why": "No."},
        )
    assert len(module(tmp_path).calls) == 3
    assert raised.value.failure.type == "ValueError"
    with pytest.raises(RunFailed) as raised:
        run(
            "inputs: [{name: t}]\nsteps:\n"
            "  - {id: slow, agent: work, input_mapping: {seconds: t}, timeout: 0.2}",
            {"t": 9},
        )
    assert raised.value.failure.type == "StepTimeout"


def test_a_condition_decides_whether_a_step_runs(run: Callable[..., Any], tmp_path: Path) -> None:
    yaml = """
inputs: [{name: kind}, {name: item}]
steps:
  - {id: first, agent: work, when: "kind == 'big'"}
  - {id: second, agent: work, when: "item.size > `3`"}
outputs: [{key: first}, {key: second}]
"""
    outputs = run(yaml, {"kind": "big", "item": {"size": 2}})
    assert (outputs["first"], outputs["second"]) == ("done", None)
    assert len(module(tmp_path).calls) == 1


CONDITION = """
inputs: [{name: score}]
steps:
  - {id: a, agent: work, when: "CONDITION"ON_ERROR}
  - {id: b, agent: work, input_mapping: {value: a}}
outputs: [{key: a}, {key: b}]
"""

UNUSABLE = [
    ("length(score) > `0`", None),
    ("score > `3`", "4"),
    ("contains(score, 'x')", 5),
    ("sort(score)[0] == `1`", [1, "a"]),
    ("score.deep.deeper > `1`", {"deep": {"deeper": "2"}}),
]


@pytest.mark.parametrize(("condition", "score"), UNUSABLE)
def test_a_condition_that_cannot_be_evaluated_is_false_and_warned_of(
    run: Callable[..., Any], condition: str, score: Any
) -> None:
    yaml = CONDITION.replace("CONDITION", condition).replace("ON_ERROR", "")
    outputs = run(yaml, {"score": score})
    assert (outputs["a"], outputs["b"]) == (None, None)
    record = run.recorder.records["a"]  # type: ignore[attr-defined]
    assert (record.status, record.failure) == (StepStatus.SKIPPED, None)
    [warning] = record.warnings
    assert warning.startswith(f"The condition {condition!r} cannot be evaluated")
    assert warning.endswith("It counts as false.")


@pytest.mark.parametrize(("condition", "score"), UNUSABLE)
def test_a_condition_that_cannot_be_evaluated_fails_the_step_that_wants_it_so(
    run: Callable[..., Any], condition: str, score: Any
) -> None:
    yaml = CONDITION.replace("CONDITION", condition)
    with pytest.raises(RunFailed, match="cannot be evaluated") as failed:
        run(yaml.replace("ON_ERROR", ", on_error: fail"), {"score": score})
    assert failed.value.failure.details["step_id"] == "a"
    assert not failed.value.retryable
    assert (
        run(yaml.replace("ON_ERROR", ", on_error: fail, required: false"), {"score": score})["b"]
        is None
    )
    assert run.recorder.records["a"].status is StepStatus.FAILED  # type: ignore[attr-defined]


def test_a_condition_that_is_false_is_not_warned_of(run: Callable[..., Any]) -> None:
    run(CONDITION.replace("CONDITION", "score > `3`").replace("ON_ERROR", ""), {"score": 2})
    assert run.recorder.records["a"].warnings == ()  # type: ignore[attr-defined]


def test_the_warnings_of_an_aggregator_are_in_its_record_or_its_failure(
    run: Callable[..., Any],
) -> None:
    yaml = """
inputs: [{name: rows}]
steps:
  - id: dear
    type: batch_aggregator
    aggregation_strategy: filter
    condition: "item.price > 1"
    input_mapping: {items: rows}
    on_error: warn
"""
    rows = {"rows": [{"price": 2}, {"price": "5"}]}
    assert run(yaml, rows)["dear"] == [{"price": 2}]
    [warning] = run.recorder.records["dear"].warnings  # type: ignore[attr-defined]
    assert warning.startswith("Item 1 counts as false")
    with pytest.raises(RunFailed, match="Item 1 counts as false") as failed:
        run(yaml.replace("on_error: warn", "on_error: fail"), rows)
    assert (failed.value.failure.type, failed.value.retryable) == ("FlowError", False)


def test_an_unknown_on_error_is_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="on_error"):
        run(CONDITION.replace("CONDITION", "score").replace("ON_ERROR", ", on_error: ignore"))


TYPED = """
inputs:
  - {name: text, type: string, required: true}
  - {name: number, type: integer}
  - {name: limit, type: number, default: 5}
  - {name: anything, required: true}
flows:
  - {name: default, entrypoint: "flow.py:run", isolation: thread}
"""


@pytest.fixture
def typed(tmp_path: Path, run: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a step of an agent that declares types, with the output of the step before it."""
    write_agent(tmp_path / "agents", "typed", TYPED, "def run(inputs): return sorted(inputs)\n")

    def run_it(name: str, value: Any, more: str = "") -> Any:
        others = {"text": "words", "anything": "words"} | {name: "first"}
        mapping = ", ".join(f"{key}: {source}" for key, source in others.items())
        yaml = f"""
inputs: [{{name: given}}, {{name: words}}]
steps:
  - {{id: first, agent: work, input_mapping: {{value: given}}}}
  - {{id: second, agent: typed, input_mapping: {{{mapping}}}{more}}}
outputs: [{{key: second}}]
"""
        return run(yaml, {"given": value, "words": "words"})["second"]

    return run_it


@pytest.mark.parametrize(
    ("name", "value", "types"),
    [
        ("text", 5, "type string; 'first' is of the type integer"),
        ("text", None, "type string; 'first' is of the type null"),
        ("text", {"a": 1}, "type string; 'first' is of the type object"),
        ("number", "5", "type integer; 'first' is of the type string"),
        ("number", True, "type integer; 'first' is of the type boolean"),
        ("number", 5.5, "type integer; 'first' is of the type number"),
        ("limit", [5], "type number; 'first' is of the type array"),
    ],
)
def test_an_input_of_another_type_than_declared_is_refused_by_step_and_name(
    typed: Callable[..., Any], name: str, value: Any, types: str
) -> None:
    with pytest.raises(RunFailed) as failed:
        typed(name, value)
    failure = failed.value.failure
    assert failure.message == f"The input {name!r} of the step 'second' must be of the {types}."
    assert (failure.type, failure.details["step_id"]) == ("FlowError", "second")
    assert not failed.value.retryable


@pytest.mark.parametrize(
    ("name", "value"),
    [("text", "5"), ("number", None), ("limit", None), ("limit", 1), ("anything", None)],
)
def test_what_is_of_the_declared_type_or_null_where_it_may_be_left_out_is_passed_on(
    typed: Callable[..., Any], name: str, value: Any
) -> None:
    assert name in typed(name, value)


def test_each_item_of_a_batch_is_checked(typed: Callable[..., Any]) -> None:
    with pytest.raises(RunFailed, match=r"'first' \(item 2\) is of the type integer"):
        typed("text", ["a", "b", 3], ", batch_mode: true, concurrent: false")


def test_a_batch_runs_a_step_for_each_item_and_keeps_their_order(run: Callable[..., Any]) -> None:
    outputs = run(
        """
inputs: [{name: items}]
steps:
  - {id: each, agent: work, batch_mode: true, max_workers: 3, input_mapping: {value: items}}
  - id: joined
    type: batch_aggregator
    aggregation_strategy: concat
    separator: "-"
    input_mapping: {items: each}
outputs: [{key: each}, {key: joined}]
""",
        {"items": ["a", "b", "c", "d"]},
    )
    assert outputs["each"] == ["a", "b", "c", "d"]
    assert outputs["joined"] == "a-b-c-d"
    assert outputs["metadata"]["tokens_used"] == 12


def test_a_batch_needs_exactly_one_list(run: Callable[..., Any]) -> None:
    step = "{id: each, agent: work, batch_mode: true, input_mapping: {value: x}}"
    yaml = f"inputs: [{{name: x}}]\nsteps: [{step}]"
    with pytest.raises(RunFailed, match="exactly one list"):
        run(yaml, {"x": "no list"})


def test_what_a_flow_does_to_its_inputs_no_other_step_sees(run: Callable[..., Any]) -> None:
    outputs = run(
        """
inputs: [{name: items, default: [1, 2, 3]}]
steps:
  - {id: first, agent: work, flow: greedy, input_mapping: {items: items}}
  - {id: second, agent: work, flow: greedy, input_mapping: {items: items}}
  - {id: third, agent: work, flow: greedy, input_mapping: {items: first}}
outputs: [{key: first}, {key: second}, {key: third}]
""",
        max_workers=1,
    )
    assert (outputs["first"], outputs["second"], outputs["third"]) == ([3, 2], [3, 2], [2, 3])


def test_a_variant_changes_the_flow_of_a_step(run: Callable[..., Any]) -> None:
    yaml = """
steps:
  - {id: a, agent: work}
variants:
  b: {overrides: {a: {flow: other}}}
"""
    assert run(yaml)["a"] == "done"
    assert run(yaml, variant="b")["a"] == "other"


def test_a_stop_ends_the_run_soon(run: Callable[..., Any]) -> None:
    stop = StopSignal()
    threading.Timer(0.2, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        run(DIAMOND, {"t": 10}, stop=stop)
    assert time.monotonic() - began < 8
