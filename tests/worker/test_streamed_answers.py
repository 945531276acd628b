"""Models' answers as they come: from a stand-in for the vendor, through real workers, to the log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.pace import within
from tests.support.run_log import RunLog, run_log
from tests.support.service import Service

AGENT = """
flows:
  - {name: says, file: says.yaml}
  - {name: plain, file: plain.yaml}
  - {name: never, file: never.yaml}
  - {name: process, entrypoint: "flow.py:streams"}
  - {name: thread, entrypoint: "flow.py:streams", isolation: thread}
  - {name: waits, entrypoint: "flow.py:waits"}
  - {name: late, entrypoint: "flow.py:late"}
  - {name: twice, entrypoint: "flow.py:twice", isolation: thread}
  - {name: wrong, entrypoint: "flow.py:wrong", isolation: thread}
"""

FLOW = """
import asyncio

def streams(inputs, context):
    return context.complete(inputs["text"], stream=True).text

async def waits(inputs, context):
    return (await context.acomplete(inputs["text"], stream=True)).text

def twice(inputs, context):
    return [context.complete("one").text, context.complete("two").text]

async def late(inputs, context):
    await asyncio.sleep(2)
    return (await context.acomplete(inputs["text"])).text

def wrong(inputs, context):
    return context.complete(inputs["text"], stream="yes").text
"""

SIDE_BY_SIDE = """
inputs: [{name: text}, {name: list}]
steps:
  - {id: left, agent: teller, flow: says, input_mapping: {text: text}}
  - {id: right, agent: teller, flow: thread, input_mapping: {text: text}}
  - {id: items, agent: teller, flow: says, batch_mode: true, input_mapping: {text: list}}
"""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    home = folder / "agents" / "teller"
    (home / "prompts").mkdir(parents=True)
    (home / "agent.yaml").write_text(AGENT)
    (home / "flow.py").write_text(FLOW)
    prompt = 'user_template: "{text}"\n'
    (home / "prompts" / "plain.yaml").write_text(prompt)
    (home / "prompts" / "says.yaml").write_text(f"{prompt}stream: true\n")
    (home / "prompts" / "never.yaml").write_text(f"{prompt}stream: false\n")
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "side_by_side.yaml").write_text(SIDE_BY_SIDE)
    return folder


@pytest.fixture
def service(shared_service: Callable[..., Service], model: ModelServer, agents: Path) -> Service:
    return shared_service(
        agents=agents / "agents",
        pipelines=agents / "pipelines",
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="sk-secret-key-1",
        MODEL_MAX_RETRIES=1,
    )


@pytest.fixture
def log(service: Service) -> Iterator[RunLog]:
    with run_log(service.env["REDIS_URL"]) as log:
        yield log


def flow(name: str) -> dict[str, str]:
    return {"flow_id": name}


@pytest.mark.parametrize("name", ["says", "process", "thread", "waits"])
def test_a_flow_that_streams_has_the_same_result_and_shows_it_as_it_comes(
    service: Service, model: ModelServer, log: RunLog, name: str
) -> None:
    model.play(Answer("One two three four.", pause_seconds=0.15))
    ended = service.run("teller", {"text": "Count."}, config=flow(name))
    assert ended["outputs"]["output"] == "One two three four."
    assert ended["outputs"]["metadata"]["tokens_used"] == 16
    assert ended["outputs"]["metadata"]["finish_reason"] == "stop"
    assert log.answers(ended["execution_id"]) == {(None, None, 1): "One two three four."}
    types = log.types(ended["execution_id"])
    assert types[:2] == ["created", "started"]
    assert types[-1] == "completed"
    assert "output.delta" in types
    assert model.requests[0]["stream_options"] == {"include_usage": True}


def test_an_answer_is_in_the_log_while_the_model_still_writes(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    model.play(Answer(pieces=["word "] * 100, pause_seconds=0.2))
    execution = service.start("teller", {"text": "Count."}, config=flow("says"))
    log.until(execution, lambda events: any(event.type == "output.delta" for event in events))
    assert service.status(execution)["status"] == "running"
    service.cancel(execution)


def test_what_nobody_wants_to_see_is_asked_for_as_a_whole(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    ended = service.run("teller", {"text": "Hi"}, config=flow("plain"))
    assert log.types(ended["execution_id"]) == ["created", "started", "progress", "completed"] or (
        log.types(ended["execution_id"]) == ["created", "started", "completed"]
    )
    assert not {"stream", "stream_options"} & model.requests[0].keys()


def test_once_somebody_listens_the_next_answer_is_shown_as_it_comes(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    model.play(Answer("First.", delay_seconds=3), "The second.")
    execution = service.start("teller", config=flow("twice"))
    service.until(execution, "running")
    assert log.listen(execution)
    ended = service.ended(execution)
    assert ended["outputs"]["output"] == ["First.", "The second."]
    assert [bool(asked.get("stream")) for asked in model.requests] == [False, True]
    assert log.answers(execution) == {(None, None, 1): "The second."}


def test_who_listened_before_the_start_sees_the_first_answer(
    make_service: Callable[..., Service], model: ModelServer, agents: Path
) -> None:
    service = make_service(workers=0, agents=agents / "agents", OPENAI_BASE_URL=model.url)
    execution = service.start("teller", {"text": "Hi"}, config=flow("plain"))
    never = service.start("teller", {"text": "Hi"}, config=flow("never"))
    with run_log(service.env["REDIS_URL"]) as log:
        assert log.listen(execution)
        assert log.listen(never)
        service.start_worker()
        service.ended(execution)
        service.ended(never)
        assert log.answers(execution) == {(None, None, 1): "An answer."}
        assert log.answers(never) == {}
        assert not log.listen(execution)


def test_who_listens_right_after_the_start_is_heard_at_any_moment(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    """Also while the claim is on its way from the store to the worker."""
    executions = []
    for number in range(30):
        execution = service.start("teller", {"text": "Hi"}, config=flow("late"))
        time.sleep(number % 6 / 300)
        log.listen(execution)
        executions.append(execution)
    for execution in executions:
        service.ended(execution)
        assert log.answers(execution) == {(None, None, 1): "An answer."}


def test_who_opens_the_stream_of_an_execution_reads_the_answer_as_it_comes(
    service: Service, model: ModelServer
) -> None:
    words = [f"word{number} " for number in range(20)]
    model.reply = lambda asked: Answer(pieces=words, pause_seconds=0.1)
    execution = service.start("teller", {"text": "Hi"}, config=flow("late"))
    events: list[dict[str, Any]] = []
    came_at: list[float] = []
    options = {"stream": True, "headers": {"Accept": "text/event-stream"}}
    with service.get(f"/executions/{execution}/events", **options) as response:
        for line in response.iter_lines():
            if line.startswith(b"data: {"):
                events.append(json.loads(line[6:]))
                came_at.append(time.monotonic())
    deltas = [event["data"] for event in events if event["type"] == "execution.output.delta"]
    assert "".join(delta["text"] for delta in deltas) == "".join(words)
    assert events[-1]["type"] == "execution.completed"
    assert came_at[-1] - came_at[0] > 1, "It came all at once."


@pytest.mark.parametrize("name", ["says", "process", "thread", "waits"])
def test_a_cancel_hangs_up_in_the_middle_of_an_answer(
    service: Service, model: ModelServer, log: RunLog, name: str
) -> None:
    model.play(Answer(pieces=[f"{number} " for number in range(300)], pause_seconds=0.1))
    execution = service.start("teller", {"text": "Count."}, config=flow(name))
    log.until(execution, lambda events: any(event.type == "output.delta" for event in events))
    began = time.monotonic()
    service.cancel(execution)
    while not model.aborted:
        assert time.monotonic() - began < within(5)
        time.sleep(0.01)
    assert service.ended(execution)["status"] == "cancelled"
    assert log.types(execution)[-1] == "cancelled"
    assert log.answers(execution)[None, None, 1].startswith("0 ")


def test_answers_side_by_side_say_to_which_step_and_item_they_belong(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    def reply(asked: dict[str, object]) -> Answer:
        question = asked["messages"][0]["content"]  # type: ignore[index]
        return Answer(f"You said {question} and no more.", pause_seconds=0.1)

    model.reply = reply
    inputs = {"text": "so", "list": ["a", "b", "c"]}
    ended = service.run("side_by_side", inputs, type="pipeline")
    assert ended["status"] == "completed", ended
    execution = ended["execution_id"]
    by_place = {key[:2]: text for key, text in log.answers(execution).items()}
    so = "You said so and no more."
    items = {("items", n): f"You said {name} and no more." for n, name in enumerate("abc")}
    assert by_place == {("left", None): so, ("right", None): so, **items}
    calls = [call for _, _, call in log.answers(execution)]
    assert sorted(calls) == [1, 2, 3, 4, 5]
    for step in ("left", "right", "items"):
        events = [event for event in log.read(execution) if event.data.get("step") == step]
        types = [event.type for event in events]
        assert types[0] == "step.started"
        assert types[-1] == "step.completed"
        assert set(types[1:-1]) == {"output.delta"}


def test_a_connection_lost_in_the_middle_of_an_answer_begins_a_new_call(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    model.play(Answer(pieces=["Wrong ", "turn"], ends=(), hang_up=True), "The right one.")
    ended = service.run("teller", {"text": "Go."}, config=flow("says"))
    assert ended["outputs"]["output"] == "The right one."
    assert log.answers(ended["execution_id"]) == {
        (None, None, 1): "Wrong turn",
        (None, None, 2): "The right one.",
    }


def test_tokens_of_a_stream_without_a_report_are_estimated(
    service: Service, model: ModelServer
) -> None:
    model.play(Answer("Some answer.", ends=("reason", "done")))
    ended = service.run("teller", {"text": "Go."}, config=flow("says"))
    metadata = ended["outputs"]["metadata"]
    assert (metadata["tokens_used"], metadata["estimated_tokens"] > 0) == (None, True)


def test_a_server_without_streams_serves_those_who_listen_too(
    service: Service, model: ModelServer, log: RunLog
) -> None:
    refused = Answer(status=400, raw='{"error": "stream is not supported"}')
    model.reply = lambda asked: refused if asked.get("stream") else Answer("A whole answer.")
    # A model of its own, because the process remembers how its server wants to be asked.
    config = {**flow("says"), "model_override": "without-streams"}
    ended = service.run("teller", {"text": "Go."}, config=config)
    assert ended["outputs"]["output"] == "A whole answer."
    assert log.answers(ended["execution_id"]) == {(None, None, 1): "A whole answer."}


def test_a_wish_that_is_neither_true_nor_false_is_refused(
    service: Service, model: ModelServer
) -> None:
    ended = service.run("teller", {"text": "Go."}, config=flow("wrong"))
    assert ended["error"]["type"] == "ModelRejected"
    assert "stream must be true, false or None" in ended["error"]["message"]
    assert model.requests == []
