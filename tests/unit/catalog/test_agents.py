"""Agents: what their files mean, and the errors for wrong ones."""

# ruff: noqa: RUF001 - Chinese punctuation is meant

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from app.catalog.model import MISSING, InputField, OutputParser, PromptFlow, PythonFlow
from app.domain.errors import ConfigurationError
from tests.unit.catalog.conftest import Files

PROMPT_LAB_AGENT = """
id: "tea_notes"
name: "品茶记录员"
type: "task"
description: |
  把品茶笔记写成短评：
  - 称呼客人为 {guest}
business_goal: |
  让店员一眼看懂客人的口味
expectations:
  must_have:
    - 不超过三句
default_testset: "tea.jsonl"
extra_testsets: []
category: production
deprecated: false
created_at: 2024-12-01

flows:
  - name: "tea_v1"
    file: "tea_v1.yaml"
    notes: "初稿"
  - name: "tea_v2"
    file: "tea_v2.yaml"

evaluation:
  judge_agent_id: "some_judge"
  scale: {min: 1, max: 5}
  case_fields:
    - {key: "notes", label: "笔记", required: true}
    - {key: "*", as_json: true}
"""

PROMPT_LAB_PROMPT = """
name: "短评_第一版"
description: "笔记 → 短评，不超过三句。"
system_prompt: |
  你写茶评，语气温和。客人叫{guest}。
  {{{{ "stars": 5 }}}}
user_template: |
  {% if notes %}{{ notes }}{% endif %}
  请写短评。
defaults:
  guest: "{guest}"
  season: ""
  cups: 3
output_parser:
  type: "json"
  schema: {type: object, required: [stars]}
  retry_on_error: true
  max_retries: 3
"""


def prompt_agent(files: Files, prompt: str | bytes) -> None:
    files.write("agents/a/agent.yaml", "flows:\n- name: x\n  file: x.yaml\n")
    files.write("agents/a/prompts/x.yaml", prompt)


def test_files_written_for_prompt_lab_load_as_they_are(files: Files) -> None:
    files.write("agents/tea_notes/agent.yaml", PROMPT_LAB_AGENT)
    for name in ("tea_v1", "tea_v2"):
        files.write(f"agents/tea_notes/prompts/{name}.yaml", PROMPT_LAB_PROMPT)
    files.write("agents/_template/agent.yaml", "id: something_else\nflows: []\n")
    agent = files.load().agents["tea_notes"]
    flow = agent.flow()
    assert isinstance(flow, PromptFlow)
    assert (agent.name, agent.inputs, flow.name) == ("品茶记录员", None, "tea_v1")
    assert flow.defaults == {"guest": "{guest}", "season": "", "cups": 3}
    assert flow.system_prompt.startswith("你写茶评，语气温和。")
    assert flow.output_parser == OutputParser(
        "json", {"type": "object", "required": ["stars"]}, True, 3
    )


def test_a_byte_order_mark_does_no_harm(files: Files) -> None:
    prompt_agent(files, b"\xef\xbb\xbfuser_template: hi\n")
    flow = files.load().agents["a"].flow()
    assert isinstance(flow, PromptFlow)
    assert flow.user_template == "hi"


def test_keys_without_a_value_count_as_left_out(files: Files) -> None:
    prompt_agent(files, "user_template: hi\nsystem_prompt:\ndefaults:\nmodel:\noutput_parser:\n")
    assert files.load().agents["a"].flow() == PromptFlow("x", "hi", file="prompts/x.yaml")


@pytest.mark.parametrize(
    ("more", "names", "default"),
    [
        ("", ["one", "two"], "one"),
        ("", ["one", "default"], "default"),
        ("default_flow: two\n", ["one", "two"], "two"),
        ("default_flow: two\n", ["default", "two"], "two"),
    ],
)
def test_the_default_flow_is_the_one_named_so_or_else_the_first(
    files: Files, more: str, names: list[str], default: str
) -> None:
    files.agent(
        "a",
        "flows:\n"
        + "".join(f"- {{name: {name}, entrypoint: flow.py:run}}\n" for name in names)
        + more,
    )
    assert files.load().agents["a"].default_flow == default


def test_a_python_flow_knows_its_folder_and_runs_in_a_process_unless_told_otherwise(
    files: Files,
) -> None:
    files.agent(
        "a",
        "flows:\n- {name: f, entrypoint: flow.py:run}\n"
        "- {name: m, entrypoint: some.module:graph}\n",
    )
    flows = files.load().agents["a"].flows
    assert flows["f"] == PythonFlow("f", "flow.py:run", (files.agents / "a").resolve(), "process")
    assert flows["m"] == PythonFlow(
        "m", "some.module:graph", (files.agents / "a").resolve(), "process"
    )


def test_the_code_of_an_agent_is_not_run_when_it_is_loaded(files: Files) -> None:
    files.agent("a")
    files.write("agents/a/flow.py", "raise SystemExit('imported')\ndef run(inputs): ...\n")
    assert "a" in files.load().agents


def test_inputs_keep_their_types_and_defaults(files: Files) -> None:
    files.agent(
        "a",
        "inputs:\n- {name: t, desc: A text, type: string, required: true}\n"
        "- {name: n, default: null}\n",
    )
    assert files.load().agents["a"].inputs == (
        InputField("t", "string", True, MISSING, "A text"),
        InputField("n", "any", False, None, ""),
    )


def test_a_catalog_survives_the_way_into_another_process(files: Files) -> None:
    files.agent("a", "inputs:\n- name: t\n")
    catalog = files.load()
    copy = pickle.loads(pickle.dumps(catalog))
    assert copy == catalog
    assert copy.agents["a"].inputs[0].default is MISSING


FLOWS = "flows:\n- {name: default, entrypoint: flow.py:run}\n"

WRONG_AGENTS = {
    "id that is not the folder's": (
        "id: b\n" + FLOWS,
        ":1: id: Must be the same as the folder name, 'a'.",
    ),
    "no flows": ("id: a\n", ":1: flows: Missing data for required field."),
    "an empty list of flows": ("flows: []\n", ":1: flows: At least one flow is required."),
    "an unknown key": ("flowz: []\n" + FLOWS, ":1: flowz: Unknown field. Did you mean 'flows'?"),
    "an unknown key without a value": (
        "descripton:\n" + FLOWS,
        ":1: descripton: Unknown field. Did you mean 'desc",
    ),
    "an unknown key of a flow": (
        "flows:\n- name: x\n  entrypoint: flow.py:run\n  isolaton: thread\n",
        ":4: flows.0.isolaton: Unknown field. Did you mean 'isolation'?",
    ),
    "a key that is repeated": (
        "name: x\n" + FLOWS + "name: y\n",
        ":1: name: Duplicate key: it appears again on line 4.",
    ),
    "no YAML": ("flows: [\n", ":2: This is not valid YAML:"),
    "a tag that makes objects": (
        "name: !!python/object:os.system x\n",
        ":1: This is not valid YAML: could not determine",
    ),
    "two documents": ("a: 1\n---\nb: 2\n", ":2: This is not valid YAML:"),
    "a list": ("- a\n", ":1: The file must be a mapping of keys to values."),
    "nothing": ("", ":1: The file must be a mapping of keys to values."),
    "not UTF-8": ("name: 中".encode("gbk"), ":1: The file is not UTF-8."),
    "nested too deeply": ("a: " + "[" * 100_000, ":1: "),
    "a flow that is both": (
        "flows:\n- {name: x, file: x.yaml, entrypoint: flow.py:run}\n",
        ":2: flows.0: A flow must have either a 'file' (a prompt) or an 'entrypoint' (Python).",
    ),
    "a flow that is neither": (
        "flows:\n- name: x\n",
        ":2: flows.0: A flow must have either a 'file'",
    ),
    "a prompt with an isolation": (
        "flows:\n- {name: x, file: x.yaml, isolation: process}\n",
        ":2: flows.0.isolation: Only a Python flow can have an isolation",
    ),
    "an unknown isolation": (
        "flows:\n- {name: x, entrypoint: flow.py:run, isolation: vm}\n",
        ":2: flows.0.isolation: Must be one of: process, thread, fresh.",
    ),
    "an entrypoint without a name": (
        "flows:\n- {name: x, entrypoint: flow.py}\n",
        ":2: flows.0.entrypoint: Must be 'file.py:name' or 'package.module:name'.",
    ),
    "an entrypoint that is not there": (
        "flows:\n- name: x\n  entrypoint: gone.py:run\n",
        ":3: flows.0.entrypoint: There is no file",
    ),
    "an entrypoint outside": (
        "flows:\n- {name: x, entrypoint: ../b/flow.py:run}\n",
        ":2: flows.0.entrypoint: Must be inside the agent's folder.",
    ),
    "a prompt outside": (
        "flows:\n- {name: x, file: /etc/passwd}\n",
        ":2: flows.0.file: Must be inside the agent's folder.",
    ),
    "a prompt that is not there": (
        "flows:\n- {name: x, file: gone.yaml}\n",
        ":2: flows.0.file: There is no file",
    ),
    "two flows of one name": (
        FLOWS + FLOWS[7:],
        ":2: flows.0.name: Two flows have the same name 'default'.",
    ),
    "a flow's name that is no id": (
        "flows:\n- {name: a b, entrypoint: flow.py:run}\n",
        ":2: flows.0.name: Must be 1 to 128 letters, digits, '_', '-' or '.'.",
    ),
    "an unknown default flow": (
        "default_flow: x\n" + FLOWS,
        ":1: default_flow: There is no flow 'x'. The flows are: default.",
    ),
    "an input without a name": (
        "inputs:\n- {desc: x}\n" + FLOWS,
        ":2: inputs.0.name: Missing data",
    ),
    "an unknown type": (
        "inputs:\n- {name: x, type: text}\n" + FLOWS,
        ":2: inputs.0.type: Must be one of: any, string",
    ),
    "a default of another type": (
        "inputs:\n- {name: x, type: integer, default: 1.0}\n" + FLOWS,
        ":2: inputs.0.default: The default is not of type integer.",
    ),
    "two inputs of one name": (
        "inputs:\n- name: x\n- name: x\n" + FLOWS,
        ":1: inputs: Two inputs have the same name 'x'.",
    ),
    "text for a boolean": (
        "inputs:\n- {name: x, required: 'yes'}\n" + FLOWS,
        ":2: inputs.0.required: Not a valid boolean.",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_AGENTS.values(), ids=WRONG_AGENTS)
def test_a_wrong_agent_is_refused_with_file_line_and_reason(
    files: Files, text: str | bytes, message: str
) -> None:
    files.agent("a")
    path = files.write("agents/a/agent.yaml", text)
    with pytest.raises(ConfigurationError) as raised:
        files.load()
    assert f"{path}{message}" in str(raised.value)


WRONG_PROMPTS = {
    "no template": ("system_prompt: x\n", ":1: user_template: Missing data for required field."),
    "an unknown key": (
        "user_template: x\nsystem_promt: x\n",
        ":2: system_promt: Unknown field. Did you mean 'system_",
    ),
    "too warm": (
        "user_template: x\ntemperature: 3\n",
        ":2: temperature: Must be greater than or equal to 0 and less",
    ),
    "text for a number": (
        "user_template: x\nmax_tokens: '5'\n",
        ":2: max_tokens: Not a valid integer.",
    ),
    "an unknown parser": (
        "user_template: x\noutput_parser: {type: xml}\n",
        ":2: output_parser.type: Must be one of",
    ),
    "defaults as a list": (
        "user_template: x\ndefaults: [a]\n",
        ":2: defaults: Not a valid mapping type.",
    ),
    "no tokens": (
        "user_template: x\nmax_completion_tokens: 0\n",
        ":2: max_completion_tokens: Must be greater",
    ),
    "two limits": (
        "user_template: x\nmax_tokens: 5\nmax_completion_tokens: 5\n",
        ":3: max_completion_tokens: Give max_tokens or max_completion_tokens, not both.",
    ),
    "top_p above 1": (
        "user_template: x\ntop_p: 1.5\n",
        ":2: top_p: Must be greater than or equal to 0 and less",
    ),
    "top_p that is infinite": (
        "user_template: x\ntop_p: .inf\n",
        ":2: top_p: YAML reads this as the number inf, which JSON cannot represent.",
    ),
    "a seed that is no number": ("user_template: x\nseed: now\n", ":2: seed: Not a valid integer."),
    "a seed of more than 64 bits": (
        "user_template: x\nseed: 99999999999999999999\n",
        ":2: seed: Must be greater",
    ),
    "a stop that YAML reads as a number": (
        "user_template: x\nstop: [1]\n",
        ":2: stop: Must be a text or a list",
    ),
    "an empty stop": ("user_template: x\nstop: ''\n", ":2: stop: Must be a text or a list"),
    "no stops": ("user_template: x\nstop: []\n", ":2: stop: Must be a text or a list"),
    "a format as a word": (
        "user_template: x\nresponse_format: json_object\n",
        ":2: response_format: Not a valid mapping type.",
    ),
    "a format without a type": (
        "user_template: x\nresponse_format: {a: 1}\n",
        ":2: response_format: Must have a type",
    ),
    "a format without its schema": (
        "user_template: x\nresponse_format: {type: json_schema}\n",
        ":2: response_format: Must have a json_schema with a name",
    ),
    "a format with a schema that is none": (
        "user_template: x\nresponse_format: {type: json_schema, json_schema: {name: n, schema:"
        " {type: text}}}\n",
        ":2: response_format: json_schema.schema is not a valid JSON Schema",
    ),
    "a format with a schema that is a list": (
        "user_template: x\nresponse_format: {type: json_schema, json_schema: {name: n, schema:"
        " [1]}}\n",
        ":2: response_format: json_schema.schema is not a valid JSON Schema",
    ),
    "a body that is a list": (
        "user_template: x\nextra_body: [1]\n",
        ":2: extra_body: Not a valid mapping type.",
    ),
    "a body with infinity": (
        "user_template: x\nextra_body: {a: [.inf]}\n",
        ":2: extra_body: a[0]: JSON cannot represent inf",
    ),
    "a body that contains itself": (
        "user_template: x\nextra_body: &a {x: *a}\n",
        ":1: extra_body.x: This alias refers to a value that contains it.",
    ),
    "a format that contains itself": (
        "user_template: x\nresponse_format: &a {type: text, x: [*a]}\n",
        ":1: response_format.x.0: This alias refers to a value that contains it.",
    ),
    "a body with messages": (
        "user_template: x\nextra_body: {messages: []}\n",
        ":2: extra_body: The service sets 'messages' itself.",
    ),
    "a body with a stream": (
        "user_template: x\nextra_body: {stream: true}\n",
        ":2: extra_body: The service sets 'stream' itself.",
    ),
    "a stream that is a text": (
        'user_template: x\nstream: "yes"\n',
        ":2: stream: Not a valid boolean.",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_PROMPTS.values(), ids=WRONG_PROMPTS)
def test_a_wrong_prompt_is_refused_with_file_line_and_reason(
    files: Files, text: str, message: str
) -> None:
    prompt_agent(files, text)
    with pytest.raises(ConfigurationError) as raised:
        files.load()
    assert f"{files.agents / 'a/prompts/x.yaml'}{message}" in str(raised.value)


def test_options_of_models_are_kept_as_they_are_in_the_file(files: Files) -> None:
    schema = "{type: object, properties: {a: {type: integer}}}"
    prompt_agent(
        files,
        "user_template: x\ntemperature: 0\nmax_completion_tokens: 100\ntop_p: 1\nstop: END\n"
        "seed: -1\n"
        "reasoning_effort: minimal\nextra_body: {enable_thinking: false, top_k: 5, note: null}\n"
        "max_tokens:\n"
        f"response_format: {{type: json_schema, json_schema: {{name: n, strict: true, schema:"
        f" {schema}}}}}\n",
    )
    flow = files.load().agents["a"].flow()
    assert isinstance(flow, PromptFlow)
    assert flow.options == {
        "temperature": 0,
        "max_completion_tokens": 100,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "n",
                "strict": True,
                "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
            },
        },
        "top_p": 1,
        "stop": "END",
        "seed": -1,
        "reasoning_effort": "minimal",
        "extra_body": {"enable_thinking": False, "top_k": 5, "note": None},
    }
    assert pickle.loads(pickle.dumps(flow)) == flow


@pytest.mark.parametrize(
    ("line", "stream"), [("", None), ("stream: true", True), ("stream: false", False)]
)
def test_a_prompt_says_whether_its_answer_is_shown_as_it_comes(
    files: Files, line: str, stream: bool | None
) -> None:
    prompt_agent(files, f"user_template: x\n{line}\n")
    flow = files.load().agents["a"].flow()
    assert isinstance(flow, PromptFlow)
    assert flow.stream is stream


def test_the_hash_of_an_agent_changes_with_any_file_in_its_folder(files: Files) -> None:
    files.agent("a")
    versions = []
    for name, content in (
        ("other.py", "ANSWER = 1"),
        ("other.py", "ANSWER = 2"),
        ("data/known.toml", "x = 1"),
        ("data/weights", b"0" * 2_000_000),
        ("data/weights", b"0" * 2_000_001),
        ("__pycache__/flow.pyc", "left by Python"),
        (".cache", "left by a tool"),
    ):
        files.write(f"agents/a/{name}", content)
        versions.append(files.load().agents["a"].definition_hash)
    assert len(set(versions)) == 5
    assert len(set(versions[4:])) == 1


def test_a_file_in_an_agents_folder_that_cannot_be_read_is_named(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.agent("a")
    secret = files.write("agents/a/secret.bin", "x")
    read = Path.read_bytes

    def refused(path: Path) -> bytes:  # file permissions would not stop root
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(
        ConfigurationError, match=r"secret\.bin: The file cannot be read: Permission denied\."
    ):
        files.load()


def test_everything_that_is_wrong_is_reported_together(files: Files) -> None:
    files.write(
        "agents/a/agent.yaml",
        "flows:\n- {name: x, file: x.yaml}\n- {name: y, file: y.yaml}\nid: b\n",
    )
    files.write("agents/a/prompts/x.yaml", "usr_template: 1\ntemperature: hot\n")
    files.write("agents/b/agent.yaml", "[]")
    with pytest.raises(ConfigurationError) as raised:
        files.load()
    text = str(raised.value)
    for part in (
        "a/agent.yaml:3:",
        "a/agent.yaml:4:",
        "x.yaml:1: usr_template",
        "x.yaml:2: temperature",
        "b/agent",
    ):
        assert part in text


def test_a_file_that_contains_itself_is_refused_like_any_other(files: Files) -> None:
    files.write("agents/a/agent.yaml", "flows: &f\n- *f\n")
    with pytest.raises(ConfigurationError, match=r"flows\.0"):
        files.load()
