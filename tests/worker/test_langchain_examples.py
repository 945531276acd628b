"""The examples of docs/langchain.md, in a real service with the real packages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.service import OWN_BIN, ROOT, Service

_BLOCK = re.compile(r"^```(yaml|python|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"# (agents/\S+)\n")

_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}
# The model's answer to the last message that it gets.
_ANSWERS = {
    "Good morning.": Answer("Bonjour."),
    "I am Ann.": Answer("Hello, Ann."),
    "Who am I?": Answer("You are Ann."),
    "Do I need an umbrella in Oslo?": Answer("", message={"tool_calls": [_CALL]}),
    "Rain in Oslo.": Answer("Yes: it rains in Oslo."),
    "Review": Answer("Good."),
    "Summarize": Answer("All good."),
}


def _blocks() -> Iterator[tuple[str, str]]:
    page = (ROOT / "docs" / "langchain.md").read_text()
    yield from ((kind, text) for kind, text in _BLOCK.findall(page))


def _examples() -> list[Any]:
    """Pairs of blocks: the body of a start, and the outputs of its execution."""
    bodies = [json.loads(text) for kind, text in _blocks() if kind == "json"]
    pairs = list(zip(bodies[::2], bodies[1::2], strict=True))
    by_agent: dict[str, list[Any]] = {}
    for start, outputs in pairs:
        by_agent.setdefault(start["target_id"], []).append((start, outputs))
    return [pytest.param(steps, id=agent) for agent, steps in by_agent.items()]


def _answer(asked: dict[str, Any]) -> Answer:
    content = asked["messages"][-1]["content"]
    return _ANSWERS[content if content in _ANSWERS else content.partition(":")[0]]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for _, text in _blocks():
        if named := _PATH.match(text):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return folder / "agents"


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        server.reply = _answer
        yield server


@pytest.fixture
def service(shared_service: Callable[..., Service], agents: Path, model: ModelServer) -> Service:
    return shared_service(
        bin=OWN_BIN,  # the only environment with LangChain
        agents=agents,
        WORKER_PROCESSES=1,  # InMemorySaver keeps its threads in one process
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="stand-in",
    )


@pytest.mark.parametrize("steps", _examples())
def test_each_example_of_the_page_gives_the_outputs_that_the_page_shows(
    service: Service, steps: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    for start, shown in steps:
        response = service.post("/executions", json=start)
        assert response.status_code == 202, response.text
        ended = service.ended(response.json()["execution_id"])
        assert ended["status"] == "completed", ended
        # The stand-in answers under another name than it was asked under.
        outputs = json.loads(json.dumps(ended["outputs"]).replace("-served", ""))
        assert _shown_part(outputs, shown) == shown


def _shown_part(real: Any, shown: Any) -> Any:
    """The part of a value that the page shows: objects on the page may leave keys out."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return {key: _shown_part(real.get(key), shown[key]) for key in shown}
    if isinstance(shown, list) and isinstance(real, list) and len(real) == len(shown):
        return [_shown_part(one, other) for one, other in zip(real, shown, strict=True)]
    return real
