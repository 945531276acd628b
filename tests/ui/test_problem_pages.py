"""Every refusal of a page is a page, with the status and the headers of the API's refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.service import Service
from tests.ui.visitor import Visitor, text_of


@pytest.fixture
def quiet(shared_service: Callable[..., Service]) -> Visitor:
    return Visitor(shared_service(workers=0, MAX_CONTENT_LENGTH=2048))


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/ui/nothing", 404, "Not Found"),
        ("GET", "/ui/nothing/of/it", 404, "Show all executions"),
        ("POST", "/", 405, "Method Not Allowed"),
        ("DELETE", "/ui/first", 405, "Method Not Allowed"),
        ("GET", "/?page=x", 400, "page : Not a valid integer."),
        ("GET", "/?page=1&page=2", 400, "page : Duplicate parameter."),
        ("POST", "/ui/first", 403, "This form is out of date."),
    ],
)
def test_a_refusal_is_a_page(
    quiet: Visitor, method: str, path: str, status: int, words: str
) -> None:
    answer = quiet.http.request(method, quiet.url + path, timeout=60)
    assert answer.status_code == status
    assert words in text_of(answer)
    assert answer.headers["X-Request-ID"] in text_of(answer)
    assert "Content-Security-Policy" in answer.headers
    if status == 405:
        assert "Allow" in answer.headers


def test_an_open_page_is_loaded_again_if_what_it_shows_was_removed(quiet: Visitor) -> None:
    gone = quiet.get("/ui/executions/exec_0mwyhms2vpzzwqp0r7wq", headers={"HX-Request": "true"})
    assert (gone.status_code, gone.headers["HX-Refresh"]) == (404, "true")


def test_who_has_logged_in_is_told_which_methods_a_page_has(
    shared_service: Callable[..., Service],
) -> None:
    visitor = Visitor(shared_service(workers=0, API_KEYS="key-of-the-shop-0001"))
    assert visitor.post("/").status_code == 401
    visitor.log_in("key-of-the-shop-0001")
    answer = visitor.post("/")
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]
    assert "Log out" in text_of(answer)


def test_a_form_that_is_too_large_is_refused(quiet: Visitor) -> None:
    answer = quiet.post("/ui/login", data={"key": "x" * 5000})
    assert answer.status_code == 413
    assert "2048 bytes" in text_of(answer)


@pytest.mark.parametrize("fields", [1001, 100_000])
def test_a_form_with_too_many_fields_is_refused(service: Service, fields: int) -> None:
    visitor = Visitor(service)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    parts = [b"csrf_token=" + visitor.token("/ui/targets/agent/behaves").encode()]
    for path in ("/ui/login", "/ui/targets/agent/behaves"):
        body = b"&".join([*parts, *[b"a=1"] * fields])
        answer = visitor.post(path, data=body, headers=kind)
        assert answer.status_code == 413
        assert "more than 1000 fields" in text_of(answer)


def test_while_the_store_is_away_a_page_says_so(make_service: Callable[..., Service]) -> None:
    visitor = Visitor(make_service(redis_url="redis://127.0.0.1:1/0", workers=0))
    answer = visitor.get("/")
    assert answer.status_code == 503
    assert "The store cannot be reached." in text_of(answer)
    assert int(answer.headers["Retry-After"]) > 0
    refresh = visitor.get("/", headers={"HX-Request": "true"})
    assert refresh.status_code == 503
    assert "HX-Refresh" not in refresh.headers  # what is shown stays
    assert visitor.get("/ui/login").status_code == 303


def test_starts_from_a_page_count_for_the_limit_of_starts(
    shared_service: Callable[..., Service],
) -> None:
    visitor = Visitor(
        shared_service(workers=0, RATE_LIMIT_START="1/hour", RATE_LIMIT_READ="1/hour")
    )
    token = visitor.get("/").text.partition('name="csrf_token" value="')[2].partition('"')[0]
    statuses = [visitor.post("/ui/first", data={"csrf_token": token}).status_code for _ in range(2)]
    assert statuses == [303, 429]
    assert [visitor.get("/").status_code for _ in range(3)] == [200, 200, 200]
