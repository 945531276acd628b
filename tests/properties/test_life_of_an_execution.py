"""Any sequence of transitions, by the web side and two workers, keeps every promise about states.

The model is small: the state of each execution, and which worker has which token. After every step
the test compares the real store with the model, and the index, leases, queue and records with each
other.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.domain.errors import KeyReused
from app.domain.events import Event
from app.domain.execution import Idempotency, Status
from app.store.events import read_entries
from app.worker.claim import SOLE
from tests.store.driver import FINAL, Driver, new_execution

MAX_ATTEMPTS = 2
WORKERS = st.sampled_from(["w1", "w2"])


@dataclass
class Known:
    """What the model knows of one execution. `tokens` are all that were ever given out, the last is
    current.
    """

    state: str = "pending"
    cancel_asked: bool = False
    lost: int = 0
    deaths: int = 0
    attempt: int = 0
    tokens: list[str] = field(default_factory=list)

    @property
    def worker(self) -> str:
        return self.tokens[-1].split(":")[0]


class LifeOfAnExecution(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.driver = Driver(self.client)
        self.known: dict[str, Known] = {}
        self.removed: set[str] = set()
        self.died_with_many: set[str] = set()
        self.keys: dict[str, tuple[str, str]] = {}
        self.logs: dict[str, list[Event]] = {}
        self.heard: dict[str, list[Event]] = {}
        self.reported: dict[tuple[str, str], int] = {}
        self.messages: dict[str, list[str]] = {}
        self.hearing = self.client.pubsub()
        self.hearing.psubscribe("exec:changed:*")
        assert self.hearing.get_message(timeout=5) is not None

    def teardown(self) -> None:
        self.hearing.close()

    def some(self, data: st.DataObject, *states: str) -> str:
        return data.draw(
            st.sampled_from([id for id, known in self.known.items() if known.state in states])
        )

    def any_in(self, *states: str) -> bool:
        return any(known.state in states for known in self.known.values())

    @rule()
    def submit(self) -> None:
        self.known[self.driver.submit(max_attempts=MAX_ATTEMPTS)] = Known()

    @rule(key=st.sampled_from(["a", "b"]), digest=st.sampled_from(["1", "2"]))
    def submit_with_a_key(self, key: str, digest: str) -> None:
        """The first start with a key decides, for as long as the key is kept: longer than this run."""
        new = new_execution(max_attempts=MAX_ATTEMPTS, idempotency=Idempotency(key, digest))
        id, first_digest = self.keys.setdefault(key, (new.id, digest))
        try:
            submitted = self.driver.store.submit(new)
        except KeyReused:
            assert digest != first_digest
            return
        assert digest == first_digest
        assert (submitted.execution_id, submitted.replayed) == (id, id != new.id)
        if id == new.id:
            self.known[id] = Known()

    @rule(worker=WORKERS, count=st.integers(1, 3))
    def claim(self, worker: str, count: int) -> None:
        waiting = sum(known.state == "pending" for known in self.known.values())
        claimed = self.driver.claim(worker, count)
        assert len(claimed) == min(count, waiting)
        for id, token in claimed:
            known = self.known[id]
            assert known.state == "pending"
            assert token not in known.tokens
            known.state, known.attempt = "running", known.attempt + 1
            known.tokens.append(token)

    def report(self, data: st.DataObject, id: str) -> str:
        """What the child of the running attempt reports: often what is stored already, too."""
        key = id, self.known[id].tokens[-1]
        told = self.reported.get(key, 0)
        first, last = data.draw(st.integers(1, told + 1)), told + data.draw(st.integers(0, 2))
        if first > last:
            return ""
        self.reported[key] = last
        texts = [f"{number} of {key[1]}" for number in range(first, last + 1)]
        self.messages.setdefault(id, []).extend(texts[told + 1 - first :])
        return json.dumps([first, *(f'"log",{json.dumps({"message": text})}' for text in texts)])

    @precondition(lambda self: self.any_in("running"))
    @rule(
        data=st.data(),
        progress=st.sampled_from(["", '[0,1,"a"]', '[0,1,"b"]']),
        call=st.sampled_from(["beat", "checkpoint"]),
        times=st.integers(1, 2),
    )
    def beat(self, data: st.DataObject, progress: str, call: str, times: int) -> None:
        id = self.some(data, "running")
        known, events, number = self.known[id], self.report(data, id), time.monotonic_ns()
        changes: dict[str, Any] = {"events": events, "number": number}
        if progress or call == "beat":
            changes["progress"] = progress
        for _ in range(times):
            answer = getattr(self.driver, call)(id, known.tokens[-1], **changes)
            assert answer == ("cancel" if known.cancel_asked else "ok")

    @precondition(lambda self: self.any_in("running"))
    @rule(data=st.data(), outcome=st.sampled_from(["completed", "failed"]), times=st.integers(1, 2))
    def finish(self, data: st.DataObject, outcome: str, times: int) -> None:
        id = self.some(data, "running")
        known = self.known[id]
        events = self.report(data, id)
        known.state = "cancelled" if known.cancel_asked else outcome
        for _ in range(times):  # an answer that was lost makes the caller repeat itself
            answer = self.driver.finish(id, known.tokens[-1], outcome, events=events)
            assert answer == known.state

    @precondition(lambda self: self.any_in("running"))
    @rule(data=st.data(), how=st.sampled_from(["handed_back", "failed", "lost"]))
    def release(self, data: st.DataObject, how: str) -> None:
        id = self.some(data, "running")
        known, events = self.known[id], self.report(data, id)
        self._expect_release(known, how)
        assert self.driver.release(id, known.tokens[-1], how, events=events) == known.state

    @precondition(lambda self: self.any_in("running"))
    @rule()
    def leases_run_out(self) -> None:
        running = [known for known in self.known.values() if known.state == "running"]
        workers = [known.worker for known in running]
        self.died_with_many |= {worker for worker in workers if workers.count(worker) > 1}
        for known in running:
            self._expect_death(known)
        self.driver.let_leases_run_out()
        self.driver.let_delays_be_over()

    @precondition(lambda self: any(known.tokens for known in self.known.values()))
    @rule(data=st.data(), call=st.sampled_from(["finish", "beat", "checkpoint", "release"]))
    def somebody_with_a_stale_token_writes(self, data: st.DataObject, call: str) -> None:
        stale = [
            (id, token)
            for id, known in self.known.items()
            for token in known.tokens
            if token != known.tokens[-1] or known.state == "pending"
        ]
        if stale:
            id, token = data.draw(st.sampled_from(stale))
            assert getattr(self.driver, call)(id, token) == "lost"

    @precondition(lambda self: bool(self.known))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.known)))
        known = self.known[id]
        if known.state == "pending":
            known.state = "cancelled"
        elif known.state == "running":
            known.cancel_asked = True
        assert self.driver.store.cancel(id, "default") == known.state

    @rule()
    def reap(self) -> None:
        self.driver.store.reap()

    @rule()
    def the_queue_is_lost(self) -> None:
        self.client.delete("rq:queue:processes")
        self.driver.store.reap()

    @rule()
    def retention_is_over(self) -> None:
        self.driver.let_retention_be_over()
        gone = {id for id, known in self.known.items() if known.state in FINAL}
        self.removed |= gone
        for id in gone:
            del self.known[id]

    def _expect_death(self, known: Known) -> None:
        """Who died with others is not counted, until it has happened so often that it runs alone."""
        if known.worker in self.died_with_many and known.deaths < SOLE and not known.cancel_asked:
            known.deaths += 1
            known.state = "pending"
        else:
            self._expect_release(known, "lost")

    def _expect_release(self, known: Known, how: str) -> None:
        if known.cancel_asked:
            known.state = "cancelled"
            return
        known.state = "pending"
        if how == "handed_back":
            known.attempt -= 1
        if how == "lost":
            known.lost += 1
            if known.lost >= MAX_ATTEMPTS:
                known.state = "failed"

    @invariant()
    def the_record_is_what_the_model_says(self) -> None:
        for id, known in self.known.items():
            execution = self.driver.store.get(id, "default")
            assert execution is not None
            assert (execution.status.value, execution.attempt) == (known.state, known.attempt)
            assert (execution.ended_at is not None) == (known.state in FINAL)
            if known.state in ("pending", "running"):
                assert (execution.started_at is not None) == (known.state == "running")
        for id in self.removed:
            assert self.driver.status(id) is None

    @invariant()
    def the_log_grows_without_a_gap_and_tells_the_truth(self) -> None:
        for id, known in self.known.items():
            log, before = self.driver.log(id), self.logs.get(id, [])
            assert log[: len(before)] == before
            self.logs[id] = log
            types = [event.type for event in log]
            final = [number for number, type in enumerate(types, 1) if type in FINAL]
            assert final == ([len(log)] if known.state in FINAL else [])
            if final:
                assert types[-1] == known.state
            assert types.count("started") == len(known.tokens)
            assert types.count("cancelling") <= 1
            told = [event.data["message"] for event in log if event.type == "log"]
            assert told == self.messages.get(id, [])

    @invariant()
    def what_is_published_is_the_log(self) -> None:
        for id in self.known:
            log, deadline = self.driver.log(id), time.monotonic() + 30
            while len(self.heard.get(id, [])) < len(log) and time.monotonic() < deadline:
                self.hear()
            assert self.heard[id] == log

    def hear(self) -> None:
        """Takes one message, if there is any."""
        if message := self.hearing.get_message(timeout=1):
            first, final, entries = message["data"].split(b":", 2)
            events = read_entries(entries, int(first))
            assert (final == b"1") == (events[-1].type in FINAL)
            id = message["channel"].decode().removeprefix("exec:changed:")
            self.heard.setdefault(id, []).extend(events)

    @invariant()
    def the_lists_are_what_the_records_say(self) -> None:
        assert self.driver.listed() == set(self.known)
        for status in Status:
            assert self.driver.listed(status) == {
                id for id, known in self.known.items() if known.state == status
            }

    @invariant()
    def each_living_execution_is_held_in_exactly_one_place(self) -> None:
        queued = [id.decode() for id in self.client.lrange("rq:queue:processes", 0, -1)]
        delayed = [id.decode() for id in self.client.zrange("exec:delayed", 0, -1)]
        leased = [id.decode() for id in self.client.zrange("exec:leases", 0, -1)]
        waiting = {id.decode() for id in self.client.zrange("exec:waiting", 0, -1)}
        pending = {id for id, known in self.known.items() if known.state == "pending"}
        assert sorted(queued + delayed) == sorted(pending)
        assert waiting == pending
        assert sorted(leased) == sorted(
            id for id, known in self.known.items() if known.state == "running"
        )


@pytest.mark.timeout(1800)  # thousands of calls: as long as EXAMPLES and the machine make it
def test_every_promise_holds_after_any_sequence_of_transitions(redis_client: redis.Redis) -> None:
    LifeOfAnExecution.client = redis_client
    run_state_machine_as_test(
        LifeOfAnExecution,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", "60")),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
