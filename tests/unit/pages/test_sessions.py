"""How long a session lasts, for requests and for answers that take long."""

from __future__ import annotations

import time

import pytest
from flask import Flask, Request, Response
from flask.globals import request_ctx

from app import create_app
from app.domain.key import digest_of
from app.pages.changes import PATH as CHANGES
from app.pages.sessions import SESSION_SECONDS, Sessions
from app.settings import Settings

KEY = "key-of-the-shop-0001"


@pytest.fixture(scope="module")
def app() -> Flask:
    return create_app(Settings(api_keys=f"shop:{KEY}", secret_key="s" * 32))


def test_a_stream_ends_with_the_session_it_was_opened_in(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, sessions, answer = app.extensions["gate"], app.extensions["sessions"], Response()
    with app.test_request_context():
        sessions.begin(answer, digest_of(KEY.encode()), secure=False)
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    with app.test_request_context(CHANGES, headers={"Cookie": cookie}):
        request = request_ctx.request
        caller = gate.owner(sessions.digest(request), request.environ)
        is_allowed = gate.recheck(request, caller)
    # A stream asks when Flask has left the request.
    began = time.time()
    for later, expected in ((SESSION_SECONDS - 5, True), (SESSION_SECONDS + 5, False)):
        monkeypatch.setattr("time.time", lambda later=later: began + later)
        assert is_allowed() is expected


def test_another_secret_key_ends_all_sessions_and_the_tokens_of_their_forms(app: Flask) -> None:
    old, new, answer = Sessions("a" * 32), Sessions("b" * 32), Response()
    with app.test_request_context():
        old.begin(answer, digest_of(KEY.encode()), secure=True)
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    request = Request.from_values(headers={"Cookie": cookie})
    session = old.read(request)
    assert session is not None
    assert new.read(request) is None
    assert old.is_token(session, old.token(session))
    assert not new.is_token(session, old.token(session))
