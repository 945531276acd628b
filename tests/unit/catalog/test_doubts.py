"""What is probably wrong in a file, though it can be run: told at load, and not refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.catalog import load
from app.domain.errors import ConfigurationError
from tests.support.service import ROOT
from tests.unit.catalog.conftest import Files

ASK = "inputs: [{name: text}, {name: tone}]\nflows: [{name: ask, file: ask.yaml}]\n"


def warnings_of_prompt(files: Files, prompt: str, agent: str = ASK) -> list[str]:
    files.agent("a", agent)
    files.write("agents/a/prompts/ask.yaml", prompt)
    return files.load().warnings


@pytest.mark.parametrize(
    ("prompt", "line", "message"),
    [
        ("user_template: '{txet}'\n", 1, "{txet} is sent as text: 'txet' is neither an input of"),
        ("user_template: '{txet}'\n", 1, "Did you mean 'text'?"),
        (
            "user_template: |\n  Summarize:\n  {document}\n  in a {tone} tone\n",
            3,
            "default of this prompt. Put braces that are text between {% raw %} and {% endraw %}.",
        ),
        ("system_prompt: 'Be {tonne}'\nuser_template: '{text}'\n", 1, "system_prompt: {tonne} is"),
        ("user_template: 'Solve \\frac{a}{b} for {txt}'\n", 1, "{txt} is sent as text"),
    ],
)
def test_a_placeholder_that_no_input_fills_is_told(
    files: Files, prompt: str, line: int, message: str
) -> None:
    [warning] = warnings_of_prompt(files, prompt)
    assert f"ask.yaml:{line}: " in warning
    assert message in warning


@pytest.mark.parametrize(
    "prompt",
    [
        "user_template: 'As JSON: {\"a\": 1} or {1, 2} or {your answer}, {text}'\n",
        "user_template: '\\frac{a}{b} x^{n} {text}'\n",
        "user_template: '{% raw %}{label}{% endraw %} {text}'\n",
        "user_template: '{# {label} #}{text}'\n",
        "user_template: '{% for word in text %}{word}{% endfor %}'\n",
        "user_template: '{label}'\ndefaults: {label: x}\n",
        "user_template: '{true} {text}'\n",
    ],
)
def test_braces_that_are_text_are_not_doubted(files: Files, prompt: str) -> None:
    assert warnings_of_prompt(files, prompt) == []


def test_a_gap_in_a_prompt_is_told_for_the_step_that_leaves_it(files: Files) -> None:
    prompt = (
        "user_template: '{document} {{ tone }} {% if more %}{{ more }}{% endif %}"
        " {{ rest|default(1) }} {known}'\ndefaults: {known: 1}\n"
    )
    flows = "flows: [{name: ask, file: ask.yaml}]\n"
    files.pipeline("p", "steps: [{id: s, agent: a, input_mapping: {dokument: x, tone: y}}]\n")
    [warning] = warnings_of_prompt(files, prompt, flows)
    assert (
        "p.yaml:1: steps.0.input_mapping: The prompt of the flow 'ask' has the placeholder"
        " 'document', which this step does not map: it is empty. Did you mean 'dokument'?"
    ) in warning


@pytest.mark.parametrize(
    ("code", "warning"),
    [
        ("import os\nimport not_there.part as x, json\n", "flow.py:2 imports 'not_there', which"),
        ("from not_there.deep import thing\n", "flow.py:1 imports 'not_there', which is not"),
        ("from .gone import thing\n", "flow.py:1 imports '.gone', and there is no such file."),
    ],
)
def test_a_module_that_is_missing_is_told_without_importing_it(
    files: Files, code: str, warning: str
) -> None:
    files.agent("a")
    files.write("agents/a/flow.py", code + "1 / 0\ndef run(inputs): pass\n")
    [found] = files.load().warnings
    assert "agent.yaml:2: flows.0.entrypoint: " in found
    assert warning in found


def test_an_installed_flow_that_is_missing_is_told(files: Files) -> None:
    files.agent("a", "flows: [{name: f, entrypoint: 'not_there.flows:run'}]\n")
    [found] = files.load().warnings
    assert "agent.yaml:1: flows.0.entrypoint: The module 'not_there' is not installed" in found


@pytest.mark.parametrize(
    "code",
    [
        "import os, json\nfrom collections import abc\nimport yaml\n",
        "try:\n    import not_there\nexcept ImportError:\n    not_there = None\n",
        "if False:\n    import not_there\n",
        "def run():\n    import not_there\n",
        "import sys\nsys.path.insert(0, '/opt/x')\nimport not_there\n",
        "from .other import thing\nfrom . import other, more\n",
        "from .folder import thing\n",
        "import __main__\n",
    ],
)
def test_an_import_that_may_work_is_not_doubted(files: Files, code: str) -> None:
    files.agent("a")
    files.write("agents/a/flow.py", code + "def run(inputs): pass\n")
    files.write("agents/a/other.py", "")
    files.write("agents/a/folder/__init__.py", "")
    assert files.load().warnings == []


@pytest.mark.parametrize("kind", ["none", "list"])
def test_a_schema_that_no_answer_of_this_kind_matches_is_refused(files: Files, kind: str) -> None:
    prompt = f"user_template: hi\noutput_parser:\n  type: {kind}\n  schema: {{type: object}}\n"
    with pytest.raises(ConfigurationError, match=r"ask.yaml:4: .* never matches. Did you mean 'ty"):
        warnings_of_prompt(files, prompt)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("flows: [{name: f, entrypoint: 'flwo.py:run'}]\n", "flwo.py. Did you mean 'flow.py'?"),
        ("flows: [{name: f, entrypoint: 'flow.py:rnu'}]\n", "'rnu'. Did you mean 'run'?"),
        (
            "default_flow: qiuck\nflows: [{name: quick, entrypoint: 'flow.py:run'}]\n",
            "The flows are: quick. Did you mean 'quick'?",
        ),
    ],
)
def test_a_name_that_is_nearly_right_is_told_with_the_right_one(
    files: Files, agent: str, message: str
) -> None:
    files.agent("a", agent)
    with pytest.raises(ConfigurationError) as refused:
        files.load()
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("- {id: s, agent: summarizr}", "no agent 'summarizr'. Did you mean 'summarizer'?"),
        ("- {id: s, agent: summarizer, flow: defualt}", "Did you mean 'default'?"),
        (
            "- {id: first, agent: summarizer}\n- {id: b, agent: summarizer, depends_on: [frist]}",
            "There is no step 'frist'. Did you mean 'first'?",
        ),
        ("- {id: first, agent: summarizer}\noutputs: [{key: frist}]", "Did you mean 'first'?"),
        (
            "- {id: first, agent: summarizer}\n- {id: b, agent: summarizer, when: frist}\n"
            "inputs: []",
            "Did you mean 'first'?",
        ),
        (
            "- {id: first, agent: summarizer}\nvariants: {v: {overrides: {frist: {model: m}}}}",
            "There is no step 'frist'. Did you mean 'first'?",
        ),
    ],
)
def test_a_name_in_a_pipeline_that_is_nearly_right_is_told_with_the_right_one(
    files: Files, steps: str, message: str
) -> None:
    files.agent("summarizer")
    files.pipeline("p", f"steps:\n{steps}\n")
    with pytest.raises(ConfigurationError) as refused:
        files.load()
    assert message in str(refused.value)


def test_the_included_files_give_no_reason_for_doubt() -> None:
    catalog = load([ROOT / "agents", ROOT / "tests" / "agents"], [ROOT / "pipelines"])
    assert catalog.warnings == []


def test_a_file_of_prompt_lab_is_doubted_only_where_its_prompts_have_gaps() -> None:
    lab = Path(ROOT / "tests" / "prompt_lab")
    warnings = load([lab / "agents"], [lab / "pipelines"]).warnings
    assert [warning.partition("placeholder ")[2][:9] for warning in warnings] == [
        "'count', ",
        "'missing'",
    ]
