"""RQ's own classes and its command line, beside a running service: they show the right state and
change nothing.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
    clean_registries,
)
from rq.serializers import JSONSerializer
from rq.worker import Worker

from app.domain.payload import FUNCTION
from tests.store.driver import Driver
from tests.support.pace import until
from tests.support.service import Service

Make = Callable[..., Service]
RQ = str(Path(sys.executable).parent / "rq")
KEPT = re.compile(
    rb"rq:(job|queue|queues|wip|scheduled|finished|failed|canceled)\b|exec:(index|waiting|delayed)\b"
)


def fetch(client: redis.Redis, id: str) -> Job:
    return Job.fetch(id, connection=client, serializer=JSONSerializer)


def queue(client: redis.Redis, name: str = "processes") -> Queue:
    return Queue(name, connection=client, serializer=JSONSerializer)


def ids_in(registry: type[BaseRegistry], client: redis.Redis) -> list[str]:
    return registry("processes", connection=client, serializer=JSONSerializer).get_job_ids()


def info(service: Service) -> str:
    """What `rq info --raw` prints."""
    command = [RQ, "info", "--raw", "--url", service.env["REDIS_URL"]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def kept(client: redis.Redis) -> dict[bytes, bytes | None]:
    """Everything that says what executions there are, and in which order they wait."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000) if KEPT.match(key)}


def agrees(job: Job, body: dict[str, Any]) -> None:
    """What RQ reads is what the API answers."""
    assert job.meta["status"] == body["status"]
    shown = body.get("progress")
    progress = (
        [shown["current_step"], shown["total_steps"], shown["current_step_name"]] if shown else None
    )
    assert job.meta["progress"] == progress
    for field in ("created_at", "started_at", "ended_at"):
        told = body.get(f"{body['status']}_at" if field == "ended_at" else field)
        found = getattr(job, field)
        assert (told is None) == (found is None), field
        assert (
            told is None or abs((datetime.fromisoformat(told) - found).total_seconds()) < 0.002
        ), field
    assert job.enqueued_at is not None
    assert (job.func_name, job.origin, job.timeout) == (FUNCTION, "processes", 600)
    running = body["status"] == "running" or (
        body["status"] in ("completed", "failed") and body["attempts"]
    )
    assert job.worker_name == (body["attempts"][-1]["worker"] if running else None)


def test_rq_tells_the_truth_of_every_state_and_changes_nothing(make_service: Make) -> None:
    service = make_service(workers=1, WORKER_THREADS=0, WORKER_PROCESSES=2, LEASE=60)
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        until(lambda: " idle processes" in info(service))
        completed = service.run("behaves", {"do": "echo"})["execution_id"]
        failed = service.run("behaves", {"do": "fail"})["execution_id"]
        retries = {"max": 1, "backoff_seconds": [600]}
        waiting = service.start("behaves", {"do": "fail"}, config={"retries": retries})
        until(lambda: service.status(waiting).get("phase") == "retry_wait")
        assert " idle processes" in info(service)
        running, stopped = (
            service.start("behaves", {"do": "listen", "seconds": 120}) for _ in range(2)
        )
        for id in (running, stopped):
            service.until(id, "running")
        queued, cancelled, last = (service.start("behaves", {"do": "echo"}) for _ in range(3))
        assert service.cancel(cancelled).json()["data"]["status"] == "cancelled"
        os.kill(service.workers[0].pid, signal.SIGSTOP)
        assert service.cancel(stopped).json()["data"]["phase"] == "cancelling"

        before = kept(client)
        for id, state in {
            **dict.fromkeys((queued, last), "queued"),
            **dict.fromkeys((running, stopped), "started"),
            completed: "finished",
            failed: "failed",
            cancelled: "canceled",
            waiting: "scheduled",
        }.items():
            job = fetch(client, id)
            assert job.get_status() == state
            agrees(job, service.status(id))
        names = {known.name for known in Queue.all(connection=client)}
        assert names == {"processes", "threads"}
        assert [job.id for job in queue(client).jobs] == [queued, last]
        assert ids_in(FinishedJobRegistry, client) == [completed]
        assert ids_in(FailedJobRegistry, client) == [failed]
        assert ids_in(CanceledJobRegistry, client) == [cancelled]
        assert ids_in(ScheduledJobRegistry, client) == [waiting]
        assert set(ids_in(StartedJobRegistry, client)) == {running, stopped}
        [worker] = Worker.all(connection=client)
        assert (worker.get_state(), worker.successful_job_count, worker.failed_job_count) == (
            "busy",
            1,
            1,
        )
        for name in names:
            clean_registries(queue(client, name))
        printed = info(service)
        assert "queue processes 2, 2 executing, 1 finished, 1 failed" in printed
        assert "queue threads 0, 0 executing, 0 finished, 0 failed" in printed
        assert " busy processes. jobs: 1 finished, 1 failed" in printed
        assert kept(client) == before

        os.kill(service.workers[0].pid, signal.SIGCONT)
        assert service.ended(stopped)["status"] == "cancelled"
        service.cancel(running)
        assert [service.ended(id)["status"] for id in (queued, last)] == ["completed"] * 2
        until(lambda: " idle processes" in info(service))
        assert ids_in(StartedJobRegistry, client) == []


def test_a_start_makes_its_queue_known_to_rq_at_once(driver: Driver) -> None:
    driver.submit()  # and nobody has reaped yet
    assert driver.client.smembers("rq:queues") == {b"rq:queue:processes"}


def test_reading_a_queue_while_it_is_drained_loses_nothing_and_changes_no_order(
    make_service: Make,
) -> None:
    service = make_service(workers=0, WORKER_THREADS=4, WORKER_PROCESSES=0)
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        driver = Driver(client)
        call = {
            "target_id": "behaves",
            "inputs": {"do": "echo"},
            "config": {"flow_id": "thread"},
            "queue": "threads",
        }
        ids = [driver.submit(**call) for _ in range(1000)]
        threads, read = queue(client, "threads"), []
        service.start_worker()
        deadline = time.monotonic() + 120
        while not read or read[-1]:
            assert time.monotonic() < deadline
            read.append([job.id for job in threads.jobs])
        for found in read:
            assert found == [id for id in ids if id in set(found)]
        assert len(read) > 2
        until(lambda: client.zcard("rq:finished:threads") == len(ids), seconds=120)
        tokens = [client.hget(f"rq:job:{id}", "token").decode().split(":") for id in ids]
        assert {worker for worker, _, _ in tokens} == {tokens[0][0]}
        claimed = [(int(number), int(place)) for _, number, place in tokens]
        assert claimed == sorted(claimed)


@pytest.mark.parametrize("at", ["head", "middle", "end"])
def test_what_fell_out_of_a_queue_comes_back_to_its_place(
    redis_client: redis.Redis, at: str
) -> None:
    driver = Driver(redis_client)
    ids = [driver.submit() for _ in range(9)]
    for id in {"head": ids[:2], "middle": [ids[3], ids[4], ids[6]], "end": ids[-2:]}[at]:
        redis_client.lrem("rq:queue:processes", 1, id)
    driver.reap()
    assert [id.decode() for id in redis_client.lrange("rq:queue:processes", 0, -1)] == ids
