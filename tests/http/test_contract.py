"""A running service answers in the published shapes."""

from __future__ import annotations

import re
import threading
import time

import pytest
import requests

from tests.support.service import Service
from tests.support.shapes import check_shape


def test_a_start_answers_202_with_its_receipt_and_location(service: Service) -> None:
    for type, target, inputs in (
        ("agent", "mem_l1_summarizer", {"text": "Test input"}),
        ("pipeline", "customer_service_flow", {"customer_query": "How do I reset my password?"}),
    ):
        response = service.post(
            "/executions", json={"type": type, "target_id": target, "inputs": inputs}
        )
        assert response.status_code == 202
        body = response.json()
        check_shape(body, "started")
        assert response.headers["Location"] == body["status_url"]
        assert body["message"] == f"{type.capitalize()} execution started"
        assert re.fullmatch(r"exec_[0-9a-z]{20}", body["execution_id"])


def test_each_state_has_its_shape_from_pending_to_its_end(make_service) -> None:
    service = make_service(workers=0)
    ids = {
        do: service.start("behaves", {"do": do, "seconds": 0.5, "steps": 3})
        for do in ("progress", "fail", "listen")
    }
    for id in ids.values():
        check_shape(service.status(id), "pending")
    service.start_worker()
    seen: set[str] = set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        bodies = [service.status(id) for id in ids.values()]
        for body in bodies:
            check_shape(body, "execution")
            seen.add(body["status"])
        if all(body["status"] in ("completed", "failed") for body in bodies):
            break
    assert seen == {"pending", "running", "completed", "failed"}
    check_shape(service.status(ids["listen"]), "completed_agent")


def test_a_cancel_has_its_shape(service: Service) -> None:
    id = service.start("behaves", {"do": "listen", "seconds": 30})
    answer = service.cancel(id)
    check_shape(answer.json(), "cancel")
    check_shape(service.status(id), "cancelled")


def test_a_pipeline_reports_its_steps_and_returns_its_outputs(service: Service) -> None:
    id = service.start(
        "relay",
        {"first": {"seconds": 0.4}, "second": {"seconds": 0.8}},
        type="pipeline",
        config={"max_workers": 2},
    )
    seen = []
    while (body := service.status(id))["status"] in ("pending", "running"):
        if "progress" in body:
            seen.append((body["progress"]["current_step"], body["progress"]["current_step_name"]))
    assert body["status"] == "completed"
    check_shape(body, "completed")
    assert body["outputs"]["metadata"] == {"tokens_used": 0, "models_used": []}
    assert body["outputs"]["result"]["work"] == {"work": {"seconds": 0.4}}
    assert (0, "left") in seen
    assert (1, "right") in seen
    assert [step for step, _ in seen] == sorted(step for step, _ in seen)


def test_a_failing_step_is_named(service: Service) -> None:
    ended = service.run("relay", {"first": {}, "second": {"fail": "No."}}, type="pipeline")
    assert ended["error"]["details"].pop("location")["file"] == "flow.py"
    assert ended["error"] == {
        "type": "ValueError",
        "message": "No.",
        "details": {
            "pipeline_id": "relay",
            "step_id": "right",
            "agent_id": "relay_step",
            "flow_id": "default",
        },
    }


def test_lists_filter_and_keep_order(service: Service) -> None:
    done = [service.run("behaves", {"do": "echo"})["execution_id"] for _ in range(3)]
    failed = service.run("behaves", {"do": "fail"})["execution_id"]
    relayed = service.run("relay", {"first": {}, "second": {}}, type="pipeline")["execution_id"]

    def ids(**query: str) -> list[str]:
        body = service.get("/executions", params={"page_size": "100", **query}).json()
        check_shape(body, "list")
        return [execution["execution_id"] for execution in body["executions"]]

    assert ids()[:5] == [relayed, failed, *reversed(done)]
    assert failed in ids(status="failed")
    assert not set(done) & set(ids(status="failed"))
    assert ids(type="pipeline")[0] == relayed
    assert ids(target_id="behaves", status="completed")[:3] == list(reversed(done))
    assert ids(target_id="relay")[0] == relayed
    assert ids(target_id="behaves", type="pipeline") == []
    assert ids(order="asc") == list(reversed(ids())) or len(ids()) == 100


def test_pages_and_totals_are_exact_under_concurrent_starts(shared_service) -> None:
    service = shared_service(workers=0)

    def start_ten() -> None:
        session = requests.Session()
        for _ in range(10):
            body = {"type": "agent", "target_id": "behaves", "inputs": {}}
            assert (
                session.post(f"{service.url}/api/v1/executions", json=body, timeout=30).status_code
                == 202
            )
        session.close()

    threads = [threading.Thread(target=start_ten) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found: list[dict] = []
    for page in range(1, 5):
        body = service.get("/executions", params={"page": page, "page_size": 25}).json()
        assert body["pagination"] == {
            "page": page,
            "page_size": 25,
            "total_items": 80,
            "total_pages": 4,
            "has_next": page < 4,
            "has_prev": page > 1,
        }
        found += body["executions"]
    assert len({execution["execution_id"] for execution in found}) == 80
    created = [execution["created_at"] for execution in found]
    assert created == sorted(created, reverse=True)


def test_a_page_past_the_end_is_empty(service: Service) -> None:
    body = service.get("/executions", params={"page": 1_000_000, "page_size": 100}).json()
    assert body["executions"] == []
    assert body["pagination"]["has_next"] is False


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/", "/healthz"])
def test_what_is_served_beside_the_api_needs_no_other_host(service: Service, path: str) -> None:
    response = requests.get(service.url + path, timeout=10)
    assert response.status_code == 200
    assert "cdn" not in response.text.lower()


def test_the_description_names_every_route_and_its_answers(service: Service) -> None:
    described = requests.get(f"{service.url}/openapi.json", timeout=10).json()
    assert described["openapi"] == "3.1.0"
    assert set(described["paths"]) == {
        "/api/v1",
        "/api/v1/agents",
        "/api/v1/agents/{agent_id}",
        "/api/v1/events",
        "/api/v1/pipelines",
        "/api/v1/pipelines/{pipeline_id}",
        "/api/v1/executions",
        "/api/v1/executions/{execution_id}",
        "/api/v1/executions/{execution_id}/cancel",
        "/api/v1/executions/{execution_id}/deliveries",
        "/api/v1/executions/{execution_id}/deliveries/{number}/redeliver",
        "/api/v1/executions/{execution_id}/events",
        "/api/v1/executions/{execution_id}/retry",
        "/api/v1/executions/{execution_id}/steps",
    }
    start = described["paths"]["/api/v1/executions"]["post"]
    assert set(start["responses"]) >= {"202", "400", "404", "413", "415", "503"}
    for status, answer in start["responses"].items():
        if status not in ("200", "202", "default"):
            assert "application/problem+json" in answer["content"]


def test_a_request_id_is_given_and_one_that_is_sent_is_kept(service: Service) -> None:
    assert service.get("/executions").headers["X-Request-ID"]
    response = service.get("/executions/exec_000000000000", headers={"X-Request-ID": "mine-1"})
    assert response.headers["X-Request-ID"] == response.json()["request_id"] == "mine-1"
    assert '"mine-1"' in service.output("web")
    forged = service.get("/executions", headers={"X-Request-ID": "not plain;"})
    assert forged.headers["X-Request-ID"] != "not plain;"
