"""A tenant sees only its own executions, on every route of the application.

The routes come from the application itself. Each route that is not open needs a recipe here: the
scope it needs, and a request that tries it across tenants. Without one, the first test fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import requests

from app.api.access import OPEN
from app.domain.identifiers import new_id
from tests.http.test_callbacks import SECRET, URL
from tests.http.test_refusals import GOOD, refusal
from tests.support.service import ROOT, Service
from tests.support.sse import Stream
from tools.embedded_store import EmbeddedStore

ALPHA, BETA = "alpha-key-0123456789", "beta-key-0123456789"
SCOPES = ("start", "read", "cancel", "admin")


@dataclass(frozen=True)
class Stage:
    """A service with two tenants; `ids` are alpha's executions, by the state they are in."""

    service: Service
    ids: dict[str, str]

    def ask(self, key: str, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"X-API-Key": key, **options.pop("headers", {})}
        answer = requests.request(
            method, self.service.url + path, headers=headers, timeout=30, stream=True, **options
        )
        if answer.headers.get("Content-Type") == "text/event-stream":
            answer.close()  # it may have no end
        else:
            assert answer.content is not None  # reads it
        return answer


@pytest.fixture(scope="module")
def stage(store_server: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    url = f"{store_server.url.removesuffix('/0')}?db=5"
    with redis.Redis.from_url(store_server.url, db=5) as client:
        client.flushdb()
    keys = f"alpha:{ALPHA},beta:{BETA}"
    env = {"API_KEYS": keys, "WEBHOOK_SECRET": SECRET}
    with Service(url, tmp_path_factory.mktemp("tenants"), **env) as service:
        service.http.headers["X-API-Key"] = ALPHA
        ids = {
            "completed": service.run("behaves", {"do": "echo"}, callback_url=URL)["execution_id"],
            "failed": service.run("behaves", {"do": "fail"})["execution_id"],
            "running": service.start("behaves", {"do": "listen", "seconds": 60}),
        }
        service.until(ids["running"], "running")
        yield Stage(service, ids)


def of_execution(rule: str, id: str) -> str:
    """The path of a rule for this execution."""
    return rule.replace("<execution_id>", id).replace("<number>", "1")


def same_as_unknown(stage: Stage, method: str, rule: str) -> None:
    """Another's id is answered word for word like one that never was, and nothing happens to it."""
    own = stage.ask(ALPHA, method, of_execution(rule, stage.ids["completed"]))
    assert own.status_code != 404
    for state, id in stage.ids.items():
        unknown = new_id()
        texts = []
        for execution_id in (id, unknown):
            response = stage.ask(BETA, method, of_execution(rule, execution_id))
            body = refusal(response, 404)
            texts.append(json.dumps({**body, "request_id": ""}).replace(execution_id, "ID"))
        assert texts[0] == texts[1]
        assert stage.service.status(id)["status"] == state


def lists_its_own(stage: Stage, method: str, rule: str) -> None:
    """No list and no total shows another's, whatever is asked for."""
    own = stage.ask(BETA, "POST", rule, json=GOOD).json()["execution_id"]
    for query in (
        "",
        "?status=failed",
        "?type=agent",
        "?target_id=behaves",
        "?target_id=behaves&status=completed",
    ):
        body = stage.ask(BETA, method, rule + query).json()
        assert not {execution["execution_id"] for execution in body["executions"]} & set(
            stage.ids.values()
        )
        assert body["pagination"]["total_items"] == len(body["executions"])
    assert own in stage.ask(BETA, method, rule).text
    assert own not in stage.ask(ALPHA, method, rule).text


def starts_its_own(stage: Stage, method: str, rule: str) -> None:
    """What a tenant starts is its own, whatever the body says."""
    id = stage.ask(BETA, method, rule, json=GOOD).json()["execution_id"]
    assert stage.ask(BETA, "GET", f"{rule}/{id}").status_code == 200
    assert stage.ask(ALPHA, "GET", f"{rule}/{id}").status_code == 404
    assert stage.ask(BETA, method, rule, json={**GOOD, "tenant": "alpha"}).status_code == 400
    once = {"json": GOOD, "headers": {"Idempotency-Key": "the-same"}}
    ours, theirs, again = (
        stage.ask(key, method, rule, **once).json()["execution_id"] for key in (ALPHA, BETA, ALPHA)
    )
    assert ours == again != theirs


def follows_its_own(stage: Stage, method: str, rule: str) -> None:
    """Nobody hears of another's executions, nor learns from an id of another's stream."""
    with Stream(stage.service.port, rule, f"X-API-Key: {BETA}", "Last-Event-ID: 0-0") as stream:
        stage.ask(ALPHA, "POST", "/api/v1/executions", json=GOOD)
        own = stage.ask(BETA, "POST", "/api/v1/executions", json=GOOD).json()["execution_id"]
        last = stream.until("execution.created")
        while last[-1].json["execution_id"] != own:
            last += stream.until("execution.created")
    heard = {event.json["execution_id"] for event in last}
    for id in heard:
        assert stage.ask(BETA, "GET", f"/api/v1/executions/{id}").status_code == 200


def is_the_same_for_all(stage: Stage, method: str, rule: str) -> None:
    """What can be run is no tenant's own."""
    address = rule.replace("<agent_id>", "behaves").replace("<pipeline_id>", "relay")
    assert stage.ask(ALPHA, method, address).json() == stage.ask(BETA, method, address).json()


def names_no_tenant(stage: Stage, method: str, rule: str) -> None:
    """The numbers are those of everybody together: they name no tenant and no execution."""
    text = stage.ask(stage.service.add_key("operator", "admin"), method, rule).text
    assert "executions_created_total{" in text
    assert not [name for name in ("alpha", "beta", *stage.ids.values()) if name in text]


RECIPES: dict[tuple[str, str], tuple[str, Callable[[Stage, str, str], None]]] = {
    ("POST", "/api/v1/executions"): ("start", starts_its_own),
    ("GET", "/api/v1/executions"): ("read", lists_its_own),
    ("GET", "/api/v1/executions/<execution_id>"): ("read", same_as_unknown),
    ("GET", "/api/v1/executions/<execution_id>/steps"): ("read", same_as_unknown),
    ("POST", "/api/v1/executions/<execution_id>/retry"): ("start", same_as_unknown),
    ("POST", "/api/v1/executions/<execution_id>/cancel"): ("cancel", same_as_unknown),
    ("GET", "/api/v1/executions/<execution_id>/deliveries"): ("read", same_as_unknown),
    ("POST", "/api/v1/executions/<execution_id>/deliveries/<number>/redeliver"): (
        "start",
        same_as_unknown,
    ),
    ("GET", "/api/v1/executions/<execution_id>/events"): ("read", same_as_unknown),
    ("GET", "/api/v1/events"): ("read", follows_its_own),
    ("GET", "/metrics"): ("admin", names_no_tenant),
    ("GET", "/api/v1"): ("read", is_the_same_for_all),
    ("GET", "/api/v1/agents"): ("read", is_the_same_for_all),
    ("GET", "/api/v1/agents/<agent_id>"): ("read", is_the_same_for_all),
    ("GET", "/api/v1/pipelines"): ("read", is_the_same_for_all),
    ("GET", "/api/v1/pipelines/<pipeline_id>"): ("read", is_the_same_for_all),
}

ROUTES = pytest.mark.parametrize(("method", "rule"), RECIPES, ids=" ".join)


def routes(service: Service) -> set[tuple[str, str]]:
    """Every method and rule of the application as this service runs it, without the pages.

    The pages ask for a session, not for a key: `tests/ui/test_page_access.py` has their routes.
    """
    return {
        (method, rule)
        for method, rule, endpoint in every_route(service)
        if "pages." not in endpoint
    }


def every_route(service: Service) -> set[tuple[str, str, str]]:
    """Every method, rule and endpoint."""
    code = (
        "import json; from app import create_app;"
        "rules = list(create_app().url_map.iter_rules());"
        "print(json.dumps([[m, r.rule, r.endpoint] for r in rules for m in r.methods]))"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=service.env, capture_output=True, check=True
    )
    return {
        (method, rule, endpoint)
        for method, rule, endpoint in json.loads(listed.stdout)
        if method not in ("HEAD", "OPTIONS")
    }


def concrete(rule: str) -> str:
    return of_execution(rule, new_id())


def test_every_route_is_open_or_has_a_recipe(stage: Stage) -> None:
    closed = {(method, rule) for method, rule in routes(stage.service) if rule not in OPEN}
    assert closed == set(RECIPES), "A new route needs a recipe in RECIPES, or a place in OPEN."


@ROUTES
def test_no_route_crosses_tenants(stage: Stage, method: str, rule: str) -> None:
    _, attempt = RECIPES[method, rule]
    attempt(stage, method, rule)


@ROUTES
def test_no_route_serves_without_a_key(stage: Stage, method: str, rule: str) -> None:
    for verb in (method, "HEAD", "OPTIONS", "DELETE"):
        assert (
            requests.request(verb, stage.service.url + concrete(rule), timeout=10).status_code
            == 401
        )


@ROUTES
def test_every_route_needs_its_scope_and_no_other_will_do(
    stage: Stage, method: str, rule: str
) -> None:
    scope, _ = RECIPES[method, rule]
    others = ",".join(other for other in SCOPES if other != scope)
    name = f"{scope}-{abs(hash((method, rule)))}"
    without = stage.service.add_key(f"not-{name}", others)
    just = stage.service.add_key(f"just-{name}", scope)
    assert repr(scope) in refusal(stage.ask(without, method, concrete(rule)), 403)["detail"]
    assert stage.ask(just, method, concrete(rule)).status_code not in (401, 403)


@ROUTES
def test_anothers_id_costs_the_store_what_an_unknown_one_costs(
    stage: Stage, store_server: EmbeddedStore, method: str, rule: str
) -> None:
    if "<execution_id>" not in rule:
        return
    commands: list[list[str]] = []
    for id in (stage.ids["completed"], new_id()):
        stage.ask(BETA, method, of_execution(rule, id))  # loads the script, if it was not yet
        with redis.Redis.from_url(store_server.url) as client, client.monitor() as monitor:
            stage.ask(BETA, method, of_execution(rule, id))
            client.echo("end of the request")
            seen = []
            while "end of the request" not in (command := monitor.next_command()["command"]):
                if id in command:
                    seen.append(command.replace(id, "ID"))
        commands.append(seen)
    assert commands[0] == commands[1] != []


@pytest.mark.parametrize("rule", ["/healthz", "/openapi.json", "/docs/"])
def test_what_is_open_tells_nothing_of_executions(stage: Stage, rule: str) -> None:
    body = requests.get(stage.service.url + rule, timeout=10).text
    assert not any(id in body for id in stage.ids.values())
