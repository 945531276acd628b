"""Agents change while executions run: a SIGHUP loads them, and a broken file changes nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from tests.faults.conftest import children_of
from tests.faults.test_web import Load
from tests.support.pace import until, within
from tests.support.service import Service

Make = Callable[..., Service]
GREETER = "flows:\n  - {name: default, entrypoint: 'greet.py:run'}\n"
THREADED = "flows:\n  - {name: default, entrypoint: 'greet.py:run', isolation: thread}\n"
CODE = (
    "import time\n\n\ndef run(inputs):\n    time.sleep(inputs.get('seconds', 0))\n    return %r\n"
)
BOTH = pytest.mark.parametrize("definition", [GREETER, THREADED], ids=["process", "thread"])


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    write(folder, GREETER, "old")
    return folder


def write(agents: Path, definition: str, answer: str, id: str = "greeter") -> None:
    (agents / id).mkdir(parents=True, exist_ok=True)
    (agents / id / "agent.yaml").write_text(definition)
    (agents / id / "greet.py").write_text(CODE % answer)


def said(service: Service, process: str, event: str) -> bool:
    return f'"event": "{event}"' in service.output(process)


def all_ready(service: Service, processes: int = 2) -> set[int]:
    """The web processes, once they have loaded everything."""
    until(lambda: service.output("web").count('"web_process_ready"') >= processes)
    return web_pids(service)


def web_pids(service: Service) -> set[int]:
    assert service.web is not None
    return {process.pid for process in psutil.Process(service.web.pid).children()}


@BOTH
def test_a_worker_runs_what_starts_after_a_reload_as_changed_and_lets_the_rest_end(
    make_service: Make, agents: Path, definition: str
) -> None:
    write(agents, definition, "old")
    service = make_service(agents=agents)
    assert service.run("greeter")["outputs"]["output"] == "old"
    running = service.start("greeter", {"seconds": 2})
    service.until(running, "running")
    until(
        lambda: len(children_of(service.workers[0].pid)) == 3
    )  # two processes, and that of the threads
    before = children_of(service.workers[0].pid)
    write(agents, definition, "new")
    service.workers[0].send_signal(signal.SIGHUP)
    until(lambda: said(service, "worker0", "reloaded"))
    assert service.run("greeter")["outputs"]["output"] == "new"
    ended = service.ended(running)
    assert (ended["status"], ended["attempt"], ended["outputs"]["output"]) == (
        "completed",
        1,
        "old",
    )
    _, alive = psutil.wait_procs(before, timeout=30)
    assert alive == []
    until(lambda: len(children_of(service.workers[0].pid)) == 3)


def test_a_worker_stays_as_it_is_when_a_file_is_broken_and_says_which(
    make_service: Make, agents: Path
) -> None:
    service = make_service(agents=agents)
    until(lambda: said(service, "worker0", "worker_started"))
    write(agents, "flows: 5\n", "old")
    service.workers[0].send_signal(signal.SIGHUP)
    until(lambda: said(service, "worker0", "reload_refused"))
    assert str(agents / "greeter" / "agent.yaml") in service.output("worker0")
    assert service.run("greeter")["outputs"]["output"] == "old"


def test_a_worker_that_still_waits_for_its_store_lives_on(make_service: Make, agents: Path) -> None:
    """It reads the files when the store is there."""
    service = make_service(redis_url="redis://127.0.0.1:1/0", agents=agents)
    until(lambda: said(service, "worker0", "store_unavailable"))
    service.workers[0].send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert service.workers[0].poll() is None


def test_the_web_knows_a_new_agent_after_a_reload_and_fails_no_request_meanwhile(
    make_service: Make, agents: Path
) -> None:
    service = make_service(agents=agents, workers=0, WEB_CONCURRENCY=2)
    start = {"type": "agent", "target_id": "latecomer", "inputs": {}}
    assert service.post("/executions", json=start).status_code == 404
    before = all_ready(service)
    write(agents, GREETER, "late", id="latecomer")
    load = Load(service, retries=False)
    assert service.web is not None
    service.web.send_signal(signal.SIGHUP)
    until(lambda: len(web_pids(service)) == 2 and not web_pids(service) & before)
    time.sleep(1)
    load.end()
    assert set(load.outcomes) == {"202"}
    assert (
        requests.post(f"{service.url}/api/v1/executions", json=start, timeout=30).status_code == 202
    )


def test_the_web_serves_on_when_a_file_is_broken_and_says_which(
    make_service: Make, agents: Path
) -> None:
    service = make_service(agents=agents, workers=0, WEB_CONCURRENCY=2)
    before = all_ready(service)
    write(agents, "flows: 5\n", "old")
    assert service.web is not None
    service.web.send_signal(signal.SIGHUP)
    until(lambda: said(service, "web", "reload_refused"))
    assert str(agents / "greeter" / "agent.yaml") in service.output("web")
    assert web_pids(service) == before
    start = {"type": "agent", "target_id": "greeter", "inputs": {}}
    assert service.post("/executions", json=start).status_code == 202


def test_the_web_lives_through_the_death_of_a_process_while_a_file_is_broken(
    make_service: Make, agents: Path
) -> None:
    """The one that is left serves on; the other comes back once the file is mended."""
    service = make_service(agents=agents, workers=0, WEB_CONCURRENCY=2)
    first = all_ready(service)
    write(agents, "flows: 5\n", "old")
    psutil.Process(first.pop()).kill()
    until(lambda: service.output("web").count("agent.yaml") >= 2)
    assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200
    assert first <= web_pids(service)
    write(agents, GREETER, "mended")
    all_ready(service, processes=3)


def test_a_broken_file_at_the_start_ends_the_web_server_with_what_is_wrong(
    make_service: Make, agents: Path
) -> None:
    write(agents, "flows: 5\n", "old")
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"agent\.yaml"):
        make_service(agents=agents, workers=0)
    assert time.monotonic() - began < within(15)


def test_agents_behind_a_link_change_all_at_once_with_the_reload_and_not_before(
    make_service: Make, tmp_path: Path
) -> None:
    """Also in a child that has run nothing yet: a definition and its code belong together."""
    link = tmp_path / "current"
    write(tmp_path / "v1", GREETER, "old")
    write(tmp_path / "v2", GREETER, "new")
    link.symlink_to(tmp_path / "v1")
    service = make_service(agents=link)
    until(lambda: said(service, "worker0", "worker_started"))
    link.unlink()
    link.symlink_to(tmp_path / "v2")
    assert [service.run("greeter")["outputs"]["output"] for _ in range(4)] == ["old"] * 4
    service.workers[0].send_signal(signal.SIGHUP)
    until(lambda: said(service, "worker0", "reloaded"))
    assert [service.run("greeter")["outputs"]["output"] for _ in range(4)] == ["new"] * 4


def test_a_broken_file_stops_the_start_with_its_reason_alone(agents: Path, tmp_path: Path) -> None:
    write(agents, "flows: []\n", "new")
    service = Service("redis://127.0.0.1:1/0", tmp_path, agents=agents, WEB_CONCURRENCY=2)
    with pytest.raises(AssertionError, match="does not start"):
        service.start_web()
    assert service.web is not None
    assert service.web.wait(60) != 0
    assert "greeter/agent.yaml:1: flows: At least one flow is required." in service.output("web")
    assert not said(service, "web", "crashed")


def test_a_worker_says_at_its_start_and_at_a_reload_what_is_probably_wrong(
    make_service: Make, agents: Path
) -> None:
    def write_flow(imports: str) -> None:
        write(agents, GREETER, "old")
        code = agents / "greeter" / "greet.py"
        code.write_text(f"import {imports}\n{CODE % 'old'}")

    write_flow("not_there")
    service = make_service(agents=agents)
    until(lambda: said(service, "worker0", "file_doubtful"))
    assert "greet.py:1 imports 'not_there', which is not installed" in service.output("worker0")
    write_flow("gone_too")
    service.workers[0].send_signal(signal.SIGHUP)
    until(lambda: "greet.py:1 imports 'gone_too'" in service.output("worker0"))
