"""An upgrade: the service reads and finishes executions that version 1.0 has stored."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from app.domain.execution import Phase, Progress, Status, TargetType
from app.domain.identifiers import new_id
from app.store.execution_lists import index_keys
from tests.store.driver import Driver, registry
from tests.support.service import Service

AT = int(time.time() - 60) * 1_000_000 + 123_456
CALL = (
    '["app.executions.payload.execution",null,[],'
    '{"type":"agent","target_id":"%s","inputs":{"do":"echo","text":"hello"},"config":{}}]'
)


class OldStore:
    """Writes executions as the older version did."""

    def __init__(self, client: redis.Redis, target: str = "echo"):
        self.client, self._target = client, target

    def put(self, rq_word: str, api_word: str, **fields: object) -> str:
        id = new_id()
        record = {
            "status": rq_word,
            "created": AT,
            "origin": "processes",
            "tenant": "default",
            "type": "agent",
        }
        record |= {"target": self._target, "timeout_seconds": "600.0", "max_attempts": 3, **fields}
        self.client.hset(
            f"rq:job:{id}", mapping={name: str(value) for name, value in record.items()}
        )
        self.client.set(f"rq:job:{id}:data", CALL % self._target)
        for state in ("all", api_word):
            for scope in ("all", "agent", f"agent:{self._target}"):
                self.client.zadd(f"exec:index:default:{state}:{scope}", {id: AT})
        return id

    def pending(self, **fields: object) -> str:
        id = self.put("queued", "pending", **fields)
        self.client.zadd("exec:waiting", {id: "inf"})
        self.client.rpush("rq:queue:processes", id)
        return id

    def delayed(self) -> str:
        id = self.put("queued", "pending", due=AT + 1, queued=AT + 1, attempt=1, retried=1, lost=0)
        self.client.zadd("exec:waiting", {id: "inf"})
        self.client.zadd("exec:delayed", {id: 2**52})
        return id

    def running(self, **fields: object) -> str:
        ran = {
            "attempt": 1,
            "token": "gone:5:1",
            "worker": "gone",
            "started": AT + 5,
            "progress": '[1,4,"reading"]',
        }
        id = self.put("started", "running", **{**ran, **fields})
        self.client.zadd("exec:leases", {id: 1})
        return id

    def ended(self, status: str, api_word: str, **fields: object) -> str:
        ran = {
            "attempt": 1,
            "token": "gone:5:1",
            "worker": "gone",
            "started": AT + 5,
            "ended": AT + 9,
        }
        id = self.put(status, api_word, **{**ran, **fields})
        self.client.zadd(f"exec:ended:{api_word}", {id: AT + 9})
        return id

    def completed(self) -> str:
        id = self.ended("finished", "completed")
        self.client.set(f"rq:job:{id}:outputs", '{"output":"old"}')
        return id


@pytest.fixture
def old(redis_client: redis.Redis) -> OldStore:
    return OldStore(redis_client)


def test_each_state_is_read_as_before(old: OldStore, driver: Driver) -> None:
    pending = old.pending()
    delayed = old.delayed()
    running = old.running()
    completed = old.completed()
    failed = old.ended(
        "failed", "failed", error='{"type":"ValueError","message":"no","details":{}}'
    )
    found = {id: driver.stored(id) for id in (pending, delayed, running, completed, failed)}
    assert found[pending].phase is Phase.QUEUED
    assert found[delayed].phase is Phase.RETRY_WAIT
    assert (found[running].status, found[running].progress) == (
        Status.RUNNING,
        Progress(1, 4, "reading"),
    )
    assert found[running].attempts[0].worker == "gone"
    assert (found[completed].outputs, found[completed].progress) == (
        b'{"output":"old"}',
        Progress(1, 1),
    )
    assert found[failed].failure is not None
    assert found[failed].failure.type == "ValueError"
    assert {
        round(execution.created_at.timestamp() * 1_000_000) for execution in found.values()
    } == {AT}


def test_lists_show_old_and_new_ones_once_each(old: OldStore, driver: Driver) -> None:
    ids = {old.pending(), old.delayed(), old.running(), old.completed(), driver.submit()}
    assert driver.listed() == ids
    _, total = driver.store.lists.page(
        "default", index_keys("default", None, TargetType.AGENT), 0, 10, descending=True
    )
    assert total == len(ids)


def test_what_waited_ran_or_had_ended_goes_its_way(old: OldStore, driver: Driver) -> None:
    pending, running, completed = old.pending(), old.running(), old.completed()
    driver.reap()
    driver.let_leases_run_out()
    claimed = dict(driver.claim(count=5))
    assert set(claimed) == {pending, running}
    assert [driver.finish(id, token) for id, token in claimed.items()] == ["completed"] * 2
    assert driver.stored(running).attempts[0].outcome == "lost"
    driver.let_retention_be_over()
    for id in (pending, running, completed):
        assert not driver.client.keys(f"rq:job:{id}*")
    assert not driver.client.keys("exec:index:*")


def test_an_attempt_that_ran_on_is_finished_by_its_token(old: OldStore, driver: Driver) -> None:
    id = old.running()
    assert driver.beat(id, "gone:5:1", '[2,4,"writing"]') == "ok"
    assert driver.stored(id).progress == Progress(2, 4, "writing")
    assert driver.finish(id, "gone:5:1") == "completed"
    assert driver.listed(Status.COMPLETED) == {id}


def test_after_a_reap_rq_reads_all_of_them_and_takes_nothing_out_of_a_queue(
    old: OldStore, driver: Driver
) -> None:
    pending = [old.pending() for _ in range(150)]
    delayed = old.delayed()
    completed = old.completed()
    driver.reap()
    queue = Queue("processes", connection=old.client, serializer=JSONSerializer)
    assert [job.id for job in queue.jobs] == pending
    assert [job.meta["status"] for job in queue.jobs] == ["pending"] * 150
    assert (
        Job.fetch(delayed, connection=old.client, serializer=JSONSerializer).get_status()
        == "scheduled"
    )
    assert old.client.zscore(registry("completed"), completed) is not None
    assert not old.client.exists("exec:ended:completed")


@pytest.mark.parametrize("field", ["created", "started", "timeout_seconds", "status"])
def test_what_made_no_sense_then_ends_with_an_error(
    old: OldStore, driver: Driver, field: str
) -> None:
    id = old.running(**{field: "nonsense"})
    failure = driver.stored(id).failure
    assert failure is not None
    assert failure.type == "RecordUnreadable"
    assert driver.listed(Status.FAILED) == {id}


def test_a_fraction_of_a_second_stays_in_a_time_limit(old: OldStore, driver: Driver) -> None:
    old.pending(timeout_seconds="1.5")
    [row] = driver.claim_rows(1)
    assert row[4] == b"1.5"


def test_a_service_finishes_what_waited_and_what_a_gone_worker_ran(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, LEASE=4, AUTH="off")
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        old = OldStore(client, "behaves")
        ids = [old.pending() for _ in range(3)] + [old.running()]
        service.start_worker()
        assert [service.ended(id, seconds=60)["status"] for id in ids] == ["completed"] * 4
