"""Malicious and malformed files: each is refused with one line (file, line, reason).

The refusal must come soon and take little memory, whatever the file is.
"""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.catalog.model import PromptFlow, Source
from app.domain.errors import ConfigurationError
from tests.unit.catalog.conftest import Files

FLOWS = "flows:\n- {name: default, file: x.yaml}\n"


def refusal(files: Files, agent: str = FLOWS, prompt: str = "user_template: x\n") -> str:
    files.write("agents/a/agent.yaml", agent)
    files.write("agents/a/prompts/x.yaml", prompt)
    return refused(files)


def refused(files: Files) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with pytest.raises(ConfigurationError) as raised:
        files.load()
    assert time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    [line] = str(raised.value).splitlines()
    assert re.match(r"\S+\.yaml:\d+: \S", line), line
    assert len(line) < 1500
    return line.removeprefix(str(files.root))


def doubling(first: str, following: str) -> str:
    return f"a0: &a0 {first}\n" + "".join(following.format(n=n, m=n - 1) for n in range(1, 30))


BOMBS = {
    "a list of aliases": doubling("[x, x]", "a{n}: &a{n} [*a{m}, *a{m}]\n"),
    "a mapping of aliases": doubling("{x: x}", "a{n}: &a{n} {{x: *a{m}, y: *a{m}}}\n"),
    "merged aliases": doubling("{x: x}", "a{n}: &a{n} {{<<: [*a{m}, *a{m}]}}\n"),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_aliases_that_add_up_are_refused(files: Files, bomb: str) -> None:
    assert "Its aliases expand to more than" in refusal(
        files, "notes:\n  " + bomb.replace("\n", "\n  ")
    )


@pytest.mark.parametrize(
    "loop", ["a: &a\n- *a\n", "a: &a {b: *a}\n", "a: &a\n  <<: *a\n", "a: &a {b: [{c: *a}]}\n"]
)
def test_an_anchor_that_contains_itself_is_refused(files: Files, loop: str) -> None:
    assert "This alias refers to a value that contains it." in refusal(files, loop)


@pytest.mark.parametrize(
    "deep", ["[" * 500 + "]" * 500, "{a: " * 500 + "}" * 500, "[" * 500, "[" * 100_000]
)
def test_brackets_500_deep_are_refused(files: Files, deep: str) -> None:
    assert "/agents/a/agent.yaml:2: " in (line := refusal(files, f"name: x\na: {deep}\n"))
    assert "nest" in line


def test_blocks_500_deep_are_refused(files: Files) -> None:
    assert ":65: The file is nested too deeply" in refusal(
        files, "".join(f"{' ' * n}a:\n" for n in range(500))
    )


@pytest.mark.parametrize(
    ("agent", "prompt", "reason"),
    [
        ("# " + "x" * 2_000_000, "", "The file is larger than"),
        ("notes:\n" + "- a\n" * 220_000, "", "values."),
        (FLOWS + "inputs:\n- {name: n, default: " + "9" * 100_000 + "}\n", "", "digits"),
        (
            FLOWS + "inputs:\n- {name: n, default: " + "9" * 4_000 + "}\n",
            "",
            ":4: inputs.0.default: This number is too",
        ),
        (
            FLOWS + "inputs:\n- {name: n, default: 0x" + "F" * 90_000 + "}\n",
            "",
            "This number is too large",
        ),
        (
            FLOWS,
            "user_template: x\nmax_tokens: " + "9" * 400,
            ":2: max_tokens: This number is too large",
        ),
        (
            FLOWS,
            "user_template: x\ntemperature: " + "9" * 400,
            ":2: temperature: This number is too large",
        ),
        (FLOWS, "user_template: x\ntemperature: 1.0e+999", "JSON cannot represent"),
        ("flows:\n- {name: x, file: " + "n" * 5000 + "}\n", "", ":2: flows.0.file: Length must be"),
        (
            "flows:\n- {name: x, file: " + "n" * 300 + "}\n",
            "",
            ":2: flows.0.file: There is no file",
        ),
        (
            "flows:\n- {name: x, entrypoint: " + "n" * 5000 + ".py:x}\n",
            "",
            ":2: flows.0.entrypoint: Length",
        ),
        (
            "flows:\n- {name: x, entrypoint: " + "n" * 300 + ".py:x}\n",
            "",
            ":2: flows.0.entrypoint: There is no file",
        ),
        (
            "flows:\n- {name: " + "n" * 5000 + ", file: x.yaml}\n",
            "",
            ":2: flows.0.name: Must be 1 to 128",
        ),
        (FLOWS + "default_flow: " + "n" * 5000, "", ":3: default_flow: There is no flow 'nnn"),
        (FLOWS + "? " + "n" * 5000 + "\n: 1\n", "", "Unknown field"),
        (FLOWS + '"a\\nb": 1\n', "", ":3: a b: Unknown field"),
        (FLOWS + "name: a\0b\n", "", "This is not valid YAML"),
        (FLOWS + 'name: "\\ud800"\n', "", "This is not valid YAML"),
    ],
)
def test_what_is_too_large_is_refused(files: Files, agent: str, prompt: str, reason: str) -> None:
    if agent.startswith("flows:\n- {name: x, file: n"):
        files.write("agents/a/agent.yaml", agent)
        with pytest.raises(ConfigurationError) as raised:
            files.load()
        assert reason in str(raised.value).splitlines()[0]
    else:
        assert reason in refusal(files, agent, prompt or "user_template: x\n")


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a device without content": lambda path: path.symlink_to("/dev/null"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize(
    "name", ["agents/a/agent.yaml", "agents/a/prompts/x.yaml", "pipelines/p.yaml"]
)
def test_what_is_no_regular_file_is_refused(
    files: Files, make: Callable[[Path], Any], name: str
) -> None:
    files.write("agents/a/agent.yaml", FLOWS)
    files.write("agents/a/prompts/x.yaml", "user_template: x\n")
    path = files.root / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(ConfigurationError) as raised:
        files.load()
    assert str(path) in str(raised.value).splitlines()[0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def run(:\n", "flow.py:1: This is not valid Python"),
        ("def rnu(inputs): ...\n", "does not define 'run'"),
        ("class A:\n    def run(self): ...\n", "does not define 'run'"),
    ],
)
def test_a_file_without_its_entrypoint_is_refused_without_running_it(
    files: Files, code: str, reason: str
) -> None:
    files.agent("a")
    files.write("agents/a/flow.py", code)
    assert reason in refused(files)


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    from x import run\nexcept ImportError:\n    run = None\n",
        "if True:\n    async def run(inputs): ...\n",
        "(_, run) = 1, 2\n",
        "from os import *\n",
        "globals()['run'] = 1\n",
        "import x as run\n",
    ],
)
def test_a_name_may_be_defined_in_any_way(files: Files, code: str) -> None:
    files.agent("a")
    files.write("agents/a/flow.py", code)
    assert "a" in files.load().agents


TEXTS = [
    "no",
    "yes",
    "on",
    "Off",
    "12:30",
    "1:30:15",
    "01234",
    "1_000",
    "0o7",
    "0x1F",
    "1.10",
    "2024-01-05",
    "2024-13-45",
    ".inf",
    ".nan",
    "<<",
    "=",
    "true",
    "5",
    "1e3",
]


@pytest.mark.parametrize("written", TEXTS)
def test_a_text_is_as_it_is_spelled_in_the_file_whatever_yaml_reads(
    files: Files, written: str
) -> None:
    key = "x" if written == "<<" else written  # as a key, `<<` merges
    inputs = f"inputs: [{{name: n, type: string, default: {written}}}]\n"
    files.write(
        "agents/a/agent.yaml",
        FLOWS + inputs + f"version: {written}\nname: &x {written}\ndescription: *x\n",
    )
    files.write(
        "agents/a/prompts/x.yaml",
        f"user_template: {written}\nmodel: {written}\ndefaults: {{{key}: x}}\n",
    )
    agent = files.load().agents["a"]
    flow = agent.flow()
    assert isinstance(flow, PromptFlow)
    assert agent.inputs
    known = [
        agent.version,
        agent.name,
        agent.description,
        agent.inputs[0].default,
        flow.user_template,
        flow.model,
    ]
    assert known == [written] * 6
    assert flow.defaults == {key: "x"}


@pytest.mark.parametrize(
    "written",
    [
        "no",
        "YES",
        "on",
        "12:30",
        "01234",
        "1_000",
        "0b11",
        ".inf",
        "-.inf",
        ".nan",
        "!!binary aGk=",
        "!!set {a}",
    ],
)
def test_an_ambiguous_spelling_is_refused_where_any_value_is_allowed(
    files: Files, written: str
) -> None:
    assert "YAML" in refusal(files, FLOWS + f"inputs: [{{name: n, default: {written}}}]\n")
    assert "YAML" in refusal(files, FLOWS, f"user_template: x\ndefaults: {{n: {written}}}\n")
    schema = f"output_parser: {{type: json, schema: {{enum: [{written}]}}}}\n"
    assert "YAML" in refusal(files, FLOWS, f"user_template: x\n{schema}")


def test_dates_are_texts_and_defaults_are_json(files: Files) -> None:
    files.write("agents/a/agent.yaml", FLOWS + "inputs: [{name: since, default: 2024-01-05}]\n")
    files.write("agents/a/prompts/x.yaml", "user_template: '{since}'\n")
    [field] = files.load().agents["a"].inputs or ()
    assert field.default == "2024-01-05"


@pytest.mark.parametrize("written", ["1:30", "10:30", "0130", "1:30.5"])
@pytest.mark.parametrize("key", ["timeout", "retries", "max_workers"])
def test_a_number_on_base_60_or_8_is_refused_by_name(files: Files, written: str, key: str) -> None:
    files.agent("a")
    files.pipeline("p", f"steps:\n- id: s\n  agent: a\n  {key}: {written}\n")
    with pytest.raises(
        ConfigurationError, match=rf"p\.yaml:4: steps\.0\.{key}: YAML reads {written} as the number"
    ):
        files.load()


def test_the_texts_of_a_pipeline_are_as_they_are_spelled_in_its_file(files: Files) -> None:
    files.agent("a")
    files.pipeline(
        "p",
        "steps:\n- {id: 012, agent: a, input_mapping: {on: no}}\n"
        "- {id: j, type: batch_aggregator, input_mapping: {items: 012}, separator: ~}\n",
    )
    first, second = files.load().pipelines["p"].steps
    assert (first.id, first.input_mapping, second.aggregation["separator"]) == (
        "012",
        {"on": Source("no")},
        "~",
    )


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (
            "{type: object, properties: {a: {type: integer, required: true}}}",
            "properties.a.required: This is not a valid JSON",
        ),
        ("{type: strng}", "This is not a valid JSON Schema"),
        ("{name: string, age: integer}", "it has none of the keywords"),
        ("{$ref: 'http://127.0.0.1:1/schema.json'}", "Nothing is fetched"),
        ("{properties: {a: {$ref: 'file:///etc/passwd'}}}", "Nothing is fetched"),
        ("{$ref: other.json}", "Nothing is fetched"),
        ("{$dynamicRef: 'http://127.0.0.1:1/x'}", "Nothing is fetched"),
        (
            "{definitions: {a: {$ref: 'http://127.0.0.1:1/'}}, $ref: '#/definitions/a'}",
            "Nothing is fetched",
        ),
        ("{$ref: '#/$defs/gone'}", "is not in this schema"),
        ("{$schema: 'http://127.0.0.1:1/dialect'}", "is unknown"),
        ("{pattern: '(?=a)b'}", "cannot be used"),
        ("{pattern: '('}", "cannot be used"),
        ("{patternProperties: {'(a)\\1': {}}}", "cannot be used"),
        ("{items: {$schema: 'http://json-schema.org/draft-07/schema#'}}", "can only be at the top"),
        ("{patternProperties: {a: {}}, unevaluatedProperties: false}", "cannot be used together"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(files: Files, schema: str, reason: str) -> None:
    line = refusal(
        files, FLOWS, f"user_template: x\noutput_parser:\n  type: json\n  schema: {schema}\n"
    )
    assert line.startswith("/agents/a/prompts/x.yaml:4: output_parser.schema")
    assert reason in line


def test_a_template_is_checked_with_its_line_in_the_file(files: Files) -> None:
    inputs = "inputs: [{name: text}]\n"
    prompt = "system_prompt: |\n  Hello\n  {{ txet }}\ndefaults: {tone: x}\n"
    prompt += "user_template: '{text} {tone} {{ tone }} {txet}'\n"
    line = refusal(files, FLOWS + inputs, prompt)
    assert line.startswith(
        "/agents/a/prompts/x.yaml:3: system_prompt: 'txet' is neither an input of the agent"
    )
    assert "Did you mean 'text'?" in line
    assert ":3: user_template:" in refusal(files, FLOWS, "user_template: |\n  a\n  {% if a %}x\n")
    assert ":2: user_template:" in refusal(files, FLOWS, "\nuser_template: '{{ a|uper }}'\n")
