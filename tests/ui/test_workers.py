"""The page of the workers, without a browser: what runs where, what waits, and what is broken."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from app.catalog.model import Catalog
from app.services.overview import Overviews
from app.settings import Settings
from tests.support.pace import until
from tests.support.service import Service
from tests.ui.visitor import Visitor, text_of
from tools.embedded_store import EmbeddedStore

URL = "/ui/workers"
KEY, OTHER = "key-of-the-shop-0001", "key-of-the-bank-0002"
LONG = {"do": "listen", "seconds": 600}


def until_shown(visitor: Visitor, *words: str) -> str:
    """The page's text, once it has these words: an overview may be a second old."""
    deadline = time.monotonic() + 60
    while True:
        said = text_of(visitor.get(URL))
        if all(word in said for word in words):
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_it_shows_what_runs_and_what_waits(make_service: Callable[..., Service]) -> None:
    busy = make_service(workers=1, WORKER_PROCESSES=1, WORKER_THREADS=1)
    running = busy.start("behaves", LONG)
    busy.until(running, "running")
    busy.start("behaves", LONG)
    visitor = Visitor(busy)
    said = until_shown(visitor, "Running 1", "Waiting in queues 1 the oldest for", "1 of 1")
    assert "Workers for processes 1 at work." in said
    shown = visitor.get(URL).text
    assert f'<a href="/ui/executions/{running}">behaves</a>' in shown
    worker = busy.status(running)["attempts"][0]["worker"]
    assert f'id="worker-{worker}"' in shown


def test_without_workers_it_says_what_to_start(shared_service: Callable[..., Service]) -> None:
    said = until_shown(Visitor(shared_service(workers=0)), "No worker is alive.")
    assert "not ready" in said
    assert "No worker takes from the queue 'threads'" in said
    assert "To change: python worker.py, with WORKER_THREADS over 0." in said


def test_without_its_store_it_says_so_and_comes_back(
    own_store: EmbeddedStore, tmp_path: Path
) -> None:
    with Service(own_store.url, tmp_path) as service:
        visitor = Visitor(service)
        assert "not ready" not in until_shown(visitor, "The store answers.", "1 at work.")
        own_store.kill()
        said = until_shown(visitor, "not ready", "The store cannot be reached.")
        assert "The store does not tell which workers there are." in said
        own_store.start()
        until_shown(visitor, "The store answers.")


def test_a_worker_that_fell_silent_is_marked(
    shared_service: Callable[..., Service],
) -> None:
    service = shared_service(workers=0)
    visitor = Visitor(service)

    def is_shown() -> bool:
        # Written before each look: the reaper forgets a worker that is silent for 45 s.
        long_ago = (time.time() - 40) * 1_000_000
        store.zadd("exec:workers", {"threads:gone-threads": long_ago})
        store.hset("exec:slots", "threads:gone-threads", "1/4")
        said = text_of(visitor.get(URL))
        return "gone-threads threads" in said and "silent for 4" in said

    with redis.Redis.from_url(service.env["REDIS_URL"]) as store:
        until(is_shown)


def test_a_tenant_sees_nothing_of_what_others_run_and_an_admin_their_number(
    make_service: Callable[..., Service],
) -> None:
    keyed = make_service(workers=1, API_KEYS=f"shop:{KEY},bank:{OTHER}", AUTH="keys")
    keyed.http.headers["Authorization"] = f"Bearer {OTHER}"
    theirs = keyed.start("behaves", LONG)
    keyed.until(theirs, "running")
    shop, bank = Visitor(keyed), Visitor(keyed)
    shop.log_in(KEY)
    bank.log_in(OTHER)
    until_shown(bank, "behaves")
    admin = Visitor(keyed)
    admin.log_in(keyed.add_key("boss", scopes="read,admin", tenant="shop"))
    said = until_shown(admin, "1 of other tenants")
    assert "behaves" not in said
    assert "Host" in said
    said = text_of(shop.get(URL))
    assert "Running 0" in said
    assert "other tenants" not in said
    assert "behaves" not in said
    assert theirs not in shop.get(URL).text
    assert "Host" not in said, "only an admin sees hosts"


def test_the_page_can_be_asked_for_without_its_frame(
    shared_service: Callable[..., Service],
) -> None:
    part = Visitor(shared_service(workers=0)).get(URL, headers={"HX-Request": "true"})
    assert part.text.lstrip().startswith('<div id="workers"')


def test_many_visitors_cost_one_reading_a_second(store_server: EmbeddedStore) -> None:
    overviews = Overviews(Settings(redis_url=store_server.url), Catalog({}, {}))
    first = overviews.read()
    assert first.is_complete
    found = [overviews.read() for _ in range(50)]
    assert len({id(overview) for overview in [first, *found]}) <= 2
    time.sleep(1.1)
    assert overviews.read() is not first


@pytest.mark.parametrize("kind", [b"not/slots", b"", b"\xff"])
def test_slots_that_cannot_be_read_are_unknown(
    store_server: EmbeddedStore, redis_client: redis.Redis, kind: bytes
) -> None:
    redis_client.zadd("exec:workers", {"threads:odd": time.time() * 1_000_000})
    redis_client.hset("exec:slots", "threads:odd", kind)
    url = f"{store_server.url.removesuffix('/0')}?db=1"
    overview = Overviews(Settings(redis_url=url), Catalog({}, {})).read()
    assert [(worker.name, worker.slots) for worker in overview.workers] == [("odd", None)]
