"""Incomplete answers in a pipeline: the next steps get only the text, so a warning is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import catalog
from app.providers.base import Completion, ModelProvider
from tests.support.runtime import Recorder


class Model(ModelProvider):
    def __init__(self, **ending: Any):
        self._ending = ending

    def complete(self, messages: Any, **options: Any) -> Completion:
        return Completion("An ans", "m-1", total_tokens=5, **self._ending)


def warnings(
    folder: Path, ending: dict[str, Any], step: str, inputs: dict[str, Any]
) -> tuple[str, ...]:
    (folder / "agents/ask/prompts").mkdir(parents=True)
    (folder / "agents/ask/agent.yaml").write_text("flows: [{name: main, file: ask.yaml}]\n")
    (folder / "agents/ask/prompts/ask.yaml").write_text("user_template: 'Tell me of {topic}'\n")
    (folder / "pipelines").mkdir()
    (folder / "pipelines/p.yaml").write_text(f"inputs: [{{name: topic}}]\nsteps:\n  - {step}\n")
    known, recorder = catalog.load([folder / "agents"], [folder / "pipelines"]), Recorder()
    recorder.run(known, "p", inputs, models=Model(**ending))
    return recorder.records["a"].warnings


ENDINGS = [
    ({"finish_reason": "length"}, "cut off"),
    ({"finish_reason": "content_filter"}, "filtered"),
    ({"finish_reason": "stop", "refusal": "No."}, "refused"),
]


@pytest.mark.parametrize(("ending", "word"), ENDINGS)
def test_a_step_warns_of_an_incomplete_answer(
    tmp_path: Path, ending: dict[str, Any], word: str
) -> None:
    step = "{id: a, agent: ask, input_mapping: {topic: topic}}"
    [warning] = warnings(tmp_path, ending, step, {"topic": "tea"})
    assert word in warning


def test_a_complete_answer_has_no_warning(tmp_path: Path) -> None:
    step = "{id: a, agent: ask, input_mapping: {topic: topic}}"
    assert warnings(tmp_path, {"finish_reason": "stop"}, step, {"topic": "tea"}) == ()


def test_a_batch_names_the_items_and_of_many_only_the_first(tmp_path: Path) -> None:
    step = "{id: a, agent: ask, batch_mode: true, concurrent: false, input_mapping: {topic: topic}}"
    found = warnings(tmp_path, {"finish_reason": "length"}, step, {"topic": ["tea"] * 30})
    assert len(found) == 10
    assert found[0].startswith("Item 0:")
