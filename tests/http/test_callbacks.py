"""A start's `callback_url`, `callback_events` and `tags`, and the deliveries that follow from them."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.http.test_refusals import GOOD, refusal
from tests.support.agents import write_agent
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdefghijklmnopqrstuv").decode()
URL = "https://hooks.example.com/runs?token=abc"


@pytest.fixture(scope="module")
def calling(
    store_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that sends webhooks, but not to private addresses."""
    url = f"{store_server.url.removesuffix('/0')}?db=9"
    with redis.Redis.from_url(store_server.url, db=9) as client:
        client.flushdb()
    with Service(url, tmp_path_factory.mktemp("callbacks"), WEBHOOK_SECRET=SECRET) as service:
        yield service


def _started(service: Service, **fields: Any) -> str:
    answer = service.post("/executions", json={**GOOD, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def _stored(service: Service, id: str, field: str) -> Any:
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        value: Any = client.hget(f"rq:job:{id}", field)
    return json.loads(value) if value else None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example.com/", "http:// or https://"),
        ("//a.example.com/", "http:// or https://"),
        (" https://a.example.com/", "spaces"),
        ("https://a.example.com/\r\nX: 1", "control characters"),
        ("https://user:word@a.example.com/", "user name or password"),
        ("https://a.example.com:99999/", "from 1 to 65535"),
        ("https://a.example.com:22/", "Port 22"),
        ("http://127.1/", "IPv4 address"),
        ("http://①②⑦.⓪.⓪.①/", "127.0.0.1 is not a public address"),
        ("http://[::ffff:7f00:1]/", "not a public address"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not a public address"),
        ("http://localhost:6379/", "local network"),
    ],
)
def test_a_url_that_no_webhook_may_go_to_is_refused_at_the_start(
    calling: Service, url: str, reason: str
) -> None:
    body = refusal(calling.post("/executions", json={**GOOD, "callback_url": url}), 400)
    [error] = body["errors"]
    assert (error["field"], error["code"]) == ("callback_url", "url_not_allowed")
    assert reason in error["message"]


def test_the_final_events_are_sent_unless_others_are_named(calling: Service) -> None:
    final = ["completed", "failed", "cancelled"]
    id = _started(calling, callback_url=URL)
    assert _stored(calling, id, "callback") == {"url": URL, "events": final}
    named = ["execution.failed", "execution.started", "execution.failed"]
    id = _started(calling, callback_url=URL, callback_events=named)
    assert _stored(calling, id, "callback") == {"url": URL, "events": ["started", "failed"]}


def test_tags_are_shown_in_the_status_and_in_lists_and_the_url_in_neither(
    calling: Service,
) -> None:
    id = _started(calling, tags=["nightly", "kunde: Müller", "nightly"], callback_url=URL)
    status = calling.ended(id)
    assert status["tags"] == ["nightly", "kunde: Müller"]
    listed = calling.get("/executions?page_size=1")
    assert listed.json()["executions"][0]["tags"] == ["nightly", "kunde: Müller"]
    assert "hooks.example.com" not in json.dumps(status) + listed.text


def test_an_execution_without_tags_has_no_such_field(calling: Service) -> None:
    assert "tags" not in calling.status(_started(calling, tags=[]))


def test_a_retry_takes_the_callback_and_the_tags_over(calling: Service) -> None:
    fields = {"target_id": "behaves", "inputs": {"do": "fail"}, "tags": ["nightly"]}
    first = _started(calling, **fields, callback_url=URL, callback_events=["execution.failed"])
    calling.ended(first)
    again = calling.post(f"/executions/{first}/retry").json()["execution_id"]
    assert calling.status(again)["tags"] == ["nightly"]
    assert _stored(calling, again, "callback") == {"url": URL, "events": ["failed"]}


@pytest.mark.parametrize(
    "change",
    [
        {"callback_url": URL + "d"},
        {"callback_events": ["execution.started"]},
        {"tags": ["other"]},
    ],
)
def test_a_repeat_with_another_callback_or_other_tags_is_no_repeat(
    calling: Service, change: dict[str, Any]
) -> None:
    key = {"Idempotency-Key": f"key-{next(iter(change))}"}
    first = {**GOOD, "callback_url": URL, "tags": ["nightly"]}
    receipt = calling.post("/executions", json=first, headers=key).json()
    assert calling.post("/executions", json=first, headers=key).json() == receipt
    other = calling.post("/executions", json={**first, **change}, headers=key)
    assert refusal(other, 422)["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("stored", [b"", b"[]", b"{", b'{"url": 5}', b'{"url":"x","events":[]}'])
def test_an_unreadable_callback_or_tags_do_not_hide_the_execution(
    calling: Service, stored: bytes
) -> None:
    id = _started(calling, tags=["nightly"])
    calling.ended(id)
    with redis.Redis.from_url(calling.env["REDIS_URL"]) as client:
        client.hset(f"rq:job:{id}", mapping={"callback": stored, "tags": stored})
    assert "tags" not in calling.status(id)


def test_a_flow_does_not_see_the_secrets_of_the_service(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    flow = "import os\n\n\ndef run(inputs, context):\n    return sorted(os.environ)\n"
    lines = '  - {name: main, entrypoint: "flow.py:run", isolation: process}\n'
    write_agent(tmp_path / "agents", "reads_env", f"id: reads_env\nflows:\n{lines}", flow)
    secrets = {"WEBHOOK_SECRET": SECRET, "SECRET_KEY": "s" * 32, "API_KEYS": "k" * 32}
    service = make_service(agents=tmp_path / "agents", WORKER_PROCESSES=1, **secrets)
    service.http.headers["X-API-Key"] = secrets["API_KEYS"]
    seen = service.run("reads_env")["outputs"]["output"]
    assert "REDIS_URL" in seen
    assert secrets.keys() & set(seen) == set()


def _deliveries(service: Service, id: str, query: str = "") -> dict[str, Any]:
    answer = service.get(f"/executions/{id}/deliveries{query}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_execution_without_a_callback_has_no_deliveries(calling: Service) -> None:
    id = _started(calling)
    calling.ended(id)
    assert _deliveries(calling, id) == {"execution_id": id, "total": 0, "deliveries": []}


def test_every_event_that_was_asked_for_is_a_delivery(calling: Service) -> None:
    events = ["execution.started", "execution.completed", "execution.failed"]
    id = _started(calling, callback_url=URL, callback_events=events)
    calling.ended(id)
    found = _deliveries(calling, id)
    assert (found["callback_url"], found["callback_events"]) == (URL, events)
    assert found["total"] == 2
    shown = [(it["number"], it["webhook_id"], it["event"]) for it in found["deliveries"]]
    assert shown == [(1, f"{id}-1", events[0]), (2, f"{id}-2", events[1])]
    assert found["deliveries"][0]["event_id"] < found["deliveries"][1]["event_id"]
    assert [it["number"] for it in _deliveries(calling, id, "?after=1")["deliveries"]] == [2]


@pytest.mark.parametrize("number", ["2", "0", "-1", "x", "1.0", "٣", "9" * 20, "01"])
def test_what_is_no_number_of_a_delivery_cannot_be_sent_again(
    calling: Service, number: str
) -> None:
    id = _started(calling, callback_url=URL)
    calling.ended(id)
    answer = calling.post(f"/executions/{id}/deliveries/{number}/redeliver")
    assert refusal(answer, 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("query", "field"), [("?after=-1", "after"), ("?after=1&after=2", "after"), ("?page=1", "page")]
)
def test_a_wrong_parameter_of_the_deliveries_is_named(
    calling: Service, query: str, field: str
) -> None:
    answer = calling.get(f"/executions/{_started(calling)}/deliveries{query}")
    assert [error["field"] for error in refusal(answer, 400)["errors"]] == [field]


@pytest.mark.parametrize("path", ["deliveries", "deliveries/1/redeliver"])
def test_the_deliveries_of_an_unknown_execution_are_not_found(calling: Service, path: str) -> None:
    call = calling.post if "redeliver" in path else calling.get
    for id in ("exec_00000000000000000000", "exec_*"):
        assert refusal(call(f"/executions/{id}/{path}"), 404)["code"] == "not_found"


def test_an_address_that_turns_out_to_be_private_is_a_failed_try_that_says_so(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, WEBHOOK_SECRET=SECRET, WEBHOOK_ALLOW_PRIVATE=1)
    with socket.create_server(("127.0.0.1", 0)) as internal:
        # The worker decides when it sends, whatever was allowed at the start.
        service.env["WEBHOOK_ALLOW_PRIVATE"] = "0"
        service.start_worker()
        url = f"http://127.0.0.1:{internal.getsockname()[1]}/path-that-nobody-guesses"
        id = _started(service, callback_url=url)
        service.ended(id)

        deadline = time.monotonic() + 60
        while not (found := _deliveries(service, id)["deliveries"][0])["tries"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert found["status"] == "waiting"
        assert found["tries"][0]["error"] == "127.0.0.1 is not a public address."
        assert "code" not in found["tries"][0]
        internal.settimeout(0.5)
        with pytest.raises(TimeoutError):
            internal.accept()
    # A receiver may know its callers by the path, so no log has it.
    logged = service.output("web") + service.output("worker0")
    assert "webhook_postponed" in logged
    assert "nobody-guesses" not in logged
    assert SECRET not in logged
