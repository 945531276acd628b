"""The events of an execution as they come: exactly its log, whatever happens to the connections.

Tests that need a certain log play the worker themselves, with the store's own scripts.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import redis
import requests
from playwright.sync_api import Page

from tests.store.driver import Driver
from tests.support.browser import Site
from tests.support.pace import within
from tests.support.service import Service
from tests.support.sse import Parser, Sent, Stream
from tools.embedded_store import EmbeddedStore

CLIENTS, DISCONNECTS = 8, 1000
FINAL = ("execution.completed", "execution.failed", "execution.cancelled")
ODD = "a\nb\r\nc\rd\u2028e\u2029f\x85g\x0bh\x0c\x1c\nid: 99\nevent: forged\ndata: {}\n\n: \x00"


class Run:
    """One execution that the test runs as its worker."""

    def __init__(self, service: Service, *, is_started: bool = True, **changes: Any):
        self.driver = Driver(redis.Redis.from_url(service.env["REDIS_URL"]))
        self.id = self.driver.submit(**changes)
        self.token = ""
        if is_started:
            [(_, self.token)] = self.driver.claim()
        self.path = f"/api/v1/executions/{self.id}/events"
        self._told = 0

    def tell(self, *messages: Any, type: str = "log", max_events: int = 5000) -> None:
        """Adds an event for each message, in one call of the worker."""
        texts = [f'"{type}",' + json.dumps({"message": message}) for message in messages]
        told = json.dumps([self._told + 1, *texts])
        self._told += len(messages)
        assert self.driver.beat(self.id, self.token, events=told, max_events=max_events) == "ok"

    def finish(self, **how: Any) -> None:
        assert self.driver.finish(self.id, self.token, **how) == how.get("status", "completed")


@pytest.fixture
def without_workers(shared_service: Callable[..., Service]) -> Service:
    return shared_service(workers=0)


def stream(service: Service, run: Run, query: str = "", *headers: str, **options: Any) -> Stream:
    return Stream(service.port, run.path + query, *headers, **options)


def log_of(service: Service, id: str) -> list[dict[str, Any]]:
    """The whole log, by its JSON pages."""
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        page = service.get(
            f"/executions/{id}/events?after={after}&limit=1000",
            headers={"Accept": "application/json"},
        ).json()
        found += page["events"]
        if not page["has_more"]:
            return found
        after = page["next"]


def numbers(events: list[Sent]) -> list[int]:
    return [int(event.id) for event in events if event.type != "snapshot"]


def test_a_stream_is_a_snapshot_and_all_that_follows_until_the_final_event(
    service: Service,
) -> None:
    id = service.start("behaves", {"do": "progress", "steps": 3, "pause": 0.5})
    with Stream(service.port, f"/api/v1/executions/{id}/events") as opened:
        assert opened.status == 200
        assert opened.headers["content-type"] == "text/event-stream"
        assert opened.headers["cache-control"] == "no-cache, no-transform"
        assert opened.headers["x-accel-buffering"] == "no"
        assert "content-length" not in opened.headers
        assert "accept" in opened.headers["vary"].lower()
        snapshot, *events = opened.events()
        assert opened.is_complete
        assert opened.parser.retry is not None
        assert 1000 <= opened.parser.retry <= 3000
    assert snapshot.type == "snapshot"
    assert snapshot.json["execution_id"] == id
    assert int(snapshot.id) == snapshot.json["version"]
    whole = log_of(service, id)
    assert [event.json for event in events] == whole[int(snapshot.id) :]
    assert [(event.type, int(event.id)) for event in events] == [
        (event["type"], event["id"]) for event in whole[int(snapshot.id) :]
    ]
    assert [event["id"] for event in whole] == list(range(1, len(whole) + 1))
    assert whole[0]["type"] == "execution.created"
    assert events[-1].type == "execution.completed"
    assert service.status(id)["version"] == len(whole)


@pytest.mark.timeout(400)
def test_a_thousand_disconnects_give_exactly_the_log_once_each(without_workers: Service) -> None:
    run = Run(without_workers)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    left = threading.Semaphore(DISCONNECTS)
    got: list[list[Sent]] = [[] for _ in range(CLIENTS)]
    failures: list[BaseException] = []

    def follow(mine: list[Sent], luck: random.Random, begins: str) -> None:
        try:
            parser = Parser()
            while not mine or mine[-1].type not in FINAL:
                known = (f"Last-Event-ID: {parser.last_id}",) if parser.last_id else ()
                parser = _next_parser(parser)
                with stream(without_workers, run, begins, *known) as opened:
                    if opened.status == 204:
                        raise AssertionError(f"204 after {mine[-1:]}")
                    _read_some(opened, parser, mine, luck)
        except BaseException as error:
            failures.append(error)

    def _read_some(opened: Stream, parser: Parser, mine: list[Sent], luck: random.Random) -> None:
        patience = luck.choice((0, 1, 5, 40, 400, 4000))
        for piece in opened.body():
            patience -= len(piece)
            if patience < 0 and left.acquire(blocking=False):
                # The connection breaks in the middle of a piece, of a line, of a character.
                mine += parser.feed(piece[: luck.randrange(len(piece) + 1)])
                return
            mine += parser.feed(piece)

    threads = [
        threading.Thread(
            target=follow,
            args=(mine, random.Random(chance.random()), "?after=0" if index % 2 else ""),
        )
        for index, mine in enumerate(got)
    ]
    for thread in threads:
        thread.start()
    while left._value and not failures:  # until all have been used
        words = [ODD + "x" * chance.randrange(300) for _ in range(chance.randrange(1, 6))]
        run.tell(*words, max_events=100_000)
        time.sleep(chance.random() * 0.05)
    run.finish()
    for thread in threads:
        thread.join(within(60))
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)
    whole = log_of(without_workers, run.id)
    for index, mine in enumerate(got):
        events = [event for event in mine if event.type != "snapshot"]
        first = 0 if index % 2 else int(mine[0].id)
        assert numbers(events) == list(range(first + 1, len(whole) + 1))
        assert [event.json for event in events] == whole[first:]


def _next_parser(parser: Parser) -> Parser:
    """A new connection begins a new event, and keeps the last id."""
    fresh = Parser()
    fresh.last_id = fresh._id = parser.last_id
    return fresh


def test_a_client_resumes_after_the_last_event_that_it_has(without_workers: Service) -> None:
    run = Run(without_workers)
    run.tell("a", "b", "c")
    run.finish()
    whole = log_of(without_workers, run.id)
    assert len(whole) == 6
    for header, query, first in (
        ("Last-Event-ID: 2", "", 3),
        ("Last-Event-ID: 4", "?after=1", 5),  # a browser repeats the whole address
        ("X-Other: 1", "?after=5", 6),
        ("X-Other: 1", "?after=0", 1),
    ):
        with stream(without_workers, run, query, header) as opened:
            events = list(opened.events())
        assert [event.json for event in events] == whole[first - 1 :]


def test_after_the_final_event_a_reconnect_is_answered_with_204(without_workers: Service) -> None:
    run = Run(without_workers)
    run.finish()
    for query, header in (("", "Last-Event-ID: 3"), ("?after=3", "X-Other: 1")):
        with stream(without_workers, run, query, header) as opened:
            assert opened.status == 204
            assert not {"transfer-encoding", "content-type"} & opened.headers.keys()


def test_a_stream_of_an_ended_execution_has_its_snapshot_and_its_final_event(
    without_workers: Service,
) -> None:
    run = Run(without_workers)
    run.finish(outputs='{"output":"x"}')
    with stream(without_workers, run) as opened:
        snapshot, final = opened.events()
    assert snapshot.json["outputs"] == {"output": "x"}
    # A client that got no further must still get the final event.
    assert (int(snapshot.id), int(final.id)) == (2, 3)
    assert final.type == "execution.completed"


def test_a_snapshot_leaves_out_large_outputs_and_says_so(without_workers: Service) -> None:
    run = Run(without_workers)
    run.finish(outputs=json.dumps({"output": "x" * 300_000}))
    with stream(without_workers, run) as opened:
        snapshot, _ = opened.events()
    assert snapshot.json["outputs_omitted"] is True
    assert "outputs" not in snapshot.json


def test_a_number_beyond_the_log_begins_again_with_a_snapshot(without_workers: Service) -> None:
    run = Run(without_workers)
    for last in ("99", "99999999999999999999", "-1", "1.5", "exec", "", "3, 4", "\u00e9"):
        with stream(without_workers, run, "", f"Last-Event-ID: {last}") as opened:
            assert next(opened.events()).type == "snapshot", last
    run.finish()
    with stream(without_workers, run, "?after=99") as opened:
        assert [event.type for event in opened.events()] == ["snapshot", "execution.completed"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=x", "after"),
        ("after=-1", "after"),
        ("after=1&after=2", "after"),
        ("types=execution.unknown", "types"),
        ("types=", "types"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("filter=x", "filter"),
    ],
)
def test_a_wrong_parameter_is_refused_before_the_stream_begins(
    without_workers: Service, query: str, field: str
) -> None:
    run = Run(without_workers)
    for form in ("text/event-stream", "application/json"):
        refused = without_workers.get(
            f"/executions/{run.id}/events?{query}", headers={"Accept": form}
        )
        assert refused.status_code == 400
        assert [error["field"] for error in refused.json()["errors"]] == [field]


def test_there_is_no_stream_of_what_the_tenant_does_not_have(
    without_workers: Service,
) -> None:
    run = Run(without_workers, tenant="other")
    for path in (run.path, "/api/v1/executions/exec_00000000000000000000/events"):
        with Stream(without_workers.port, path) as opened:
            assert opened.status == 404
            assert opened.headers["content-type"] == "application/problem+json"


def test_a_filter_keeps_the_true_numbers_and_the_end(without_workers: Service) -> None:
    run = Run(without_workers)
    run.tell("a", "b")
    run.driver.beat(run.id, run.token, progress='[1,3,"x"]')
    with stream(without_workers, run, "?after=0&types=execution.progress") as opened:
        events = opened.events()
        first = next(events)
        assert (first.type, first.id) == ("execution.progress", "5")
        run.tell("c")
        run.driver.beat(run.id, run.token, progress='[2,3,"y"]')
        assert next(events).id == "7"
        run.tell("d")
        run.finish()
        assert list(events) == []
        assert opened.is_complete
        # The final event was not asked for, but a browser must not come back for it for ever.
        assert opened.parser._id == "9"
    with stream(without_workers, run, "?types=execution.progress", "Last-Event-ID: 9") as opened:
        assert opened.status == 204


def test_what_was_trimmed_is_a_gap_with_its_bounds(without_workers: Service) -> None:
    run = Run(without_workers)
    run.tell(*range(30), max_events=10)
    with stream(without_workers, run, "?after=0") as opened:
        events = opened.events()
        gap, first = next(events), next(events)
        assert (gap.type, gap.json) == ("stream.gap", {"after": 0, "before": 23})
        assert first.id == "23"
        rest = [next(events) for _ in range(9)]
        assert numbers(rest) == list(range(24, 33))
    with stream(without_workers, run, "?after=22") as opened:
        assert next(opened.events()).id == "23"
    page = without_workers.get(
        f"/executions/{run.id}/events?after=3", headers={"Accept": "application/json"}
    ).json()
    assert (page["first"], page["events"][0]["id"], page["version"]) == (23, 23, 32)


def test_the_log_as_json_comes_in_pages(without_workers: Service) -> None:
    run = Run(without_workers)
    run.tell(*range(700))
    run.finish()

    def page(query: str) -> dict[str, Any]:
        answer = without_workers.get(
            f"/executions/{run.id}/events{query}", headers={"Accept": "application/json"}
        )
        assert answer.status_code == 200
        return dict(answer.json())

    first = page("")
    assert [event["id"] for event in first["events"]] == list(range(1, 101))
    assert (first["has_more"], first["next"], first["version"], first["ended"]) == (
        True,
        100,
        703,
        True,
    )
    last = page("?after=600&limit=1000")
    assert [event["id"] for event in last["events"]] == list(range(601, 704))
    assert last["has_more"] is False
    assert "next" not in last
    chosen = page("?types=execution.created,execution.completed&limit=2")
    assert [event["id"] for event in chosen["events"]] == [1, 703]
    assert chosen["has_more"] is False
    assert page("?after=703")["events"] == []
    assert page("?after=999")["events"] == []
    exact = page("?after=700&limit=3")
    assert [event["id"] for event in exact["events"]] == [701, 702, 703]
    assert exact["has_more"] is False


def test_a_page_looks_at_a_bounded_part_of_a_long_log_for_rare_types(
    without_workers: Service,
) -> None:
    run = Run(without_workers)
    for _ in range(11):
        run.tell(*["line"] * 1000, max_events=100_000)
    run.finish()
    path = f"/executions/{run.id}/events?types=execution.completed&after="
    as_json = {"Accept": "application/json"}
    page = without_workers.get(f"{path}0", headers=as_json).json()
    assert (page["events"], page["has_more"]) == ([], True)
    assert page["next"] < page["version"]
    page = without_workers.get(f"{path}{page['next']}", headers=as_json).json()
    assert [event["id"] for event in page["events"]] == [page["version"]]
    assert not page["has_more"]


def test_the_form_is_negotiated(without_workers: Service) -> None:
    run = Run(without_workers)
    run.finish()
    address = f"/executions/{run.id}/events"
    for accept, form in (
        ("*/*", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("application/json", "application/json"),
        ("application/json; q=0.9, text/event-stream; q=0.1", "application/json"),
    ):
        answer = without_workers.get(address, headers={"Accept": accept})
        assert answer.headers["Content-Type"] == form
    refused = without_workers.get(address, headers={"Accept": "text/html"})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")


def test_an_old_client_gets_the_stream_and_its_end_by_the_close(without_workers: Service) -> None:
    run = Run(without_workers)
    with stream(without_workers, run, version="HTTP/1.0") as opened:
        assert "transfer-encoding" not in opened.headers
        assert opened.headers["connection"] == "close"
        events = opened.events()
        assert next(events).type == "snapshot"
        run.finish()
        assert next(events).type == "execution.completed"
        assert list(events) == []


def test_a_head_request_has_the_headers_and_holds_nothing(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, MAX_STREAMS=1)
    run = Run(service)
    for _ in range(3):
        with stream(service, run, method="HEAD") as opened:
            assert opened.status == 200
            assert opened.headers["content-type"] == "text/event-stream"
            assert opened._raw == b""
    assert _is_live(service, run)


def test_a_stream_beyond_the_limit_says_what_there_is_and_when_to_come_back(
    make_service: Callable[..., Service],
) -> None:
    """And a client that has gone makes room for the next one within seconds."""
    service = make_service(workers=0, MAX_STREAMS=1)
    run, other = Run(service), Run(service)
    run.tell("a")
    with stream(service, run) as first:
        assert next(first.events()).type == "snapshot"
        run.tell("b")
        with stream(service, run, "?after=0") as second:
            assert numbers(list(second.events())) == [1, 2, 3, 4]
            assert second.is_complete
            assert second.parser.retry is not None
            assert second.parser.retry >= 10_000
    # Nothing is sent to the first one before its lease is over, so until then no failed write shows
    # that its client has gone.
    deadline = time.monotonic() + 8
    while not _is_live(service, other):
        assert time.monotonic() < deadline, "The client that has gone still takes a place."
        time.sleep(0.1)


def test_streams_and_waiting_requests_together_leave_room_for_others(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, WEB_CONNECTIONS=10)
    run = Run(service)
    wait = f"/api/v1/executions/{run.id}?wait=60"
    with contextlib.ExitStack() as opened:
        for _ in range(5):
            # Beyond the limit a stream ends, and a request is answered.
            following = opened.enter_context(stream(service, run))
            assert next(following.events()).type == "snapshot"
            waiting = opened.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            waiting.sendall(f"GET {wait} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        for _ in range(3):
            url = f"{service.url}/api/v1/executions/{run.id}"
            assert requests.get(url, timeout=within(10)).status_code == 200


def _is_live(service: Service, run: Run) -> bool:
    """Whether a new stream stays open and hears of what happens."""
    with stream(service, run, seconds=within(20)) as opened:
        events = opened.events()
        assert next(events).type == "snapshot"
        run.tell("are you there?")
        return next(events, None) is not None


def test_streams_end_at_once_when_the_process_stops_and_go_on_elsewhere(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0)
    run = Run(service)
    assert service.web is not None
    with contextlib.ExitStack() as opened:
        streams = [opened.enter_context(stream(service, run)) for _ in range(20)]
        firsts = [next(one.events()) for one in streams]
        began = time.monotonic()
        service.web.send_signal(signal.SIGTERM)
        rests = [list(one.events()) for one in streams]
        assert time.monotonic() - began < within(3)
        assert all(one.is_complete for one in streams)
        assert rests == [[]] * 20
    service.web.wait(within(10))
    run.tell("while nobody was there")
    service.start_web()
    with stream(service, run, "", f"Last-Event-ID: {firsts[0].id}") as resumed:
        assert next(resumed.events()).json["data"] == {"message": "while nobody was there"}


def test_a_client_that_reads_a_long_log_slowly_takes_a_place_and_stops_with_the_process(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, MAX_STREAMS=1)
    run = Run(service)
    for _ in range(10):
        run.tell(*["x" * 8000] * 100)
    with stream(service, run, "?after=0") as slow:
        with stream(service, run, "?after=1000", seconds=within(15)) as second:
            assert numbers(list(second.events())) == [1001, 1002]
            assert second.is_complete
            assert second.parser.retry is not None
            assert second.parser.retry >= 10_000
        assert service.web is not None
        service.web.send_signal(signal.SIGTERM)
        time.sleep(1)
        heard = numbers(list(slow.events()))
        assert slow.is_complete
        assert heard == list(range(1, len(heard) + 1))
        assert len(heard) < 1002


def test_a_rolling_reload_loses_and_repeats_nothing(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=0, WEB_CONCURRENCY=2)
    run = Run(service)
    assert service.web is not None
    got: list[list[Sent]] = [[] for _ in range(20)]
    failures: list[BaseException] = []
    ends: list[int] = []

    def follow(mine: list[Sent]) -> None:
        try:
            while not mine or mine[-1].type not in FINAL:
                last = mine[-1].id if mine else "0"
                with stream(service, run, "", f"Last-Event-ID: {last}") as opened:
                    assert opened.status == 200
                    mine += opened.events()
                    ends.append(opened.is_complete)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=follow, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    for _ in range(2):
        for number in range(15):
            run.tell(number)
            time.sleep(0.1)
        service.web.send_signal(signal.SIGHUP)
    until = time.monotonic() + within(60)
    while service.output("web").count("web_process_ready") < 6 and time.monotonic() < until:
        run.tell("during the reload")
        time.sleep(0.2)
    time.sleep(2)
    run.finish()
    for thread in threads:
        thread.join(within(60))
    assert not failures, failures
    whole = log_of(service, run.id)
    for mine in got:
        assert [event.json for event in mine] == whole
    assert len(ends) >= 60  # all of them were ended by both reloads
    assert all(ends)


MANY_EVENTS = 3000
"""Of 8 KB: more than what the kernel keeps for a client, and fewer than `MAX_EVENTS`, so that none
is dropped from the log.
"""


def test_a_client_that_does_not_read_loses_its_connection_and_nothing_else(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0)
    run = Run(service)
    assert service.web is not None
    [process] = psutil.Process(service.web.pid).children()
    with stream(service, run) as quick, contextlib.ExitStack() as opened:
        quick_events = quick.events()
        assert next(quick_events).type == "snapshot"
        slow = [opened.enter_context(stream(service, run)) for _ in range(20)]
        before = process.memory_info().rss
        told = 0
        until = time.monotonic() + within(60)
        while not all(_was_cut(process, one) for one in slow):
            assert time.monotonic() < until, "A client that reads nothing is still connected."
            if told == MANY_EVENTS:
                time.sleep(0.05)
                continue
            run.tell(*["x" * 8000] * 20)
            told += 20
            for _ in range(20):
                assert next(quick_events).type == "execution.log"
        assert process.memory_info().rss - before < 60 * 1024 * 1024
        # What the kernel had for it is read; the rest comes with the next connection.
        seen = list(slow[0].events())
        assert not slow[0].is_complete
    with stream(service, run, "", f"Last-Event-ID: {slow[0].parser.last_id}") as resumed:
        rest = [next(events) for events in [resumed.events()] for _ in range(told - len(seen) + 1)]
    assert numbers(seen + rest) == list(range(3, told + 3))


def _was_cut(process: psutil.Process, opened: Stream) -> bool:
    mine = opened.socket.getsockname()[1]
    return not any(
        connection.raddr and connection.raddr.port == mine
        for connection in process.net_connections("tcp")
    )


def test_a_store_that_restarts_leaves_no_hole(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(redis_url=own_store.url, workers=0)
    run = Run(service)
    with stream(service, run, "?after=0") as opened:
        events = opened.events()
        assert [next(events).id, next(events).id] == ["1", "2"]
        run.tell("before")
        assert next(events).json["data"] == {"message": "before"}
        own_store.kill()
        time.sleep(2)
        own_store.start()
        _try(lambda: run.tell("right after"))
        assert next(events).json["data"] == {"message": "right after"}
        time.sleep(2)
        run.tell("later")
        run.finish()
        assert [event.type for event in events] == ["execution.log", "execution.completed"]


def _try(call: Callable[[], None]) -> None:
    until = time.monotonic() + within(20)
    while True:
        try:
            return call()
        except (redis.RedisError, OSError):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_an_idle_stream_has_a_comment_every_fifteen_seconds_and_ends_with_its_key(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, AUTH="keys")
    key = service.add_key("reader", "read")
    run = Run(service, is_started=False)  # nothing happens to it, not even the end of a lease
    with stream(service, run, "", f"X-API-Key: {key}") as opened:
        parser = opened.parser
        body = opened.body()
        while not parser.comments:
            assert all(event.type == "snapshot" for event in parser.feed(next(body)))
        began = time.monotonic()
        assert service.keys().revoke("reader")
        assert list(opened.events()) == []
        assert opened.is_complete
        assert time.monotonic() - began < within(20)
    with stream(service, run, "", f"X-API-Key: {service.add_key('s', 'start')}") as opened:
        assert opened.status == 403
    with stream(service, run) as opened:
        assert opened.status == 401


def test_no_text_of_a_flow_breaks_the_framing(without_workers: Service) -> None:
    run = Run(without_workers)
    run.tell(ODD)
    run.driver.beat(run.id, run.token, progress=json.dumps([1, 3, ODD]))
    run.finish(outputs=json.dumps({"output": ODD}, ensure_ascii=False))
    with stream(without_workers, run) as opened:
        snapshot, _ = opened.events()
    assert snapshot.json["outputs"] == {"output": ODD}
    with stream(without_workers, run, "?after=0") as opened:
        raw = b"".join(opened.body())
    events = list(Parser().feed(raw))
    assert [event.id for event in events] == ["1", "2", "3", "4", "5"]
    assert events[2].json["data"] == {"message": ODD}
    assert events[3].json["data"]["current_step_name"] == ODD
    # A parser that takes every line end of Unicode for one sees the same.
    assert [line for line in raw.decode().splitlines() if line.startswith("id:")] == [
        f"id: {number}" for number in range(1, 6)
    ]


PAGE = """
<script>
window.seen = []; window.opens = 0; window.errors = 0;
const source = new EventSource(ADDRESS);
source.onopen = () => window.opens++;
source.onerror = () => window.errors++;
const note = event => window.seen.push([event.type, event.lastEventId, event.data]);
for (const type of ["snapshot", "execution.created", "execution.started", "execution.log",
  "execution.progress", "execution.completed"]) source.addEventListener(type, note);
window.state = () => source.readyState;
</script>
"""


def test_a_browsers_own_event_source_reads_the_log_through_a_reload_and_stops_at_its_end(
    make_service: Callable[..., Service], page: Page
) -> None:
    with Site() as site:  # of another origin, so the permission for it is tested too
        service = make_service(workers=0, CORS_ORIGINS=site.origin)
        run = Run(service)
        site.html = PAGE.replace("ADDRESS", json.dumps(f"{service.url}{run.path}?after=0"))
        page.goto(site.origin)

    assert service.web is not None
    page.wait_for_function("window.seen.length == 2")
    run.tell(ODD)
    page.wait_for_function("window.seen.length == 3")
    service.web.send_signal(signal.SIGHUP)
    page.wait_for_function("window.errors == 1")
    run.tell("between")
    page.wait_for_function("window.opens == 2")
    run.finish()
    page.wait_for_function("window.state() == EventSource.CLOSED")
    whole = log_of(service, run.id)
    seen = page.evaluate("window.seen")
    assert [[type, int(id), json.loads(data)] for type, id, data in seen] == [
        [event["type"], event["id"], event] for event in whole
    ]
    assert len(whole) == 5
    time.sleep(4)  # longer than any `retry`: it does not come back
    assert page.evaluate("window.opens") == 2
