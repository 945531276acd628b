"""The store is away, frozen, full, restarted, read-only or empty, or its answers are lost."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import requests
import trustme

from app.store.scripts import library
from tests.conftest import SERVER
from tests.faults.conftest import LEASE_SECONDS, ticks
from tests.support.pace import within
from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]

START = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}}


def each_endpoint(service: Service, id: str) -> list[Callable[[], requests.Response]]:
    return [
        lambda: service.post("/executions", json=START),
        lambda: service.get("/executions"),
        lambda: service.get(f"/executions/{id}"),
        lambda: service.cancel(id),
    ]


def is_away(response: requests.Response) -> None:
    """503 with `Retry-After`, within two seconds."""
    assert response.status_code == 503, response.text
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.elapsed.total_seconds() < within(2)


def comes_back(service: Service, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while service.get("/executions").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("mode", ["cut", "blackhole"])
def test_every_endpoint_answers_503_within_two_seconds_while_the_store_is_away(
    broken: Make, proxy: Proxy, mode: str
) -> None:
    service = broken()
    id = service.run("behaves", {"do": "echo"})["execution_id"]
    proxy.mode = mode  # type: ignore[assignment]
    for call in each_endpoint(service, id) * 2:
        is_away(call())
    assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200
    proxy.mode = "pass"
    comes_back(service)
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"


def test_a_silent_store_does_not_pile_up_threads(broken: Make, proxy: Proxy) -> None:
    """Many callers at once, more than there are threads: each still has its answer in two seconds."""
    service = broken()
    proxy.mode = "blackhole"
    slowest: list[float] = []

    def ask() -> None:
        response = requests.get(f"{service.url}/api/v1/executions", timeout=60)
        slowest.append(response.elapsed.total_seconds())
        assert response.status_code == 503

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slowest) == 100
    assert max(slowest) < within(2.5)


@pytest.mark.parametrize("flow", ["process", "thread"])
def test_a_flow_outlasts_an_outage_longer_than_its_lease(
    broken: Make, proxy: Proxy, flow: str
) -> None:
    """Nothing listens; the flow goes on, and its result is delivered afterwards."""
    service = broken()
    id = service.start(
        "behaves", {"do": "listen", "seconds": LEASE_SECONDS}, config={"flow_id": flow}
    )
    service.until(id, "running")
    proxy.mode = "cut"
    time.sleep(LEASE_SECONDS * 2)
    proxy.mode = "pass"
    comes_back(service)
    ended = service.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


def test_a_flow_works_on_while_nothing_listens(broken: Make, proxy: Proxy, tmp_path: Path) -> None:
    """For longer than a lease, and without a pause."""
    service = broken()
    path = tmp_path / "ticks"
    id = service.start(
        "behaves", {"do": "tick", "seconds": LEASE_SECONDS * 2 + 1, "ticks": str(path)}
    )
    service.until(id, "running")
    proxy.mode = "cut"
    time.sleep(LEASE_SECONDS * 2)
    proxy.mode = "pass"
    assert service.ended(id)["attempt"] == 1
    times = [at for _, _, at in ticks(path)]
    assert max(later - at for at, later in itertools.pairwise(times)) < within(1)


def test_a_flow_survives_a_store_that_was_silent_for_longer_than_its_lease(
    broken: Make, own_store: EmbeddedStore
) -> None:
    """Frozen, for everybody. The flow is frozen too before its lease is over, and then
    goes on.
    """
    service = broken()
    id = service.start("behaves", {"do": "listen", "seconds": LEASE_SECONDS + 1})
    service.until(id, "running")
    own_store.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS * 2)
    own_store.send_signal(signal.SIGCONT)
    comes_back(service)
    ended = service.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


def test_a_store_that_crashes_and_restarts_keeps_what_was_accepted(
    make_service: Make, own_store: EmbeddedStore
) -> None:
    """With `appendfsync always`: no accepted execution is lost, and finished work is not
    failed.
    """
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("appendfsync", "always")
    service = make_service(own_store.url, LEASE=LEASE_SECONDS)
    ids = []
    for _ in range(3):
        ids += [service.start("behaves", {"do": "listen", "seconds": 0.3}) for _ in range(10)]
        own_store.kill()
        time.sleep(0.5)
        own_store.start()
        comes_back(service)
    for id in ids:
        assert service.ended(id)["status"] == "completed"


def test_a_store_that_lost_everything_is_404_and_work_goes_on(
    broken: Make, own_store: EmbeddedStore
) -> None:
    service = broken()
    lost = service.start("behaves", {"do": "listen", "seconds": 60})
    service.until(lost, "running")
    with redis.Redis.from_url(own_store.url) as client:
        client.flushall()
        client.function_flush()
    assert service.get(f"/executions/{lost}").status_code == 404
    assert service.cancel(lost).status_code == 404
    deadline = time.monotonic() + within(LEASE_SECONDS + 2)
    while '"attempt_lost"' not in service.output("worker0"):
        assert time.monotonic() < deadline, service.output("worker0")
        time.sleep(0.05)
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"


def test_a_store_that_forgets_its_scripts_all_the_time_delays_and_breaks_nothing(
    broken: Make, own_store: EmbeddedStore
) -> None:
    """Also where a script is forgotten between being told and being called: that is no reason to
    end a worker.
    """
    service = broken()
    running = service.start("behaves", {"do": "listen", "seconds": 2})
    service.until(running, "running")
    forgetting_until = time.monotonic() + 2
    ids = []
    with redis.Redis.from_url(own_store.url) as client:
        while time.monotonic() < forgetting_until:
            for _ in range(20):
                client.function_flush()
            response = service.post("/executions", json=START)
            if response.status_code == 202:
                ids.append(response.json()["execution_id"])
            else:
                is_away(response)
    assert [service.ended(id)["attempt"] for id in (running, *ids)] == [1] * (1 + len(ids))
    assert [process.poll() for process in service.workers] == [None]
    assert '"level": "critical"' not in service.output("worker0")


def test_a_full_store_refuses_starts_while_all_else_works(
    broken: Make, own_store: EmbeddedStore
) -> None:
    """Reads, cancels and running executions go on; afterwards so do starts."""
    service = broken()
    done = service.run("behaves", {"do": "echo"})["execution_id"]
    running = service.start("behaves", {"do": "listen", "seconds": LEASE_SECONDS + 1})
    cancelled = service.start("behaves", {"do": "listen", "seconds": 60})
    for id in (running, cancelled):
        service.until(id, "running")
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("maxmemory", 1)
        refused = service.post("/executions", json=START)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_full")
        assert refused.headers["Retry-After"]
        assert service.status(done)["status"] == "completed"
        assert service.get("/executions").status_code == 200
        assert service.cancel(cancelled).status_code == 200
        ended = service.ended(running)
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
        client.config_set("maxmemory", 0)
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"


def forbidding(client: redis.Redis) -> Callable[[], object]:
    """Takes the right to write from the service's user."""
    client.execute_command("ACL SETUSER default -@write")
    return lambda: client.execute_command("ACL SETUSER default +@all")


def misusing(client: redis.Redis) -> Callable[[], object]:
    """Puts other data under a key that every transition of a running execution writes."""
    client.rename("exec:leases", "kept")
    client.set("exec:leases", "somebody else's")
    return lambda: client.rename("kept", "exec:leases")


@pytest.mark.parametrize("harm", [forbidding, misusing])
def test_a_store_that_refuses_what_it_should_not_ends_no_worker_and_loses_no_outcome(
    broken: Make, own_store: EmbeddedStore, harm: Callable[[redis.Redis], Callable[[], object]]
) -> None:
    service = broken(METRICS="open")
    ended = service.run("behaves", {"do": "echo"})["execution_id"]
    running = [
        service.start("behaves", {"do": "listen", "seconds": seconds})
        for seconds in (0.3, 0.3, 1.8)
    ]
    for id in running:
        service.until(id, "running")
    with redis.Redis.from_url(own_store.url) as client:
        client.execute_command("ACL SETUSER admin on >admin ~* &* +@all")
    with redis.Redis.from_url(own_store.url, username="admin", password="admin") as client:
        mend = harm(client)
        refused_until = time.monotonic() + LEASE_SECONDS / 3
        while time.monotonic() < refused_until:
            if harm is forbidding:
                is_away(service.cancel(running[2]))
            for ask in each_endpoint(service, ended):
                if (response := ask()).status_code not in (200, 202, 400):
                    is_away(response)
            assert service.http.get(f"{service.url}/metrics", timeout=30).status_code == 200
            assert service.http.get(f"{service.url}/readyz", timeout=30).status_code in (200, 503)
        mend()
    for id in running:
        execution = service.ended(id)
        assert (execution["status"], execution["attempt"]) == ("completed", 1)
    assert service.workers[0].poll() is None
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"


def test_a_worker_that_is_started_while_the_store_is_full_waits_for_it(
    broken: Make, own_store: EmbeddedStore
) -> None:
    service = broken(workers=0)
    waiting = service.start("behaves", {"do": "echo"})
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("maxmemory", 1)
        worker = service.start_worker()
        deadline = time.monotonic() + 60
        while '"store_unavailable"' not in service.output("worker0"):
            assert time.monotonic() < deadline
            assert worker.poll() is None, service.output("worker0")
            time.sleep(0.05)
        client.config_set("maxmemory", 0)
    assert service.ended(waiting)["status"] == "completed"
    assert worker.poll() is None


def test_a_read_only_store_is_survived(broken: Make, own_store: EmbeddedStore) -> None:
    """A fail-over in between: writes are refused with READONLY for a while; what is there can be
    read.
    """
    service = broken()
    id = service.start("behaves", {"do": "listen", "seconds": 1})
    service.until(id, "running")
    with redis.Redis.from_url(own_store.url) as client:
        client.replicaof("127.0.0.1", 1)  # a replica of nothing
        deadline = time.monotonic() + LEASE_SECONDS + 1
        while time.monotonic() < deadline:
            is_away(service.post("/executions", json=START))
            assert service.status(id)["status"] == "running"
            assert service.get("/executions").status_code == 200
        client.replicaof("NO", "ONE")
    ended = service.ended(id)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)


@pytest.mark.parametrize("script", ["submit", "claim", "finish"])
def test_an_answer_that_is_lost_after_the_write_starts_nothing_twice(
    broken: Make, proxy: Proxy, tmp_path: Path, script: str
) -> None:
    """One execution, one run."""
    service = broken()
    service.run("behaves", {"do": "echo"})
    marks = tmp_path / "marks"
    for _ in range(5):
        proxy.drop_after = library().function(script).encode()
        proxy.mode = "drop_answer"
        body = {**START, "inputs": {"do": "echo", "marks": str(marks)}}
        response = service.post("/executions", json=body)
        assert response.status_code == 202
        ended = service.ended(response.json()["execution_id"])
        assert (ended["status"], ended["attempt"]) == ("completed", 1)
    assert proxy.dropped == 5
    assert len(marks.read_text().splitlines()) == 10  # five runs, each with a beginning and an end
    assert service.get("/executions").json()["pagination"]["total_items"] == 6


def test_connections_that_the_store_closes_go_unnoticed(broken: Make, proxy: Proxy) -> None:
    service = broken()
    codes = []
    for _ in range(10):
        proxy.kill_connections()
        response = service.post("/executions", json=START)
        codes.append(response.status_code)
        if response.status_code == 202:
            assert service.ended(response.json()["execution_id"])["status"] == "completed"
    assert set(codes) <= {202, 503}
    assert codes.count(202) >= 8


@pytest.mark.parametrize(
    "garbage",
    [
        {"status": "exploded"},
        {"data": "not json"},
        {"timeout": "soon"},
        {"created_at": "nan"},
        {"expires": "soon"},
        {"attempt": "inf"},
    ],
)
def test_a_record_that_makes_no_sense_harms_nobody_else(
    broken: Make, own_store: EmbeddedStore, garbage: dict[str, str]
) -> None:
    service = broken(workers=0)
    poison = service.start("behaves", {"do": "echo"}, config={"max_attempts": 1})
    sound = [service.start("behaves", {"do": "echo"}) for _ in range(5)]
    with redis.Redis.from_url(own_store.url) as client:
        client.hset(f"rq:job:{poison}", mapping=garbage)
        if "data" in garbage:
            client.set(f"rq:job:{poison}:data", garbage["data"])
    worker = service.start_worker()
    for id in sound:
        assert service.ended(id)["status"] == "completed"
    assert service.get(f"/executions/{poison}").status_code in (200, 404)
    assert service.get("/executions").status_code == 200
    time.sleep(LEASE_SECONDS + 1)
    assert worker.poll() is None
    assert service.run("behaves", {"do": "echo"})["status"] == "completed"
    worker.terminate()
    worker.wait(60)
    late = service.start("behaves", {"do": "echo"}, expires_in=1)
    assert service.ended(late)["error"]["type"] == "Expired"  # the web side's reaper lives


def test_steps_that_make_no_sense_harm_no_other_execution(
    broken: Make, own_store: EmbeddedStore
) -> None:
    """Here a pipeline's run would go on from what it has stored."""
    service = broken(workers=0)
    inputs = {"text": "One."}
    poison = service.start("document_summary", inputs, type="pipeline", config={"max_attempts": 1})
    sound = [service.start("document_summary", inputs, type="pipeline") for _ in range(2)]
    with redis.Redis.from_url(own_store.url) as client:
        client.set(f"rq:job:{poison}:steps", "no steps")
    service.start_worker()
    for id in sound:
        assert service.ended(id)["status"] == "completed"
    assert service.ended(poison)["error"]["type"] == "RecordUnreadable"
    assert service.get(f"/executions/{poison}/steps").status_code in (200, 404)


def test_an_outcome_that_the_store_can_not_read_keeps_back_no_other(
    broken: Make, own_store: EmbeddedStore
) -> None:
    """It hangs up in the middle of all that was sent together, as it cannot tell where the next
    one begins.
    """
    service = broken(WORKER_PROCESSES=4)
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("proto-max-bulk-len", 1024 * 1024)
    first, large, *others = (
        service.start("behaves", {"do": "noise", "bytes": bytes, "seconds": seconds})
        for bytes, seconds in ((1, 0.5), (1_500_000, 0.7), (1, 0.9), (1, 0.9))
    )
    for id in (first, large, *others):
        service.until(id, "running")
    os.kill(own_store.pid, signal.SIGSTOP)
    time.sleep(1.2)
    os.kill(own_store.pid, signal.SIGCONT)
    for id in (first, *others):
        execution = service.ended(id)
        assert (execution["status"], execution["attempt"]) == ("completed", 1)
    assert service.status(large)["status"] == "running"  # it is tried for a while


def test_a_self_signed_certificate_is_accepted_only_where_that_is_asked_for(
    make_service: Make, own_store: EmbeddedStore
) -> None:
    """As Heroku's Redis has it: REDIS_TLS_VERIFY=0."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with Proxy(own_store.url.removeprefix("unix://"), tls=context) as proxy:
        service = make_service(proxy.url, REDIS_TLS_VERIFY=0)
        assert service.run("behaves", {"do": "echo"})["status"] == "completed"
        is_away(make_service(proxy.url, workers=0).post("/executions", json=START))


def test_what_was_accepted_is_on_disk_before_it_is_answered(
    make_service: Make, own_store: EmbeddedStore, tmp_path: Path
) -> None:
    """With `appendfsync always`: a machine that loses its power finds all of it in what
    it had written.
    """
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("appendfsync", "always")
    service = make_service(own_store.url, workers=0)
    for number in range(5):
        ids = [service.start("behaves", {"do": "echo"}) for _ in range(10)]
        copy = tmp_path / f"copy{number}"
        shutil.copytree(own_store.folder, copy, ignore=shutil.ignore_patterns("lock", "store.log"))
        survivor = EmbeddedStore(copy, binary=SERVER)
        survivor.start()
        with redis.Redis.from_url(survivor.url) as client:
            assert all(client.exists(f"rq:job:{id}") for id in ids)
        survivor.stop()


def test_a_full_disk_refuses_starts_and_everything_goes_on_once_there_is_room(
    make_service: Make, tmp_path: Path
) -> None:
    """With `appendfsync everysec`. (With `always` the store ends itself: its supervisor
    starts it again.)
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False
    ).returncode:
        pytest.skip("A small disk cannot be mounted here.")
    store = EmbeddedStore(disk / "store", binary=SERVER)
    try:
        store.start()
        service = make_service(store.url, LEASE=LEASE_SECONDS)
        done = service.run("behaves", {"do": "echo"})["execution_id"]
        running = service.start("behaves", {"do": "listen", "seconds": 3})
        service.until(running, "running")
        (disk / "filler").write_bytes(b"x" * _free_bytes(disk))
        codes = set()
        for _ in range(40):
            time.sleep(0.05)
            response = service.post("/executions", json=START)
            codes.add(response.status_code)
            assert response.elapsed.total_seconds() < within(2)
        assert codes <= {202, 503}
        assert 503 in codes
        time.sleep(LEASE_SECONDS + 1)
        (disk / "filler").unlink()
        comes_back(service)
        ended = service.ended(running)
        assert (ended["status"], service.status(done)["status"]) == ("completed", "completed")
        assert service.run("behaves", {"do": "echo"})["status"] == "completed"
    finally:
        store.stop()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _free_bytes(disk: Path) -> int:
    return shutil.disk_usage(disk).free
