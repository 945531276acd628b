"""API keys of real web processes: created by `flask keys`, required in each mode of `AUTH`,
rotated, revoked, refused.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import requests

from app.services.invalid_keys import INVALID_KEYS_PER_MINUTE
from tests.http.test_refusals import GOOD, refusal
from tests.support.pace import within
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

ENV_KEY, OTHER_KEY = "env-key-0123456789", "other-key-0123456789"
UNKNOWN = "/executions/exec_000000000000"


@pytest.fixture(scope="module")
def keyed(
    store_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that requires keys: two from `API_KEYS`, and those that a test creates."""
    url = f"{store_server.url.removesuffix('/0')}?db=4"
    with redis.Redis.from_url(store_server.url, db=4) as client:
        client.flushdb()
    folder = tmp_path_factory.mktemp("keyed")
    with Service(url, folder, workers=0, API_KEYS=f"acme:{ENV_KEY}, {OTHER_KEY}") as running:
        yield running


@pytest.fixture
def key(keyed: Service, request: pytest.FixtureRequest) -> str:
    return keyed.add_key(str(abs(hash(request.node.nodeid))))


def status_with(service: Service, key: str, path: str = UNKNOWN) -> int:
    return service.get(path, headers={"X-API-Key": key}).status_code


def raw(service: Service, *lines: bytes, path: bytes = b"/api/v1/executions") -> tuple[int, bytes]:
    """A request with exactly these header lines: its status and the whole answer."""
    head = b"\r\n".join(
        [b"GET " + path + b" HTTP/1.1", b"Host: x", b"Connection: close", *lines, b"", b""]
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ")[1]), answer


def test_a_key_works_in_either_header(keyed: Service, key: str) -> None:
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer  {key}"},
        {"X-API-Key": key},
        {"X-API-Key": key, "Authorization": f"Bearer {key}"},
        {"X-API-Key": ENV_KEY},
    ):
        assert keyed.get("/executions", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "exkey_wrong"},
        {"Authorization": ENV_KEY},
        {"Authorization": f"Basic {ENV_KEY}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {ENV_KEY} x"},
        {"Authorization": "Basic x", "X-API-Key": ENV_KEY},
    ],
)
def test_what_is_no_valid_key_is_401_with_a_challenge(
    keyed: Service, headers: dict[str, str]
) -> None:
    for response in (
        keyed.get("/executions", headers=headers),
        keyed.post("/executions", json=GOOD, headers=headers),
        keyed.get("/nothing", headers=headers),
    ):
        assert refusal(response, 401)["code"] == "unauthorized"
        assert response.headers["WWW-Authenticate"].startswith('Bearer realm="executions"')


def test_a_refused_client_may_send_its_whole_body_first(keyed: Service) -> None:
    body = b'{"a": "' + b"x" * 1_000_000 + b'"}'
    refusal(keyed.post("/executions", data=body, headers={"Content-Type": "application/json"}), 401)


@pytest.mark.parametrize(
    "query",
    ["api_key=", "page=1&api-key=", "access_token=", "X-API-Key=", "anything=exkey_", "exkey_"],
)
def test_a_key_in_the_address_is_refused_even_beside_a_right_one(
    keyed: Service, query: str
) -> None:
    url = f"/executions?{query}{ENV_KEY}"
    assert "URL" in refusal(keyed.get(url), 401)["detail"]
    refusal(keyed.get(url, headers={"X-API-Key": ENV_KEY}), 401)


@pytest.mark.parametrize(
    "lines",
    [
        [b"X-API-Key: %b", b"X-API-Key: %b"],
        [b"Authorization: Bearer %b", b"Authorization: Bearer %b"],
        [b"Authorization: Basic x", b"Authorization: Bearer %b"],
        [b"Authorization: Bearer %b", b"X-API-Key: another-key-0123456789"],
        [b"X-API-Key: another-key-0123456789", b"X-API-Key: %b"],
    ],
)
def test_more_than_one_key_is_400(keyed: Service, lines: list[bytes]) -> None:
    status, answer = raw(keyed, *(line.replace(b"%b", ENV_KEY.encode()) for line in lines))
    assert status == 400
    assert b"ambiguous_key" in answer


@pytest.mark.parametrize("name", [b"X_API_KEY", b"x_api_key", b"X-API_Key"])
def test_a_header_with_an_underscore_counts_as_absent(keyed: Service, name: bytes) -> None:
    key = ENV_KEY.encode()
    assert raw(keyed, name + b": " + key)[0] == 401
    assert raw(keyed, name + b": " + key, b"X-API-Key: " + key)[0] == 200


@pytest.mark.parametrize("bytes_sent", [b"\xff\xfe", "schlüssel".encode(), b"\x80" * 64])
def test_bytes_that_are_not_ascii_are_no_key(keyed: Service, bytes_sent: bytes) -> None:
    assert raw(keyed, b"X-API-Key: " + bytes_sent)[0] == 401
    assert raw(keyed, b"Authorization: Bearer " + bytes_sent)[0] == 401


def test_a_key_may_do_what_its_scopes_say(keyed: Service) -> None:
    start, read, cancel = (
        {"X-API-Key": keyed.add_key(f"only-{scope}", scope)}
        for scope in ("start", "read", "cancel")
    )
    id = keyed.post("/executions", json=GOOD, headers=start).json()["execution_id"]
    assert keyed.get(f"/executions/{id}", headers=read).json()["status"] == "pending"
    for refused, scope in (
        (keyed.post("/executions", json=GOOD, headers=read), "start"),
        (keyed.get(f"/executions/{id}", headers=start), "read"),
        (keyed.get("/executions", headers=cancel), "read"),
        (keyed.post(f"/executions/{id}/cancel", headers=read), "cancel"),
    ):
        assert repr(scope) in refusal(refused, 403)["detail"]
    assert (
        keyed.post(f"/executions/{id}/cancel", headers=cancel).json()["data"]["status"]
        == "cancelled"
    )


def test_two_keys_overlap_and_a_revoked_one_stops_within_two_seconds(keyed: Service) -> None:
    old, new = keyed.add_key("shop-1", tenant="shop"), keyed.add_key("shop-2", tenant="shop")
    id = keyed.post("/executions", json=GOOD, headers={"X-API-Key": old}).json()["execution_id"]
    assert [status_with(keyed, key, f"/executions/{id}") for key in (old, new)] == [200, 200]
    assert keyed.keys().revoke("shop-1")
    revoked_at = time.monotonic()
    while status_with(keyed, old, f"/executions/{id}") == 200:
        assert time.monotonic() < revoked_at + within(2.5)
        time.sleep(0.02)
    assert status_with(keyed, old) == 401
    assert status_with(keyed, new, f"/executions/{id}") == 200


def test_a_line_of_the_log_names_the_tenant_and_the_key_by_its_name(keyed: Service) -> None:
    id = keyed.get("/executions/exec_0000000000logged", headers={"X-API-Key": ENV_KEY}).headers[
        "X-Request-ID"
    ]
    [line] = [line for line in keyed.output("web").splitlines() if id in line]
    assert json.loads(line)["tenant"] == "acme"
    assert json.loads(line)["key_name"] == "API_KEYS[1]"


def test_the_commands_make_list_and_revoke(keyed: Service) -> None:
    made = keyed.flask("keys", "add", "listed", "--scopes", "read,admin", "--tenant", "acme")
    assert made.stdout.startswith("exkey_")
    assert status_with(keyed, made.stdout.strip(), "/executions") == 200
    assert len(made.stdout.splitlines()) == 1
    assert "cannot be shown again" in made.stderr
    listed = keyed.flask("keys", "list").stdout
    assert ["listed", "acme", "read,admin"] in [line.split()[:3] for line in listed.splitlines()]
    assert made.stdout.strip() not in listed
    again = keyed.flask("keys", "add", "listed")
    assert (again.returncode, again.stdout) == (1, "")
    assert "A key with the name listed already exists." in again.stderr
    assert keyed.flask("keys", "revoke", "listed").returncode == 0
    unknown = keyed.flask("keys", "revoke", "listed")
    assert unknown.returncode == 1
    assert "There is no key with the name 'listed'." in unknown.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "a b"],
        ["add", "a:b"],
        ["add", "x", "--tenant", "a:b"],
        ["add", "x", "--scopes", "write"],
        ["add"],
    ],
)
def test_a_wrong_argument_is_refused_and_makes_nothing(
    keyed: Service, arguments: list[str]
) -> None:
    refused = keyed.flask("keys", *arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Traceback" not in refused.stderr


def test_the_commands_say_in_one_sentence_that_the_store_is_away(tmp_path: Path) -> None:
    refused = Service("redis://127.0.0.1:1/0", tmp_path).flask("keys", "list")
    assert refused.returncode == 1
    assert refused.stderr == "Error: The store cannot be reached.\n"


def test_a_peer_with_too_many_wrong_keys_waits_and_costs_the_store_nothing(
    make_service: Callable[..., Service], store_server: EmbeddedStore
) -> None:
    service = make_service(workers=0, AUTH="keys")
    right = service.add_key("right")
    assert status_with(service, right, "/executions") == 200
    statuses = [
        status_with(service, f"wrong-{number}") for number in range(INVALID_KEYS_PER_MINUTE)
    ]
    assert statuses == [401] * INVALID_KEYS_PER_MINUTE
    with redis.Redis.from_url(store_server.url, db=2) as client, client.monitor() as monitor:
        for number in range(50):
            response = service.get(UNKNOWN, headers={"Authorization": f"Bearer more-{number}"})
            assert refusal(response, 429)["code"] == "too_many_wrong_keys"
            assert 0 < int(response.headers["Retry-After"]) <= 60
        client.echo("end")
        seen = []
        while "end" not in (command := monitor.next_command()["command"]):
            seen.append(command)
    assert [command for command in seen if "exec:keys" in command] == []
    assert status_with(service, right, "/executions") == 200


def test_with_auth_keys_and_no_key_made_everything_is_refused(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=0, AUTH="keys")
    assert service.get("/executions").status_code == 401
    assert status_with(service, ENV_KEY) == 401
    assert status_with(service, service.add_key("first"), "/executions") == 200  # without a restart


def test_with_auth_off_nobody_looks_at_a_key(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=0, AUTH="off", HOST="127.0.0.1")
    assert status_with(service, "whatever", "/executions") == 200
    made = service.flask("keys", "add", "early")
    assert made.returncode == 0
    assert "Keys are only required if" in made.stderr


def test_a_store_that_is_away_is_503_for_right_and_wrong_keys(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(redis_url="redis://127.0.0.1:1/0", workers=0, API_KEYS=ENV_KEY)
    for key in (ENV_KEY, "wrong"):
        response = service.get("/executions", headers={"X-API-Key": key})
        assert refusal(response, 503)["code"] == "store_unavailable"
        assert int(response.headers["Retry-After"]) > 0
    assert service.get("/executions").status_code == 401


@pytest.mark.parametrize(
    "path", ["/healthz", "/openapi.json", "/docs", "/docs/", "/docs/swagger-ui.css"]
)
def test_what_is_open_needs_no_key(keyed: Service, path: str) -> None:
    assert requests.get(keyed.url + path, timeout=10).status_code == 200


def test_the_description_says_where_a_key_is_needed(keyed: Service, service: Service) -> None:
    described = requests.get(f"{keyed.url}/openapi.json", timeout=10).json()
    assert set(described["components"]["securitySchemes"]) == {"bearer", "api_key"}
    for path in described["paths"].values():
        for method in {"get", "post", "put", "delete"} & path.keys():
            assert path[method]["security"] == [{"bearer": []}, {"api_key": []}]
            for status, code in (("401", "unauthorized"), ("403", "forbidden")):
                example = path[method]["responses"][status]["content"]["application/problem+json"][
                    "example"
                ]
                assert example["code"] == code
            assert "Retry-After" in path[method]["responses"]["429"]["headers"]
    without = requests.get(f"{service.url}/openapi.json", timeout=10).json()
    assert {} in without["paths"]["/api/v1/executions"]["post"]["security"]
