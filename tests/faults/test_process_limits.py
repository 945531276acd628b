"""A limit of processes and threads is reached for a moment: executions wait, and none fails."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
import redis

from tests.faults.conftest import children_of
from tests.support.pace import until
from tests.support.process_limits import ProcessLimit, process_limit
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]
Limited = Callable[..., tuple[Service, ProcessLimit]]


@pytest.fixture
def limited(make_service: Make, own_store: EmbeddedStore) -> Iterator[Limited]:
    """Makes a service and the limit that its one worker is held to, which is none at first."""
    with contextlib.ExitStack() as stack:

        def make(flow: str = "process", **options: object) -> tuple[Service, ProcessLimit]:
            service = make_service(own_store.url, LEASE=3, **options)
            service.run("behaves", {"do": "echo"}, config={"flow_id": flow})
            limit = stack.enter_context(process_limit(service.workers[0].pid))
            if limit is None:
                pytest.skip("Nothing limits the processes of this user here.")
            return service, limit

        yield make


def ready_slots(store: EmbeddedStore) -> int:
    with redis.Redis.from_url(store.url) as client:
        return sum(
            int(slots.decode().partition("/")[2]) for slots in client.hgetall("exec:slots").values()
        )


@pytest.mark.parametrize(
    "room", [0, 1, 2], ids=["for no process", "for one of the three forks", "for two"]
)
def test_a_child_that_cannot_be_started_comes_when_there_is_room_again(
    limited: Limited, own_store: EmbeddedStore, room: int
) -> None:
    service, limit = limited(WORKER_PROCESSES=1, WORKER_THREADS=0)
    [child] = children_of(service.workers[0].pid)
    limit.set(limit.count - child.num_threads() - 1 + room)  # its keeper goes with it
    child.kill()
    child.wait(30)
    until(lambda: ready_slots(own_store) == 0)  # what does not exist does not count
    time.sleep(1)
    waiting = service.start("behaves", {"do": "echo"}, config={"max_attempts": 1})
    assert service.status(waiting)["status"] == "pending"
    limit.set(None)
    ended = service.ended(waiting)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)
    until(lambda: ready_slots(own_store) == 1)
    service.workers[0].send_signal(signal.SIGTERM)
    assert service.workers[0].wait(60) == 0


def test_a_worker_without_room_for_a_child_still_ends_in_order(
    limited: Limited,
) -> None:
    service, limit = limited(WORKER_PROCESSES=1, WORKER_THREADS=0)
    [child] = children_of(service.workers[0].pid)
    limit.set(1)
    child.kill()
    time.sleep(1.5)
    service.workers[0].send_signal(signal.SIGTERM)
    assert service.workers[0].wait(60) == 0


def test_a_forkserver_that_answers_no_more_is_replaced(make_service: Make) -> None:
    service = make_service(WORKER_PROCESSES=1, WORKER_THREADS=0, RUNS_PER_PROCESS=1)
    service.run("behaves", {"do": "echo"})
    family = psutil.Process(service.workers[0].pid).children()
    servers = [process for process in family if process.name() == "exec-forkserver"]
    server = min(
        servers, key=psutil.Process.create_time
    )  # a child that was just forked has its name for a moment
    server.suspend()  # it is alive, and silent
    for _ in range(2):
        assert service.run("behaves", {"do": "echo"})["status"] == "completed"


def test_threads_that_cannot_be_started_cost_their_neighbours_nothing(
    limited: Limited,
) -> None:
    """Room for some twenty threads, forty wanted: all end well, and nobody loses an attempt."""
    service, limit = limited(WORKER_PROCESSES=0, WORKER_THREADS=40, flow="thread")
    quiet = [
        service.start(
            "behaves",
            {"do": "listen", "seconds": 3},
            config={"flow_id": "thread", "max_attempts": 1},
        )
        for _ in range(10)
    ]
    for id in quiet:
        service.until(id, "running")
    limit.set(limit.count + 8)
    more = [
        service.start(
            "behaves",
            {"do": "listen", "seconds": 1.5},
            config={"flow_id": "thread", "max_attempts": 1},
        )
        for _ in range(30)  # they overlap also on a machine where a start takes its time
    ]
    ends = [service.ended(id, seconds=60) for id in (*quiet, *more)]
    assert Counter((end["status"], end["attempt"]) for end in ends) == {("completed", 1): 40}
    assert "child_died" not in service.output("worker0")
    assert "run_unstarted" in service.output("worker0")  # else the limit was not reached
