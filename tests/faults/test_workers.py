"""Workers and their processes die, freeze, lose the store, or are stopped."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import redis

from tests.faults.conftest import LEASE_SECONDS, children_of, ticks
from tests.support.agents import write_agent
from tests.support.pace import within
from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]

BOTH = pytest.mark.parametrize("flow", ["process", "thread"])
MOVES_ON_SECONDS = LEASE_SECONDS + 5
PROMISED_SECONDS = 20


@BOTH
def test_a_killed_worker_is_noticed_and_another_takes_over(broken: Make, flow: str) -> None:
    """The worker dies, and its children with it."""
    service = broken(workers=2)
    ids = [
        service.start("behaves", {"do": "listen", "seconds": 4}, config={"flow_id": flow})
        for _ in range(2)
    ]
    for id in ids:
        service.until(id, "running")
    victims = children_of(service.workers[0].pid)
    service.workers[0].kill()
    killed_at = time.monotonic()
    for child in victims:
        child.wait(30)
    for id in ids:
        ended = service.ended(id)
        assert ended["status"] == "completed"
        assert ended["attempt"] == (1 if ended["attempts"][0]["outcome"] == "completed" else 2)
    assert time.monotonic() - killed_at < within(PROMISED_SECONDS + 4)  # and it runs for four


@BOTH
def test_the_only_worker_is_killed_and_started_again(broken: Make, flow: str) -> None:
    service = broken()
    id = service.start("behaves", {"do": "listen", "seconds": 1.5}, config={"flow_id": flow})
    service.until(id, "running")
    service.workers[0].kill()
    service.start_worker()
    ended = service.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 2)
    assert ended["attempts"][0]["outcome"] == "lost"


def test_a_killed_child_is_reported_at_once_and_its_neighbours_go_on(
    broken: Make, tmp_path: Path
) -> None:
    """The isolation of warm children: nobody waits for a lease, which is a minute here."""
    service = broken(LEASE=60, WORKER_PROCESSES=3)
    paths = [tmp_path / f"ticks-{number}" for number in range(3)]
    runs = [
        service.start("behaves", {"do": "tick", "seconds": 2, "ticks": str(path)}) for path in paths
    ]
    while not all(ticks(path) for path in paths):
        time.sleep(0.02)
    [(_, pid, _), *_] = ticks(paths[1])
    psutil.Process(pid).kill()
    began = time.monotonic()
    assert [service.ended(id)["attempt"] for id in runs] == [1, 2, 1]
    assert time.monotonic() - began < within(PROMISED_SECONDS)


@BOTH
def test_a_worker_that_dies_while_a_cancel_waits_leaves_it_cancelled(
    broken: Make, flow: str
) -> None:
    service = broken(CANCEL_GRACE=30)
    id = service.start("behaves", {"do": "sleep", "seconds": 60}, config={"flow_id": flow})
    service.until(id, "running")
    assert service.cancel(id).status_code == 202
    service.workers[0].kill()
    assert service.ended(id, seconds=within(MOVES_ON_SECONDS))["status"] == "cancelled"


def test_a_frozen_worker_loses_its_execution_and_writes_nothing_when_it_wakes(
    broken: Make, tmp_path: Path
) -> None:
    """The worker and its children freeze; the second attempt's outputs stand."""
    service = broken()
    path = tmp_path / "ticks"
    id = service.start("behaves", {"do": "tick", "seconds": 6, "ticks": str(path)})
    service.until(id, "running")
    time.sleep(0.5)
    frozen = [service.workers[0], *children_of(service.workers[0].pid)]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    other = service.start_worker()
    assert other.poll() is None
    deadline = time.monotonic() + within(MOVES_ON_SECONDS + 3)
    while service.status(id)["attempt"] != 2 or service.status(id)["status"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    woken_at = time.time()
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    ended = service.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 2)
    late = [at for attempt, _, at in ticks(path) if attempt == 1 and at > woken_at]
    assert len(late) <= 5  # what it does between waking and its first check


def test_a_worker_whose_parent_alone_freezes_does_not_run_on(broken: Make, tmp_path: Path) -> None:
    """Its child hears nothing, and ends itself before the lease runs out."""
    service = broken()
    path = tmp_path / "ticks"
    id = service.start("behaves", {"do": "tick", "seconds": 60, "ticks": str(path)})
    service.until(id, "running")
    time.sleep(0.3)
    service.workers[0].send_signal(signal.SIGSTOP)
    frozen_at = time.time()
    time.sleep(LEASE_SECONDS + 1)
    assert max(at for _, _, at in ticks(path)) - frozen_at < LEASE_SECONDS
    service.cancel(id)


def test_a_worker_that_is_cut_off_freezes_its_flow_before_another_starts_it(
    broken: Make,
    make_service: Make,
    proxy: Proxy,
    own_store: EmbeddedStore,
    tmp_path: Path,
) -> None:
    """Silence. Never two runs at a time, and one final state."""
    first = broken()
    path = tmp_path / "ticks"
    id = first.start("behaves", {"do": "tick", "seconds": 5, "ticks": str(path)})
    first.until(id, "running")
    time.sleep(0.5)
    proxy.mode = "blackhole"
    second = make_service(own_store.url, LEASE=LEASE_SECONDS)
    ended = second.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 2)
    proxy.mode = "pass"
    time.sleep(2)
    rows = ticks(path)
    last_of_first = max(at for attempt, _, at in rows if attempt == 1)
    first_of_second = min(at for attempt, _, at in rows if attempt == 2)
    assert last_of_first < first_of_second


def test_an_old_attempt_in_the_same_process_writes_nothing_into_the_new_one(
    broken: Make, make_service: Make, proxy: Proxy, own_store: EmbeddedStore
) -> None:
    """A deaf thread that was given away, and whose worker then takes the execution again."""
    cut_off = broken(WORKER_PROCESSES=0)
    web = make_service(own_store.url, workers=0, LEASE=LEASE_SECONDS)
    seconds = [LEASE_SECONDS * 3, LEASE_SECONDS * 3]
    id = web.start(
        "behaves", {"do": "attempt_sleeps", "seconds": seconds}, config={"flow_id": "thread"}
    )
    web.until(id, "running")
    proxy.mode = "blackhole"
    web.until(id, "pending", seconds=within(MOVES_ON_SECONDS))
    proxy.mode = "pass"
    ended = web.ended(id)
    assert (ended["attempt"], ended["outputs"]["output"]) == (2, "attempt 2")
    assert cut_off.workers[0].poll() is None


def test_a_cancel_that_its_worker_did_not_hear_comes_with_the_next_beat(
    broken: Make, own_store: EmbeddedStore
) -> None:
    service = broken()
    id = service.start("behaves", {"do": "listen", "seconds": 60})
    service.until(id, "running")
    with redis.Redis.from_url(own_store.url) as client:
        client.hset(f"rq:job:{id}", "cancel", 1)  # the mark, without the message
    assert service.ended(id, seconds=within(LEASE_SECONDS + 2))["status"] == "cancelled"


@BOTH
def test_sigterm_lets_what_can_end_end_and_hands_the_rest_back(broken: Make, flow: str) -> None:
    """The signal goes to every process, as Heroku sends it."""
    service = broken(SHUTDOWN_GRACE=2)
    short = service.start("behaves", {"do": "listen", "seconds": 1}, config={"flow_id": flow})
    long = service.start("behaves", {"do": "sleep", "seconds": 6}, config={"flow_id": flow})
    for id in (short, long):
        service.until(id, "running")
    worker = service.workers[0]
    for process in [worker, *children_of(worker.pid)]:
        with contextlib.suppress(
            psutil.NoSuchProcess
        ):  # an idle child goes as soon as its worker is told
            process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert worker.wait(60) == 0
    assert time.monotonic() - began < within(6)
    assert service.status(short)["status"] == "completed"
    handed_back = service.status(long)
    assert (handed_back["status"], handed_back["attempt"]) == ("pending", 0)
    service.start_worker()
    ended = service.ended(long)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


def test_restarts_under_load_lose_nothing(broken: Make, tmp_path: Path) -> None:
    """Every execution that was accepted ends once, whatever is restarted
    meanwhile.
    """
    service = broken(workers=2, SHUTDOWN_GRACE=0.2)
    ids: list[str] = []
    for round in range(4):
        ids += [
            service.start("behaves", {"do": "listen", "seconds": 0.05}, config={"flow_id": f})
            for f in ("process", "thread")
            for _ in range(10)
        ]
        victim = service.workers[-2]
        victim.kill() if round % 2 else victim.terminate()
        victim.wait(60)
        service.start_worker()
    for id in ids:
        assert service.ended(id)["status"] == "completed"
    assert (
        len(ids)
        == service.get("/executions", params={"status": "completed"}).json()["pagination"][
            "total_items"
        ]
    )


def test_an_execution_that_always_kills_its_process_does_not_harm_its_neighbours(
    broken: Make,
) -> None:
    service = broken()
    poison = service.start("behaves", {"do": "kill"})
    neighbours = [service.start("behaves", {"do": "echo"}) for _ in range(20)]
    for id in neighbours:
        assert service.ended(id)["attempt"] == 1
    ended = service.ended(poison)
    assert (ended["error"]["type"], ended["attempt"]) == ("WorkerLost", 3)


def test_a_process_that_leaks_or_is_old_is_replaced(make_service: Make) -> None:
    service = make_service(WORKER_PROCESSES=1, PROCESS_MEMORY_LIMIT=200_000_000, RUNS_PER_PROCESS=3)
    leaky = service.run("behaves", {"do": "leak", "bytes": 300_000_000})["outputs"]["output"]
    pids = [service.run("behaves", {"do": "pid"})["outputs"]["output"] for _ in range(6)]
    assert leaky not in pids
    assert len(set(pids)) == 2


def test_threads_that_hang_are_counted_and_their_process_is_replaced(make_service: Make) -> None:
    service = make_service(WORKER_THREADS=4, CANCEL_GRACE=0.1)
    first = service.run("behaves", {"do": "pid"}, config={"flow_id": "thread"})["outputs"]["output"]
    for _ in range(2):
        id = service.start("behaves", {"do": "sleep", "seconds": 60}, config={"flow_id": "thread"})
        service.until(id, "running")
        assert service.cancel(id).status_code == 200
    second = service.run("behaves", {"do": "pid"}, config={"flow_id": "thread"})["outputs"][
        "output"
    ]
    assert first != second


def test_steps_that_outlive_their_runs_take_no_slot_and_their_process_is_replaced(
    make_service: Make, tmp_path: Path
) -> None:
    write_agent(
        tmp_path / "agents",
        "deaf",
        'flows: [{name: default, entrypoint: "flow.py:run", isolation: thread}]\n',
        "import time\n\ndef run(inputs):\n    time.sleep(5)\n",
    )
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/impatient.yaml").write_text(
        "inputs: []\nsteps: [{id: one, agent: deaf, timeout: 0.1, required: false}]\n"
    )
    service = make_service(
        agents=tmp_path / "agents", pipelines=tmp_path / "pipelines", WORKER_THREADS=4
    )
    first = service.run("behaves", {"do": "pid"}, config={"flow_id": "thread"})["outputs"]["output"]
    for _ in range(6):
        assert service.run("impatient", {}, type="pipeline")["status"] == "completed"
    assert (
        service.run("behaves", {"do": "pid"}, config={"flow_id": "thread"})["outputs"]["output"]
        != first
    )


def test_a_flow_that_holds_the_interpreters_lock_delays_no_beat_and_no_neighbour(
    broken: Make,
) -> None:
    service = broken()
    holds = service.start(
        "behaves",
        {"do": "hold_the_lock", "seconds": LEASE_SECONDS + 2},
        config={"flow_id": "process"},
    )
    service.until(holds, "running")
    began = time.monotonic()
    assert (
        service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})["status"]
        == "completed"
    )
    assert time.monotonic() - began < within(1)
    ended = service.ended(holds)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


def test_an_execution_expires_even_where_no_worker_lives(broken: Make) -> None:
    """The web side reaps too."""
    service = broken(workers=0)
    id = service.start("behaves", {"do": "echo"}, expires_in=1)
    ended = service.ended(id)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "Expired")
    assert "started_at" not in ended


def test_ended_executions_leave_after_their_retention_and_living_ones_do_not(
    broken: Make, own_store: EmbeddedStore
) -> None:
    service = broken(RETENTION=1, RETENTION_FAILED=3600)
    gone, kept = service.run("behaves", {"do": "echo"}), service.run("behaves", {"do": "fail"})
    living = service.start("behaves", {"do": "listen", "seconds": 30})
    deadline = time.monotonic() + 60
    while service.get(f"/executions/{gone['execution_id']}").status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    listed = {
        execution["execution_id"] for execution in service.get("/executions").json()["executions"]
    }
    assert listed == {kept["execution_id"], living}
    with redis.Redis.from_url(own_store.url) as client:
        assert [key for key in client.scan_iter() if gone["execution_id"].encode() in key] == []
    service.cancel(living)


def test_frozen_children_die_with_their_worker(broken: Make) -> None:
    service = broken()
    service.run("behaves", {"do": "echo"})
    worker = psutil.Process(service.workers[0].pid)
    family = worker.children(recursive=True)
    for process in family:
        process.suspend()
    worker.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert len(family) >= 4
    assert alive == []


def test_children_come_also_after_their_forkserver_was_killed(make_service: Make) -> None:
    service = make_service(WORKER_PROCESSES=1, RUNS_PER_PROCESS=1)
    service.run("behaves", {"do": "echo"})
    family = psutil.Process(service.workers[0].pid).children()
    servers = [process for process in family if process.name() == "exec-forkserver"]
    min(
        servers, key=psutil.Process.create_time
    ).kill()  # a child that was just forked has its name for a moment
    pids = {service.run("behaves", {"do": "pid"})["outputs"]["output"] for _ in range(3)}
    assert len(pids) == 3
    assert (
        service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})["status"]
        == "completed"
    )


@pytest.mark.parametrize("hours", [-1, 48])
def test_a_worker_whose_clock_is_wrong_harms_nobody(
    broken: Make, tmp_path: Path, hours: int
) -> None:
    """Leases, times and retention are the store's."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {hours * 3600}\n"
    )
    service = broken(PYTHONPATH=tmp_path)
    began = datetime.now(UTC)
    for flow in ("process", "thread"):
        inputs = {"do": "listen", "seconds": LEASE_SECONDS + 1}
        ended = service.run("behaves", inputs, config={"flow_id": flow})
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
        times = [
            datetime.fromisoformat(ended[name])
            for name in ("created_at", "started_at", "completed_at")
        ]
        assert times == sorted(times)
        assert all(abs((moment - began).total_seconds()) < 60 for moment in times)
