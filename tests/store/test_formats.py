"""Upgrades from stores as older code left them: one for each format, written by the old code itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from app.domain.errors import StoreUnavailable
from app.domain.execution import Execution, Phase, Progress, Status
from app.settings import DAY, Settings
from app.store.store_format import FORMAT, KEY
from tests.store.driver import Driver
from tests.store.formats import TARGETS, Fixture, dump, fixtures, restore
from tests.support.service import Service

FOR_YEARS = 3650 * DAY
"""A retention over the age of every fixture: its ended executions must not leave at once."""

FORMATS = pytest.mark.parametrize("old", fixtures(), ids=lambda old: f"format {old.name}")

ECHO = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo", "text": "hello"}}

UNFINISHED = {
    "pending agent": (Status.PENDING, Phase.QUEUED),
    "pending pipeline": (Status.PENDING, Phase.QUEUED),
    "delayed agent": (Status.PENDING, Phase.RETRY_WAIT),
    "running agent": (Status.RUNNING, Phase.RUNNING),
    "running pipeline": (Status.RUNNING, Phase.RUNNING),
}


@FORMATS
def test_what_older_code_left_is_shown(redis_client: redis.Redis, old: Fixture) -> None:
    restore(redis_client, old)
    driver = Driver(redis_client, Settings(retention=FOR_YEARS))
    found = {name: driver.stored(id) for name, id in old.ids.items()}
    for name, state in UNFINISHED.items():
        assert (found[name].status, found[name].phase) == state, name
    assert json.loads(outputs(found["completed agent"]))["output"].startswith("echo agent long")
    assert json.loads(outputs(found["completed pipeline"]))["twice"].startswith("echo pipeline")
    for name in ("failed agent", "failed pipeline"):
        failure = found[name].failure
        assert failure is not None
        assert (failure.type, failure.message) == ("ValueError", "It cannot.")
    assert found["cancelled agent"].status is Status.CANCELLED
    assert found["running agent"].progress == Progress(1, 4, "reading")
    assert [attempt.error for attempt in found["delayed agent"].attempts] == ["ValueError"]
    assert all(found[name].attempts for name in found if not name.startswith("pending"))
    assert driver.listed() == set(old.ids.values())


def outputs(execution: Execution) -> bytes:
    assert isinstance(execution.outputs, bytes)
    return execution.outputs


@FORMATS
def test_rq_reads_what_older_code_left(redis_client: redis.Redis, old: Fixture) -> None:
    restore(redis_client, old)
    driver = Driver(redis_client, Settings(retention=FOR_YEARS))
    driver.reap()
    driver.let_leases_run_out()
    driver.reap()
    for name, id in old.ids.items():
        job = Job.fetch(id, connection=redis_client, serializer=JSONSerializer)
        assert job.meta["status"] == driver.stored(id).status, name
        assert job.func_name == "app.domain.payload.execution"


@FORMATS
def test_a_service_runs_what_older_code_queued(
    make_service: Callable[..., Service], old: Fixture
) -> None:
    service = make_service(
        workers=0,
        agents=TARGETS / "agents",
        pipelines=TARGETS / "pipelines",
        LEASE=4,
        AUTH="off",
        RETENTION=FOR_YEARS,
    )
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        client.flushdb()
        restore(client, old)
        for id in client.zrange("exec:delayed", 0, -1):
            client.zadd("exec:delayed", {id: int(time.time() * 1_000_000)})
    service.start_worker()
    for name in UNFINISHED:
        got = service.ended(old.ids[name], seconds=60)
        assert got["status"] == "completed", (name, got)
    got = service.get(f"/executions/{old.ids['running pipeline']}").json()
    assert got["outputs"]["twice"].startswith("wait pipeline long")
    retried = service.post(
        f"/executions/{old.ids['failed pipeline']}/retry", json={"from": "start"}
    )
    assert retried.status_code == 202, retried.text
    id = retried.json()["execution_id"]
    assert service.ended(id, seconds=60)["error"]["message"] == "It cannot."


def test_the_first_reap_writes_the_version_of_the_format(driver: Driver) -> None:
    assert driver.client.get(KEY) is None
    driver.reap()
    assert driver.client.get(KEY) == str(FORMAT).encode()
    driver.client.set(KEY, "1")
    driver.reap()
    assert driver.client.get(KEY) == str(FORMAT).encode()


def test_older_code_changes_nothing_in_the_store_of_newer_code(driver: Driver) -> None:
    driver.submit()
    [(running, token)] = driver.claim()
    waiting = driver.submit()
    driver.client.set(KEY, FORMAT + 1)
    before = dump(driver.client)
    for call in (
        driver.submit,
        driver.reap,
        driver.claim,
        lambda: driver.finish(running, token),
        lambda: driver.store.cancel(waiting, "default"),
    ):
        with pytest.raises((StoreUnavailable, redis.ResponseError), match=r"newer|NEWERFORMAT"):
            call()
    assert dump(driver.client) == before


def test_every_part_of_the_service_says_that_newer_code_has_written(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, AUTH="off")
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        client.set(KEY, FORMAT + 1)
        worker = service.start_worker()
        assert worker.wait(60) == 1
        assert "A newer version of this service has written" in service.output("worker0")
        ready = service.http.get(f"{service.url}/readyz", timeout=30)
        failed = [check for check in ready.json()["checks"] if check["status"] == "failed"]
        assert "format" in {check["name"] for check in failed}
        assert "scripts" not in {check["name"] for check in failed}
        refused = service.post("/executions", json=ECHO)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert "newer version" in refused.json()["detail"]
        assert service.get("/executions").status_code == 503
        for arguments in ([], ["worker"]):
            checked = service.python("-m", "app.check", *arguments)
            assert checked.returncode == 1
            assert "run that version again" in checked.stderr
        client.set(KEY, FORMAT)
        assert service.post("/executions", json=ECHO).status_code == 202
