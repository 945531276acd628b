"""`app.api.access`: API keys and scopes, with a small application of its own and a real store."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from flask.testing import FlaskClient

from app import api
from app.api import access, problems
from app.api.application import Application
from app.catalog.model import Catalog
from app.domain.key import Identity, Scope
from app.services.authentication import Authenticator
from app.services.executions import ExecutionService
from app.settings import Settings
from app.store.executions import ExecutionStore
from app.store.keys import KeyStore
from tools.embedded_store import EmbeddedStore

Client = Callable[..., FlaskClient]


@pytest.fixture
def client(redis_client: redis.Redis) -> Client:
    """A client with a key of these scopes, or with none."""

    def make(*scopes: Scope, auth: str | None = "keys", metrics_open: bool = False) -> FlaskClient:
        app = Application(__name__)
        problems.register(app)
        store = KeyStore(redis_client)
        access.register(app, Authenticator(Settings(auth=auth), store), metrics_open)
        for path in ("/forgotten", "/metrics", "/readyz"):
            app.add_url_rule(path, path, lambda: "served")
        app.add_url_rule("/reads", "reads", access.needs(Scope.READ)(lambda: access.tenant()))
        made = app.test_client()
        if scopes:
            key = store.add(Identity("acme", "-".join(scopes), frozenset(scopes)))
            made.environ_base["HTTP_X_API_KEY"] = key
        return made

    return make


def test_a_view_that_says_nothing_needs_admin(client: Client) -> None:
    assert client().get("/forgotten").status_code == 401
    refused = client(Scope.START, Scope.READ, Scope.CANCEL).get("/forgotten")
    assert (refused.status_code, refused.get_json()["code"]) == (403, "forbidden")
    assert client(Scope.ADMIN).get("/forgotten").text == "served"


def test_a_missing_scope_is_named(client: Client) -> None:
    refused = client(Scope.START, Scope.ADMIN).get("/reads")
    assert refused.status_code == 403
    assert "'read'" in refused.get_json()["detail"]
    assert 'scope="read"' in refused.headers["WWW-Authenticate"]
    assert client(Scope.READ).get("/reads").text == "acme"


def test_metrics_need_admin_unless_they_are_open(client: Client) -> None:
    assert client().get("/metrics").status_code == 401
    assert client(Scope.READ).get("/metrics").status_code == 403
    assert client(Scope.ADMIN).get("/metrics").text == "served"
    assert client(metrics_open=True).get("/metrics").text == "served"


def test_what_is_open_is_so_even_with_a_wrong_key(client: Client) -> None:
    assert client().get("/readyz", headers={"X-API-Key": "wrong"}).text == "served"


def test_an_address_that_does_not_exist_needs_a_key_of_any_scope(client: Client) -> None:
    assert client().get("/nothing").status_code == 401
    assert client(Scope.CANCEL).get("/nothing").status_code == 404


def test_without_keys_everything_is_served_as_the_default_tenant(client: Client) -> None:
    for auth in (None, "off"):
        anyone = client(auth=auth)
        assert (
            anyone.get("/reads", headers={"Authorization": "nonsense", "X-API-Key": "a,b"}).text
            == "default"
        )
        assert anyone.get("/forgotten").text == "served"


def test_a_key_that_was_right_is_asked_for_even_where_its_peer_has_tried_too_many(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.authentication.CACHE_SECONDS", 0.0)
    reader = client(Scope.READ)
    assert reader.get("/reads").status_code == 200
    statuses = [
        reader.get("/reads", headers={"X-API-Key": f"wrong {number}"}).status_code
        for number in range(110)
    ]
    assert statuses == [401] * 100 + [429] * 10
    assert reader.get("/reads").status_code == 200


@pytest.mark.parametrize(("metrics", "status"), [("open", 200), (None, 401)])
def test_the_setting_opens_the_metrics_of_the_whole_application(
    redis_client: redis.Redis, store_server: EmbeddedStore, metrics: str | None, status: int
) -> None:
    settings = Settings(redis_url=store_server.url, auth="keys", metrics=metrics)
    service = ExecutionService(ExecutionStore(redis_client, settings), Catalog({}, {}), settings)
    app = api.build(settings, service, Authenticator(settings, KeyStore(redis_client)))
    assert app.test_client().get("/readyz").status_code in (200, 503)
    assert app.test_client().get("/metrics").status_code == status
