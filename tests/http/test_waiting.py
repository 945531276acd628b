"""Waiting for the end or the next change of an execution: `?wait=` and `Prefer: wait=N`."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import redis
import requests

from app import create_app
from app.api.waiting import preferred_seconds
from app.settings import Settings
from tests.http.test_refusals import refusal
from tests.support.pace import until, within
from tests.support.proxy import Proxy
from tests.support.service import ENDED, ROOT, Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]
LONG_SECONDS = 50  # far longer than what is waited for takes
ECHO = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo", "n": 1}}
SLEEP = {"type": "agent", "target_id": "behaves", "inputs": {"do": "sleep", "seconds": 40}}
JSON = {"Content-Type": "application/json"}
CHANNELS = b"exec:changed:*"


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[requests.Response]]]:
    """`aside(service, path)` sends a GET from a connection of its own, while the test goes on."""
    with ThreadPoolExecutor(32) as threads:

        def send(service: Service, path: str, **options: Any) -> Future[requests.Response]:
            url = f"{service.url}/api/v1{path}"
            return threads.submit(lambda: requests.get(url, timeout=90, **options))

        yield send


def watched(service: Service) -> int:
    """How many executions somebody waits for."""
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        return len(client.pubsub_channels(CHANNELS))


def start(service: Service, body: dict[str, Any], **headers: str) -> requests.Response:
    return service.post("/executions", json=body, headers=headers)


def took(answer: requests.Response) -> float:
    return answer.elapsed.total_seconds()


# GET with `wait`


def test_a_wait_is_answered_at_the_end(service: Service, aside: Any) -> None:
    id = service.start("behaves", {"do": "progress", "steps": 4, "pause": 0.3})
    answer = service.get(f"/executions/{id}?wait={LONG_SECONDS}")
    assert answer.json()["status"] == "completed"
    assert answer.json() == service.status(id)
    assert answer.headers["ETag"] == f'"v{answer.json()["version"]}"'
    assert "Retry-After" not in answer.headers
    assert took(answer) < LONG_SECONDS / 2


def test_one_that_has_ended_already_is_answered_at_once(service: Service) -> None:
    id = service.start("behaves", {"do": "echo"})
    service.ended(id)
    answer = service.get(f"/executions/{id}?wait={LONG_SECONDS}&include=steps,inputs")
    assert took(answer) < LONG_SECONDS / 2
    assert {"steps", "inputs", "outputs"} <= answer.json().keys()


@pytest.mark.parametrize("seconds", ["1", "0.7", "7e-1", "1.0"])
def test_a_wait_that_sees_no_end_is_answered_with_what_is_there(
    shared_service: Make, seconds: str
) -> None:
    service = shared_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    answer = service.get(f"/executions/{id}?wait={seconds}")
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")
    assert float(seconds) <= took(answer) < within(LONG_SECONDS / 2)
    assert answer.headers["Retry-After"] == "1"


def test_a_wait_of_zero_does_not_wait(shared_service: Make) -> None:
    service = shared_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    for query in ("wait=0", "wait=0.0&since_version=1", "since_version=1"):
        answer = service.get(f"/executions/{id}?{query}")
        assert answer.json()["status"] == "pending"
        assert took(answer) < 10


@pytest.mark.parametrize(
    "query",
    [
        *(
            "wait=",
            "wait=-1",
            "wait=nan",
            "wait=inf",
            "wait=1e9",
            "wait=3601",
            "wait=+5",
            "wait=5.",
        ),
        *("wait=1_0", "wait=%205", "wait=5s", "wait=\uff15", "wait=0x5", "wait=1&wait=2"),
        *("wait=" + "9" * 400, "wait=1e-", "wait=true"),
        *("wait=1&since_version=", "wait=1&since_version=-1", "wait=1&since_version=v3"),
        *("wait=1&since_version=1.0", "wait=1&since_version=" + "9" * 40),
    ],
)
def test_a_wait_that_is_no_number_of_seconds_is_refused(service: Service, query: str) -> None:
    answer = service.get(f"/executions/exec_00000000000000000000?{query}")
    errors = refusal(answer, 400)["errors"]
    assert [error["field"] for error in errors] == [query.rpartition("&")[2].partition("=")[0]]


def test_nobody_waits_longer_than_max_wait(make_service: Make) -> None:
    service = make_service(workers=0, MAX_WAIT=1)
    id = service.start("behaves", {"do": "echo"})
    for answer in (
        service.get(f"/executions/{id}?wait=3600"),
        start(service, ECHO, Prefer="wait=3600"),
    ):
        assert answer.json()["status"] == "pending"
        assert 1 <= took(answer) < within(LONG_SECONDS / 2)


def test_a_wait_since_a_version_is_answered_at_the_next_change(shared_service: Make) -> None:
    service = shared_service()
    id = service.start(
        "behaves", {"do": "progress", "steps": 3, "pause": 1.0}, config={"flow_id": "thread"}
    )
    body, seen = {"version": 0, "status": "pending"}, []
    while body["status"] not in ENDED:
        query = f"wait={LONG_SECONDS}&since_version={body['version']}"
        answer = service.get(f"/executions/{id}?{query}")
        assert took(answer) < LONG_SECONDS / 2
        assert answer.json()["version"] > body["version"]
        body = answer.json()
        seen.append((body["status"], body.get("progress", {}).get("current_step")))
    assert seen[-1][0] == "completed"
    assert {("running", 1), ("running", 2)} <= set(seen)
    assert len(seen) == len(set(seen)) or len(seen) <= body["version"]


def test_a_version_that_the_store_does_not_have_is_answered_at_once(shared_service: Make) -> None:
    """As after a store has lost its last writes: what is there differs from what is known."""
    service = shared_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    answer = service.get(f"/executions/{id}?wait={LONG_SECONDS}&since_version=7")
    assert answer.json()["version"] == 1
    assert took(answer) < LONG_SECONDS / 2


def test_a_wait_with_a_condition_is_304_only_if_nothing_has_changed(shared_service: Make) -> None:
    service = shared_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    known = {"If-None-Match": service.get(f"/executions/{id}").headers["ETag"]}
    answer = service.get(f"/executions/{id}?wait=0.5", headers=known)
    assert (answer.status_code, answer.content) == (304, b"")
    assert took(answer) >= 0.5
    threading.Timer(0.5, lambda: service.cancel(id)).start()
    url = f"{service.url}/api/v1/executions/{id}?wait={LONG_SECONDS}"
    answer = requests.get(url, headers=known, timeout=90)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_a_wait_hears_of_a_cancel_and_of_a_failure(service: Service, aside: Any) -> None:
    sleeping = service.start("behaves", {"do": "listen", "seconds": 60})
    waiting = aside(service, f"/executions/{sleeping}?wait={LONG_SECONDS}")
    service.until(sleeping, "running")
    service.cancel(sleeping)
    assert waiting.result().json()["status"] == "cancelled"
    failing = service.start("behaves", {"do": "fail"})
    body = service.get(f"/executions/{failing}?wait={LONG_SECONDS}").json()
    assert body["status"] == "failed"
    assert body["error"]["message"]


def test_an_unknown_execution_and_another_tenants_are_not_waited_for(make_service: Make) -> None:
    service = make_service(workers=0, AUTH="keys")
    ours, theirs = service.add_key("ours"), service.add_key("theirs", tenant="other")
    service.http.headers["Authorization"] = f"Bearer {ours}"
    id = service.start("behaves", {"do": "echo"})
    for missing, key in (("exec_00000000000000000000", ours), (id, theirs), ("exec_x", ours)):
        answer = requests.get(
            f"{service.url}/api/v1/executions/{missing}?wait={LONG_SECONDS}&since_version=1",
            headers={"Authorization": f"Bearer {key}"},
            timeout=90,
        )
        assert refusal(answer, 404)["code"] == "not_found"
        assert took(answer) < LONG_SECONDS / 2


# POST with `Prefer: wait=N`


def test_a_start_that_prefers_to_wait_is_answered_with_the_final_status(service: Service) -> None:
    answer = start(service, ECHO, Prefer=f"respond-async, wait={LONG_SECONDS}")
    assert answer.status_code == 200
    body = answer.json()
    assert body == service.status(body["execution_id"])
    assert (body["status"], body["outputs"]["output"]["n"]) == ("completed", 1)
    assert answer.headers["Preference-Applied"] == f"wait={LONG_SECONDS}"
    assert answer.headers["Location"] == f"/api/v1/executions/{body['execution_id']}"
    assert answer.headers["ETag"] == f'"v{body["version"]}"'
    failed = start(service, {**ECHO, "inputs": {"do": "fail"}}, Prefer=f"wait={LONG_SECONDS}")
    assert (failed.status_code, failed.json()["status"]) == (200, "failed")


def test_a_start_whose_end_does_not_come_in_time_is_answered_as_usual(
    shared_service: Make,
) -> None:
    service = shared_service(workers=0)
    plain, waited = start(service, ECHO), start(service, ECHO, Prefer="wait=1")
    assert waited.status_code == 202
    assert 1 <= took(waited) < within(LONG_SECONDS / 2)
    assert waited.json().keys() == plain.json().keys()
    assert waited.headers.keys() == plain.headers.keys()


def test_a_repeat_waits_for_the_first_execution_too(service: Service) -> None:
    from app.domain.identifiers import new_id

    key = {"Idempotency-Key": new_id()}
    body = {**ECHO, "inputs": {"do": "progress", "steps": 3, "pause": 0.3}}
    first = start(service, body, **key)
    assert first.status_code == 202
    for _ in range(2):
        again = start(service, body, Prefer=f"wait={LONG_SECONDS}", **key)
        assert (again.status_code, again.json()["status"]) == (200, "completed")
        assert again.json()["execution_id"] == first.json()["execution_id"]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Preference-Applied"] == f"wait={LONG_SECONDS}"
    assert start(service, body, **key).content == first.content


def test_a_retry_that_prefers_to_wait_is_answered_with_the_new_executions_end(
    service: Service,
) -> None:
    failed = service.run("behaves", {"do": "fail"})["execution_id"]
    answer = service.post(f"/executions/{failed}/retry", headers={"Prefer": "wait=40"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["retry_of"]) == ("failed", failed)
    assert answer.json()["execution_id"] != failed


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10),
        ("WAIT = 10", 10),
        ('wait="10"', 10),
        ('wait=10; priority="a, b;wait=3"', 10),
        ('respond-async, foo="wait=5, wait=6"; x, wait=7', 7),
        (',, handling=lenient ,wait=007,, "', 7),
        ("wait=5, wait=9", 5),
        ("wait=x, wait=9", 0),
        ("wait=0", 0),
        ("wait", 0),
        ("wait=", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=" + "9" * 10, 0),
        ("wait=\u0665", 0),
        ("x-wait=5", 0),
        ('"wait=5"', 0),
        ("waits=5", 0),
        ("", 0),
        ("=;,=", 0),
        ('a="\\", wait=5', 0),
        ('a="\\"", wait=5', 5),
    ],
)
def test_a_preference_is_read_as_rfc_7240_says_and_garbage_is_ignored(
    header: str, seconds: int
) -> None:
    assert preferred_seconds(header) == seconds


def test_a_preference_that_is_wrong_refuses_nothing(shared_service: Make) -> None:
    service = shared_service(workers=0)
    for odd in ("wait=x", "wait=-5", ';,="', "wait=" + "9" * 400, "\xff"):
        answer = start(service, ECHO, Prefer=odd)
        assert answer.status_code == 202
        assert took(answer) < LONG_SECONDS / 2


def test_a_key_that_must_not_read_gets_no_outputs_by_waiting(make_service: Make) -> None:
    service = make_service(AUTH="keys")
    for scopes, status in (("start", 202), ("start,read", 200)):
        key = service.add_key(scopes.replace(",", "-"), scopes=scopes)
        answer = start(service, ECHO, Prefer="wait=40", Authorization=f"Bearer {key}")
        assert answer.status_code == status


def test_a_caller_beyond_its_limit_gets_the_first_answer_again_but_does_not_wait(
    make_service: Make,
) -> None:
    service = make_service(workers=0, RATE_LIMIT_START="1/hour", RATE_LIMIT_READ="2/hour")
    headers = {"Idempotency-Key": "mine", "Prefer": f"wait={LONG_SECONDS}"}
    first = start(service, ECHO, **{**headers, "Prefer": "wait=0"})
    again = start(service, ECHO, **headers)
    assert (again.status_code, again.content) == (202, first.content)
    assert took(again) < LONG_SECONDS / 2
    assert start(service, ECHO, Prefer="wait=5").status_code == 429
    id = first.json()["execution_id"]
    codes = [service.get(f"/executions/{id}?wait=0.1").status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]


# Many, and things that break


def test_beyond_max_waiters_a_caller_is_answered_at_once(make_service: Make, aside: Any) -> None:
    service = make_service(workers=0, MAX_WAITERS=3)
    id = service.start("behaves", {"do": "echo"})
    waiting = [aside(service, f"/executions/{id}?wait={LONG_SECONDS}") for _ in range(12)]
    until(lambda: sum(future.done() for future in waiting) == 9)
    for future in waiting:
        if future.done():
            assert future.result().json()["status"] == "pending"
            assert took(future.result()) < LONG_SECONDS / 2
    answer = start(service, ECHO, Prefer=f"wait={LONG_SECONDS}")
    assert (answer.status_code, took(answer) < LONG_SECONDS / 2) == (202, True)
    assert service.cancel(id).status_code == 200  # which always waits
    bodies = [future.result().json()["status"] for future in waiting]
    assert bodies.count("cancelled") == 3
    # Their places are free again.
    id = service.start("behaves", {"do": "echo"})
    assert took(service.get(f"/executions/{id}?wait=1")) >= 1


@pytest.mark.parametrize("setting", ["MAX_WAIT", "MAX_WAITERS"])
def test_a_service_may_let_nobody_wait(make_service: Make, setting: str) -> None:
    service = make_service(workers=0, **{setting: 0})
    answer = start(service, ECHO, Prefer=f"wait={LONG_SECONDS}")
    assert answer.status_code == 202
    id = answer.json()["execution_id"]
    found = service.get(f"/executions/{id}?wait={LONG_SECONDS}")
    assert found.json()["status"] == "pending"
    assert took(answer) + took(found) < LONG_SECONDS / 2


def test_a_client_that_has_gone_costs_nothing_after_five_seconds(make_service: Make) -> None:
    service = make_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    request = f"GET /api/v1/executions/{id}?wait=59 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    start_ = json.dumps(ECHO)
    head = (
        f"POST /api/v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(start_)}\r\n"
    )
    post = f"{head}Content-Type: application/json\r\nPrefer: wait=59\r\n\r\n{start_}".encode()
    assert service.web is not None
    [process] = psutil.Process(service.web.pid).children()
    before = process.num_fds()
    clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(60)]
    for number, client in enumerate(clients):
        client.sendall(post if number % 3 == 0 else request)
    until(lambda: watched(service) == 21)
    for client in clients:
        client.close()
    until(lambda: watched(service) == 0, 5.0)
    until(lambda: process.num_fds() <= before + 4)


def test_a_client_that_closes_its_sending_side_gets_its_answer_at_once(
    make_service: Make,
) -> None:
    """It cannot be told from one that has gone, so it is answered with what is there."""
    service = make_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(
            f"GET /api/v1/executions/{id}?wait=59 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"pending"' in answer


def test_a_client_that_sends_its_next_request_early_is_not_taken_for_gone(
    make_service: Make,
) -> None:
    service = make_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    get = f"GET /api/v1/executions/{id}%s HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall((get % "?wait=2").encode() + (get % "").encode())
        began, answers = time.monotonic(), b""
        while answers.count(b'"execution_id"') < 2:
            answers += client.recv(65536)
            assert time.monotonic() - began >= 2
    assert answers.count(b"HTTP/1.1 200 ") == 2


def test_large_bodies_of_starts_that_wait_take_no_memory_from_others(make_service: Make) -> None:
    """A process keeps 128 MiB for large requests. Those that wait have given theirs back."""
    service = make_service(workers=0)
    large = json.dumps({**ECHO, "inputs": {"texts": ["x" * 100_000] * 10}}).encode()
    head = (
        f"POST /api/v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(large)}\r\n"
    )
    request = f"{head}Content-Type: application/json\r\nPrefer: wait=59\r\n\r\n".encode() + large
    clients = []
    for number in range(1, 161):
        clients.append(socket.create_connection(("127.0.0.1", service.port), timeout=60))
        clients[-1].sendall(request)
        until(lambda number=number: watched(service) == number)  # type: ignore[misc]
    assert service.web is not None
    [process] = psutil.Process(service.web.pid).children()
    assert process.memory_info().rss < 400 * 2**20
    assert service.post("/executions", data=large, headers=JSON).status_code == 202
    for client in clients:
        client.close()


def test_a_stop_of_the_web_process_answers_those_who_wait_at_once(
    make_service: Make, aside: Any
) -> None:
    service = make_service(workers=0)
    id = service.start("behaves", {"do": "echo"})
    waiting = [aside(service, f"/executions/{id}?wait=59") for _ in range(20)]
    with ThreadPoolExecutor() as threads:
        url, prefer = f"{service.url}/api/v1/executions", {"Prefer": "wait=59"}
        starting = threads.submit(lambda: requests.post(url, json=ECHO, headers=prefer, timeout=90))
        until(lambda: watched(service) == 2)
        time.sleep(0.3)
        assert service.web is not None
        began = time.monotonic()
        service.web.send_signal(signal.SIGTERM)
        for future in waiting:
            answer = future.result()
            assert (answer.status_code, answer.json()["status"]) == (200, "pending")
            assert answer.headers["Connection"] == "close"
        assert time.monotonic() - began < within(8)
        assert starting.result().status_code == 202
        assert service.web.wait(within(25)) == 0
        assert time.monotonic() - began < within(25)


def test_a_wait_outlives_an_outage_of_the_store(
    make_service: Make, own_store: EmbeddedStore, aside: Any
) -> None:
    with Proxy(own_store.url.removeprefix("unix://")) as proxy:
        service = make_service(proxy.url, workers=0)
        id, other = service.start("behaves", {"do": "echo"}), service.start("behaves", {"do": "x"})
        waiting = aside(service, f"/executions/{id}?wait=59")
        since = aside(service, f"/executions/{other}?wait=59&since_version=1")
        time.sleep(1)
        for mode in ("cut", "blackhole", "cut"):
            proxy.mode = mode  # type: ignore[assignment]
            time.sleep(2.5)
            if mode == "blackhole":
                continue
            proxy.mode = "pass"
            until(lambda: service.get(f"/executions/{id}").status_code == 200)
            time.sleep(1)
            assert not waiting.done()
        proxy.mode = "cut"
        with redis.Redis.from_url(own_store.url) as client:  # the message of the end is lost
            from app.store.executions import ExecutionStore

            store = ExecutionStore(client, Settings())
            store.cancel(id, "default")
            store.cancel(other, "default")
        proxy.mode = "pass"
        for future in (waiting, since):
            assert future.result().json()["status"] == "cancelled"
            assert took(future.result()) < 58


def test_a_wait_whose_store_stays_away_is_answered_with_503_and_a_start_with_its_receipt(
    make_service: Make, own_store: EmbeddedStore, aside: Any
) -> None:
    with Proxy(own_store.url.removeprefix("unix://")) as proxy:
        service = make_service(proxy.url, workers=0)
        id = service.start("behaves", {"do": "echo"})
        waiting = aside(service, f"/executions/{id}?wait=5")
        with ThreadPoolExecutor() as threads:
            url, prefer = f"{service.url}/api/v1/executions", {"Prefer": "wait=5"}
            starting = threads.submit(
                lambda: requests.post(url, json=ECHO, headers=prefer, timeout=90)
            )
            time.sleep(1.5)
            proxy.mode = "cut"
            assert refusal(waiting.result(), 503)["code"] == "store_unavailable"
            assert starting.result().status_code == 202


def test_a_server_that_tells_nothing_of_its_clients_lets_them_wait(
    redis_client: redis.Redis,
) -> None:
    """Flask's test client is such a server."""
    options = redis_client.connection_pool.connection_kwargs
    address = f"unix://{options['path']}?db={options['db']}"
    agents = (ROOT / "tests" / "agents",)
    app = create_app(Settings(redis_url=address, agents_path=agents, pipelines_path=()))
    client = app.test_client()
    id = client.post("/api/v1/executions", json=ECHO).get_json()["execution_id"]
    found = client.get(f"/api/v1/executions/{id}?wait=0.5").get_json()
    assert found["status"] == "pending"
    other = app.test_client()
    threading.Timer(0.5, lambda: other.post(f"/api/v1/executions/{id}/cancel")).start()
    began = time.monotonic()
    found = client.get(f"/api/v1/executions/{id}?wait={LONG_SECONDS}").get_json()
    assert found["status"] == "cancelled"
    assert time.monotonic() - began < LONG_SECONDS / 2


def test_a_wait_does_not_count_as_the_duration_of_its_request(make_service: Make) -> None:
    service = make_service(workers=0, METRICS="open")
    id = service.start("behaves", {"do": "echo"})
    service.get(f"/executions/{id}?wait=2")
    text = requests.get(f"{service.url}/metrics", timeout=30).text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("http_request_duration_seconds_sum{")
        and 'route="/api/v1/executions/{execution_id}"' in line.replace("<", "{").replace(">", "}")
    ]
    assert float(line.rpartition(" ")[2]) < 1.5


def test_the_documented_loop_sees_every_version_up_to_the_end(service: Service) -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    code = page[page.index("```python\nimport requests\n\n\ndef follow") :]
    namespace: dict[str, Any] = {}
    exec(code.removeprefix("```python\n").partition("```")[0], namespace)
    id = service.start("behaves", {"do": "progress", "steps": 3, "pause": 0.3})
    statuses = list(namespace["follow"](f"{service.url}/api/v1/executions/{id}"))
    assert statuses[-1] == service.status(id)
    versions = [status["version"] for status in statuses]
    assert versions == sorted(set(versions))
