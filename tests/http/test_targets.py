"""The endpoints that describe agents and pipelines."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import requests

from tests.http.test_refusals import refusal
from tests.support.service import Service


def by_id(service: Service, kind: str) -> dict[str, dict[str, Any]]:
    response = service.get(f"/{kind}")
    assert response.status_code == 200
    return {target["id"]: target for target in response.json()[kind]}


def test_the_index_names_every_route_of_the_api(service: Service) -> None:
    response = requests.get(f"{service.url}/api/v1", timeout=10)
    assert response.status_code == 200
    body = response.json()
    described = requests.get(service.url + body["openapi_url"], timeout=10).json()
    routes = {
        (method.upper(), path) for path, item in described["paths"].items() for method in item
    }
    assert {(endpoint["method"], endpoint["path"]) for endpoint in body["endpoints"]} == {
        (method, path) for method, path in routes if method in ("GET", "POST")
    }
    assert all(endpoint["description"] for endpoint in body["endpoints"])
    assert requests.get(service.url + body["docs_url"], timeout=10).status_code == 200


def test_an_agent_is_shown_with_its_inputs_and_flows(service: Service) -> None:
    agent = service.get("/agents/mem_l1_summarizer").json()
    assert agent == by_id(service, "agents")["mem_l1_summarizer"]
    assert (agent["type"], agent["id"]) == ("agent", "mem_l1_summarizer")
    assert agent["inputs"]["required"] == ["text"]
    assert agent["inputs"]["properties"]["text"]["type"] == "string"
    assert {"name": "llm", "kind": "prompt", "isolation": "thread", "default": False} in agent[
        "flows"
    ]
    assert [flow["default"] for flow in agent["flows"]].count(True) == 1


def test_an_agent_without_declared_inputs_takes_any(service: Service) -> None:
    agent = service.get("/agents/behaves").json()
    jsonschema.validate({"do": "echo", "anything": [1]}, agent["inputs"])
    assert {flow["name"] for flow in agent["flows"]} == {"process", "thread", "async", "invoke"}


def test_a_pipeline_is_shown_with_its_steps_outputs_and_variants(service: Service) -> None:
    pipeline = service.get("/pipelines/customer_service_flow").json()
    assert pipeline == by_id(service, "pipelines")["customer_service_flow"]
    steps = {step["id"]: step for step in pipeline["steps"]}
    assert steps["extract"]["agent"] == "entity_extractor"
    assert steps["extract"]["flow"] == "default"
    assert steps["extract"]["required"] is False
    assert steps["answer"]["depends_on"] == ["classify", "extract"]
    assert all({"key", "label"} == set(output) for output in pipeline["outputs"])
    assert isinstance(pipeline["variants"], list)


@pytest.mark.parametrize("kind", ["agents", "pipelines"])
def test_everything_that_is_shown_can_be_started_as_it_says(service: Service, kind: str) -> None:
    samples = {
        "string": "x",
        "integer": 1,
        "number": 1.5,
        "boolean": True,
        "array": [],
        "object": {},
    }
    for target in by_id(service, kind).values():
        schema = target["inputs"]
        jsonschema.Draft202012Validator.check_schema(schema)
        properties = schema.get("properties", {})
        inputs = {
            name: samples[properties[name].get("type", "string")]
            for name in schema.get("required", [])
        }
        body = {"type": target["type"], "target_id": target["id"], "inputs": inputs}
        response = service.post("/executions", json=body)
        assert response.status_code == 202, response.text
        service.cancel(response.json()["execution_id"])


def test_nothing_of_how_a_target_is_made_is_shown(service: Service) -> None:
    text = service.get("/agents").text + service.get("/pipelines").text
    for secret in (
        "entrypoint",
        ".py",
        "system_prompt",
        "user_template",
        "/agents/",
        str(service.folder),
    ):
        assert secret not in text


@pytest.mark.parametrize(
    "path", ["/agents/nobody", "/pipelines/nobody", "/pipelines/behaves", "/agents/a%00b"]
)
def test_an_unknown_target_is_404(service: Service, path: str) -> None:
    assert refusal(service.get(path), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    "path", ["", "/agents", "/agents/behaves", "/pipelines", "/pipelines/relay"]
)
def test_what_has_not_changed_is_not_sent_again(service: Service, path: str) -> None:
    first = service.get(path)
    again = service.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.get(path, headers={"If-None-Match": '"other"'}).content == first.content
