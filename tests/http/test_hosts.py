"""Under which names the service answers: without keys, under those of this machine alone."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from tests.support.service import Service

FOREIGN = {"Host": "evil.example:8000"}
PATHS = ("/healthz", "/readyz", "/openapi.json", "/docs/", "/", "/ui/workers", "/nothing")
BODY = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo"}}


def test_without_keys_a_foreign_name_can_start_and_read_nothing(service: Service) -> None:
    """A website that makes its own name point to this machine could do both otherwise."""
    id = service.start("behaves", {"do": "echo"})
    before = service.get("/executions").json()["pagination"]["total_items"]
    for answer in (
        service.post("/executions", json=BODY, headers=FOREIGN),
        service.post(f"/executions/{id}/cancel", headers=FOREIGN),
        service.get("/executions", headers=FOREIGN),
        service.get(f"/executions/{id}", headers=FOREIGN),
        service.get("/events", headers=FOREIGN),
        service.http.options(f"{service.url}/api/v1/executions", headers=FOREIGN, timeout=60),
    ):
        assert answer.status_code == 403
        assert answer.json()["code"] == "foreign_host"
        assert "API_KEYS" in answer.json()["detail"]
        assert id not in answer.json()["detail"]
    assert service.get("/executions").json()["pagination"]["total_items"] == before


@pytest.mark.parametrize("path", PATHS)
def test_without_keys_every_path_is_closed_to_a_foreign_name(service: Service, path: str) -> None:
    answer = service.http.get(service.url + path, headers=FOREIGN, timeout=60)
    assert answer.status_code == 403
    assert "names localhost and 127.0.0.1 only" in answer.text


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host"])
def test_no_other_header_names_the_host(service: Service, name: str) -> None:
    kind = "host=%s" if name == "Forwarded" else "%s"
    assert service.get("/executions", headers={name: kind % "evil.example"}).status_code == 200
    headers = {**FOREIGN, name: kind % "localhost"}
    assert service.get("/executions", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:{port}", "[::1]:80", "LOCALHOST.:{port}", "a.localhost"]
)
def test_without_keys_this_machine_s_own_names_are_served(service: Service, host: str) -> None:
    headers = {"Host": host.format(port=service.port)}
    assert service.post("/executions", json=BODY, headers=headers).status_code == 202
    assert service.http.get(service.url, headers=headers, timeout=60).status_code == 200


@pytest.mark.parametrize("target", [b"/api/v1/executions", b"http://localhost/api/v1/executions"])
def test_the_name_in_the_request_line_does_not_count(service: Service, target: bytes) -> None:
    assert b" 403 " in raw(service, b"GET " + target + b" HTTP/1.1", b"Host: evil.example")


def test_a_program_that_sends_no_host_is_served_by_http_1_0(service: Service) -> None:
    assert b" 200 " in raw(service, b"GET /api/v1/executions HTTP/1.0")
    assert b" 403 " in raw(service, b"GET /api/v1/executions HTTP/1.0", b"Host: evil.example")


@pytest.mark.parametrize("options", [{"AUTH": "off"}, {"API_KEYS": "key-of-somebody-1"}])
def test_who_has_decided_who_may_use_it_uses_any_name(
    shared_service: Callable[..., Service], options: dict[str, str]
) -> None:
    service = shared_service(workers=0, **options)
    headers = {**FOREIGN, "X-API-Key": options.get("API_KEYS", "")}
    assert service.post("/executions", json=BODY, headers=headers).status_code == 202
    page = service.http.get(f"{service.url}/ui/targets", headers=FOREIGN, timeout=60)
    assert page.status_code == 200


def raw(service: Service, *lines: bytes) -> bytes:
    """The status line of the answer to a request with exactly these lines."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.partition(b"\r\n")[0]
