"""The login and its session: who gets which pages, and which requests are refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from flask import Flask, Request, Response

from app.pages.changes import PATH as CHANGES
from app.pages.sessions import SESSION_SECONDS, Sessions
from app.services.invalid_keys import INVALID_KEYS_PER_MINUTE
from tests.support.service import Service
from tests.ui.visitor import COOKIE, Visitor, text_of

KEY, OTHER = "key-of-the-shop-0001", "key-of-the-bank-0002"
FOREIGN = ("http://evil.example", "null", "http://127.0.0.1", "http://localhost:1")


@pytest.fixture
def keyed(shared_service: Callable[..., Service]) -> Service:
    return shared_service(
        workers=0, WEB_CONCURRENCY=2, API_KEYS=f"shop:{KEY},bank:{OTHER}", AUTH="keys"
    )


@pytest.fixture
def visitor(keyed: Service) -> Visitor:
    return Visitor(keyed)


@pytest.mark.parametrize("path", ["/", "/?status=failed&page=2", "/ui", "/ui/nothing/of/it"])
def test_who_has_not_logged_in_is_sent_to_the_login_and_back(visitor: Visitor, path: str) -> None:
    sent = visitor.get(path)
    assert sent.status_code == 303
    login = visitor.get(sent.headers["Location"])
    assert login.status_code == 200
    assert "API key" in text_of(login)
    back = visitor.send_form(sent.headers["Location"], "/ui/login", key=KEY)
    assert (back.status_code, back.headers["Location"]) == (303, path)
    assert visitor.get("/").status_code == 200


def test_the_cookie_is_closed_to_scripts_and_other_sites_and_holds_no_key(visitor: Visitor) -> None:
    cookie = visitor.log_in(KEY).headers["Set-Cookie"]
    value, *attributes = [part.strip() for part in cookie.split(";")]
    assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=Strict"}  # it ends with the browser
    assert KEY not in value


def test_the_cookie_is_for_https_alone_where_the_browser_uses_it(visitor: Visitor) -> None:
    host = visitor.url.removeprefix("http://")
    cookie = visitor.log_in(KEY, headers={"Origin": f"https://{host}"}).headers["Set-Cookie"]
    assert "Secure" in cookie


def test_who_has_a_session_already_is_led_on_from_the_login(
    keyed: Service, visitor: Visitor
) -> None:
    visitor.log_in(keyed.add_key("eva", tenant="shop"))
    answer = visitor.get("/ui/login?next=/?status=failed")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?status=failed")
    keyed.keys().revoke("eva")
    deadline = time.monotonic() + 30
    while visitor.get("/ui/login").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "API key" in text_of(visitor.get("/ui/login"))


def test_all_web_processes_accept_a_session(visitor: Visitor) -> None:
    visitor.log_in(KEY)
    for _ in range(20):
        answer = visitor.get("/", headers={"Connection": "close"})
        assert answer.status_code == 200
        assert "shop" in text_of(answer)


@pytest.mark.parametrize("change", ["cut", "changed", "another secret", "empty"])
def test_a_cookie_that_was_not_made_here_is_no_session(visitor: Visitor, change: str) -> None:
    visitor.log_in(KEY)
    good = str(visitor.cookie)
    bad = {
        "cut": good[:-5],
        "changed": ("A" if good[0] != "A" else "B") + good[1:],
        "another secret": "WyJhIiwiYiJd.aBcDeF.c2lnbmF0dXJl",
        "empty": "",
    }[change]
    visitor.http.cookies.clear()
    assert visitor.get("/", headers={"Cookie": f"{COOKIE}={bad}"}).status_code == 303


@pytest.mark.parametrize("key", ["", "key-of-nobody-at-all", "ключ", "a" * 5000])
def test_a_wrong_key_is_refused_on_the_form_itself(visitor: Visitor, key: str) -> None:
    answer = visitor.log_in(key, next="/?status=failed")
    assert answer.status_code == 401
    assert "Invalid API key." in text_of(answer)
    assert 'value="/?status=failed"' in answer.text
    assert visitor.cookie is None


def test_a_key_that_may_not_read_cannot_log_in(keyed: Service, visitor: Visitor) -> None:
    answer = visitor.log_in(keyed.add_key("starts-only", scopes="start"))
    assert answer.status_code == 403
    assert "does not have the required scope 'read'" in text_of(answer)
    assert visitor.cookie is None


def test_who_guesses_keys_has_to_wait(shared_service: Callable[..., Service]) -> None:
    visitor = Visitor(shared_service(workers=0, API_KEYS=KEY, MAX_CONTENT_LENGTH=2048))
    guesses = range(INVALID_KEYS_PER_MINUTE + 1)
    answers = [visitor.log_in(f"guess-{number}") for number in guesses]
    assert answers[0].status_code == 401
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert "Too many invalid API keys" in text_of(answers[-1])


def test_a_revoked_key_ends_its_session(keyed: Service, visitor: Visitor) -> None:
    visitor.log_in(keyed.add_key("ann", tenant="shop"))
    assert "ann" in text_of(visitor.get("/"))
    keyed.keys().revoke("ann")
    deadline = time.monotonic() + 30
    while visitor.get("/").status_code != 303 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert visitor.get("/").status_code == 303


@pytest.mark.parametrize(
    "path", [CHANGES, "/", "/ui/workers", "/ui/login", "/ui/executions/x/events"]
)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_a_request_for_no_content_is_answered_at_once(
    visitor: Visitor, method: str, path: str
) -> None:
    visitor.log_in(KEY)
    answer = visitor.http.request(method, visitor.url + path, timeout=60, allow_redirects=False)
    assert answer.status_code in (200, 303, 404)
    assert method == "OPTIONS" or answer.content == b""


def test_logging_out_ends_the_session(visitor: Visitor) -> None:
    visitor.log_in(KEY)
    answer = visitor.send_form("/", "/ui/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ui/login")
    assert visitor.cookie is None
    assert visitor.get("/").status_code == 303


def test_a_login_begins_a_new_session_whatever_cookie_was_there_before(visitor: Visitor) -> None:
    """A cookie that somebody else put into the browser is never made valid for its owner's key."""
    visitor.log_in(KEY)
    before, token = visitor.cookie, visitor.token("/")
    answer = visitor.post("/ui/login", data={"csrf_token": token, "key": OTHER})
    assert answer.status_code == 303
    assert visitor.cookie != before
    assert "bank" in text_of(visitor.get("/"))
    assert visitor.post("/ui/logout", data={"csrf_token": token}).status_code == 403


def test_a_session_is_no_key_for_the_api(visitor: Visitor) -> None:
    visitor.log_in(KEY)
    assert visitor.get("/api/v1/executions").status_code == 401


def test_a_session_does_not_outlive_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SESSION_SECONDS == 12 * 3600
    sessions, response = Sessions("s" * 32), Response()
    with Flask("x").test_request_context():
        sessions.begin(response, "digest", secure=False)
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    request = Request.from_values(headers={"Cookie": cookie})
    began = time.time()
    monkeypatch.setattr("time.time", lambda: began + SESSION_SECONDS - 5)
    assert sessions.read(request) is not None
    monkeypatch.setattr("time.time", lambda: began + SESSION_SECONDS + 5)
    assert sessions.read(request) is None


@pytest.mark.parametrize(
    "next",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/\tx",
        "javascript:1",
        "",
        "/" + "x" * 5000,
    ],
)
def test_the_login_leads_to_no_other_website(visitor: Visitor, next: str) -> None:
    sent = visitor.post(
        "/ui/login", data={"key": KEY, "next": next, "csrf_token": _token(visitor, "/ui/login")}
    )
    assert (sent.status_code, sent.headers["Location"]) == (303, "/")


def _token(visitor: Visitor, page: str) -> str:
    text = visitor.get(page).text
    return text.partition('name="csrf_token" value="')[2].partition('"')[0]


@pytest.mark.parametrize("token", [None, "", "wrong", "of another session"])
def test_a_form_without_the_token_of_its_session_is_refused(
    keyed: Service, visitor: Visitor, token: str | None
) -> None:
    visitor.log_in(KEY)
    if token == "of another session":
        other = Visitor(keyed)
        other.log_in(KEY)
        token = _token(other, "/")
        assert token != _token(visitor, "/")
    answer = visitor.post("/ui/logout", data={} if token is None else {"csrf_token": token})
    assert answer.status_code == 403
    assert "out of date" in text_of(answer)
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_form_that_another_website_sends_is_refused(visitor: Visitor, origin: str) -> None:
    answer = visitor.log_in(KEY, headers={"Origin": origin})
    assert answer.status_code == 403
    assert visitor.cookie is None


SITES = pytest.mark.parametrize("site", ["cross-site", "same-site"])


@SITES
def test_a_form_is_refused_if_the_browser_says_that_it_is_another_site_s(
    visitor: Visitor, site: str
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert visitor.log_in(KEY, headers=headers).status_code == 403


@SITES
@pytest.mark.parametrize("path", ["/", "/ui/changes", "/ui/targets", "/ui/nothing"])
def test_another_website_may_link_to_a_page_but_load_nothing(
    service: Service, site: str, path: str
) -> None:
    """Without keys there is no cookie that a browser could keep back from it."""
    visitor = Visitor(service)
    for mode in ("no-cors", "cors", "websocket"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        assert visitor.get(path, headers=headers).status_code == 403
    if path != "/ui/changes":
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert visitor.get(path, headers=headers).status_code in (200, 404)


@pytest.mark.parametrize("origin", FOREIGN)
def test_without_keys_a_foreign_origin_is_refused(service: Service, origin: str) -> None:
    assert Visitor(service).get("/", headers={"Origin": origin}).status_code == 403


def test_without_keys_there_is_nothing_to_log_in_to(service: Service) -> None:
    answer = Visitor(service).get("/ui/login")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    assert "Log out" not in text_of(Visitor(service).get("/"))


@pytest.mark.parametrize("path", ["/", "/ui/login", "/ui/nothing"])
def test_every_page_forbids_scripts_frames_and_caches(service: Service, path: str) -> None:
    headers = Visitor(service).get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_api_answers_as_it_did_before_there_were_pages(service: Service) -> None:
    headers = service.get("/executions").headers
    assert "Content-Security-Policy" not in headers
    assert service.get("/nothing").headers["Content-Type"] == "application/problem+json"


def test_without_the_dashboard_its_paths_are_unknown(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=0, UI="off")
    for path in ("/", "/ui", "/ui/login", "/ui/targets", "/ui/static/x/style.css"):
        answer = Visitor(service).get(path)
        assert answer.status_code == 404
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert service.get("/executions").status_code == 200
