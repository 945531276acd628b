"""A flow kills its worker, or the process that it shares: the other executions run again, and the
lost attempt does not count for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from app.worker.bulkhead import PLACES
from app.worker.claim import ALONE, SOLE
from tests.faults.conftest import LEASE_SECONDS
from tests.support.agents import write_agent
from tests.support.service import Service

Make = Callable[..., Service]

FLOW = """
import ctypes, os, signal, threading, time
from pathlib import Path

def wait_for(folder, names, count, seconds):
    deadline = time.monotonic() + seconds
    while len(list(Path(folder).glob(names))) < count and time.monotonic() < deadline:
        time.sleep(0.02)

def gathered(inputs, attempt):
    '''Returns when all neighbours run beside it, the first time; later at once, or beside one.'''
    Path(inputs["folder"], f"poison-{time.time_ns()}").touch()
    wait_for(inputs["folder"], "neighbour-*", inputs["neighbours"], 5)
    if inputs["waits"] and attempt <= 2:
        wait_for(inputs["folder"], f"attempt-{attempt}-*", 1, 30)

def beside_poison(inputs, attempt):
    '''Returns when the poison has begun its attempt of this number.'''
    Path(inputs["folder"], f"attempt-{attempt}-{inputs['number']}").touch()
    wait_for(inputs["folder"], "poison-*", attempt, 30)

def run(inputs, context):
    if inputs["do"] == "neighbour":
        Path(inputs["folder"], f"neighbour-{inputs['number']}").touch()
        if inputs["waits"] and context.attempt <= 2:
            beside_poison(inputs, context.attempt)
        deadline = time.monotonic() + inputs["seconds"]
        while time.monotonic() < deadline and not context.cancelled:
            time.sleep(0.02)
        return inputs["number"]
    gathered(inputs, context.attempt)
    if inputs["do"] == "parent":
        os.kill(os.getppid(), inputs["signal"])
    if inputs["do"] == "worker":
        for line in Path(inputs["pids"]).read_text().split():
            try:
                os.kill(int(line), inputs["signal"])
            except ProcessLookupError:
                pass
    if inputs["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if inputs["do"] == "exit":
        os._exit(0)
    if inputs["do"] == "segfault":
        ctypes.string_at(0)
    if inputs["do"] == "group":
        os.killpg(0, inputs["signal"])
    if inputs["do"] == "descriptors":
        os.closerange(3, 4096)
    time.sleep(inputs.get("seconds", 0))
    return "did it"
"""
AGENT = """
flows:
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: process, entrypoint: "flow.py:run"}
"""

NEIGHBOURS = 9
KILL, TERM, STOP = 9, 15, 19


@pytest.fixture
def make(make_service: Make, tmp_path: Path) -> Make:
    write_agent(tmp_path / "agents", "breaks", AGENT, FLOW)
    return lambda **options: make_service(
        agents=tmp_path / "agents",
        **{"WORKER_THREADS": 20, "WORKER_PROCESSES": 10, "LEASE": LEASE_SECONDS, **options},
    )


def start(
    service: Service, folder: Path, flow: str, do: str, seconds: float = 1, **inputs: object
) -> list[str]:
    """The poison, and nine neighbours that run when it does what it does."""
    common = {"folder": str(folder), "neighbours": NEIGHBOURS, "seconds": seconds}
    # A poison that kills its worker is alone with the blame if its neighbours have completed before.
    common["waits"] = do == "worker"
    poison = service.start("breaks", {"do": do, **common, **inputs}, config={"flow_id": flow})
    return [
        poison,
        *(
            service.start(
                "breaks", {"do": "neighbour", "number": n, **common}, config={"flow_id": flow}
            )
            for n in range(NEIGHBOURS)
        ),
    ]


def unharmed(service: Service, ids: list[str], attempts: int) -> None:
    """Each was completed, in so many attempts at most."""
    for id in ids:
        ended = service.ended(id, seconds=120)
        assert ended["status"] == "completed", ended
        assert ended["attempt"] <= attempts, ended


@pytest.mark.parametrize("flow", ["process", "thread"])
@pytest.mark.parametrize("signal", [KILL, TERM, STOP])
def test_a_flow_that_sends_signals_to_its_parent_reaches_no_worker_and_no_other_process(
    make: Make, tmp_path: Path, flow: str, signal: int
) -> None:
    service = make()
    poison, *neighbours = start(service, tmp_path, flow, "parent", signal=signal)
    unharmed(service, neighbours, attempts=1 if flow == "process" or signal != KILL else 2)
    ended = service.ended(poison, seconds=60)
    if signal == KILL:
        assert (ended["status"], ended["error"]["type"]) == ("failed", "WorkerLost")
    else:
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
    assert service.workers[0].poll() is None


@pytest.mark.parametrize("flow", ["process", "thread"])
@pytest.mark.parametrize("how", ["kill", "exit", "segfault", "descriptors"])
def test_a_flow_that_ends_its_process_costs_no_neighbour_an_attempt(
    make: Make, tmp_path: Path, flow: str, how: str
) -> None:
    service = make(LEASE=60)  # nobody waits for a lease
    poison, *neighbours = start(service, tmp_path, flow, how)
    unharmed(service, neighbours, attempts=1 if flow == "process" else 2)
    ended = service.ended(poison, seconds=60)
    if how == "descriptors" and ended["status"] == "completed":
        return  # in a process of its own it could still answer
    assert (ended["status"], ended["error"]["type"]) == ("failed", "WorkerLost")
    assert ended["attempt"] == (3 if flow == "process" else 4)
    assert ("ran alone" in ended["error"]["message"]) == (flow == "thread")


@pytest.mark.parametrize("flow", ["process", "thread"])
@pytest.mark.timeout(240)
def test_a_flow_that_always_kills_its_worker_fails_and_its_neighbours_do_not(
    make: Make, tmp_path: Path, flow: str
) -> None:
    """It knows the worker's number. A supervisor starts the next worker each time."""
    service = make()
    pids = tmp_path / "pids"
    pids.write_text(str(service.workers[0].pid))
    poison, *neighbours = start(service, tmp_path, flow, "worker", signal=KILL, pids=str(pids))
    deadline = time.monotonic() + 180
    while not all(
        service.status(id)["status"] in ("completed", "failed") for id in (poison, *neighbours)
    ):
        assert time.monotonic() < deadline, [service.status(id) for id in (poison, *neighbours)]
        if service.workers[-1].poll() is not None:
            worker = service.start_worker()
            pids.write_text(str(worker.pid))
        time.sleep(0.05)
    unharmed(service, neighbours, attempts=5)
    ended = service.status(poison)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "WorkerLost")
    assert "ran alone" in ended["error"]["message"]


def test_a_lone_execution_whose_worker_is_killed_has_lost_that_attempt(make: Make) -> None:
    service = make()
    id = service.start("behaves", {"do": "listen", "seconds": 60}, config={"max_attempts": 2})
    deadline = time.monotonic() + 60
    for number in (1, 2):
        while (service.status(id)["status"], service.status(id)["attempt"]) != ("running", number):
            assert time.monotonic() < deadline, service.status(id)
            time.sleep(0.05)
        service.workers[-1].kill()
        service.workers[-1].wait()
        service.start_worker()
    ended = service.ended(id)
    assert (ended["status"], ended["error"]["type"], ended["attempt"]) == (
        "failed",
        "WorkerLost",
        2,
    )


@pytest.mark.parametrize("flow", ["process", "thread"])
@pytest.mark.timeout(120)
def test_many_that_are_to_run_alone_hold_up_nobody_else(
    make: Make, tmp_path: Path, flow: str
) -> None:
    """As after a storm of crashes: each has a process of its own, a few at once."""
    service = make(workers=0, WORKER_PROCESSES=2)
    marks = [tmp_path / f"marks-{number}" for number in range(24)]
    marked = [
        service.start(
            "behaves",
            {"do": "listen", "seconds": 0.5, "marks": str(path)},
            config={"flow_id": flow},
        )
        for path in marks
    ]
    only = 5
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        for number, id in enumerate(marked):
            client.hset(f"rq:job:{id}", "deaths", SOLE if number == only else ALONE)
    plain = [service.start("behaves", {"do": "pid"}, config={"flow_id": flow}) for _ in range(10)]
    service.start_worker()
    ended = {id: service.ended(id, seconds=90) for id in (*plain, *marked)}
    assert {(one["status"], one["attempt"]) for one in ended.values()} == {("completed", 1)}
    assert max(ended[id]["completed_at"] for id in plain) < max(
        ended[id]["completed_at"] for id in marked
    )
    times = [[float(line.split()[2]) for line in path.read_text().splitlines()] for path in marks]
    assert max(_beside(times, begin) for begin, _ in times) <= PLACES
    assert [
        number
        for number, (begin, end) in enumerate(times)
        if begin < times[only][1] and end > times[only][0]
    ] == [only]


def _beside(times: list[list[float]], moment: float) -> int:
    return sum(begin <= moment < end for begin, end in times)
