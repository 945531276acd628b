"""Runs that go on from stored steps; usage and budgets; what a run keeps when it ends early."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import catalog
from app.catalog.model import Catalog
from app.domain.execution import ModelUsage, Progress, StepStatus
from app.providers.base import Completion, ModelRateLimited, Stopped
from app.runtime import checkpoint
from app.runtime.errors import RunFailed
from app.runtime.steps import StepState
from app.runtime.stop import StopSignal
from tests.support.agents import write_agent
from tests.support.runtime import Recorder

AGENT = """
flows:
  - {name: default, entrypoint: "flow.py:run", isolation: thread}
  - {name: ask, entrypoint: "flow.py:ask", isolation: thread}
  - {name: complain, entrypoint: "flow.py:complain", isolation: thread}
  - {name: ask_once, entrypoint: "flow.py:ask_once", isolation: thread}
  - {name: hide, entrypoint: "flow.py:hide", isolation: thread}
"""

FLOW = """
import time

calls, broken = [], set()

def run(inputs, context):
    name = context.step_key.partition(":")[2]
    calls.append(name)
    if name in broken:
        raise ValueError(f"{name} is broken")
    time.sleep(inputs.get("seconds") or 0)
    return f"{name}({inputs.get('value')})"

def complain(inputs, context):
    calls.append(context.step_key.partition(":")[2])
    while not context.cancelled and "complain" in broken:
        time.sleep(0.005)
    if context.cancelled:
        raise ValueError("I was disturbed.")
    return "undisturbed"

def hide(inputs, context):
    calls.append(context.step_key.partition(":")[2])
    for _ in range(2):
        try:
            answer = context.complete([{"role": "user", "content": "?"}])
        except BaseException:
            pass
    return answer.text

def ask(inputs, context):
    calls.append(context.step_key.partition(":")[2])
    for _ in range(inputs.get("times") or 1):
        try:
            answer = context.complete([{"role": "user", "content": "?"}])
        except Exception:
            pass
    if calls[-1] in broken:
        raise ValueError(f"{calls[-1]} is broken")
    return answer.text

def ask_once(inputs, context):
    calls.append(context.step_key.partition(":")[2])
    return context.complete([{"role": "user", "content": "?"}]).text
"""

CHAIN = """
inputs: [{name: start}]
steps:
  - {id: a, agent: work, input_mapping: {value: start}}
  - {id: b, agent: work, input_mapping: {value: a}}
  - {id: c, agent: work, input_mapping: {value: b}}
"""

ASKING = """
inputs: []
steps:
  - {id: a, agent: work, flow: ask}
  - {id: b, agent: work, flow: ask, depends_on: [a]}
outputs: [{key: a}, {key: b}]
"""

BATCH = """
inputs: [{name: items}]
steps:
  - {id: each, agent: work, batch_mode: true, concurrent: false, input_mapping: {value: items}}
"""


class Model:
    """Answers with sixteen tokens."""

    def complete(self, messages: Any, **options: Any) -> Completion:
        return Completion("An answer.", "m-1", 11, 5, 16)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Catalog]:
    """The catalog with the agent `work` and one pipeline, `p`."""
    write_agent(tmp_path / "agents", "work", AGENT, FLOW)
    (tmp_path / "pipelines").mkdir()

    def load(yaml: str) -> Catalog:
        (tmp_path / "pipelines/p.yaml").write_text(yaml)
        return catalog.load([tmp_path / "agents"], [tmp_path / "pipelines"])

    return load


@pytest.fixture
def flow(tmp_path: Path, load: Callable[[str], Catalog]) -> Any:
    """The flow's module: `calls` are the steps that were run, `broken` those that fail."""
    from app.runtime import flow_files

    return flow_files.load((tmp_path / "agents" / "work" / "flow.py").resolve())


def test_finished_steps_are_not_run_again_and_their_outputs_are_read_back(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store = load(CHAIN), Recorder()
    flow.broken.add("c")
    with pytest.raises(RunFailed):
        store.run(known, "p", {"start": 1})
    flow.broken.clear()
    outputs = store.run(known, "p", {"start": 1})
    assert outputs["c"] == "c(b(a(1)))"
    assert flow.calls == ["a", "b", "c", "c"]
    assert store.records["c"].attempt == 2


def test_progress_goes_on_from_the_steps_that_were_finished(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store = load(CHAIN), Recorder()
    flow.broken.add("c")
    with pytest.raises(RunFailed):
        store.run(known, "p", {})
    store.reports.clear()
    flow.broken.clear()
    store.run(known, "p", {})
    assert store.reports == [Progress(2, 3, "c"), Progress(3, 3)]


def test_each_step_is_stored_before_what_depends_on_it_starts(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    class Looking(Recorder):
        def save(self, checkpoint: Any, wait: bool) -> None:
            assert wait  # nothing starts before the store has it
            super().save(checkpoint, wait)
            seen.append((sorted(self.values), list(flow.calls)))

    Looking().run(load(CHAIN), "p", {})
    assert seen == [
        ([], []),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        (["a", "b", "c"], ["a", "b", "c"]),
    ]


def test_a_run_that_failed_keeps_what_ended_and_says_what_did_not(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    store = Recorder()
    flow.broken.add("b")
    with pytest.raises(RunFailed) as failed:
        store.run(load(CHAIN), "p", {"start": 1})
    details = dict(failed.value.failure.details)
    assert details.pop("location")["file"] == "flow.py"
    assert details == {
        "pipeline_id": "p",
        "step_id": "b",
        "agent_id": "work",
        "flow_id": "default",
    }
    statuses = {id: record.status for id, record in store.records.items()}
    assert statuses == {"a": StepStatus.COMPLETED, "b": StepStatus.FAILED, "c": StepStatus.PENDING}
    assert store.records["b"].failure == failed.value.failure
    assert json.loads(store.values["a"]) == "a(1)"
    assert store.reports[-1].finished == 1


def test_a_step_that_ends_well_while_another_fails_is_kept(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    store = Recorder()
    flow.broken.add("bad")
    yaml = """
    inputs: [{name: t}]
    steps:
      - {id: good, agent: work, input_mapping: {seconds: t}}
      - {id: bad, agent: work}
    """
    with pytest.raises(RunFailed):
        store.run(load(yaml), "p", {"t": 0.2})
    assert store.records["good"].status is StepStatus.COMPLETED


def test_a_batch_goes_on_with_the_items_that_are_not_done(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store = load(BATCH), Recorder()
    flow.broken.add("each:2")
    with pytest.raises(RunFailed):
        store.run(known, "p", {"items": [10, 11, 12, 13]})
    assert sorted(store.values) == ["each:0", "each:1"]
    flow.broken.clear()
    outputs = store.run(known, "p", {"items": [10, 11, 12, 13]})
    assert outputs["each"] == ["each:0(10)", "each:1(11)", "each:2(12)", "each:3(13)"]
    assert flow.calls == ["each:0", "each:1", "each:2", "each:2", "each:3"]
    assert sorted(store.values) == ["each"]  # the joined output has replaced its items


class Dies(Exception):
    """The process ends here."""


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that take very few names, so that a batch of ten items needs several."""
    monkeypatch.setattr(checkpoint, "ITEMS_AT_ONCE", 2)
    monkeypatch.setattr(checkpoint, "DROPPED_AT_ONCE", 3)


@pytest.mark.parametrize("dies_after", range(12))
def test_a_run_that_dies_while_it_drops_the_items_of_a_batch_keeps_the_whole_batch(
    load: Callable[[str], Catalog], flow: Any, small_pieces: None, dies_after: int
) -> None:
    class Dying(Recorder):
        pieces = 0

        def save(self, checkpoint: Any, wait: bool) -> None:
            super().save(checkpoint, wait)
            whole, items = "each" in self.values, sum(":" in name for name in self.values)
            ended = [name for name in flow.calls if name.startswith("each:")]
            assert whole or items >= len(set(ended)) - 1 or "each" not in self.records
            assert len(checkpoint.dropped) <= 3
            self.pieces += bool(checkpoint.dropped) or len(checkpoint.records) > 1
            if self.pieces > dies_after:
                raise Dies

    yaml = BATCH + "  - {id: last, agent: work, input_mapping: {value: each}}\n"
    known, inputs = load(yaml), {"items": list(range(10))}
    store: Recorder = Dying()
    with contextlib.suppress(RunFailed):
        store.run(known, "p", inputs)
    store = Recorder(records=store.records, values=store.values)
    outputs = store.run(known, "p", inputs)
    assert outputs["last"] == f"last({[f'each:{n}({n})' for n in range(10)]})"
    assert sorted(store.values) == ["each", "last"]
    assert sorted(flow.calls) == sorted([*(f"each:{n}" for n in range(10)), "last"])


def test_a_batch_whose_items_were_all_done_is_joined_and_its_items_are_dropped(
    load: Callable[[str], Catalog], flow: Any, small_pieces: None
) -> None:
    """All had ended while the earlier run was being stopped; their outputs were never joined."""
    known, store, inputs = load(BATCH), Recorder(), {"items": list(range(10))}
    flow.broken.add("each:9")
    with pytest.raises(RunFailed):
        store.run(known, "p", inputs)
    store.values["each:9"] = b'"each:9(9)"'
    assert store.run(known, "p", inputs)["each"] == [f"each:{n}({n})" for n in range(10)]
    assert (flow.calls.count("each:9"), list(store.values)) == (1, ["each"])


def test_no_checkpoint_grows_with_the_number_of_items(
    load: Callable[[str], Catalog], flow: Any, small_pieces: None
) -> None:
    """Not when sixty items end at the same moment, nor when sixty are dropped."""
    yaml = BATCH.replace("concurrent: false", "max_workers: 64")
    known, items = load(yaml), list(range(60))

    class Slow(Recorder):
        def save(self, checkpoint: Any, wait: bool) -> None:
            super().save(checkpoint, wait)
            time.sleep(0.1)  # meanwhile, all items end

    store = Slow()
    assert len(store.run(known, "p", {"items": items})["each"]) == 60
    for saved in store.checkpoints:
        assert len(saved.records) <= 2
        assert len(saved.outcomes) <= 2
        assert len(saved.values) <= 3
        assert len(saved.dropped) <= 3
    assert list(store.values) == ["each"]
    outcomes = [name for saved in store.checkpoints for name in saved.outcomes]
    assert sorted(outcomes) == sorted(f"each:{n}" for n in items)


def test_items_are_dropped_only_once_the_whole_is_known_to_be_stored(
    load: Callable[[str], Catalog], flow: Any, small_pieces: None
) -> None:
    """A store that refuses the joined output (too large, perhaps) still has all items but one."""

    class Refusing(Recorder):
        def save(self, checkpoint: Any, wait: bool) -> None:
            if "each" in checkpoint.values:
                assert wait
                raise Dies
            super().save(checkpoint, wait)

    store = Refusing()
    with pytest.raises(RunFailed):
        store.run(load(BATCH), "p", {"items": list(range(10))})
    assert sorted(store.values) == [f"each:{n}" for n in range(9)]


def test_items_that_are_left_over_do_not_count_beside_the_whole(
    load: Callable[[str], Catalog], flow: Any, small_pieces: None
) -> None:
    class Dying(Recorder):
        def save(self, checkpoint: Any, wait: bool) -> None:
            super().save(checkpoint, wait)
            if "each" in self.values:
                raise Dies

    yaml = BATCH + "  - {id: last, agent: work, depends_on: [each]}\n"
    known, inputs, store = load(yaml), {"items": ["x" * 500] * 10}, Dying()
    with pytest.raises(RunFailed):
        store.run(known, "p", inputs, limit_bytes=6000)
    assert len(store.values) == 7  # the joined output, and what was left of ten items
    again = Recorder(records=store.records, values=store.values)
    assert again.run(known, "p", inputs, limit_bytes=6000)["last"] == "last(None)"
    assert sorted(again.values) == ["each", "last"]


def test_a_batch_that_may_fail_leaves_no_outputs_of_items_behind(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = BATCH.replace("concurrent: false", "concurrent: false, required: false")
    yaml += "  - {id: last, agent: work, input_mapping: {value: start}, depends_on: [each]}\n"
    yaml = yaml.replace("{name: items}", "{name: items}, {name: start}")
    flow.broken.add("each:2")
    store = Recorder()
    inputs = {"items": ["x" * 300] * 3, "start": "y" * 500}
    outputs = store.run(load(yaml), "p", inputs, limit_bytes=800)
    assert len(outputs["last"]) > 500
    assert sorted(store.values) == ["last"]


def test_each_item_has_its_outcome(load: Callable[[str], Catalog], flow: Any) -> None:
    store = Recorder()
    flow.broken.add("each:1")
    with pytest.raises(RunFailed):
        store.run(load(BATCH), "p", {"items": [10, 11]})
    outcomes = {
        name: outcome for saved in store.checkpoints for name, outcome in saved.outcomes.items()
    }
    assert outcomes["each:0"] is None
    assert outcomes["each:1"] is not None
    assert outcomes["each:1"].message == "each:1 is broken"


def test_an_empty_batch_is_an_empty_list(load: Callable[[str], Catalog], flow: Any) -> None:
    store = Recorder()
    assert store.run(load(BATCH), "p", {"items": []})["each"] == []
    assert store.records["each"].status is StepStatus.COMPLETED


def test_a_skipped_and_a_failed_optional_step_are_not_tried_again(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = """
    inputs: [{name: go}]
    steps:
      - {id: skipped, agent: work, when: go}
      - {id: optional, agent: work, required: false}
      - {id: last, agent: work, input_mapping: {value: optional}, depends_on: [skipped]}
    """
    known, store = load(yaml), Recorder()
    flow.broken.update(["optional", "last"])
    with pytest.raises(RunFailed):
        store.run(known, "p", {"go": False})
    flow.broken.clear()
    assert store.run(known, "p", {"go": False})["last"] == "last(None)"
    assert flow.calls.count("optional") == 1
    assert store.records["skipped"].status is StepStatus.SKIPPED
    assert store.records["optional"].status is StepStatus.FAILED
    assert store.records["optional"].failure is not None


def test_an_optional_step_that_fails_because_its_run_is_stopped_is_run_again(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    step = "{id: a, agent: work, flow: complain, required: false}"
    yaml = f"inputs: []\nsteps: [{step}]\noutputs: [{{key: a}}]"
    known, store, stop = load(yaml), Recorder(), StopSignal()
    flow.broken.add("complain")
    threading.Timer(0.1, stop.request).start()
    with pytest.raises(Stopped):
        store.run(known, "p", {}, stop=stop)
    assert (store.records["a"].status, store.records["a"].done) == (StepStatus.CANCELLED, False)
    assert store.reports[-1].finished == 0
    flow.broken.clear()
    assert store.run(known, "p", {})["a"] == "undisturbed"


def test_usage_is_counted_by_step_and_model(load: Callable[[str], Catalog], flow: Any) -> None:
    store = Recorder()
    outputs = store.run(load(ASKING), "p", {}, models=Model())
    assert outputs["metadata"] == {"tokens_used": 32, "models_used": ["m-1"]}
    assert store.records["a"].usage == {"m-1": ModelUsage(1, 11, 5, 16)}


def test_a_run_that_goes_on_counts_what_was_used_before(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store = load(ASKING), Recorder()
    with pytest.raises(RunFailed) as failed:
        store.run(known, "p", {}, models=Model(), budget={"max_tokens": 16})
    assert (failed.value.failure.type, failed.value.retryable) == ("BudgetExceeded", False)
    assert failed.value.failure.details["step_id"] == "b"
    assert "budget.max_tokens is 16" in failed.value.failure.message
    with pytest.raises(RunFailed):
        store.run(known, "p", {}, models=Model(), budget={"max_tokens": 16})
    outputs = store.run(known, "p", {}, models=Model(), budget={"max_tokens": 32})
    assert outputs["metadata"]["tokens_used"] == 32
    assert flow.calls == ["a", "b"]


def test_the_usage_of_a_failed_step_is_kept_also_if_a_retry_does_not_reach_it(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store = load(ASKING), Recorder()
    flow.broken.add("b")
    with pytest.raises(RunFailed, match="b is broken"):
        store.run(known, "p", {}, models=Model())
    for _ in range(2):
        with pytest.raises(RunFailed, match="used 32 tokens"):
            store.run(known, "p", {}, models=Model(), budget={"max_tokens": 32})
    assert store.records["b"].usage == {"m-1": ModelUsage(1, 11, 5, 16)}
    assert flow.calls == ["a", "b"]


@pytest.mark.parametrize(("wish_seconds", "own_seconds"), [(0.3, 0.001), (0, 20)])
def test_a_step_waits_for_its_next_try_as_long_as_the_server_asks(
    load: Callable[[str], Catalog], flow: Any, wish_seconds: float, own_seconds: float
) -> None:
    asked_at = []

    class Busy(Model):
        def complete(self, messages: Any, **options: Any) -> Completion:
            asked_at.append(time.monotonic())
            if len(asked_at) == 1:
                raise ModelRateLimited("Later.", retry_after_seconds=wish_seconds)
            return super().complete(messages, **options)

    retries = f"{{max: 1, backoff_seconds: [{own_seconds}]}}"
    step = f"{{id: a, agent: work, flow: ask_once, retries: {retries}}}"
    Recorder().run(load(f"inputs: []\nsteps: [{step}]"), "p", {}, models=Busy())
    first, second = asked_at
    assert wish_seconds <= second - first < wish_seconds + 10


def test_a_flow_that_catches_the_end_of_its_budget_fails_nevertheless(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    with pytest.raises(RunFailed) as failed:
        Recorder().run(
            load(ASKING.replace("flow: ask}", "flow: hide}", 1)),
            "p",
            {},
            models=Model(),
            budget={"max_tokens": 16},
        )
    assert failed.value.failure.type == "BudgetExceeded"
    assert failed.value.failure.details["step_id"] == "a"
    assert flow.calls == ["a"]


def test_steps_and_seconds_are_limited_too(load: Callable[[str], Catalog], flow: Any) -> None:
    with pytest.raises(RunFailed, match="used 2 steps"):
        Recorder().run(load(CHAIN), "p", {}, budget={"max_steps": 2})
    assert flow.calls == ["a", "b"]
    with pytest.raises(RunFailed, match="seconds"):
        Recorder().run(
            load(CHAIN.replace("value: start", "seconds: start")),
            "p",
            {"start": 0.2},
            budget={"max_seconds": 0.1},
        )


def test_a_step_that_is_run_again_counts_once_for_the_budget(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store = load("inputs: []\nsteps: [{id: a, agent: work}]"), Recorder()
    flow.broken.add("a")
    with pytest.raises(RunFailed, match="a is broken"):
        store.run(known, "p", {}, budget={"max_steps": 1})
    flow.broken.clear()
    assert store.run(known, "p", {}, budget={"max_steps": 1})["a"] == "a(None)"


def test_a_flow_that_swallows_exceptions_does_not_pass_its_budget(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    load(CHAIN)
    known = load(ASKING)
    with pytest.raises(RunFailed, match="max_steps"):
        Recorder().run(
            known, "work", {"times": 5}, models=Model(), flow_id="ask", budget={"max_steps": 3}
        )


def test_a_step_that_may_fail_does_not_hide_a_spent_budget(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = ASKING.replace(
        "{id: b, agent: work, flow: ask,", "{id: b, agent: work, flow: ask, required: false,"
    )
    with pytest.raises(RunFailed, match="max_tokens"):
        Recorder().run(load(yaml), "p", {}, models=Model(), budget={"max_tokens": 10})


def test_the_outputs_of_all_steps_together_are_limited(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    with pytest.raises(RunFailed, match="MAX_RESULT_BYTES allows 30") as failed:
        Recorder().run(load(CHAIN), "p", {"start": "x" * 10}, limit_bytes=30)
    assert failed.value.failure.type == "InvalidOutput"


def test_the_limit_counts_what_earlier_runs_have_stored(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    known, store, limit_bytes = load(CHAIN), Recorder(), 3500
    flow.broken.add("b")
    with pytest.raises(RunFailed, match="b is broken"):
        store.run(known, "p", {"start": "x" * 2000}, limit_bytes=limit_bytes)
    flow.broken.clear()
    with pytest.raises(RunFailed, match="4013 bytes in total; MAX_RESULT_BYTES allows 3500"):
        store.run(known, "p", {"start": "x" * 2000}, limit_bytes=limit_bytes)


def test_a_stop_waits_for_what_runs_and_keeps_what_ended(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = CHAIN.replace("value: a}", "value: a, seconds: start}")
    store, stop = Recorder(), StopSignal()
    threading.Timer(0.15, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        store.run(load(yaml), "p", {"start": 0.5}, stop=stop)
    # The run ended only after the step, which ignores the stop.
    assert time.monotonic() - began > 0.45
    assert store.left_behind == 0
    assert store.records["a"].status is StepStatus.COMPLETED
    assert flow.calls == ["a", "b"]


@pytest.mark.parametrize("batch", ["", "batch_mode: true, "])
def test_a_step_sees_a_stop_that_came_while_it_was_starting(
    load: Callable[[str], Catalog], flow: Any, monkeypatch: pytest.MonkeyPatch, batch: str
) -> None:
    """The stop comes after the step has its new signal, and before it counts as running."""
    stop, begin = StopSignal(), StepState.begin

    def begin_and_be_stopped(state: StepState) -> None:
        begin(state)
        stop.request()

    monkeypatch.setattr(StepState, "begin", begin_and_be_stopped)
    flow.broken.add("complain")  # it goes on until it is asked to stop
    give_up = threading.Timer(10, flow.broken.clear)
    give_up.daemon = True
    give_up.start()
    step = f"{{id: a, agent: work, flow: complain, {batch}input_mapping: {{value: items}}}}"
    with pytest.raises(Stopped):
        Recorder().run(
            load(f"inputs: [{{name: items}}]\nsteps: [{step}]"), "p", {"items": [1]}, stop=stop
        )
    assert flow.broken == {"complain"}


def test_a_stop_does_not_wait_for_a_step_to_be_tried_again(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    flow.broken.add("a")
    step = "{id: a, agent: work, retries: {max: 1, backoff_seconds: [50]}}"
    stop, began = StopSignal(), time.monotonic()
    threading.Timer(0.2, stop.request).start()
    with pytest.raises(Stopped):
        Recorder().run(load(f"inputs: []\nsteps: [{step}]"), "p", {}, stop=stop)
    assert time.monotonic() - began < 40


def test_a_step_that_runs_out_of_time_is_asked_to_stop(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = """
    inputs: [{name: t}]
    steps:
      - {id: late, agent: work, flow: complain, timeout: 0.1, required: false}
      - {id: after, agent: work, input_mapping: {seconds: t}, depends_on: [late]}
    """
    flow.broken.add("complain")  # it goes on until it is asked to stop
    store = Recorder()
    store.run(load(yaml), "p", {"t": 0.5})
    flow.broken.clear()
    assert store.records["late"].status is StepStatus.FAILED
    assert store.left_behind == 0


def test_each_item_that_failed_has_its_own_reason(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    store = Recorder()
    flow.broken.update(["each:0", "each:1"])
    with pytest.raises(RunFailed, match=r"each:. is broken"):
        store.run(
            load(BATCH.replace("concurrent: false", "max_workers: 2")), "p", {"items": [1, 2]}
        )
    outcomes = {
        name: outcome for saved in store.checkpoints for name, outcome in saved.outcomes.items()
    }
    reasons = {name: outcome.message for name, outcome in outcomes.items() if outcome}
    assert reasons == {"each:0": "each:0 is broken", "each:1": "each:1 is broken"}


def test_a_step_that_outlives_its_run_is_reported(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = CHAIN.replace(
        "input_mapping: {value: a}", "timeout: 0.1, input_mapping: {value: a, seconds: start}"
    )
    store = Recorder()
    with pytest.raises(RunFailed, match="longer than its timeout"):
        store.run(load(yaml), "p", {"start": 3})
    assert store.left_behind == 1


def test_abandoned_steps_that_ignore_their_stop_delay_no_other_step(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = """
    inputs: [{name: items}, {name: t}]
    steps:
      - id: deaf
        agent: work
        batch_mode: true
        timeout: 0.1
        required: false
        input_mapping: {value: items, seconds: t}
      - {id: after, agent: work, timeout: 0.5, depends_on: [deaf]}
    """
    store = Recorder()
    outputs = store.run(load(yaml), "p", {"items": [1, 2, 3, 4], "t": 1.5}, max_workers=1)
    assert outputs["after"] == "after(None)"
    assert store.left_behind == 4


SHORT_AND_LONG = """
inputs: [{name: short}, {name: long}]
steps:
  - {id: a, agent: work, input_mapping: {seconds: short}}
  - {id: b, agent: work, input_mapping: {seconds: long}}
"""


def test_what_ends_while_a_stopped_run_waits_for_others_is_stored_at_once(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    stored: list[list[str]] = []

    class Looking(Recorder):
        def save(self, checkpoint: Any, wait: bool) -> None:
            super().save(checkpoint, wait)
            stop.request()
            stored.append(sorted(checkpoint.values))

    store, stop = Looking(), StopSignal()
    with pytest.raises(Stopped):
        store.run(load(SHORT_AND_LONG), "p", {"short": 0.1, "long": 2.0}, stop=stop)
    assert [names for names in stored if names] == [["a"], ["b"]]


def test_a_step_that_ends_while_a_stopped_run_stores_another_one_is_kept(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    class Slow(Recorder):
        def save(self, checkpoint: Any, wait: bool) -> None:
            super().save(checkpoint, wait)
            stop.request()
            if "a" in checkpoint.values and "b" not in checkpoint.values:
                time.sleep(1.5)  # meanwhile, b ends

    store, stop = Slow(), StopSignal()
    with pytest.raises(Stopped):
        store.run(load(SHORT_AND_LONG), "p", {"short": 0.1, "long": 0.6}, stop=stop)
    assert store.records["b"].status is StepStatus.COMPLETED
    assert json.loads(store.values["b"]) == "b(None)"


def test_steps_within_the_budget_run_and_are_kept(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = "inputs: []\nsteps: [{id: a, agent: work}, {id: b, agent: work}, {id: c, agent: work}]"
    store = Recorder()
    with pytest.raises(RunFailed, match="used 2 steps"):
        store.run(load(yaml), "p", {}, budget={"max_steps": 2})
    assert sorted(flow.calls) == ["a", "b"]
    assert {id: record.status for id, record in store.records.items()} == {
        "a": StepStatus.COMPLETED,
        "b": StepStatus.COMPLETED,
        "c": StepStatus.PENDING,
    }


def test_a_run_whose_budget_is_spent_sleeps_until_its_last_step_has_ended(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    class Counting(StopSignal):
        turns = 0

        @property
        def requested(self) -> bool:
            self.turns += 1  # the loop looks at it in each of its turns
            return super().requested

    yaml = """
    inputs: [{name: t}]
    steps:
      - {id: slow, agent: work, input_mapping: {seconds: t}}
      - {id: refused, agent: work}
    """
    stop = Counting()
    with pytest.raises(RunFailed, match="used 1 steps"):
        Recorder().run(load(yaml), "p", {"t": 0.3}, stop=stop, budget={"max_steps": 1})
    assert stop.turns < 20


def test_a_batch_fails_with_its_items_reason_although_another_item_ignores_the_stop(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = BATCH.replace("concurrent: false", "timeout: 0.2").replace(
        "{value: items}", "{value: items, seconds: t}"
    )
    flow.broken.add("each:0")
    with pytest.raises(RunFailed, match=r"each:. is broken"):
        Recorder().run(
            load(yaml.replace("{name: items}", "{name: items}, {name: t}")),
            "p",
            {"items": [1, 2], "t": 1},
        )


def test_an_output_that_was_refused_does_not_count_towards_the_limit(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = """
    inputs: [{name: large}]
    steps:
      - {id: one, agent: work, input_mapping: {value: large}}
      - {id: two, agent: work, required: false, input_mapping: {value: large}, depends_on: [one]}
      - {id: last, agent: work, depends_on: [two]}
    outputs: [{key: last}]
    """
    outputs = Recorder().run(load(yaml), "p", {"large": "x" * 500}, limit_bytes=900)
    assert outputs["last"] == "last(None)"


def test_a_batch_that_is_too_large_as_a_whole_is_the_steps_failure(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = BATCH.replace("batch_mode: true", "batch_mode: true, required: false")
    outputs = Recorder().run(load(yaml), "p", {"items": list(range(50))}, limit_bytes=640)
    assert outputs["each"] is None


def test_the_record_of_a_batch_has_what_its_items_have_used(
    load: Callable[[str], Catalog], flow: Any
) -> None:
    yaml = BATCH.replace("agent: work", "agent: work, flow: ask")
    store = Recorder()
    store.run(load(yaml), "p", {"items": [1, 2]}, models=Model())
    records = [record for saved in store.checkpoints for record in saved.records]
    seen = [record.usage for record, moment in records if not moment]
    assert {"m-1": ModelUsage(1, 11, 5, 16)} in seen
