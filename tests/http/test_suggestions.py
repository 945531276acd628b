"""An unknown target or name is answered with the nearest one, to callers who may see the names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.http.test_refusals import refusal
from tests.support.service import Service


def start(service: Service, type: str, target_id: str, **more: Any) -> Any:
    body = {"type": type, "target_id": target_id, "inputs": {"text": "x"}, **more}
    return service.post("/executions", json=body)


@pytest.mark.parametrize(
    ("type", "target_id", "detail"),
    [
        (
            "agent",
            "mem_l1_sumarizer",
            "There is no agent with the id 'mem_l1_sumarizer'. Did you mean 'mem_l1_summarizer'?",
        ),
        (
            "agent",
            "customer_service_flow",
            "There is no agent with the id 'customer_service_flow'."
            ' But there is such a pipeline: send "type": "pipeline".',
        ),
        (
            "pipeline",
            "customer_service",
            "There is no pipeline with the id 'customer_service'."
            " Did you mean 'customer_service_flow'?",
        ),
        ("agent", "zzz", "There is no agent with the id 'zzz'."),
    ],
)
def test_a_start_of_an_unknown_target_is_answered_with_the_nearest(
    service: Service, type: str, target_id: str, detail: str
) -> None:
    assert refusal(start(service, type, target_id), 404)["detail"] == detail


def test_an_unknown_flow_or_variant_is_answered_with_the_nearest(service: Service) -> None:
    flow = start(service, "agent", "mem_l1_summarizer", config={"flow_id": "lllm"})
    assert "Did you mean 'llm'?" in refusal(flow, 400)["errors"][0]["message"]
    variant = start(service, "pipeline", "document_summary", config={"variant": "lm"})
    assert "Did you mean 'llm'?" in refusal(variant, 400)["errors"][0]["message"]


def test_an_unknown_target_that_is_asked_for_is_answered_with_the_nearest(
    service: Service,
) -> None:
    detail = refusal(service.get("/agents/mem_l1_sumarizer"), 404)["detail"]
    assert detail == "There is no agent with this id. Did you mean 'mem_l1_summarizer'?"


def test_a_key_that_may_not_read_learns_no_names(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=0, API_KEYS="acme:0123456789abcdef")
    starter = service.add_key("starter", scopes="start")
    body = {"type": "agent", "target_id": "mem_l1_sumarizer", "inputs": {}}
    answer = service.post("/executions", json=body, headers={"X-API-Key": starter})
    assert refusal(answer, 404)["detail"] == "There is no agent with the id 'mem_l1_sumarizer'."
    other = body | {"target_id": "customer_service_flow"}
    answer = service.post("/executions", json=other, headers={"X-API-Key": starter})
    assert refusal(answer, 404)["detail"].endswith("'customer_service_flow'.")
