"""Pipelines on real workers: a finished step never runs again, and its output is kept however the
execution ends.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from tests.faults.conftest import children_of
from tests.support.model_server import Answer, ModelServer
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]

AGENT = """
inputs:
  - {name: plan, type: object, required: true}
  - {name: before}
  - {name: more}
default_flow: process
flows:
  - {name: process, entrypoint: "flow.py:run"}
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: ask, file: ask.yaml}
"""

FLOW = '''
"""Notes in a file that it began; waits where its plan says, until there is a file that lets it go."""
import os
import time
from pathlib import Path


def run(inputs, context):
    plan, step = inputs["plan"], context.step_key.partition(":")[2]
    if plan.get("bytes"):
        return "x" * plan["bytes"]
    _hold(plan, step, "before")
    with Path(plan["log"]).open("a") as log:
        log.write(step + "\\n")
    _hold(plan, step, "inside")
    if plan.get("fail") == step and not Path(plan["log"] + ".go").exists():
        raise ValueError("told to fail")
    return {"output": [step, inputs.get("before"), inputs.get("more")]}


def _hold(plan, step, moment):
    if step in plan.get("hold", []) and plan["moment"] == moment:
        Path(f"{plan['log']}.{step}.held").touch()
        while not Path(plan["log"] + ".go").exists():
            time.sleep(0.005)
'''

STEPS = [f"s{number}" for number in range(1, 7)]

PIPELINE = """
inputs: [{name: plan, type: object, required: true}]
steps:
  - {id: s1, agent: held, flow: FLOW, input_mapping: {plan: plan}}
  - {id: s2, agent: held, flow: FLOW, input_mapping: {plan: plan, before: s1}}
  - {id: s3, agent: held, flow: FLOW, input_mapping: {plan: plan, before: s1}}
  - {id: s4, agent: held, flow: FLOW, input_mapping: {plan: plan, before: s2, more: s3}}
  - {id: s5, agent: held, flow: FLOW, input_mapping: {plan: plan, before: s4}}
  - {id: s6, agent: held, flow: FLOW, input_mapping: {plan: plan, before: s5}}
"""

BATCHED = """
inputs: [{name: plan, type: object, required: true}, {name: items, type: array, required: true}]
steps:
  - {id: each, agent: held, batch_mode: true, max_workers: 2, input_mapping: {plan: plan, before: items}}
"""

ASKING = """
inputs: [{name: plan, type: object, required: true}]
steps:
  - {id: one, agent: held, flow: ask, input_mapping: {plan: plan}}
  - {id: two, agent: held, flow: ask, input_mapping: {plan: plan, before: one}}
  - {id: three, agent: held, flow: ask, input_mapping: {plan: plan, before: two}}
"""


ODD = """
inputs: [{name: plan, type: object, required: true}, {name: rows, type: array}]
steps:
  - {id: one, agent: held, flow: thread, required: false, input_mapping: {plan: plan}}
  - {id: two, agent: held, flow: thread, when: "length(one) > `0`", input_mapping: {plan: plan}}
  - {id: dear, type: batch_aggregator, aggregation_strategy: filter, condition: "item.price > 1",
     input_mapping: {items: rows}}
outputs: [{key: two}, {key: dear}]
"""


def write_targets(folder: Path) -> dict[str, Path]:
    """The agent `held`, and the pipelines `by_process`, `by_thread`, `batched`, `asking` and `odd`."""
    agent, pipelines = folder / "own/agents/held", folder / "own/pipelines"
    (agent / "prompts").mkdir(parents=True)
    pipelines.mkdir()
    (agent / "agent.yaml").write_text(AGENT)
    (agent / "flow.py").write_text(FLOW)
    (agent / "prompts/ask.yaml").write_text("user_template: '{before}?'\n")
    for flow in ("process", "thread"):
        (pipelines / f"by_{flow}.yaml").write_text(PIPELINE.replace("FLOW", flow))
    for name, text in (("batched", BATCHED), ("asking", ASKING), ("odd", ODD)):
        (pipelines / f"{name}.yaml").write_text(text)
    return {"agents": agent.parent, "pipelines": pipelines}


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, Path]:
    """For a test that changes them, or kills a worker that runs them."""
    return write_targets(tmp_path)


@pytest.fixture(scope="module")
def shared_targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_targets(tmp_path_factory.mktemp("durable"))


def steps_of(service: Service, id: str) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in service.get(f"/executions/{id}/steps").json()["steps"]}


def completed(steps: dict[str, dict[str, Any]]) -> list[str]:
    return [id for id, step in steps.items() if step["status"] == "completed"]


def wait_until_held(
    service: Service,
    id: str,
    log: Path,
    held: Sequence[str],
    ready: Callable[[dict[str, dict[str, Any]]], bool],
) -> None:
    """Until each of `held` is where its plan holds it, and `ready` is true of what the service says
    of the steps.
    """
    deadline = time.monotonic() + 60
    while not (
        all(Path(f"{log}.{step}.held").exists() for step in held) and ready(steps_of(service, id))
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def let_go(log: Path) -> None:
    Path(f"{log}.go").touch()


def kill_the_worker(service: Service) -> None:
    children = children_of(service.workers[0].pid)
    service.workers[0].kill()
    psutil.wait_procs(children, timeout=5)  # they notice at once, but not in no time


ONE_BY_ONE = {(step,): STEPS[:number] for number, step in enumerate(STEPS)}
SIDE_BY_SIDE = {
    **ONE_BY_ONE,
    ("s2",): ["s1", "s3"],
    ("s3",): ["s1", "s2"],
    ("s2", "s3"): ["s1"],
}
"""Which steps are held when their worker is killed, and which have been finished by then."""


@pytest.mark.parametrize(
    ("max_workers", "held_and_finished"), [(1, ONE_BY_ONE), (4, SIDE_BY_SIDE)], ids=["1", "4"]
)
@pytest.mark.parametrize("flow", ["process", "thread"])
def test_a_worker_that_is_killed_at_any_step_leaves_finished_steps_finished(
    make_service: Make,
    targets: dict[str, Path],
    tmp_path: Path,
    flow: str,
    max_workers: int,
    held_and_finished: dict[tuple[str, ...], list[str]],
) -> None:
    """Executions that are each held before, or inside, others of their six steps when kill -9 ends
    their worker.
    """
    cases = [(moment, held) for moment in ("before", "inside") for held in held_and_finished]
    service = make_service(**targets, LEASE=2, WORKER_PROCESSES=len(cases))
    undisturbed = service.run(
        f"by_{flow}", {"plan": {"log": str(tmp_path / "calm")}}, type="pipeline"
    )["outputs"]
    ids, logs = {}, {case: tmp_path / "-".join([case[0], *case[1]]) for case in cases}
    for moment, held in cases:
        plan = {"log": str(logs[moment, held]), "hold": held, "moment": moment}
        id = service.start(
            f"by_{flow}", {"plan": plan}, type="pipeline", config={"max_workers": max_workers}
        )
        ids[moment, held] = id
    for (moment, held), id in ids.items():
        finished = held_and_finished[held]
        wait_until_held(
            service, id, logs[moment, held], held, lambda steps, it=finished: completed(steps) == it
        )
    kill_the_worker(service)
    for log in logs.values():
        let_go(log)
    service.start_worker()
    for (moment, held), id in ids.items():
        ended = service.ended(id)
        assert (ended["status"], ended["attempt"], ended["outputs"]) == (
            "completed",
            2,
            undisturbed,
        )
        runs = logs[moment, held].read_text().split()
        assert sorted(runs) == sorted([*STEPS, *held] if moment == "inside" else STEPS)
        attempts = {step: record["attempt"] for step, record in steps_of(service, id).items()}
        assert attempts == {step: 2 if step in held else 1 for step in STEPS}


@pytest.mark.parametrize("flow", ["process", "thread"])
def test_no_step_starts_while_the_store_cannot_be_told_of_it(
    make_service: Make,
    targets: dict[str, Path],
    tmp_path: Path,
    own_store: EmbeddedStore,
    flow: str,
) -> None:
    service, log = make_service(own_store.url, **targets), tmp_path / "log"
    plan = {"log": str(log), "hold": ["s1"], "moment": "inside"}
    id = service.start(f"by_{flow}", {"plan": plan}, type="pipeline")
    wait_until_held(service, id, log, ["s1"], lambda steps: steps["s1"]["status"] == "running")
    own_store.send_signal(signal.SIGSTOP)
    try:
        let_go(log)
        time.sleep(1.5)  # long enough for all of the steps, if nothing held them back
        assert log.read_text().split() == ["s1"]
    finally:
        own_store.send_signal(signal.SIGCONT)
    assert (service.ended(id)["status"], sorted(log.read_text().split())) == ("completed", STEPS)


def test_a_worker_that_is_killed_inside_an_item_leaves_finished_items_finished(
    make_service: Make, targets: dict[str, Path], tmp_path: Path
) -> None:
    service, log = make_service(**targets, LEASE=2), tmp_path / "log"
    plan = {"log": str(log), "hold": ["each:1"], "moment": "inside"}
    id = service.start("batched", {"plan": plan, "items": ["a", "b", "c", "d"]}, type="pipeline")
    wait_until_held(
        service, id, log, ["each:1"], lambda steps: len(steps["each"].get("items", [])) == 3
    )
    kill_the_worker(service)
    let_go(log)
    service.start_worker()
    outputs = service.ended(id)["outputs"]
    assert outputs["each"] == [[f"each:{number}", item, None] for number, item in enumerate("abcd")]
    assert sorted(log.read_text().split()) == ["each:0", "each:1", "each:1", "each:2", "each:3"]


def test_a_step_that_failed_is_retried_on_its_own(service_with: Make, tmp_path: Path) -> None:
    service, log = service_with(), tmp_path / "log"
    failed = service.run("by_process", {"plan": {"log": str(log), "fail": "s4"}}, type="pipeline")
    assert failed["error"]["details"].pop("location")["file"] == "flow.py"
    assert failed["error"]["details"] == {
        "pipeline_id": "by_process",
        "step_id": "s4",
        "agent_id": "held",
        "flow_id": "process",
    }
    assert set(failed["outputs_partial"]) == {"s1", "s2", "s3"}
    assert failed["outputs_partial"]["s2"] == ["s2", ["s1", None, None], None]
    assert {
        id: step["status"] for id, step in steps_of(service, failed["execution_id"]).items()
    } == {
        **dict.fromkeys(["s1", "s2", "s3"], "completed"),
        "s4": "failed",
        **dict.fromkeys(["s5", "s6"], "cancelled"),
    }
    (tmp_path / "log.go").touch()
    answer = service.post(f"/executions/{failed['execution_id']}/retry")
    assert answer.status_code == 202
    assert answer.json()["retry_of"] == failed["execution_id"]
    ended = service.ended(answer.json()["execution_id"])
    assert (ended["status"], ended["attempt"], ended["retry_of"]) == (
        "completed",
        1,
        failed["execution_id"],
    )
    assert sorted(log.read_text().split()) == ["s1", "s2", "s3", "s4", "s4", "s5", "s6"]
    assert service.status(failed["execution_id"])["status"] == "failed"


@pytest.fixture
def service_with(shared_service: Make, shared_targets: dict[str, Path]) -> Make:
    return lambda **options: shared_service(**shared_targets, **options)


def test_a_retry_from_the_start_does_all_again(service_with: Make, tmp_path: Path) -> None:
    service, log = service_with(), tmp_path / "log"
    failed = service.run(
        "by_thread",
        {"plan": {"log": str(log), "fail": "s2"}},
        type="pipeline",
        config={"max_workers": 1},
    )
    (tmp_path / "log.go").touch()
    again = service.post(
        f"/executions/{failed['execution_id']}/retry", json={"from": "start"}
    ).json()
    assert service.ended(again["execution_id"])["status"] == "completed"
    assert log.read_text().split() == ["s1", "s2", *STEPS]


def test_only_what_failed_or_was_cancelled_can_be_retried(
    service_with: Make, tmp_path: Path
) -> None:
    service = service_with()
    done = service.run("behaves", {"do": "echo"})["execution_id"]
    running = service.start("behaves", {"do": "listen", "seconds": 30})
    service.until(running, "running")
    for id, status in ((done, "completed"), (running, "running")):
        refused = service.post(f"/executions/{id}/retry")
        assert (refused.status_code, refused.json()["code"]) == (400, "not_retryable")
        assert status in refused.json()["detail"]
    service.cancel(running)
    again = service.post(f"/executions/{running}/retry", json={"config": {"timeout": 1}})
    assert again.status_code == 202
    ended = service.ended(again.json()["execution_id"])
    assert (ended["error"]["type"], ended["retry_of"]) == ("Timeout", running)
    assert service.post("/executions/exec_00000000000000000000/retry").status_code == 404
    assert service.post(f"/executions/{running}/retry", json={"form": "start"}).status_code == 400
    assert (
        service.post(
            f"/executions/{running}/retry", data="{", headers={"Content-Type": "application/json"}
        ).status_code
        == 400
    )


def test_a_retry_of_another_definition_is_refused_unless_from_the_start(
    make_service: Make, targets: dict[str, Path], tmp_path: Path, own_store: EmbeddedStore
) -> None:
    first = make_service(own_store.url, **targets)
    log = tmp_path / "log"
    failed = first.run("by_process", {"plan": {"log": str(log), "fail": "s2"}}, type="pipeline")[
        "execution_id"
    ]
    first.__exit__()
    path = targets["pipelines"] / "by_process.yaml"
    path.write_text(path.read_text().replace("before: s5", "before: s4"))
    (tmp_path / "log.go").touch()
    second = make_service(own_store.url, **targets)
    refused = second.post(f"/executions/{failed}/retry")
    assert refused.status_code == 400
    [error] = refused.json()["errors"]
    assert (error["field"], error["code"]) == ("from", "definition_changed")
    again = second.post(f"/executions/{failed}/retry", json={"from": "start"}).json()[
        "execution_id"
    ]
    assert second.ended(again)["status"] == "completed"


def test_a_retry_that_is_repeated_with_its_key_is_one_execution(
    service_with: Make, tmp_path: Path
) -> None:
    service = service_with()
    plan = {"log": str(tmp_path / "log"), "fail": "s2"}
    failed = service.run("by_thread", {"plan": plan}, type="pipeline")["execution_id"]
    url, key = f"/executions/{failed}/retry", {"Idempotency-Key": "again-1"}
    first, second = (service.post(url, headers=key) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
    assert service.post(url, headers=key, json={"from": "start"}).status_code == 422


def test_a_cancelled_pipeline_keeps_what_it_finished(service_with: Make, tmp_path: Path) -> None:
    service = service_with(CANCEL_GRACE=0.3)
    plan = {"log": str(tmp_path / "log"), "hold": ["s4"], "moment": "inside"}
    id = service.start("by_process", {"plan": plan}, type="pipeline")
    while not (tmp_path / "log.s4.held").exists():
        time.sleep(0.01)
    running = steps_of(service, id)
    assert (running["s3"]["status"], running["s4"]["status"], running["s5"]["status"]) == (
        "completed",
        "running",
        "pending",
    )
    assert service.status(id)["progress"] == {
        "current_step": 3,
        "total_steps": 6,
        "percentage": 50.0,
        "current_step_name": "s4",
    }
    assert service.cancel(id).status_code == 200
    ended = service.get(f"/executions/{id}", params={"include": "steps"}).json()
    assert set(ended["outputs_partial"]) == {"s1", "s2", "s3"}
    assert [step["status"] for step in ended["steps"]] == [*["completed"] * 3, *["cancelled"] * 3]


def test_tokens_are_counted_and_the_budget_holds_also_over_a_retry(
    service_with: Make, model: ModelServer, tmp_path: Path
) -> None:
    service = service_with(OPENAI_BASE_URL=model.url, OPENAI_MODEL_NAME="m")
    plan = {"plan": {"log": str(tmp_path / "log")}}
    spent = service.run("asking", plan, type="pipeline", config={"budget": {"max_tokens": 20}})
    assert spent["error"]["type"] == "BudgetExceeded"
    assert spent["error"]["details"]["step_id"] == "three"
    assert spent["usage"]["tokens_used"] == 32
    assert len(model.requests) == 2
    url = f"/executions/{spent['execution_id']}/retry"
    same = service.ended(service.post(url).json()["execution_id"])
    assert same["error"]["type"] == "BudgetExceeded"
    assert len(model.requests) == 2
    more = service.post(url, json={"config": {"budget": {"max_tokens": 100}}}).json()[
        "execution_id"
    ]
    ended = service.ended(more)
    assert ended["outputs"]["metadata"] == {"tokens_used": 48, "models_used": ["m-served"]}
    assert len(model.requests) == 3
    step = steps_of(service, more)["three"]
    assert (step["model"], step["tokens"]) == ("m-served", {"input": 11, "output": 5, "total": 16})


def test_tokens_of_a_run_that_was_cancelled_or_failed_are_known(
    service_with: Make, model: ModelServer, tmp_path: Path
) -> None:
    service = service_with(OPENAI_BASE_URL=model.url, OPENAI_MODEL_NAME="m", MODEL_MAX_RETRIES=0)
    model.answers.extend([Answer(), Answer(delay_seconds=30)])
    id = service.start("asking", {"plan": {"log": ""}}, type="pipeline")
    while len(model.requests) < 2:
        time.sleep(0.01)
    assert service.cancel(id).status_code == 200
    assert service.status(id)["usage"]["tokens_used"] == 16
    model.answers.extend([Answer(), Answer(status=400)])
    failed = service.run("asking", {"plan": {"log": ""}}, type="pipeline")
    assert (failed["error"]["type"], failed["usage"]["tokens_used"]) == ("ModelRejected", 16)
    loop = service.start("behaves", {"do": "complete_and_hang", "text": "?"})
    service.until(loop, "running")
    deadline = time.monotonic() + 60
    while "usage" not in service.status(loop):  # its call is answered, and the worker knows
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert service.cancel(loop).status_code == 200
    assert service.status(loop)["usage"]["models"]["m-served"]["calls"] == 1


def test_an_agents_execution_has_one_step(service: Service) -> None:
    done = service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})["execution_id"]
    body = service.get(f"/executions/{done}/steps").json()
    [step] = body["steps"]
    assert (body["status"], step["id"], step["agent"], step["flow"]) == (
        "completed",
        "behaves",
        "behaves",
        "thread",
    )
    assert (step["status"], step["attempt"]) == ("completed", 1)
    assert step["started_at"] <= step["ended_at"]
    failed = service.run("behaves", {"do": "fail"})["execution_id"]
    outputs = {"include": "outputs"}
    assert service.get(f"/executions/{done}/steps", params=outputs).json()["outputs"] == {
        "output": service.status(done)["outputs"]["output"]
    }
    assert service.get(f"/executions/{failed}/steps", params=outputs).json()["outputs"] == {}
    [step] = service.get(f"/executions/{failed}/steps").json()["steps"]
    assert (step["status"], step["error"]["type"]) == ("failed", "ValueError")
    assert service.get("/executions/exec_00000000000000000000/steps").status_code == 404
    assert service.get(f"/executions/{failed}/steps", params={"include": "x"}).status_code == 400


def test_what_was_passed_over_is_in_the_record_of_its_step(
    service_with: Make, tmp_path: Path
) -> None:
    service, log = service_with(), tmp_path / "log"
    inputs = {"plan": {"log": str(log), "fail": "one"}, "rows": [{"price": 2}, {"price": "5"}]}
    ended = service.run("odd", inputs, type="pipeline")
    assert ended["outputs"] == {
        "two": None,
        "dear": [{"price": 2}],
        "metadata": ended["outputs"]["metadata"],
    }
    steps = steps_of(service, ended["execution_id"])
    assert steps["two"]["status"] == "skipped"
    assert steps["two"]["warnings"][0].startswith(
        "The condition 'length(one) > `0`' cannot be evaluated"
    )
    assert steps["dear"]["warnings"][0].startswith("Item 1 counts as false")
    assert "warnings" not in steps["one"]


def test_before_it_runs_a_pipelines_steps_are_pending(service_with: Make, tmp_path: Path) -> None:
    service = service_with(workers=0)
    id = service.start("by_process", {"plan": {"log": ""}}, type="pipeline")
    assert {step["status"] for step in steps_of(service, id).values()} == {"pending"}
    assert list(steps_of(service, id)) == STEPS


def test_large_step_outputs_cost_a_status_nothing_and_can_be_read(
    own_store: EmbeddedStore, targets: dict[str, Path], make_service: Make
) -> None:
    service = make_service(own_store.url, **targets, MAX_RESULT_BYTES=20_000_000)
    big = service.run("by_process", {"plan": {"bytes": 2_000_000}}, type="pipeline")["execution_id"]
    outputs = service.get(f"/executions/{big}/steps", params={"include": "outputs"}).json()[
        "outputs"
    ]
    assert {name: len(value) for name, value in outputs.items()} == dict.fromkeys(STEPS, 2_000_000)
    with redis.Redis.from_url(own_store.url) as client:
        assert client.memory_usage(f"rq:job:{big}") < 3000
    fails = service.run("by_process", {"plan": {"bytes": 4_000_000}}, type="pipeline")
    assert (fails["error"]["type"], fails["error"]["details"]["step_id"]) == ("InvalidOutput", "s5")
    assert "MAX_RESULT_BYTES allows 20000000" in fails["error"]["message"]


def test_independent_steps_take_the_time_of_the_longest(service: Service) -> None:
    """Four steps of a second side by side, and one that waits for all: two seconds, or five one by
    one.
    """

    def run(max_workers: int) -> tuple[float, list[tuple[datetime, datetime]]]:
        ended = service.run(
            "diamond",
            {"work": {"seconds": 1}},
            type="pipeline",
            config={"max_workers": max_workers},
        )
        assert ended["status"] == "completed"
        *four, _ = sorted(
            times_of(step) for step in steps_of(service, ended["execution_id"]).values()
        )
        began, done = times_of({**ended, "ended_at": ended["completed_at"]})
        return (done - began).total_seconds(), four

    side_by_side, four = min(run(4), run(4))
    assert max(began for began, _ in four) < min(done for _, done in four)
    one_by_one, four = run(1)
    assert all(done <= began for (_, done), (began, _) in itertools.pairwise(four))
    assert one_by_one >= 5
    assert side_by_side < one_by_one - 1.5  # half of what it saves, on a busy machine


def times_of(step: dict[str, Any]) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(step["started_at"]), datetime.fromisoformat(step["ended_at"])
