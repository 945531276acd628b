"""Refused requests: the status, the code and the field of each."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
import requests

from tests.support.pace import within
from tests.support.service import Service
from tests.support.shapes import check_shape

OUT_OF_RANGE = "out_of_range"
GOOD = {"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Test"}}


def refusal(response: requests.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    check_shape(body, "problem")
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-ID"]
    return dict(body)


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"type": "robot"}, "type", "invalid_choice"),
        ({"type": None}, "type", "invalid_type"),
        ({"type": ...}, "type", "required"),
        ({"target_id": ...}, "target_id", "required"),
        ({"target_id": 5}, "target_id", "invalid_type"),
        ({"target_id": "a\u0000b"}, "target_id", "invalid_text"),
        ({"target_id": "abc\u202edef"}, "target_id", "invalid_text"),
        ({"inputs": ...}, "inputs", "required"),
        ({"inputs": []}, "inputs", "invalid_type"),
        ({"inputs": {}}, "inputs.text", "required"),
        ({"inputs": {"text": 5}}, "inputs.text", "invalid_type"),
        ({"inputs": {"te\u0000xt": "x"}}, "inputs.te\u0000xt", "invalid_text"),
        ({"inputs": {"te\u200bxt": "x"}}, "inputs.te\u200bxt", "invalid_text"),
        ({"inputs": {"cafe\u0301": "x"}}, "inputs.cafe\u0301", "invalid_text"),
        ({"inputs": {"": "x"}}, "inputs.", "out_of_range"),
        ({"inputs": {"x" * 129: "x"}}, f"inputs.{'x' * 129}", "out_of_range"),
        ({"inputs": {"x" * 300_000: "x"}}, f"inputs.{'x' * 256}...", "out_of_range"),
        ({"inputs": {f"n{number}": number for number in range(257)}}, "inputs", "out_of_range"),
        ({"inputs": {"text": "x" * (512 * 1024 + 1)}}, "inputs.text", "too_long"),
        (
            {"inputs": {"text": ["", {"x" * (512 * 1024 + 1): 1}]}},
            f"inputs.text.1.{'x' * 256}...",
            "too_long",
        ),
        ({"target_id": "cafe\u0301"}, "target_id", "invalid_text"),
        ({"inputs": {"text": "x", "txet": "y"}}, "inputs.txet", "unknown_field"),
        ({"config": []}, "config", "invalid_type"),
        ({"config": {"flow_id": "no_such_flow"}}, "config.flow_id", "unknown_flow_id"),
        ({"config": {"max_workers": 0}}, "config.max_workers", "out_of_range"),
        ({"config": {"max_workers": 65}}, "config.max_workers", "out_of_range"),
        ({"config": {"max_workers": "4"}}, "config.max_workers", "invalid_type"),
        ({"config": {"max_workers": True}}, "config.max_workers", "invalid_type"),
        ({"config": {"max_workers": 4.0}}, "config.max_workers", "invalid_type"),
        ({"config": {"timeout": "60"}}, "config.timeout", "invalid_type"),
        ({"config": {"timeout": 0}}, "config.timeout", "out_of_range"),
        ({"config": {"timeout": 86401}}, "config.timeout", "out_of_range"),
        ({"config": {"timeout": False}}, "config.timeout", "invalid_type"),
        ({"config": {"max_attempts": 11}}, "config.max_attempts", "out_of_range"),
        ({"config": {"retries": {}}}, "config.retries.max", "required"),
        ({"config": {"retries": {"max": 11}}}, "config.retries.max", "out_of_range"),
        (
            {"config": {"retries": {"max": 1, "backoff_seconds": [-1]}}},
            "config.retries.backoff_seconds.0",
            "out_of_range",
        ),
        ({"config": {"thread_id": 7}}, "config.thread_id", "invalid_type"),
        ({"config": {"thread_id": ""}}, "config.thread_id", "out_of_range"),
        ({"config": {"thread_id": "x" * 129}}, "config.thread_id", "out_of_range"),
        ({"config": {"thread_id": "a\u0000b"}}, "config.thread_id", "invalid_text"),
        ({"config": {"thread_id": "other-tenant/ann"}}, "config.thread_id", "invalid_text"),
        ({"config": {"priority": 1}}, "config.priority", "unknown_field"),
        ({"expires_in": 0}, "expires_in", "out_of_range"),
        ({"expires_in": 604801}, "expires_in", "out_of_range"),
        ({"agnet": "x"}, "agnet", "unknown_field"),
        ({"callback_url": 5}, "callback_url", "invalid_type"),
        ({"callback_url": ""}, "callback_url", "out_of_range"),
        ({"callback_url": "https://a.example.com/" + "x" * 2048}, "callback_url", "out_of_range"),
        ({"callback_url": "https://a.example.com"}, "callback_url", "webhooks_not_configured"),
        ({"callback_events": ["execution.failed"]}, "callback_url", "required"),
        ({"callback_events": []}, "callback_events", "out_of_range"),
        ({"callback_events": "execution.failed"}, "callback_events", "invalid_type"),
        ({"callback_events": ["failed"]}, "callback_events.0", "invalid_choice"),
        ({"callback_events": ["execution.created"]}, "callback_events.0", "invalid_choice"),
        ({"callback_events": ["execution.failed"] * 7}, "callback_events", "out_of_range"),
        ({"tags": "nightly"}, "tags", "invalid_type"),
        ({"tags": [""]}, "tags.0", "out_of_range"),
        ({"tags": ["x" * 65]}, "tags.0", "out_of_range"),
        ({"tags": ["a\u0000b"]}, "tags.0", "invalid_text"),
        ({"tags": ["cafe\u0301"]}, "tags.0", "invalid_text"),
        ({"tags": [None]}, "tags.0", "invalid_type"),
        ({"tags": ["x"] * 11}, "tags", "out_of_range"),
        ({"status": "completed"}, "status", "read_only"),
        ({"execution_id": "exec_1"}, "execution_id", "read_only"),
        ({"created_at": "now"}, "created_at", "read_only"),
    ],
)
def test_a_field_that_does_not_fit_is_named(
    service: Service, change: dict[str, Any], field: str, code: str
) -> None:
    body = {name: value for name, value in {**GOOD, **change}.items() if value is not ...}
    errors = refusal(service.post("/executions", json=body), 400)["errors"]
    assert [(error["field"], error["code"]) for error in errors] == [(field, code)]


def test_what_is_as_long_as_allowed_is_read(service: Service) -> None:
    inputs = {
        "x" * 128: "x" * 512 * 1024,
        **{f"n{number}": "\u0000\u202e __proto__" for number in range(255)},
    }
    ended = service.run("behaves", {"do": "echo", **dict(list(inputs.items())[:255])})
    assert ended["status"] == "completed"
    assert (
        service.post(
            "/executions", json={**GOOD, "target_id": "behaves", "inputs": inputs}
        ).status_code
        == 202
    )


def test_keys_that_python_or_javascript_might_take_for_their_own_are_plain_data(
    service: Service,
) -> None:
    inputs = {"do": "echo", "__proto__": {"constructor": 1}, "__class__": "x", "constructor": None}
    assert service.run("behaves", inputs)["outputs"]["output"] == inputs


def test_a_body_of_many_mistakes_is_not_answered_with_all_of_them(service: Service) -> None:
    body = {**GOOD, "inputs": {f"unknown_{number}": 1 for number in range(200)}}
    assert len(refusal(service.post("/executions", json=body), 400)["errors"]) == 100


def test_a_list_that_is_too_long_is_refused_before_its_items_are_looked_at(
    service: Service,
) -> None:
    body = {**GOOD, "config": {"retries": {"max": 1, "backoff_seconds": ["soon"] * 5000}}}
    errors = refusal(service.post("/executions", json=body), 400)["errors"]
    assert [error["field"] for error in errors] == ["config.retries.backoff_seconds"]


def test_all_fields_that_do_not_fit_are_named_at_once(service: Service) -> None:
    body = {
        "type": "robot",
        "target_id": 5,
        "inputs": [],
        "config": {"max_workers": 0, "timeout": "x"},
    }
    errors = refusal(service.post("/executions", json=body), 400)["errors"]
    assert {error["field"] for error in errors} == {
        "type",
        "target_id",
        "inputs",
        "config.max_workers",
        "config.timeout",
    }


def test_a_misspelt_field_gets_a_suggestion(service: Service) -> None:
    body = {"type": "agent", "target": "x", "inputs": {}}
    errors = refusal(service.post("/executions", json=body), 400)["errors"]
    assert any("target_id" in error["message"] for error in errors if error["field"] == "target")


def test_an_unknown_target_is_404_and_nothing_is_stored(service: Service) -> None:
    before = service.get("/executions").json()["pagination"]["total_items"]
    for type in ("agent", "pipeline"):
        refusal(
            service.post("/executions", json={**GOOD, "type": type, "target_id": "no_such"}), 404
        )
    refusal(service.post("/executions", json={**GOOD, "type": "pipeline"}), 404)
    assert service.get("/executions").json()["pagination"]["total_items"] == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"   ", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a": 1,}', "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": 01}', "invalid_json"),
        (b'{"a": undefined}', "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": Infinity}', "invalid_json"),
        (b'{"a": 1e400}', "invalid_json"),
        (b'{"a": ' + b"1" * 4301 + b"}", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"null", "invalid_type"),
        (b"1", "invalid_type"),
        (b'"x"', "invalid_type"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"inputs": {"a": 1, "a": 2}}', "duplicate_key"),
        (b'{"a": "\xff"}', "invalid_encoding"),
        (b"\xef\xbb\xbf{}", "invalid_encoding"),
        ('{"a": 1}'.encode("utf-16"), "invalid_encoding"),
        (b'{"a": "\\ud800"}', "invalid_text"),
        (b"[" * 1500, "too_deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "too_deep"),
        (b"[" * 200_000, "too_many_values"),
        (b"[" + b"{}," * 300_000 + b"{}]", "too_many_values"),
    ],
)
def test_a_body_that_is_not_strict_json_is_refused(
    service: Service, body: bytes, code: str
) -> None:
    response = service.post("/executions", data=body, headers={"Content-Type": "application/json"})
    problem = refusal(response, 400)
    assert problem["code"] == code
    assert [(error["field"], error["code"]) for error in problem["errors"]] == [("", code)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" * 65 + b'"' + b'\\"' * 400_000, "too_deep"),
        (b'{"a":"' + b'\\"' * 400_000, "invalid_json"),
        (
            b"{" + b",".join(b'"k%d":1' % number for number in range(80_000)) + b',"k79999":1}',
            "duplicate_key",
        ),
        (b"[" * 500_000, "too_many_values"),
        (
            b"{" + b",".join(b'"k%d":1' % number for number in range(80_000)) + b"}",
            "too_many_values",
        ),
        (
            b'{"config":{' + b",".join(b'"k%d":1' % number for number in range(80_000)) + b"}}",
            "too_many_values",
        ),
    ],
)
def test_a_large_body_is_refused_as_quickly_as_a_small_one(
    service: Service, body: bytes, code: str
) -> None:
    began = time.monotonic()
    response = service.post("/executions", data=body, headers={"Content-Type": "application/json"})
    assert refusal(response, 400)["code"] == code
    assert time.monotonic() - began < within(2)


@pytest.mark.parametrize(
    "path", ["", "/exec_00000000000000000000/cancel", "/exec_00000000000000000000/retry"]
)
def test_a_query_where_none_is_taken_is_refused(service: Service, path: str) -> None:
    body = refusal(service.post(f"/executions{path}?statsu=1", json=GOOD), 400)
    assert [(error["field"], error["code"]) for error in body["errors"]] == [
        ("statsu", "unknown_parameter")
    ]


def test_a_cancel_takes_no_field(service: Service) -> None:
    id = service.start("behaves", {"do": "listen", "seconds": 30})
    errors = refusal(service.post(f"/executions/{id}/cancel", json={"reason": "x"}), 400)["errors"]
    assert [(error["field"], error["code"]) for error in errors] == [("reason", "unknown_field")]
    assert service.status(id)["status"] != "cancelled"
    assert service.post(f"/executions/{id}/cancel", json={}).status_code == 200


def test_what_is_nested_as_deep_as_allowed_is_read(service: Service) -> None:
    text = '{"type": "agent", "target_id": "behaves", "inputs": {"x": %s}}' % ("[" * 62 + "]" * 62)
    assert (
        service.post(
            "/executions", data=text, headers={"Content-Type": "application/json"}
        ).status_code
        == 202
    )


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": ""}, 415, "unsupported_media_type"),
        (
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            415,
            "unsupported_encoding",
        ),
        ({"Content-Type": "application/json; charset=utf-16"}, 400, "invalid_encoding"),
    ],
)
def test_another_kind_of_body_is_refused(
    service: Service, headers: dict[str, str], status: int, code: str
) -> None:
    response = service.post("/executions", data=json.dumps(GOOD), headers=headers)
    assert refusal(response, status)["code"] == code


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(service: Service, chunked: bool) -> None:
    body = b'{"a": "' + b"x" * 1024 * 1024 + b'"}'
    data: Any = iter([body[: 2**19], body[2**19 :]]) if chunked else body
    assert refusal(
        service.post("/executions", data=data, headers={"Content-Type": "application/json"}), 413
    )


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("status=done", "status", "invalid_choice"),
        ("status=COMPLETED", "status", "invalid_choice"),
        ("status=pending,failed", "status", "invalid_choice"),
        ("type=robot", "type", "invalid_choice"),
        ("page=0", "page", "out_of_range"),
        ("page=-1", "page", "invalid_type"),
        ("page=x", "page", "invalid_type"),
        ("page=", "page", "invalid_type"),
        ("page=1e3", "page", "invalid_type"),
        ("page=1.5", "page", "invalid_type"),
        ("page=%D9%A3", "page", "invalid_type"),
        ("page=1_000", "page", "invalid_type"),
        ("page=%205%20", "page", "invalid_type"),
        ("page=" + "9" * 3900, "page", "invalid_type"),
        ("page_size=0", "page_size", "out_of_range"),
        ("page_size=101", "page_size", "out_of_range"),
        ("sort=colour", "sort", "invalid_choice"),
        ("sort=__class__", "sort", "invalid_choice"),
        ("order=sideways", "order", "invalid_choice"),
        ("statsu=completed", "statsu", "unknown_parameter"),
        ("page=1&page=2", "page", "repeated"),
    ],
)
def test_a_query_that_does_not_fit_is_named(
    service: Service, query: str, field: str, code: str
) -> None:
    errors = refusal(service.get(f"/executions?{query}"), 400)["errors"]
    assert [(error["field"], error["code"]) for error in errors] == [(field, code)]


def test_an_unknown_parameter_is_called_one_and_its_like_is_named(service: Service) -> None:
    [error] = refusal(service.get("/executions?statsu=completed"), 400)["errors"]
    assert error["message"] == "Unknown parameter. Did you mean 'status'?"


@pytest.mark.parametrize(
    "id",
    [
        "exec_000000000000",
        "exec_abc123",
        "exec_%00",
        "exec_%0d%0aX-Header:1",
        "%ff%fe",
        "a%2fb",
        "exec_" + "0" * 3000,
        "exec_0000:0000000",
        "exec_*",
        "%F0%9F%98%80",
        "EXEC_000000000000",
    ],
)
def test_an_id_that_is_none_or_unknown_is_404(service: Service, id: str) -> None:
    refusal(service.get(f"/executions/{id}"), 404)
    refusal(service.post(f"/executions/{id}/cancel"), 404)


@pytest.mark.parametrize("path", ["/executions/", "/nothing", "/executions/exec_000000000000/"])
def test_an_unknown_address_is_404_and_so_is_a_trailing_slash(service: Service, path: str) -> None:
    refusal(service.get(path), 404)


def test_a_doubled_slash_is_404(service: Service) -> None:
    refusal(requests.get(f"{service.url}//api/v1/executions", timeout=10), 404)


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH"])
def test_another_method_is_405_and_names_those_allowed(service: Service, method: str) -> None:
    response = requests.request(method, f"{service.url}/api/v1/executions", timeout=10)
    refusal(response, 405)
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


def test_a_store_that_is_not_there_is_503_at_once_and_says_when_to_come_back(make_service) -> None:
    service = make_service(redis_url="redis://127.0.0.1:1/0", workers=0)
    for response in (
        service.post("/executions", json=GOOD),
        service.get("/executions"),
        service.get("/executions/exec_000000000000"),
        service.post("/executions/exec_000000000000/cancel"),
    ):
        assert refusal(response, 503)["code"] == "store_unavailable"
        assert int(response.headers["Retry-After"]) > 0
        assert response.elapsed.total_seconds() < within(2)
    assert requests.get(f"{service.url}/healthz", timeout=30).status_code == 200


def test_a_request_of_http_1_1_without_a_host_is_400(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"GET /api/v1/executions HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"missing_host" in answer


@pytest.mark.parametrize(
    "lines",
    [
        b"POST /api/v1/executions HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
        b"POST /api/v1/executions HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3",
        b"POST /api/v1/executions HTTP/1.1\r\nContent-Length: +2",
        b"GET /api/v1/executions HTTP/1.1\r\nName : x",
        b"GET /api/v1/executions HTTP/9.9",
        b"get /api/v1/executions HTTP/1.1",
        b"GET /" + b"a" * 5000 + b" HTTP/1.1",
    ],
)
def test_a_request_that_could_be_read_in_two_ways_is_refused(
    service: Service, lines: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(lines + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 4")
