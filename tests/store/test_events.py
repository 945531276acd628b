"""The log of an execution: every change that a client could see is an event, and no number is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.admin.text import shown
from app.domain.events import FINAL_TYPES, Event
from app.domain.execution import Failure, Phase, Progress, StepRecord, StepStatus
from app.settings import DAY, Settings
from app.store.events import UNREADABLE_ENTRY, read_entries
from app.store.inspection import Inspection
from tests.store.driver import FINAL, Driver
from tests.store.formats import Fixture, fixtures, restore
from tools.embedded_store import EmbeddedStore

CHANGED = "exec:changed:"
FEED = "exec:changes:default"
PLAIN_DATA = {"created": {}, "started": {"attempt": 1}}

STEP = StepRecord("one", 0, StepStatus.COMPLETED, "out", done=True)


def events_key(id: str) -> str:
    return f"rq:job:{id}:events"


def reported(*texts: str, first: int = 1) -> str:
    """What a child reports: `log` events with these messages, of which the first has this number."""
    events = [f'"log",{json.dumps({"message": text})}' for text in texts]
    return json.dumps([first, *events])


def messages(driver: Driver, id: str) -> list[str]:
    return [event.data["message"] for event in driver.log(id) if event.type == "log"]


def running(driver: Driver, **changes: Any) -> tuple[str, str]:
    id = driver.submit(**changes)
    [(_, token)] = driver.claim()
    return id, token


def ended_plainly(driver: Driver, how: str) -> str:
    if how == "cancelled before it started":
        id = driver.submit()
        driver.store.cancel(id, "default")
        return id
    id, token = running(driver)
    driver.finish(id, token, how)
    return id


PLAIN = {
    "completed": ["created", "started", "completed"],
    "failed": ["created", "started", "failed"],
    "cancelled": ["created", "started", "cancelled"],
    "cancelled before it started": ["created", "cancelled"],
}


@pytest.mark.parametrize("how", PLAIN)
def test_a_plain_execution_stores_no_list_and_has_a_log(driver: Driver, how: str) -> None:
    id = ended_plainly(driver, how)
    assert driver.types(id) == PLAIN[how]
    assert not driver.client.exists(events_key(id))
    execution = driver.stored(id)
    log = driver.log(id)
    assert (log[0].at, log[-1].at) == (execution.created_at, execution.ended_at)
    assert [event.data for event in log[:-1]] == [PLAIN_DATA[event.type] for event in log[:-1]]
    failure = {"error": Failure("ValueError", "no")} if how == "failed" else {}
    assert log[-1].data == failure


def test_what_has_not_ended_has_a_log(driver: Driver) -> None:
    id = driver.submit()
    assert driver.types(id) == ["created"]
    driver.claim()
    assert driver.types(id) == ["created", "started"]
    page = driver.store.events(id, "default", 1)
    assert page is not None
    assert ([event.number for event in page.events], page.ended) == ([2], False)
    assert driver.store.events(id, "another tenant") is None
    assert driver.store.events("exec_none", "default") is None


def test_the_first_event_that_the_record_does_not_say_stores_those_before_it(
    driver: Driver,
) -> None:
    id, token = running(driver)
    before = driver.log(id)
    driver.beat(id, token, "[1,4,null]")
    log = driver.log(id)
    assert log[:2] == before
    assert (log[2].type, log[2].data) == ("progress", {"progress": Progress(1, 4)})
    assert driver.client.llen(events_key(id)) == 3
    driver.finish(id, token)
    assert driver.types(id) == ["created", "started", "progress", "completed"]
    assert driver.client.llen(events_key(id)) == 4


LIVES: dict[str, tuple[Callable[[Driver, str, str], object], list[str]]] = {
    "handed back": (lambda driver, id, token: driver.release(id, token), ["retrying"]),
    "failed, with a retry": (
        lambda driver, id, token: driver.release(id, token, "failed", 5_000_000, "ValueError"),
        ["retrying"],
    ),
    "its worker died": (lambda driver, id, token: driver.let_leases_run_out(), ["retrying"]),
    "lost at once": (lambda driver, id, token: driver.release(id, token, "lost"), ["retrying"]),
    "cancel asked twice": (
        lambda driver, id, token: [driver.store.cancel(id, "default") for _ in range(2)],
        ["cancelling"],
    ),
    "cancel asked, then its worker died": (
        lambda driver, id, token: (
            driver.store.cancel(id, "default"),
            driver.let_leases_run_out(),
        ),
        ["cancelling", "cancelled"],
    ),
    "progress and usage": (
        lambda driver, id, token: (
            driver.beat(id, token, "[1,4,null]"),
            driver.beat(id, token, usage='{"m":[1,1,1,2]}'),
        ),
        ["progress", "progress"],
    ),
    "a checkpoint": (
        lambda driver, id, token: driver.checkpoint(
            id, token, (STEP, "ended"), step_events=['"step.completed",{"step":"one"}']
        ),
        ["step.completed", "progress"],
    ),
    "only a heartbeat": (lambda driver, id, token: driver.beat(id, token), []),
}


@pytest.mark.parametrize("life", LIVES)
def test_every_change_is_told(driver: Driver, life: str) -> None:
    act, expected = LIVES[life]
    id, token = running(driver)
    act(driver, id, token)
    assert driver.types(id) == ["created", "started", *expected]


def test_a_retry_says_how_the_attempt_ended_and_when_the_next_one_begins(driver: Driver) -> None:
    id, token = running(driver)
    driver.release(id, token, "failed", 60_000_000, "ValueError")
    event = driver.log(id)[-1]
    due_at = event.data.pop("due_at")
    assert event.data == {"attempt": 1, "outcome": "failed", "error": "ValueError"}
    assert (due_at - event.at).total_seconds() == 60
    driver.let_delays_be_over()
    [(_, token)] = driver.claim()
    driver.release(id, token)
    event = driver.log(id)[-1]
    assert event.data == {"attempt": 2, "outcome": "released", "error": None, "due_at": None}


def test_the_end_of_a_delay_changes_the_version_because_the_phase_changes(driver: Driver) -> None:
    id, token = running(driver)
    driver.release(id, token, "failed", delay=60_000_000)
    waiting = driver.stored(id)
    assert (waiting.phase, waiting.version) == (Phase.RETRY_WAIT, 3)
    driver.let_delays_be_over()
    queued = driver.stored(id)
    assert (queued.phase, queued.version) == (Phase.QUEUED, 4)
    assert [event.type for event in driver.log(id)] == [
        "created",
        "started",
        "retrying",
        "progress",
    ]


def test_an_execution_that_expires_or_has_no_attempts_left_ends_its_log(driver: Driver) -> None:
    late = driver.submit(expires_in_seconds=0.001)
    driver.client.zadd("exec:waiting", {late: 1})
    driver.reap()
    assert driver.types(late) == ["created", "failed"]
    id, token = running(driver, max_attempts=1)
    driver.release(id, token, "lost")
    assert driver.types(id) == ["created", "started", "failed"]
    assert driver.log(id)[-1].data["error"].type == "WorkerLost"


# What a child reports.


def test_events_of_a_child_come_before_what_its_write_tells(driver: Driver) -> None:
    id, token = running(driver)
    driver.beat(id, token, "[1,4,null]", events=reported("a"))
    driver.checkpoint(
        id,
        token,
        (STEP, "ended"),
        events=reported("b", first=2),
        step_events=['"step.completed",{"step":"one"}'],
        progress="[2,4,null]",
    )
    driver.finish(id, token, events=reported("c", first=3))
    assert driver.types(id)[2:] == [
        *("log", "progress"), *("log", "step.completed", "progress"), *("log", "completed"),
    ]  # fmt: skip
    assert messages(driver, id) == ["a", "b", "c"]


@pytest.mark.parametrize("change", [{"outcomes": {"one:3": "null"}}, {"records": (STEP, "")}])
def test_a_step_or_item_that_changes_without_an_event_raises_the_version(
    driver: Driver, change: dict[str, Any]
) -> None:
    """The version covers `include=steps`, which shows the items of a batch, too."""
    id, token = running(driver)
    driver.checkpoint(id, token, progress="[1,4,null]")
    before = len(driver.types(id))
    records = [change["records"]] if "records" in change else []
    driver.checkpoint(id, token, *records, outcomes=change.get("outcomes"), progress="[1,4,null]")
    assert driver.types(id)[before:] == ["progress"]


WRITES: dict[str, Callable[[Driver, str, str, str], object]] = {
    "beat": lambda driver, id, token, events: driver.beat(
        id, token, "[1,4,null]", number=1, usage='{"m":[1,1,1,2]}', events=events
    ),
    "checkpoint": lambda driver, id, token, events: driver.checkpoint(
        id,
        token,
        (STEP, "ended"),
        step_events=['"step.completed",{"step":"one"}'],
        number=1,
        events=events,
    ),
    "finish": lambda driver, id, token, events: driver.finish(id, token, events=events),
    "release": lambda driver, id, token, events: driver.release(id, token, events=events),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_is_repeated_tells_nothing_twice(driver: Driver, write: str) -> None:
    id, token = running(driver)
    WRITES[write](driver, id, token, reported("a", "b"))
    log = driver.log(id)
    assert messages(driver, id) == ["a", "b"]
    WRITES[write](driver, id, token, reported("a", "b"))
    assert driver.log(id) == log


@pytest.mark.parametrize("write", ["beat", "checkpoint"])
def test_a_repeated_write_tells_what_the_child_has_reported_since(
    driver: Driver, write: str
) -> None:
    id, token = running(driver)
    WRITES[write](driver, id, token, reported("a"))
    before = driver.types(id)
    WRITES[write](driver, id, token, reported("a", "b"))
    assert driver.types(id) == [*before, "log"]
    assert messages(driver, id) == ["a", "b"]


def test_a_heartbeat_that_arrives_late_tells_nothing(driver: Driver) -> None:
    id, token = running(driver)
    driver.beat(id, token, "[2,4,null]", number=2, events=reported("a", "b", "c"))
    log = driver.log(id)
    driver.beat(id, token, "[1,4,null]", number=1, events=reported("a"))
    assert driver.log(id) == log
    driver.beat(id, token, number=3, events=reported("b", "c", first=2))
    assert driver.log(id) == log
    driver.release(id, token)
    log = driver.log(id)
    assert driver.beat(id, token, number=4, events=reported("d", first=4)) == "lost"
    assert driver.log(id) == log


def test_the_next_attempt_numbers_what_it_reports_from_one(driver: Driver) -> None:
    id, token = running(driver)
    driver.beat(id, token, events=reported("a", "b"))
    driver.release(id, token, events=reported("c", first=3))
    [(_, token)] = driver.claim()
    driver.beat(id, token, events=reported("d"))
    driver.finish(id, token)
    assert messages(driver, id) == ["a", "b", "c", "d"]
    assert driver.client.hget(f"rq:job:{id}", "told") is None


def test_progress_that_is_stored_already_is_no_event(driver: Driver) -> None:
    id, token = running(driver)
    driver.beat(id, token, "[1,4,null]", number=1, usage='{"m":[1,1,1,2]}')
    driver.beat(id, token, "[1,4,null]", number=2, usage='{"m":[1,1,1,2]}')
    assert driver.types(id) == ["created", "started", "progress"]


@pytest.mark.parametrize(
    "events",
    [
        *("{", "[]", "{}", '["a"]', '[1.5,"\\"log\\",{}"]', '[0,"\\"log\\",{}"]', "[1e300,1]"),
        *('[1,"\\"completed\\",{}"]', '[1,"\\"log\\""]', "[1,null,true,{}]", "[" * 2000),
    ],
)
def test_what_is_no_report_of_a_child_is_left_out(driver: Driver, events: str) -> None:
    id, token = running(driver)
    assert driver.beat(id, token, "[1,4,null]", events=events) == "ok"
    assert driver.types(id) == ["created", "started", "progress"]
    driver.beat(id, token, events=reported(*"abc"))
    driver.finish(id, token, events=events)
    assert driver.types(id)[-1] == "completed"


def test_a_long_report_is_stored_completely(driver: Driver) -> None:
    id, token = running(driver)
    texts = [str(number) for number in range(3000)]
    driver.beat(id, token, events=reported(*texts))
    assert messages(driver, id) == texts


# The list.


def test_a_log_that_is_trimmed_says_which_number_is_its_first(driver: Driver) -> None:
    id, token = running(driver)
    for number in range(1, 31):
        driver.beat(id, token, events=reported(str(number), first=number), max_events=10)
    page = driver.store.events(id, "default")
    assert page is not None
    assert (page.first, page.version, len(page.events)) == (23, 32, 10)
    assert [event.data["message"] for event in page.events] == [str(n) for n in range(21, 31)]
    driver.finish(id, token)
    assert driver.types(id)[-1] == "completed"


def test_a_checkpoint_trims_the_log_too(driver: Driver) -> None:
    id, token = running(driver)
    driver.checkpoint(id, token, events=reported(*map(str, range(40))), max_events=10)
    page = driver.store.events(id, "default")
    assert page is not None
    assert len(page.events) == 10


def test_a_page_of_large_events_ends_early_and_the_next_one_continues(driver: Driver) -> None:
    id, token = running(driver)
    texts = [str(number) * 200_000 for number in range(10)]
    for number, text in enumerate(texts, 1):
        driver.beat(id, token, events=reported(text, first=number))
    page = driver.store.events(id, "default")
    assert page is not None
    assert 0 < len(page.events) < 12
    assert messages(driver, id) == texts


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("how", ["plain", "listed"])
def test_pages_of_any_size_give_the_same_log(driver: Driver, count: int, how: str) -> None:
    id, token = running(driver)
    if how == "listed":
        driver.beat(id, token, events=reported(*"abc"))
    driver.finish(id, token)
    assert driver.log(id, count) == driver.log(id)


def test_the_log_leaves_with_its_execution(driver: Driver) -> None:
    id, token = running(driver)
    driver.beat(id, token, "[1,4,null]")
    driver.finish(id, token)
    driver.let_retention_be_over()
    assert not driver.client.exists(events_key(id))
    assert driver.store.events(id, "default") is None


def test_an_operator_is_shown_what_is_stored_of_a_log(own_store: EmbeddedStore) -> None:
    settings = Settings(redis_url=own_store.url)
    driver = Driver(redis.Redis.from_url(own_store.url), settings)
    id, token = running(driver)
    driver.beat(id, token, events=reported("a"))
    found = Inspection(settings).everything(id)
    assert [json.loads(entry)[1] for entry in found["events"]] == ["created", "started", "log"]
    lines = shown({"events": [json.loads(entry) for entry in found["events"]]}).splitlines()
    assert len(lines) == 4


# Keys and records that another program, or older code, has written.


@pytest.mark.parametrize("when", ["before the first event of the list", "later"])
def test_a_key_of_another_type_costs_only_the_events_in_it(driver: Driver, when: str) -> None:
    id, token = running(driver)
    if when == "later":
        driver.beat(id, token, "[1,4,null]")
    driver.client.delete(events_key(id))
    driver.client.set(events_key(id), "somebody else's")
    driver.beat(id, token, "[2,4,null]")
    driver.finish(id, token)
    expected = ["progress", "completed"]
    if when != "later":
        expected = ["created", "started", *expected]
    assert driver.types(id) == expected


def test_a_feed_of_another_type_stops_no_transition(driver: Driver) -> None:
    driver.client.set(FEED, "somebody else's")
    id, token = running(driver)
    assert driver.finish(id, token) == "completed"


def test_a_list_that_is_gone_still_shows_the_end(driver: Driver) -> None:
    id, token = running(driver)
    driver.beat(id, token, "[1,4,null]")
    driver.client.delete(events_key(id))
    page = driver.store.events(id, "default")
    assert page is not None
    assert (page.events, page.first, page.version) == ((), 4, 3)
    driver.finish(id, token)
    driver.client.delete(events_key(id))
    page = driver.store.events(id, "default")
    assert page is not None
    assert [(event.number, event.type) for event in page.events] == [(4, "completed")]


@pytest.mark.parametrize("entry", ["", "x", "[]", '[1,"nothing",{}]', '["x","log",{}]', "[" * 5000])
def test_an_unreadable_entry_is_shown_as_one(driver: Driver, entry: str) -> None:
    id, token = running(driver)
    driver.beat(id, token, "[1,4,null]")
    driver.client.lset(events_key(id), 1, entry)
    log = driver.log(id)
    assert [event.type for event in log] == ["created", "log", "progress"]
    assert log[1].data == {"message": UNREADABLE_ENTRY}


QUARANTINED = {
    "pending": ["created", "failed"],
    "running": ["created", "started", "failed"],
    "with a list": ["created", "started", "progress", "failed"],
    "completed": ["created", "started", "completed", "failed"],
    "cancelled before it started": ["created", "cancelled", "failed"],
}


@pytest.mark.parametrize("state", QUARANTINED)
def test_an_unreadable_record_ends_its_log_as_failed(driver: Driver, state: str) -> None:
    id = driver.submit()
    if state == "cancelled before it started":
        driver.store.cancel(id, "default")
    elif state != "pending":
        [(_, token)] = driver.claim()
        if state == "with a list":
            driver.beat(id, token, "[1,4,null]")
        if state == "completed":
            driver.finish(id, token)
    driver.client.hset(f"rq:job:{id}", "attempt", "many")
    assert driver.types(id) == QUARANTINED[state]
    assert driver.log(id)[-1].data["error"].type == "RecordUnreadable"
    assert driver.types(id) == QUARANTINED[state]


def test_outputs_that_are_gone_end_the_log_a_second_time(driver: Driver) -> None:
    id = ended_plainly(driver, "completed")
    driver.client.delete(f"rq:job:{id}:outputs")
    assert driver.status(id) == "failed"
    assert driver.types(id) == ["created", "started", "completed", "failed"]


@pytest.mark.parametrize("version", ["x", "-1", "1e3", "99999999999999999999"])
@pytest.mark.parametrize("is_listed", [False, True])
def test_an_unreadable_version_is_counted_anew(
    driver: Driver, version: str, is_listed: bool
) -> None:
    id, token = running(driver)
    if is_listed:
        driver.beat(id, token, "[1,4,null]")
    driver.client.hset(f"rq:job:{id}", "version", version)
    assert driver.beat(id, token, "[2,4,null]") == "ok"
    driver.client.hset(f"rq:job:{id}", "version", version)
    driver.store.get(id, "default")
    progress = ["progress", "progress"] if is_listed else ["progress"]
    assert driver.types(id) == ["created", "started", *progress, "failed"]


@pytest.mark.parametrize("state", ["pending", "running", *FINAL])
def test_a_record_of_older_code_has_a_log(driver: Driver, state: str) -> None:
    """Older code wrote no `version`, and does not raise one that it finds."""
    for left in (None, "1"):
        id = driver.submit()
        expected = ["created"]
        if state != "pending":
            [(_, token)] = driver.claim()
            expected += ["started"]
        if state in FINAL:
            driver.finish(id, token, state)
            expected += [state]
        driver.client.hdel(f"rq:job:{id}", "version")
        if left:
            driver.client.hset(f"rq:job:{id}", "version", left)
        assert driver.types(id) == expected
        if state == "pending":
            [(_, token)] = driver.claim()
            expected += ["started"]
        if state not in FINAL:
            driver.beat(id, token, "[1,4,null]")
            driver.finish(id, token)
            assert driver.types(id) == [*expected, "progress", "completed"]


@pytest.mark.parametrize("act", ["cancel", "beat"])
@pytest.mark.parametrize("end", FINAL)
def test_an_end_by_older_code_is_the_last_event_of_a_stored_log(
    driver: Driver, act: str, end: str
) -> None:
    """While processes of both versions run. Older code raises no `version` and tells nothing."""
    id, token = running(driver)
    if act == "cancel":
        driver.store.cancel(id, "default")
    else:
        driver.beat(id, token, events=reported("a"))
    before, fields = driver.log(id), ("version", "told")
    left = dict(zip(fields, driver.client.hmget(f"rq:job:{id}", fields), strict=True))
    driver.finish(id, token, end)
    driver.client.hset(f"rq:job:{id}", mapping=left)
    driver.client.rpop(events_key(id))
    for count in (1, 2, 1000):
        log = driver.log(id, count)
        assert log[:-1] == before
        assert log[-1].type == driver.status(id)


@pytest.mark.parametrize("old", fixtures(), ids=lambda old: f"format {old.name}")
def test_what_older_code_left_goes_on_with_a_log(redis_client: redis.Redis, old: Fixture) -> None:
    restore(redis_client, old)
    driver = Driver(redis_client, Settings(retention=3650 * DAY))
    for name in ("running agent", "running pipeline"):
        id = old.ids[name]
        token = redis_client.hget(f"rq:job:{id}", "token")
        assert token is not None
        driver.beat(id, token.decode(), "[2,4,null]", events=reported("a"))
        assert driver.types(id) == ["created", "started", "log", "progress"]
        assert driver.log(id)[0].at == driver.stored(id).created_at
    for id in old.ids.values():
        log = driver.log(id)
        assert log[0].type == "created"
        assert driver.stored(id).status.ended == (log[-1].type in FINAL_TYPES)


# Who hears of it.


def drained(heard: redis.client.PubSub) -> dict[str, list[Event]]:
    """What was published since the last call: the events of each execution."""
    found: dict[str, list[Event]] = {}
    while message := heard.get_message(timeout=0.5):
        first, final, entries = message["data"].split(b":", 2)
        events = read_entries(entries, int(first))
        assert (final == b"1") == (events[-1].type in FINAL_TYPES)
        found.setdefault(message["channel"].decode().removeprefix(CHANGED), []).extend(events)
    return found


def test_the_events_of_one_step_are_published_together(driver: Driver) -> None:
    with driver.client.pubsub() as heard:
        heard.psubscribe(CHANGED + "*")
        heard.get_message(timeout=5)
        id, token = running(driver)
        assert [event.type for event in drained(heard)[id]] == ["created", "started"]
        driver.checkpoint(id, token, (STEP, "ended"), events=reported("a", "b"),
                          step_events=['"step.completed",{"step":"one"}'])  # fmt: skip
        [message] = [heard.get_message(timeout=5)]
        assert message is not None
        assert message["data"].startswith(b"3:0:[")
        driver.finish(id, token)
        assert [event.type for event in drained(heard)[id]] == ["completed"]
        assert heard.get_message(timeout=0.2) is None


def test_changes_of_the_status_are_in_the_feed_of_the_tenant(driver: Driver) -> None:
    id, token = running(driver, tags=("nightly", 'a "b"'))
    driver.beat(id, token, "[1,4,null]", events=reported("a"))
    driver.release(id, token)
    [(_, token)] = driver.claim()
    driver.store.cancel(id, "default")
    driver.finish(id, token)
    running(driver, tenant="another")
    changes = [json.loads(fields[b"e"]) for _, fields in driver.client.xrange(FEED)]
    rest = ["agent", "echo", ["nightly", 'a "b"']]
    assert changes == [
        [1, id, "created", *rest],
        [2, id, "started", *rest],
        [5, id, "retrying", *rest],
        [6, id, "started", *rest],
        [7, id, "cancelling", *rest],
        [8, id, "cancelled", *rest],
    ]
    other = [json.loads(fields[b"e"]) for _, fields in driver.client.xrange("exec:changes:another")]
    assert [change[2:] for change in other] == [
        ["created", "agent", "echo", None],
        ["started", "agent", "echo", None],
    ]


def test_the_feed_keeps_the_last_ten_thousand_changes(driver: Driver) -> None:
    with driver.client.pipeline(transaction=False) as pipe:
        for _ in range(10_200):
            pipe.xadd(FEED, {"e": "[]"})
        pipe.execute()
    driver.submit()
    assert 10_000 <= driver.client.xlen(FEED) < 10_200
    assert driver.client.ttl(FEED) > DAY


# Whom the worker streams for.


def test_an_execution_that_is_followed_says_so_to_its_worker(driver: Driver) -> None:
    id = driver.submit()
    assert driver.claim_rows(1)[0][14] == b""
    with driver.client.pubsub() as heard:
        heard.subscribe("rq:pubsub:w1")
        heard.get_message(timeout=5)
        assert driver.store.listen(id, "default")
        message = heard.get_message(timeout=5)
        assert message is not None
        assert json.loads(message["data"]) == {"command": "listen", "execution_id": id}
    later = driver.submit()
    assert driver.store.listen(later, "default")
    assert driver.claim_rows(1)[0][14] == b"1"
    assert driver.types(later) == ["created", "started"]


def test_nobody_follows_what_has_ended_or_belongs_to_another_tenant(driver: Driver) -> None:
    assert not driver.store.listen(ended_plainly(driver, "completed"), "default")
    assert not driver.store.listen(driver.submit(), "another")
    assert not driver.store.listen("exec_none", "default")
