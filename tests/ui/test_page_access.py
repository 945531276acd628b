"""Every route of the pages asks for a session, for its scope, and shows its tenant alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask, Response

from app.domain.key import Scope, digest_of
from app.pages.changes import PATH as CHANGES
from app.pages.sessions import Sessions
from tests.http.test_tenants import every_route
from tests.support.service import Service
from tests.ui.visitor import COOKIE, Visitor

SECRET = "secret-of-this-service-for-tests"
ALPHA, BETA = "key-of-tenant-alpha-1", "key-of-tenant-beta-02"

OPEN = {("GET", "/ui/login"), ("POST", "/ui/login"), ("POST", "/ui/logout"), ("GET", "/ui/static/<digest>/<name>")}  # fmt: skip

NEEDS = {
    ("GET", "/"): Scope.READ,
    ("GET", "/ui"): Scope.READ,
    ("GET", "/ui/"): Scope.READ,
    ("GET", "/ui/<path:rest>"): Scope.READ,
    ("GET", CHANGES): Scope.READ,
    ("POST", "/ui/first"): Scope.START,
    ("GET", "/ui/targets"): Scope.READ,
    ("GET", "/ui/targets/<any(agent, pipeline):type>/<target_id>"): Scope.READ,
    ("POST", "/ui/targets/<any(agent, pipeline):type>/<target_id>"): Scope.START,
    ("GET", "/ui/workers"): Scope.READ,
    ("GET", "/ui/executions/<execution_id>"): Scope.READ,
    ("GET", "/ui/executions/<execution_id>/json"): Scope.READ,
    ("GET", "/ui/executions/<execution_id>/events"): Scope.READ,
    ("POST", "/ui/executions/<execution_id>/cancel"): Scope.CANCEL,
    ("POST", "/ui/executions/<execution_id>/retry"): Scope.START,
    ("POST", "/ui/executions/<execution_id>/deliveries/<number>/redeliver"): Scope.START,
}
"""Every other route of the pages. A new one gets a line here."""

ROUTES = pytest.mark.parametrize(("method", "rule"), NEEDS, ids=" ".join)


@pytest.fixture
def keyed(shared_service: Callable[..., Service]) -> Service:
    return shared_service(SECRET_KEY=SECRET, API_KEYS=f"alpha:{ALPHA},beta:{BETA}")


def concrete(rule: str) -> str:
    path = rule.replace("<any(agent, pipeline):type>", "agent").replace("<target_id>", "behaves")
    # `test_execution_page.py` looks at the page of an execution of another tenant.
    path = path.replace("<execution_id>", "exec_0mwyc2rors6ckgf3429m").replace("<number>", "1")
    return path.replace("<path:rest>", "nothing")


def visitor_with(service: Service, key: str) -> tuple[Visitor, str]:
    """A visitor with a session, also of a key that could not log in, and the token of its forms."""
    visitor, sessions, response = Visitor(service), Sessions(SECRET), Response()
    with Flask("x").test_request_context():
        sessions.begin(response, digest_of(key.encode()), secure=False)
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    visitor.http.cookies.set(COOKIE, cookie.partition("=")[2])
    with Flask("x").test_request_context(headers={"Cookie": cookie}) as context:
        session = sessions.read(context.request)
    assert session
    return visitor, sessions.token(session)


def send(visitor: Visitor, token: str, method: str, rule: str):
    options = {"data": {"csrf_token": token}} if method == "POST" else {}
    return visitor.http.request(
        method,
        visitor.url + concrete(rule),
        timeout=60,
        allow_redirects=False,
        stream=True,  # one of them is a stream without an end
        **options,
    )


def test_every_route_of_the_pages_is_listed_here(keyed: Service) -> None:
    found = {(method, rule) for method, rule, name in every_route(keyed) if "pages." in name}
    assert found == OPEN | set(NEEDS)


@ROUTES
def test_no_page_is_shown_without_a_session(keyed: Service, method: str, rule: str) -> None:
    answer = send(Visitor(keyed), "", method, rule)
    assert answer.status_code == (303 if method == "GET" else 401)
    if method == "GET":
        assert answer.headers["Location"].startswith("/ui/login?next=")
    assert "exec_" not in answer.text
    assert send(Visitor(keyed), "", "DELETE", rule).status_code == 401


@ROUTES
def test_every_page_needs_its_scope_and_no_other_will_do(
    keyed: Service, method: str, rule: str
) -> None:
    scope = NEEDS[method, rule]
    name = f"{abs(hash((method, rule)))}"
    others = ",".join(other for other in Scope if other is not scope)
    visitor, token = visitor_with(keyed, keyed.add_key(f"not-{name}", others))
    refused = send(visitor, token, method, rule)
    assert refused.status_code == 403
    assert scope.value in refused.text
    visitor, token = visitor_with(keyed, keyed.add_key(f"just-{name}", scope))
    assert send(visitor, token, method, rule).status_code not in (401, 403)


@ROUTES
def test_no_page_shows_what_belongs_to_another_tenant(
    keyed: Service, method: str, rule: str
) -> None:
    if rule == CHANGES:
        return  # it does not end: `test_changes.py` looks at what it says
    headers = {"X-API-Key": ALPHA}
    body = {"type": "agent", "target_id": "behaves", "inputs": {"do": "listen", "seconds": 600}}
    ids = [
        keyed.post("/executions", json={**body, "inputs": inputs}, headers=headers).json()[
            "execution_id"
        ]
        for inputs in (body["inputs"], {"do": "echo"}, {"do": "no such thing"})
    ]
    visitor, token = visitor_with(keyed, BETA)
    text = send(visitor, token, method, rule).text
    assert [id for id in ids if id in text] == []
    assert "alpha" not in re.sub(r"alphabet\w*", "", text)
    keyed.post(f"/executions/{ids[0]}/cancel", headers=headers)
