"""Prompt flows in real workers, against a stand-in for the model's vendor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.service import Service

PROMPT = """
system_prompt: '你是客服助手。Answer as {"intent": "..."}.'
user_template: |
  客户 {name}: {{ question }}
  {% if tags %}Tags:{% for tag in tags %} {tag}{% endfor %}{% endif %}
defaults: {name: 匿名}
temperature: 0.2
"""


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def service(make_service: Callable[..., Service], model: ModelServer, tmp_path: Path) -> Service:
    folder = tmp_path / "agents" / "asker"
    (folder / "prompts").mkdir(parents=True)
    (folder / "agent.yaml").write_text("business_goal: x\nflows:\n  - {name: ask, file: ask.yaml}\n")
    (folder / "prompts" / "ask.yaml").write_text(PROMPT)
    return make_service(
        agents=tmp_path / "agents",
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="sk-secret-key-1",
        OPENAI_MODEL_NAME="tiny",
        MODEL_MAX_RETRIES=0,
    )


def test_a_prompt_is_rendered_asked_and_answered(service: Service, model: ModelServer) -> None:
    model.play("好的")
    ended = service.run("asker", {"question": "{name}?", "tags": ["a", "b"]}, config={"model_override": "big"})
    assert ended["outputs"]["output"] == "好的"
    metadata = ended["outputs"]["metadata"]
    assert (metadata["model_used"], metadata["tokens_used"]) == ("big-served", 16)
    [asked] = model.requests
    assert asked["model"] == "big"
    assert asked["temperature"] == 0.2
    assert asked["messages"] == [
        {"role": "system", "content": '你是客服助手。Answer as {"intent": "..."}.'},
        {"role": "user", "content": "客户 匿名: {name}?\nTags: a b\n"},
    ]


def test_a_python_flow_asks_through_its_context(service: Service, model: ModelServer) -> None:
    model.play("From the model.")
    ended = service.run("behaves", {"do": "complete", "text": "hi"})
    assert ended["outputs"]["output"] == "From the model."
    assert ended["outputs"]["metadata"]["model_used"] == "tiny-served"


@pytest.mark.parametrize(
    ("answer", "type"),
    [
        (Answer("no", 401), "ModelAuthenticationError"),
        (Answer("no", 429), "ModelRateLimited"),
        (Answer("no", 500), "ModelUnavailable"),
        (Answer("no", 400), "ModelRejected"),
    ],
)
def test_a_failing_call_is_named(service: Service, model: ModelServer, answer: Answer, type: str) -> None:
    model.play(answer)
    error = service.run("asker", {"question": "?"})["error"]
    assert error["type"] == type
    assert error["details"] == {"agent_id": "asker"}
    assert "sk-secret" not in str(error)


def test_a_failed_call_is_retried_when_the_provider_says(service: Service, model: ModelServer) -> None:
    model.play(Answer("slow down", 429, {"Retry-After": "1"}), "Now.")
    began = time.monotonic()
    ended = service.run("asker", {"question": "?"}, config={"retries": {"max": 1, "backoff_seconds": [60]}})
    assert ended["outputs"]["output"] == "Now."
    assert 1 <= time.monotonic() - began < 10
    model.play(Answer("wrong", 400))
    refused = service.run("asker", {"question": "?"}, config={"retries": {"max": 3, "backoff_seconds": [0.1]}})
    assert refused["attempt"] == 1


@pytest.mark.parametrize("flow", ["asker", "behaves"])
def test_a_cancel_hangs_up_on_the_model_at_once(service: Service, model: ModelServer, flow: str) -> None:
    model.default = Answer(delay_seconds=60)
    id = service.start(flow, {"question": "?", "do": "complete", "text": "?"})
    deadline = time.monotonic() + 10
    while not model.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    assert service.cancel(id).status_code == 200
    assert time.monotonic() - began < 1
    while not model.aborted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_timeout_hangs_up_as_well(service: Service, model: ModelServer) -> None:
    model.default = Answer(delay_seconds=60)
    assert service.run("asker", {"question": "?"}, config={"timeout": 1})["error"]["type"] == "Timeout"


def test_a_hundred_calls_wait_side_by_side(service: Service, model: ModelServer) -> None:
    model.default = Answer(delay_seconds=3)
    ids = [service.start("asker", {"question": str(number)}) for number in range(100)]
    for id in ids:
        assert service.ended(id)["status"] == "completed"
    assert len(model.requests) == 100
    assert model.most_at_once > 50


def test_without_a_model_the_failure_names_the_setting(make_service: Callable[..., Service]) -> None:
    ended = make_service().run("mem_l1_summarizer", {"text": "x"}, config={"flow_id": "llm"})
    assert ended["error"]["type"] == "ModelAuthenticationError"
    assert "OPENAI_API_KEY" in ended["error"]["message"]
