"""Web pages that call the API from a browser, and what browsers and caches may keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.domain.errors import ConfigurationError
from app.settings import load
from tests.support.service import Service

PAGE, OTHER = "https://app.example.com", "https://app.example.com.evil.org"
KEY = "a-key-of-sixteen-chars"
START = {"type": "agent", "target_id": "behaves", "inputs": {"do": "echo", "text": "hello"}}
ALLOWED, READABLE = "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"


@pytest.fixture
def guarded(shared_service: Callable[..., Service]) -> Service:
    return shared_service(
        workers=0,
        API_KEYS=f"default:{KEY}",
        CORS_ORIGINS=f"{PAGE},http://[::1]:3000",
        RATE_LIMIT_START="1/hour",
        MAX_CONTENT_LENGTH=2000,
    )


def preflight(service: Service, origin: str) -> dict[str, str]:
    wanted = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-api-key, idempotency-key",
    }
    url = f"{service.url}/api/v1/executions"
    answer = service.http.options(url, headers=wanted, timeout=60)
    assert answer.status_code == 204
    return dict(answer.headers)


@pytest.mark.parametrize("origin", [PAGE, "http://[::1]:3000"])
def test_a_preflight_needs_no_key_and_counts_against_no_limit(
    guarded: Service, origin: str
) -> None:
    for _ in range(3):
        headers = preflight(guarded, origin)
        assert headers[ALLOWED] == origin
        allowed = headers["Access-Control-Allow-Headers"].lower()
        for name in ("authorization", "x-api-key", "idempotency-key"):
            assert name in allowed
        assert "POST" in headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("origin", [OTHER, "http://app.example.com", "null", PAGE + ":8443"])
def test_other_pages_get_no_permission(guarded: Service, origin: str) -> None:
    assert ALLOWED not in preflight(guarded, origin)
    assert ALLOWED not in guarded.get("/executions", headers={"Origin": origin}).headers


def test_answers_and_refusals_can_be_read_by_the_page_alone(guarded: Service) -> None:
    page = {"Origin": PAGE}
    keyed = {**page, "X-API-Key": KEY}
    answers = [
        guarded.post("/executions", json=START, headers=page),
        guarded.post("/executions", json=START, headers=keyed),
        guarded.post("/executions", json=START, headers=keyed),
        guarded.post("/executions/exec_none/cancel", json={"x": "x" * 3000}, headers=keyed),
        guarded.get("/executions/exec_none", headers=keyed),
    ]
    assert [answer.status_code for answer in answers] == [401, 202, 429, 413, 404]
    for answer in answers:
        assert answer.headers[ALLOWED] == PAGE
        assert "Origin" in answer.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        for name in ("Location", "Retry-After", "ETag", "RateLimit"):
            assert name in answer.headers[READABLE]


def test_a_cache_keeps_no_answer_of_one_origin_for_another(guarded: Service) -> None:
    url = f"{guarded.url}/openapi.json"
    for headers in ({}, {"Origin": OTHER}, {"Origin": PAGE}):
        answer = guarded.http.get(url, headers=headers, timeout=60)
        assert answer.headers["Vary"].split(", ").count("Origin") == 1


def test_without_the_setting_no_page_may_read(service: Service) -> None:
    assert ALLOWED not in service.get("/executions", headers={"Origin": PAGE}).headers


def test_no_cache_keeps_what_belongs_to_a_tenant(service: Service) -> None:
    id = service.run("behaves", {"do": "echo", "text": "hello"})["execution_id"]
    for path in ("/executions", f"/executions/{id}", f"/executions/{id}/steps", "/agents", "/no"):
        assert service.get(path).headers["Cache-Control"] == "no-store"
    page = service.http.get(f"{service.url}/docs/", timeout=60)
    assert "no-store" not in page.headers.get("Cache-Control", "")


@pytest.mark.parametrize(
    "value",
    ["app.example.com", f"{PAGE}/", f"{PAGE}/path", "https://*.example.com", f"*,{PAGE}",
     "ftp://example.com", "https://user@example.com", "https://example.com:99999", "null"],
)  # fmt: skip
def test_a_value_that_is_no_origin_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CORS_ORIGINS", value)
    with pytest.raises(ConfigurationError, match="CORS_ORIGINS"):
        load()
