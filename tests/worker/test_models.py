"""Prompt flows in real workers, against a stand-in for the model's vendor."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.pace import within
from tests.support.service import Service

PROMPT = """
system_prompt: '你是客服助手。Answer as {"intent": "..."}.'
user_template: |
  客户 {name}: {{ question }}
  {% if tags %}Tags:{% for tag in tags %} {tag}{% endfor %}{% endif %}
defaults: {name: 匿名}
temperature: 0.2
"""

OPTIONS = """
user_template: "{question}"
max_completion_tokens: 50
response_format: {type: json_object}
top_p: 0.5
stop: [END]
seed: 7
reasoning_effort: low
extra_body: {thinking: {type: disabled}, top_k: 5}
"""

TOOLS = """
OFFERED = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]

def run(inputs, context):
    asked = [{"role": "user", "content": "Weather in Oslo?"}]
    answer = context.complete(asked, tools=OFFERED)
    while answer.tool_calls:
        asked.append({"role": "assistant", "content": answer.text, "tool_calls": answer.tool_calls})
        asked += [{"role": "tool", "tool_call_id": call["id"], "content": "Rain."} for call in answer.tool_calls]
        answer = context.complete(asked, tools=OFFERED)
    return answer.text

def text(inputs, context):
    return context.complete(inputs["question"]).text
"""

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}


MODEL_TIMEOUT = 20

AGENT = """
business_goal: x
flows:
  - {name: ask, file: ask.yaml}
  - {name: options, file: options.yaml}
  - {name: tools, entrypoint: "tools.py:run", isolation: thread}
  - {name: text, entrypoint: "tools.py:text"}
"""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "asker"
    (folder / "prompts").mkdir(parents=True)
    (folder / "agent.yaml").write_text(AGENT)
    (folder / "prompts" / "ask.yaml").write_text(PROMPT)
    (folder / "prompts" / "options.yaml").write_text(OPTIONS)
    (folder / "tools.py").write_text(TOOLS)
    return folder.parent


@pytest.fixture
def service(shared_service: Callable[..., Service], model: ModelServer, agents: Path) -> Service:
    return shared_service(
        agents=agents,
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="sk-secret-key-1",
        OPENAI_MODEL_NAME="tiny",
        MODEL_MAX_RETRIES=0,
        MODEL_TIMEOUT=MODEL_TIMEOUT,
    )


def test_a_prompt_is_rendered_asked_and_answered(service: Service, model: ModelServer) -> None:
    model.play("好的")
    ended = service.run(
        "asker", {"question": "{name}?", "tags": ["a", "b"]}, config={"model_override": "big"}
    )
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
        (Answer(raw='{"error": {"message": "no", "code": 429}}'), "ModelRateLimited"),
        (Answer(raw='{"error": "no"}'), "ModelUnavailable"),
        (Answer(raw="<html>no</html>"), "ModelAnswerInvalid"),
        (Answer(raw='{"choices": null, "detail": "no"}'), "ModelAnswerInvalid"),
        (
            Answer("", message={"content": None}, choice={"finish_reason": "no"}),
            "ModelAnswerInvalid",
        ),
    ],
)
def test_a_failing_call_is_named(
    service: Service, model: ModelServer, answer: Answer, type: str
) -> None:
    model.play(answer)
    error = service.run("asker", {"question": "?"})["error"]
    assert error["type"] == type
    assert "no" in error["message"]
    assert error["details"]["agent_id"] == "asker"
    assert "sk-secret" not in str(error)


def test_a_failed_call_is_retried_when_the_provider_says(
    service: Service, model: ModelServer
) -> None:
    model.play(Answer("slow down", 429, {"Retry-After": "1"}), "Now.")
    began = time.monotonic()
    ended = service.run(
        "asker", {"question": "?"}, config={"retries": {"max": 1, "backoff_seconds": [60]}}
    )
    assert ended["outputs"]["output"] == "Now."
    assert 1 <= time.monotonic() - began < 50
    model.play(Answer("wrong", 400))
    refused = service.run(
        "asker", {"question": "?"}, config={"retries": {"max": 3, "backoff_seconds": [0.1]}}
    )
    assert refused["attempt"] == 1


@pytest.mark.parametrize("flow", ["asker", "behaves"])
def test_a_cancel_hangs_up_on_the_model_at_once(
    service: Service, model: ModelServer, flow: str
) -> None:
    model.default = Answer(delay_seconds=60)
    id = service.start(flow, {"question": "?", "do": "complete", "text": "?"})
    deadline = time.monotonic() + 30
    while not model.requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    began = time.monotonic()
    assert service.cancel(id).status_code == 200
    assert time.monotonic() - began < within(5)
    while not model.aborted:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_timeout_hangs_up_as_well(service: Service, model: ModelServer) -> None:
    model.default = Answer(delay_seconds=60)
    assert (
        service.run("asker", {"question": "?"}, config={"timeout": 1})["error"]["type"] == "Timeout"
    )


def test_a_hundred_calls_wait_side_by_side(service: Service, model: ModelServer) -> None:
    model.default = Answer(delay_seconds=min(within(3), MODEL_TIMEOUT / 2))
    ids = [service.start("asker", {"question": str(number)}) for number in range(100)]
    for id in ids:
        assert service.ended(id)["status"] == "completed"
    assert len(model.requests) == 100
    assert model.most_at_once > 50


def test_without_a_model_the_failure_names_the_setting(
    shared_service: Callable[..., Service],
) -> None:
    ended = shared_service().run("mem_l1_summarizer", {"text": "x"}, config={"flow_id": "llm"})
    assert ended["error"]["type"] == "ModelNotConfigured"
    assert "OPENAI_API_KEY" in ended["error"]["message"]


@pytest.mark.parametrize(
    "named",
    ["inf", "nan", "-1", "9999999999", "31536000", "soon", "Fri, 31 Dec 9999 23:59:59 GMT"],
)
def test_a_wait_that_makes_no_sense_is_not_waited_for(
    service: Service, model: ModelServer, named: str
) -> None:
    model.default = Answer(delay_seconds=3)
    neighbours = [service.start("asker", {"question": "?"}) for _ in range(3)]
    deadline = time.monotonic() + 20
    while len(model.requests) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    model.play(Answer("slow down", 429, {"Retry-After": named}), "Now.")
    ended = service.run(
        "asker", {"question": "?"}, config={"retries": {"max": 1, "backoff_seconds": [0.1]}}
    )
    assert (ended["status"], ended["outputs"]["output"], ended["attempt"]) == (
        "completed",
        "Now.",
        2,
    )
    assert [service.ended(id)["attempt"] for id in neighbours] == [1, 1, 1]


@pytest.mark.parametrize("form", ["Retry-After-Ms", "Retry-After", "date"])
def test_a_wait_is_obeyed_in_every_form(service: Service, model: ModelServer, form: str) -> None:
    value = {
        "Retry-After-Ms": "2000",
        "Retry-After": "2",
        "date": email.utils.formatdate(time.time() + 3, usegmt=True),
    }
    model.play(
        Answer("slow down", 429, {form if form != "date" else "Retry-After": value[form]}), "Now."
    )
    began = time.monotonic()
    ended = service.run(
        "asker", {"question": "?"}, config={"retries": {"max": 1, "backoff_seconds": [0]}}
    )
    assert ended["outputs"]["output"] == "Now."
    assert time.monotonic() - began >= 1.5


def test_a_cut_answer_and_a_refusal_are_visible(service: Service, model: ModelServer) -> None:
    model.play(Answer("cut o", choice={"finish_reason": "length"}))
    cut = service.run("asker", {"question": "?"})["outputs"]
    assert (cut["output"], cut["metadata"]["finish_reason"]) == ("cut o", "length")
    model.play(Answer(message={"content": None, "refusal": "I cannot help."}))
    refused = service.run("asker", {"question": "?"})["outputs"]
    assert (refused["output"], refused["metadata"]["refusal"]) == (
        "I cannot help.",
        "I cannot help.",
    )
    model.play(Answer(""))
    assert service.run("asker", {"question": "?"})["error"]["type"] == "ModelAnswerInvalid"


def test_the_options_of_a_prompt_file_are_sent_as_they_stand(
    service: Service, model: ModelServer
) -> None:
    service.run("asker", {"question": "?"}, config={"flow_id": "options"})
    [asked] = model.requests
    assert {name: value for name, value in asked.items() if name not in ("model", "messages")} == {
        "max_completion_tokens": 50,
        "response_format": {"type": "json_object"},
        "top_p": 0.5,
        "stop": ["END"],
        "seed": 7,
        "reasoning_effort": "low",
        "thinking": {"type": "disabled"},
        "top_k": 5,
    }


def test_a_python_flow_answers_the_tool_calls_of_its_model(
    service: Service, model: ModelServer
) -> None:
    message = {"content": None, "tool_calls": [CALL]}
    model.play(Answer(message=message, choice={"finish_reason": "tool_calls"}), "It rains.")
    ended = service.run("asker", {}, config={"flow_id": "tools"})
    assert (ended["outputs"]["output"], ended["outputs"]["metadata"]["finish_reason"]) == (
        "It rains.",
        "stop",
    )
    assert model.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
    ]


def test_a_python_flow_may_ask_with_a_text_alone(service: Service, model: ModelServer) -> None:
    assert (
        service.run("asker", {"question": "Hi"}, config={"flow_id": "text"})["outputs"]["output"]
        == "An answer."
    )
    assert model.requests[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_tokens_that_nobody_reported_are_null_in_every_place(
    service: Service, model: ModelServer
) -> None:
    model.play(Answer(usage=None))
    ended = service.run("asker", {"question": "?"})
    assert ended["outputs"]["metadata"]["tokens_used"] is None
    assert ended["usage"]["tokens_used"] is None
    used = ended["usage"]["models"]["tiny-served"]
    assert (used["calls"], used["total_tokens"], used["estimated_tokens"] > 0) == (1, None, True)
    [step] = service.get(f"/executions/{ended['execution_id']}/steps").json()["steps"]
    assert step["tokens"] == {"input": None, "output": None, "total": None}
    model.play(Answer(usage={"prompt_tokens": "900", "completion_tokens": 100.0}))
    assert service.run("asker", {"question": "?"})["usage"]["tokens_used"] == 1000


def test_a_budget_holds_against_a_server_that_reports_no_tokens(
    service: Service, model: ModelServer
) -> None:
    model.default = Answer("x" * 4000, usage=None, message={"tool_calls": [CALL]})
    config = {"flow_id": "tools", "budget": {"max_tokens": 5000}, "timeout": 30}
    error = service.run("asker", {}, config=config)["error"]
    assert error["type"] == "BudgetExceeded"
    assert "estimated" in error["message"]


def test_a_body_that_never_ends_is_given_up_in_time(
    make_service: Callable[..., Service], model: ModelServer
) -> None:
    service = make_service(OPENAI_BASE_URL=model.url, MODEL_TIMEOUT=1, MODEL_MAX_RETRIES=3)
    model.default = Answer(drip_seconds=60)
    began = time.monotonic()
    error = service.run("behaves", {"do": "complete", "text": "?"})["error"]
    assert error["type"] == "ModelTimeout"
    assert time.monotonic() - began < within(20)
