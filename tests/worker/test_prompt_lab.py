"""Files of Prompt Lab's users run unmodified: Chinese, both styles of placeholders, batches."""

# ruff: noqa: RUF001 - Chinese punctuation is meant

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.service import ROOT, Service

FILES = ROOT / "tests" / "prompt_lab"

REVIEWS = {
    "送货太慢，很生气": ("生气", 1),
    "味道不错": ("开心", 5),
    "包装破了": ("失望", 2),
    "还可以": ("平静", 4),
}


def answer(asked: dict[str, Any]) -> Answer:
    """A judge that knows the four reviews, and a writer with three pieces of advice."""
    question = asked["messages"][-1]["content"]
    if "晨报" in asked["messages"][0]["content"]:
        return Answer("1. 加快发货\n2. 换包装\n- 回访客户")
    mood, score = next(found for review, found in REVIEWS.items() if review in question)
    return Answer(
        "```json\n" + json.dumps({"mood": mood, "score": score}, ensure_ascii=False) + "\n```"
    )


@pytest.fixture
def model(model: ModelServer) -> ModelServer:
    model.reply = answer
    return model


@pytest.fixture
def service(shared_service: Callable[..., Service], model: ModelServer) -> Service:
    return shared_service(
        agents=FILES / "agents",
        pipelines=FILES / "pipelines",
        OPENAI_BASE_URL=model.url,
        MODEL_MAX_RETRIES=0,
    )


def report(service: Service, **config: Any) -> dict[str, Any]:
    inputs = {"reviews": list(REVIEWS), "product": "龙井{绿茶}"}
    return service.run("review_report", inputs, type="pipeline", config=config)


def test_a_report_comes_out_of_a_batch_and_every_kind_of_aggregation(
    service: Service, model: ModelServer
) -> None:
    ended = report(service)
    assert ended["status"] == "completed", ended
    outputs = ended["outputs"]
    assert outputs["page"] == "加快发货；换包装；回访客户"
    assert outputs["stats"] == {"score": {"count": 4, "sum": 12, "mean": 3.0, "min": 1, "max": 5}}
    assert list(outputs["moods"]) == ["生气", "开心", "失望", "平静"]
    assert outputs["short"] == [{"mood": "生气"}, {"mood": "失望"}]
    assert outputs["metadata"] == {
        "tokens_used": 5 * 16,
        "models_used": ["doubao-pro-32k-served", "gpt-4o-mini-served"],
    }


def test_the_model_is_asked_what_the_files_say(service: Service, model: ModelServer) -> None:
    report(service)
    judged = {request["messages"][1]["content"]: request for request in model.requests[:4]}
    asked = judged["商品：龙井{绿茶}\n评价：「味道不错」\n"]
    assert asked["messages"][0]["content"] == (
        '你是北京西路店的客服质检员。只输出 JSON，例如：\n{"mood": "开心", "score": 5, "quote": "……"}\n'
    )
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == (
        "doubao-pro-32k",
        0.1,
        200,
    )
    writer = model.requests[-1]["messages"][1]["content"]
    assert "不满意的评价（ 种情绪）" in writer  # a placeholder without a value is empty
    assert '[{"mood": "生气", "score": 1}, {"mood": "失望", "score": 2}]' in writer
    assert "平均分：3.0" in writer


def test_a_variant_changes_flow_and_model(service: Service, model: ModelServer) -> None:
    ended = report(service, variant="short")
    assert ended["status"] == "completed", ended
    assert {request["model"] for request in model.requests[:4]} == {"doubao-lite-4k"}
    assert '龙井{绿茶}：味道不错 → JSON {"mood", "score"}' in {
        request["messages"][-1]["content"] for request in model.requests
    }


def test_an_answer_that_does_not_parse_is_asked_for_again_and_only_that_item(
    service: Service, model: ModelServer
) -> None:
    wrong = {"left": 1}

    def once_wrong(asked: dict[str, Any]) -> Answer:
        if "味道不错" in asked["messages"][1]["content"] and wrong["left"]:
            wrong["left"] -= 1
            return Answer("很好！")
        return answer({**asked, "messages": asked["messages"][:2]})

    model.reply = once_wrong
    ended = report(service)
    assert ended["status"] == "completed", ended
    assert len(model.requests) == 6
    [again] = [request for request in model.requests if len(request["messages"]) == 4]
    assert again["messages"][2] == {"role": "assistant", "content": "很好！"}
    assert "could not be read" in again["messages"][3]["content"]


def test_a_retry_asks_only_for_the_items_that_are_missing(
    service: Service, model: ModelServer
) -> None:
    def refuse_one(asked: dict[str, Any]) -> Answer:
        return (
            Answer("no", status=400)
            if "还可以" in asked["messages"][1]["content"]
            else answer(asked)
        )

    model.reply = refuse_one
    failed = report(service)
    assert (failed["error"]["type"], failed["error"]["details"]["step_id"]) == (
        "ModelRejected",
        "judge_each",
    )
    [step, *_] = service.get(f"/executions/{failed['execution_id']}/steps").json()["steps"]
    assert step["items"][3]["error"]["type"] == "ModelRejected"
    done = sum(item["status"] == "completed" for item in step["items"])
    asked_before = len(model.requests)
    model.reply = answer
    again = service.post(f"/executions/{failed['execution_id']}/retry").json()["execution_id"]
    assert service.ended(again)["outputs"]["stats"]["score"]["count"] == 4
    assert len(model.requests) - asked_before == (4 - done) + 1
