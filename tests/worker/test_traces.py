"""A trace goes from the request over the queue to the flow and its model calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.otlp_server import OtlpServer
from tests.support.service import OWN_BIN, Service
from tests.worker.test_logs import lines, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}

SERVER, CLIENT, CONSUMER = 2, 3, 5


def start(
    service: Service, headers: dict[str, str], config: dict | None = None, **inputs: object
) -> dict:
    body = {"type": "agent", "target_id": "behaves", "inputs": inputs, "config": config or {}}
    return service.ended(
        service.post("/executions", json=body, headers=headers).json()["execution_id"]
    )


@pytest.fixture(scope="module")
def shared_collector() -> Iterator[OtlpServer]:
    with OtlpServer() as server:
        yield server


@pytest.fixture
def collector(shared_collector: OtlpServer) -> OtlpServer:
    shared_collector.begin()
    return shared_collector


@pytest.fixture
def traced(
    shared_service: Callable[..., Service], collector: OtlpServer, model: ModelServer
) -> Service:
    return shared_service(
        bin=OWN_BIN,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="sk-never-shown-1",
        OPENAI_MODEL_NAME="tiny",
        MODEL_MAX_RETRIES=0,
    )


@pytest.mark.parametrize("flow", ["process", "thread"])
def test_a_traceparent_is_kept_shown_handed_to_the_flow_and_in_every_line(
    service: Service, flow: str
) -> None:
    ended = start(service, HEADER, {"flow_id": flow}, do="traceparent")
    assert ended["traceparent"] == ended["outputs"]["output"] == HEADER["traceparent"]
    until(service, "worker0", "attempt_ended", execution_id=ended["execution_id"])
    own = [
        line
        for line in lines(service, "worker0")
        if line.get("execution_id") == ended["execution_id"]
    ]
    assert {line["trace_id"] for line in own} == {TRACE}


def test_a_retry_belongs_to_the_trace_that_comes_with_it(service: Service) -> None:
    failed = start(service, HEADER, do="fail")
    other = f"00-{PARENT * 2}-{PARENT}-01"
    retry = service.post(
        f"/executions/{failed['execution_id']}/retry", headers={"traceparent": other}
    ).json()
    assert service.ended(retry["execution_id"])["traceparent"] == other
    again = service.post(f"/executions/{failed['execution_id']}/retry").json()
    assert "traceparent" not in service.ended(again["execution_id"])


@pytest.mark.parametrize("headers", [{}, {"traceparent": "garbage"}])
def test_without_a_valid_one_there_is_none(service: Service, headers: dict[str, str]) -> None:
    ended = start(service, headers, do="traceparent")
    assert "traceparent" not in ended
    assert ended["outputs"]["output"] is None
    until(service, "worker0", "attempt_ended", execution_id=ended["execution_id"])
    own = [
        line
        for line in lines(service, "worker0")
        if line.get("execution_id") == ended["execution_id"]
    ]
    assert not any("trace_id" in line for line in own)


def test_request_attempt_and_model_call_are_one_trace(
    traced: Service, collector: OtlpServer
) -> None:
    ended = start(traced, HEADER, do="complete", text="mark3r")
    request, attempt, call = collector.wait_for(TRACE, 3)
    assert [span["kind"] for span in (request, attempt, call)] == [SERVER, CONSUMER, CLIENT]
    assert request["parent_id"] == PARENT
    assert attempt["parent_id"] == request["span_id"]
    assert attempt["links"] == [request["span_id"]]
    assert call["parent_id"] == attempt["span_id"]
    assert ended["traceparent"] == f"00-{TRACE}-{request['span_id']}-01"
    assert request["name"] == "POST /api/v1/executions"
    assert request["attributes"]["http.response.status_code"] == 202
    assert attempt["name"] == "run behaves"
    assert attempt["attributes"]["execution.id"] == ended["execution_id"]
    assert attempt["attributes"]["execution.status"] == "completed"
    assert call["name"] == "chat tiny"
    assert call["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny-served",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 5,
    }
    assert {span["service"] for span in collector.spans} == {"async-execution-api"}
    assert "mark3r" not in str(collector.spans)


def test_each_attempt_has_its_span_also_one_whose_process_died(
    traced: Service, collector: OtlpServer
) -> None:
    ended = start(traced, HEADER, do="kill", until_attempt=2)
    assert ended["outputs"]["output"] == "survived"
    _, lost, second = collector.wait_for(TRACE, 3)
    assert (lost["failed"], lost["attributes"]["error.type"]) == (True, "WorkerLost")
    assert (lost["attributes"]["execution.attempt"], second["attributes"]["execution.attempt"]) == (
        1,
        2,
    )
    assert not second["failed"]


def test_what_failed_is_named_in_its_spans_and_nothing_else_is(
    traced: Service, collector: OtlpServer, model: ModelServer
) -> None:
    model.play(Answer("mark3r", 429))
    start(traced, HEADER, do="complete", text="x")
    _, attempt, call = collector.wait_for(TRACE, 3)
    assert (
        attempt["attributes"]["error.type"]
        == call["attributes"]["error.type"]
        == "ModelRateLimited"
    )
    assert attempt["failed"]
    assert call["failed"]
    assert "mark3r" not in str(collector.spans)


def test_without_a_caller_s_trace_one_begins_and_polls_of_health_make_none(
    traced: Service, collector: OtlpServer
) -> None:
    ended = start(traced, {}, do="traceparent")
    trace_id = ended["traceparent"].split("-")[1]
    request, attempt = collector.wait_for(trace_id, 2)
    assert request["parent_id"] == ""
    assert ended["outputs"]["output"].rpartition("-")[0] == f"00-{trace_id}-{attempt['span_id']}"
    traced.http.get(f"{traced.url}/readyz", timeout=30)
    start(traced, HEADER, do="echo")
    collector.wait_for(TRACE, 2)
    assert not [
        span for span in collector.spans if "health" in span["name"] or "ready" in span["name"]
    ]


def test_a_caller_that_does_not_sample_is_heeded(traced: Service, collector: OtlpServer) -> None:
    start(traced, {"traceparent": f"00-{TRACE}-{PARENT}-00"}, do="echo")
    ended = start(traced, {}, do="echo")
    collector.wait_for(ended["traceparent"].split("-")[1], 2)
    assert not [span for span in collector.spans if span["trace_id"] == TRACE]


def test_a_collector_that_is_away_harms_nothing(make_service: Callable[..., Service]) -> None:
    service = make_service(bin=OWN_BIN, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert start(service, {}, do="echo")["status"] == "completed"
    service.workers[0].terminate()
    assert service.workers[0].wait(60) == 0
    assert lines(service, "worker0")  # each of them JSON


def test_without_the_packages_one_line_says_so_and_everything_runs(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    service = make_service(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", PYTHONPATH=path, WEB_CONCURRENCY=2
    )
    ended = start(service, HEADER, do="traceparent")
    assert ended["outputs"]["output"] == HEADER["traceparent"]
    for name in ("web", "worker0"):
        [line] = until(service, name, "opentelemetry_missing")
        assert "requirements-otel.txt" in line["help"]
