"""Runs that the worker abandons or kills: their slots become free, and no process is left over."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from app.catalog.model import Catalog
from app.process.prctl import end_with_parent
from app.settings import Settings
from app.worker.child import ChildConfig
from app.worker.forkserver import Forkserver
from app.worker.liveness import Liveness
from app.worker.orphans import OrphanSweeper
from app.worker.pool import Pool
from tests.faults.conftest import LEASE_SECONDS, children_of, ticks
from tests.support.agents import write_agent
from tests.support.service import BIN, ROOT, Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]


def test_the_slot_of_an_abandoned_thread_comes_back_when_it_ends(make_service: Make) -> None:
    service = make_service(WORKER_THREADS=4, WORKER_PROCESSES=0, CANCEL_GRACE=0.1)
    thread = {"flow_id": "thread"}
    deaf = service.start("behaves", {"do": "sleep", "seconds": 3}, config=thread)
    service.until(deaf, "running")
    assert service.cancel(deaf).status_code == 200
    time.sleep(3.5)
    ids = [
        service.start("behaves", {"do": "listen", "seconds": 20}, config=thread) for _ in range(4)
    ]
    deadline = time.monotonic() + 60
    while [service.status(id)["status"] for id in ids] != ["running"] * 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for id in ids:
        service.cancel(id)


def test_a_lost_lease_ends_a_run_at_once_though_a_cancel_gave_it_time(
    broken: Make, own_store: EmbeddedStore, tmp_path: Path
) -> None:
    service = broken(CANCEL_GRACE=60)
    path = tmp_path / "ticks"
    id = service.start("behaves", {"do": "tick", "seconds": 60, "ticks": str(path)})
    service.until(id, "running")
    assert service.cancel(id).status_code == 202
    with redis.Redis.from_url(own_store.url) as client:
        client.hset(f"rq:job:{id}", "token", "given:to:another")
        given_away_at = time.time()
        time.sleep(2 * LEASE_SECONDS)
        assert max(at for _, _, at in ticks(path)) - given_away_at < LEASE_SECONDS
        assert client.hget(f"rq:job:{id}", "token") == b"given:to:another"


class _Child:
    """Records what its pool does with it."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.free_slots = 0
        self.liveness = Liveness(1.0)

    def ask(self) -> None:
        self.done.append("alive")

    def send_signal(self, number: int) -> None:
        self.done.append(number)


def test_children_that_wake_find_the_word_that_their_worker_lives() -> None:
    """Without it they would take the silence of their sleep for its death."""
    forkserver = Forkserver()
    catalog = Catalog(agents={}, pipelines={})
    pool = Pool(ChildConfig(Settings(), catalog, 1, 9.0), 1, forkserver, OrphanSweeper(forkserver))
    child = _Child()
    pool._children.append(child)  # type: ignore[arg-type]
    pool.suspend()
    pool.resume()
    assert child.done == [signal.SIGSTOP, "alive", signal.SIGCONT]


def test_processes_that_flows_in_threads_leave_behind_are_reaped(
    make_service: Make, tmp_path: Path
) -> None:
    """Their parents have ended, so the worker has adopted them; nobody else would ask how they
    ended.
    """
    write_agent(
        tmp_path / "agents",
        "leaver",
        'flows:\n  - {name: main, entrypoint: "flow.py:run", isolation: thread}\n',
        "import subprocess\n\n"
        "def run(inputs):\n"
        "    said = subprocess.run(['sh', '-c', 'sleep 0.3 & echo $!'], stdout=subprocess.PIPE,"
        " stderr=subprocess.DEVNULL)\n"
        "    return int(said.stdout)\n",
    )
    service = make_service(agents=tmp_path / "agents", WORKER_PROCESSES=0)
    pids = [service.run("leaver")["outputs"]["output"] for _ in range(5)]
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "script", ["kill 0", "trap 'kill 0' EXIT; true", "kill -HUP 0; kill -INT 0"]
)
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_script_that_signals_its_group_reaches_neither_its_worker_nor_its_process(
    make_service: Make, tmp_path: Path, isolation: str, script: str
) -> None:
    write_agent(
        tmp_path / "agents",
        "group",
        f'flows:\n  - {{name: main, entrypoint: "flow.py:run", isolation: {isolation}}}\n',
        f"import os, subprocess\n\ndef run(inputs):\n    subprocess.run(['sh', '-c', {script!r}])\n"
        "    os.killpg(0, 15)\n    return os.getpid()\n",
    )
    service = make_service(agents=tmp_path / "agents", WORKER_PROCESSES=1)
    first, second = service.run("group"), service.run("group")
    assert [(ended["status"], ended["attempt"]) for ended in (first, second)] == [
        ("completed", 1)
    ] * 2
    assert first["outputs"] == second["outputs"]  # the process went on
    assert service.workers[0].poll() is None


def test_what_a_flow_sends_to_its_process_group_does_not_reach_its_worker(
    make_service: Make, tmp_path: Path
) -> None:
    write_agent(
        tmp_path / "agents",
        "group",
        'flows:\n  - {name: main, entrypoint: "flow.py:run"}\n',
        "import subprocess\n\ndef run(inputs):\n    subprocess.run(['sh', '-c', 'kill -9 0'])\n",
    )
    service = make_service(agents=tmp_path / "agents")
    neighbour = service.start(
        "behaves", {"do": "listen", "seconds": 3}, config={"flow_id": "thread"}
    )
    service.until(neighbour, "running")
    ended = service.run("group", config={"max_attempts": 1})
    assert (ended["status"], ended["error"]["type"]) == ("failed", "WorkerLost")
    ended = service.ended(neighbour)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)
    assert service.workers[0].poll() is None


def test_a_worker_whose_folder_was_removed_says_so_and_takes_nothing(
    make_service: Make, tmp_path: Path
) -> None:
    """As where a deployment replaces the folder of a worker that goes on."""
    service = make_service(workers=0, WORKER_PROCESSES=1, WORKER_THREADS=0)
    folder, log = tmp_path / "release", tmp_path / "worker.log"
    folder.mkdir()
    with log.open("w") as output:
        worker = subprocess.Popen(
            [BIN / "python", ROOT / "worker.py"],
            cwd=folder,
            env={**service.env, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,
        )
    service.workers.append(worker)  # ended with the service
    service.run("behaves", {"do": "echo"})
    folder.rmdir()
    [child] = children_of(worker.pid)
    child.kill()
    deadline = time.monotonic() + 60
    while "Restart the worker" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    waits = service.start("behaves", {"do": "echo"}, config={"max_attempts": 1})
    service.start_worker()
    assert service.ended(waits)["attempt"] == 1
