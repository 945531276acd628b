"""The events that a run tells through its worker: once each, whatever happens on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.events import Event
from app.worker.event_buffer import MAX_EVENTS
from tests.support.proxy import Proxy
from tests.support.run_log import RunLog, run_log
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]

AGENT = """
flows:
  - {name: process, entrypoint: "flow.py:run"}
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: waits, entrypoint: "flow.py:waits"}
  - {name: breaks, entrypoint: "flow.py:breaks", isolation: thread}
  - {name: held, entrypoint: "flow.py:held"}
  - {name: dies, entrypoint: "flow.py:dies"}
  - {name: floods, entrypoint: "flow.py:floods", isolation: thread}
"""

FLOW = """
import asyncio, os, time
from pathlib import Path

def run(inputs, context):
    for number in range(inputs.get("lines") or 0):
        context.log(f"line {number}")
        time.sleep(inputs.get("pause") or 0)
    return "done"

async def waits(inputs, context):
    for number in range(inputs.get("lines") or 0):
        context.log(f"line {number}")
        await asyncio.sleep(inputs.get("pause") or 0)
    return "done"

def breaks(inputs, context):
    context.log("trying", key="sk-0123456789abcdef", attempt_number=1)
    path = Path(inputs["path"])
    if not path.exists():
        path.write_text("")
        raise ConnectionError("not now")
    return "done"

def held(inputs, context):
    context.log(f"attempt {context.attempt}")
    while not Path(inputs["path"]).exists():
        time.sleep(0.02)
    context.log(f"end {context.attempt}")
    return "done"

def dies(inputs, context):
    context.log("I die now")
    os._exit(3)

def floods(inputs, context):
    for number in range(inputs["lines"]):
        context.log(f"line {number}", text="x" * 100)
    return "done"
"""

PIPELINE = """
inputs: [{name: path}, {name: no}]
steps:
  - {id: shaky, agent: speaker, flow: breaks, retries: {max: 1, backoff_seconds: [0.1]},
     input_mapping: {path: path}}
  - {id: skipped, agent: speaker, flow: thread, depends_on: [shaky], when: "no", input_mapping: {}}
  - {id: bad, agent: speaker, flow: floods, required: false, depends_on: [shaky],
     input_mapping: {lines: path}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("told")
    home = folder / "agents" / "speaker"
    home.mkdir(parents=True)
    (home / "agent.yaml").write_text(AGENT)
    (home / "flow.py").write_text(FLOW)
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "shaky.yaml").write_text(PIPELINE)
    return {"agents": folder / "agents", "pipelines": folder / "pipelines"}


@pytest.fixture
def service(shared_service: Make, files: dict[str, Path]) -> Service:
    return shared_service(**files)


@pytest.fixture
def log(service: Service) -> Iterator[RunLog]:
    with run_log(service.env["REDIS_URL"]) as log:
        yield log


@pytest.fixture
def proxy(own_store: EmbeddedStore) -> Iterator[Proxy]:
    with Proxy(own_store.url.removeprefix("unix://")) as running:
        yield running


def told(events: list[Event]) -> list[str]:
    return [event.data["message"] for event in events if event.type == "log"]


def lines(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


@pytest.mark.parametrize("flow", ["process", "thread", "waits"])
def test_what_a_flow_logs_is_in_the_log_of_its_execution_before_its_end(
    service: Service, log: RunLog, flow: str
) -> None:
    ended = service.run("speaker", {"lines": 500}, config={"flow_id": flow})
    types = log.types(ended["execution_id"])
    assert types == ["created", "started", *["log"] * 500, "completed"]
    assert log.lines(ended["execution_id"]) == lines(500)
    assert "line 7" in service.output("worker0"), "It must be in the worker's log, too."


def test_a_line_appears_while_the_flow_runs(service: Service, log: RunLog, tmp_path: Path) -> None:
    path = tmp_path / "go"
    execution = service.start("speaker", {"path": str(path)}, config={"flow_id": "held"})
    log.until(execution, lambda events: told(events) == ["attempt 1"])
    assert service.status(execution)["status"] == "running"
    path.write_text("")
    service.ended(execution)
    assert log.lines(execution) == ["attempt 1", "end 1"]


def test_a_run_that_tells_nothing_stores_no_list(service: Service, log: RunLog) -> None:
    ended = service.run("speaker", config={"flow_id": "process"})
    assert log.types(ended["execution_id"]) == ["created", "started", "completed"]
    assert ended["version"] == 3


def test_steps_tell_when_they_start_end_fail_and_are_skipped(
    service: Service, log: RunLog, tmp_path: Path
) -> None:
    inputs = {"path": str(tmp_path / "tried"), "no": False}
    ended = service.run("shaky", inputs, type="pipeline")
    assert ended["status"] == "completed", ended
    events = log.read(ended["execution_id"])
    steps = [
        (event.type, event.data["step"], event.data["attempt"])
        for event in events
        if event.type.startswith("step.")
    ]
    assert steps[:4] == [
        ("step.started", "shaky", 1),
        ("step.failed", "shaky", 1),
        ("step.started", "shaky", 2),
        ("step.completed", "shaky", 2),
    ]
    assert sorted(steps[4:]) == [
        ("step.failed", "bad", 1),
        ("step.skipped", "skipped", 0),
        ("step.started", "bad", 1),
    ]
    failed = [event.data for event in events if event.type == "step.failed"]
    assert [data["retrying"] for data in failed] == [True, False]
    assert failed[0]["error"]["message"] == "not now"
    said = [event.data for event in events if event.type == "log"]
    assert [data["step"] for data in said] == ["shaky", "shaky"]
    assert said[0]["fields"] == {"key": "[masked]", "attempt_number": 1}
    assert events[-1].type == "completed"


def test_a_retry_tells_its_own_events_after_those_of_the_attempt_before(
    service: Service, log: RunLog, tmp_path: Path
) -> None:
    config = {"flow_id": "breaks", "retries": {"max": 1, "backoff_seconds": [0.1]}}
    ended = service.run("speaker", {"path": str(tmp_path / "tried")}, config=config)
    assert ended["status"] == "completed", ended
    assert log.types(ended["execution_id"]) == [
        "created",
        "started",
        "log",
        "retrying",
        "progress",  # the delay is over
        "started",
        "log",
        "completed",
    ]


def test_nothing_is_lost_and_nothing_comes_twice_when_the_store_is_away(
    make_service: Make, proxy: Proxy, own_store: EmbeddedStore, files: dict[str, Path]
) -> None:
    service = make_service(proxy.url, **files)
    inputs = {"lines": 300, "pause": 0.02}
    with run_log(own_store.url) as log:
        running = [
            service.start("speaker", inputs, config={"flow_id": flow})
            for flow in ("process", "thread", "waits")
        ]
        for execution in running:
            log.until(execution, lambda events: len(told(events)) > 20)
        proxy.mode = "cut"
        time.sleep(2)
        proxy.mode = "pass"
        for execution in running:
            service.ended(execution, seconds=120)
            assert log.lines(execution) == lines(300)


def test_an_answer_of_the_store_that_gets_lost_does_no_harm(
    make_service: Make, proxy: Proxy, own_store: EmbeddedStore, files: dict[str, Path]
) -> None:
    """The store has taken the events, and the worker sends them again."""
    service = make_service(proxy.url, **files)
    with run_log(own_store.url) as log:
        inputs = {"lines": 300, "pause": 0.02}
        execution = service.start("speaker", inputs, config={"flow_id": "thread"})
        log.until(execution, lambda events: len(told(events)) > 5)
        dropped = proxy.dropped
        proxy.drop_after = b"line "
        for _ in range(5):
            proxy.mode = "drop_answer"
            deadline = time.monotonic() + 10
            while proxy.mode != "pass" and time.monotonic() < deadline:
                time.sleep(0.02)
        proxy.mode = "pass"
        service.ended(execution, seconds=120)
        assert proxy.dropped > dropped
        assert log.lines(execution) == lines(300)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_what_an_attempt_has_told_stays_when_its_worker_ends(
    make_service: Make, files: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    service = make_service(**files, LEASE=3, SHUTDOWN_GRACE=1)
    path = tmp_path / "go"
    with run_log(service.env["REDIS_URL"]) as log:
        execution = service.start("speaker", {"path": str(path)}, config={"flow_id": "held"})
        log.until(execution, lambda events: told(events) == ["attempt 1"])
        service.workers[0].send_signal(number)
        service.start_worker()
        log.until(execution, lambda events: len(told(events)) == 2)
        path.write_text("")
        service.ended(execution)
        assert log.types(execution) == [
            *("created", "started", "log"),
            *("retrying", "started", "log", "log", "completed"),
        ]


def test_the_last_lines_of_a_process_that_dies_are_kept(service: Service, log: RunLog) -> None:
    ended = service.run("speaker", config={"flow_id": "dies", "max_attempts": 1})
    assert ended["status"] == "failed"
    assert log.lines(ended["execution_id"]) == ["I die now"]


def test_a_flood_of_lines_leaves_the_latest(service: Service, log: RunLog) -> None:
    ended = service.run("speaker", {"lines": 8000}, config={"flow_id": "floods"})
    assert ended["status"] == "completed", ended
    events = log.read(ended["execution_id"])
    assert len(events) <= 5000 + MAX_EVENTS
    logged = [event.data for event in events if event.type == "log"]
    # On a busy machine the store may not take all in time; then events say how many are missing.
    left_out = max((data["fields"].get("left_out", 0) for data in logged), default=0)
    kept = [data["message"] for data in logged if "left_out" not in data["fields"]]
    first = lines(8000).index(kept[0])
    assert [line for line in lines(8000) if line in set(kept)] == kept
    assert kept[-1] == "line 7999"
    assert 8000 - first - len(kept) <= left_out
    assert events[-1].type == "completed"


def test_a_run_without_events_sends_no_message_but_its_end(
    make_child: Callable[..., Any],
) -> None:
    source = "def run(inputs, context): return 1\n\nasync def waits(inputs, context): return 2\n"
    for isolation in ("process", "thread"):
        slots = 1 if isolation == "process" else 10
        child = make_child(source, "run", "waits", isolation=isolation, slots=slots)
        for flow in ("run", "waits"):
            token = child.start(flow)
            child.ended(token)
            kinds = [head["kind"] for head, _ in child.received if head.get("token") == token]
            assert kinds == ["ended"]
        names = {
            Path(f"/proc/{child.process.pid}/task/{task}/comm").read_text().strip()
            for task in _tasks(child.process.pid)
        }
        assert "live" not in names


def test_the_thread_that_shows_answers_counts_as_the_services_own(
    make_child: Callable[..., Any],
) -> None:
    child = make_child(
        "def run(inputs, context):\n    for n in range(300): context.log(str(n))\n", "run"
    )
    for _ in range(2):
        ended = child.run("run")
        assert (ended["leaked_threads"], ended.get("unfit")) == (0, None)


def _tasks(pid: int) -> list[str]:
    return [path.name for path in Path(f"/proc/{pid}/task").iterdir()]
