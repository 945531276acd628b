"""Each way in which a run can end, with real workers, in a process and in a thread."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.support.pace import within
from tests.support.service import Service

BOTH = pytest.mark.parametrize("flow", ["process", "thread"])


def run(service: Service, flow: str, config: dict | None = None, **inputs: object) -> dict:
    return service.run("behaves", inputs, config={"flow_id": flow, **(config or {})})


@BOTH
def test_what_a_flow_returns_is_its_output(service: Service, flow: str) -> None:
    ended = run(service, flow, do="echo", text="héllo 世界")
    assert ended["status"] == "completed"
    assert ended["outputs"]["output"]["text"] == "héllo 世界"
    assert ended["outputs"]["metadata"] == {"model_used": None, "tokens_used": None}
    assert ended["progress"] == {
        "current_step": 1,
        "total_steps": 1,
        "percentage": 100.0,
        "current_step_name": None,
    }
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["completed"]


def test_async_functions_and_objects_with_invoke_are_flows_too(service: Service) -> None:
    assert run(service, "async", seconds=0.05)["outputs"]["output"] == {"seconds": 0.05}
    assert run(service, "invoke", text="hi")["outputs"] == {
        "output": {"text": "hi"},
        "metadata": {"model_used": "invoked", "tokens_used": 7},
    }


@BOTH
def test_an_exception_fails_with_its_name_and_message(service: Service, flow: str) -> None:
    ended = run(service, flow, do="fail", message="No such customer.")
    assert ended["error"]["details"].pop("location")["file"] == "flow.py"
    assert ended["error"] == {
        "type": "ValueError",
        "message": "No such customer.",
        "details": {"agent_id": "behaves"},
    }
    assert "outputs" not in ended


@BOTH
def test_a_secret_in_an_exception_is_masked_and_a_long_message_cut(
    service: Service, flow: str
) -> None:
    message = run(service, flow, do="fail", message="key sk-abcdefghijkl failed " + "x" * 9000)[
        "error"
    ]["message"]
    assert "sk-abc" not in message
    assert len(message) <= 4096


@BOTH
def test_sys_exit_fails_and_does_not_end_the_worker(service: Service, flow: str) -> None:
    assert run(service, flow, do="sys_exit")["error"]["type"] == "SystemExit"
    assert run(service, flow, do="echo")["status"] == "completed"


@pytest.mark.parametrize(
    "what", ["set", "nan", "object", "generator", "keys", "loop", "surrogate", "bytes"]
)
def test_a_result_that_json_can_not_hold_fails_and_is_named(service: Service, what: str) -> None:
    ended = run(service, "thread", do="not_json", what=what)
    assert ended["status"] == "failed"
    assert ended["error"]["type"] == "InvalidOutput"
    assert ended["error"]["message"]


@pytest.mark.parametrize("how", ["exit", "segfault", "kill"])
def test_a_process_that_dies_is_tried_again_and_then_lost(service: Service, how: str) -> None:
    ended = run(service, "process", {"max_attempts": 2}, do=how)
    assert ended["status"] == "failed"
    assert ended["error"]["type"] == "WorkerLost"
    assert ended["error"]["details"] == {"agent_id": "behaves"}
    assert ("out of memory" in ended["error"]["message"]) == (
        how == "kill"
    )  # as the kernel would do it
    assert ended["attempt"] == 2
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["lost", "lost"]


def test_a_process_that_dies_once_ends_well_at_the_next_attempt(service: Service) -> None:
    ended = run(service, "process", do="kill", until_attempt=2)
    assert (ended["status"], ended["outputs"]["output"], ended["attempt"]) == (
        "completed",
        "survived",
        2,
    )


@pytest.mark.parametrize(
    ("flow", "do"),
    [
        ("process", "sleep"),
        ("process", "swallow"),
        ("process", "hold_the_lock"),
        ("process", "regex"),
        ("thread", "sleep"),
        ("thread", "listen"),
    ],
)
def test_a_timeout_ends_whatever_the_flow_does_at_most_a_second_late(
    service: Service, flow: str, do: str
) -> None:
    began = time.monotonic()
    ended = run(service, flow, {"timeout": 1}, do=do, seconds=5)
    assert ended["error"]["type"] == "Timeout"
    assert "1 s" in ended["error"]["message"]
    assert time.monotonic() - began < within(2.5)


@BOTH
def test_a_failure_is_tried_again_as_often_as_retries_say(service: Service, flow: str) -> None:
    config = {"retries": {"max": 2, "backoff_seconds": [0.1]}}
    ended = run(service, flow, config, do="fail_until", attempt=3)
    assert ended["status"] == "completed"
    assert ended["outputs"]["output"]["attempt"] == 3
    assert ended["outputs"]["output"]["step_key"] == f"{ended['execution_id']}:behaves"
    assert [attempt["outcome"] for attempt in ended["attempts"]] == [
        "failed",
        "failed",
        "completed",
    ]
    given_up = run(service, flow, {"retries": {"max": 1, "backoff_seconds": [0.1]}}, do="fail")
    assert (given_up["status"], given_up["attempt"]) == ("failed", 2)


def test_while_a_retry_waits_the_execution_is_pending(service: Service) -> None:
    id = service.start(
        "behaves", {"do": "fail"}, config={"retries": {"max": 1, "backoff_seconds": [30]}}
    )
    deadline = time.monotonic() + 60
    while (body := service.status(id))["attempt"] == 0 or body["status"] != "pending":
        assert time.monotonic() < deadline, body
        time.sleep(0.01)
    assert (body["status"], body["phase"]) == ("pending", "retry_wait")
    assert service.cancel(id).status_code == 200


@pytest.mark.parametrize("then", ["return", "exit", "sleep"])
def test_what_a_flow_leaves_behind_is_ended(service: Service, tmp_path: Path, then: str) -> None:
    pid_file = tmp_path / "pid"
    config = {"max_attempts": 1, "timeout": 2}
    run(service, "process", config, do="leave_children", pid_file=str(pid_file), then=then)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(int(pid_file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_progress_is_seen_while_it_runs_and_never_goes_back(service: Service) -> None:
    id = service.start("behaves", {"do": "progress", "steps": 10, "pause": 0.15})
    seen = []
    while (body := service.status(id))["status"] in ("pending", "running"):
        if "progress" in body:
            seen.append((body["progress"]["current_step"], body["progress"]["total_steps"]))
        time.sleep(0.02)
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)
    assert len({step for step, total in seen if total == 10}) >= 4


@pytest.mark.parametrize("flow", ["process", "thread"])
def test_a_step_name_that_is_no_text_is_the_flows_own_failure(service: Service, flow: str) -> None:
    for _ in range(5):
        ended = run(service, flow, do="bad_progress")
        assert (ended["status"], ended["error"]["type"]) == ("failed", "ValueError")
    assert run(service, flow, do="echo")["status"] == "completed"


def test_the_next_run_finds_its_process_as_the_last_one_did(make_service, tmp_path: Path) -> None:
    service = make_service(WORKER_PROCESSES=1)
    first = run(service, "process", do="dirty")["outputs"]["output"]
    assert run(service, "process", do="dirty")["outputs"]["output"] == first
    late = tmp_path / "late"
    assert run(service, "process", do="dirty", late=str(late))["status"] == "completed"
    assert (
        run(service, "process", do="dirty")["outputs"]["output"][2] != first[2]
    )  # threads end with their process
    time.sleep(1.2)
    assert not late.exists()


def test_an_exception_that_can_not_be_read_is_named_all_the_same(service: Service) -> None:
    error = run(service, "process", do="unspeakable")["error"]
    assert (error["type"], error["details"]["agent_id"]) == ("_Unspeakable", "behaves")
    assert error["details"]["location"]["function"] == "_unspeakable"


def test_large_outputs_come_back_whole_and_too_large_ones_are_refused(make_service) -> None:
    service = make_service(MAX_RESULT_BYTES=2_000_000)
    ended = run(service, "process", do="large", bytes=1_500_000)
    assert ended["outputs"]["output"] == "x" * 1_500_000
    refused = run(service, "process", do="large", bytes=2_500_000)
    assert refused["error"]["type"] == "InvalidOutput"
    assert "MAX_RESULT_BYTES" in refused["error"]["message"]
