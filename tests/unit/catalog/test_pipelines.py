"""Pipelines: what their files mean, and the errors for wrong ones."""

from __future__ import annotations

import pytest

from app.catalog.model import Output, Source, Step
from app.domain.errors import ConfigurationError
from tests.unit.catalog.conftest import Files

AGENT_INPUTS = """
inputs:
- {name: text, required: true}
- {name: tone, required: true, default: kind}
- name: size
"""


@pytest.fixture
def agents(files: Files) -> Files:
    """`free` declares no inputs; `strict` needs `text`; `slow` wants a process."""
    files.agent("free")
    files.agent("strict", AGENT_INPUTS)
    files.agent(
        "slow",
        "flows:\n- {name: default, entrypoint: flow.py:run}\n- {name: quick, entrypoint: 'm:f'}\n",
    )
    return files


def steps(agents: Files, text: str) -> tuple[Step, ...]:
    agents.pipeline("p", text)
    return agents.load().pipelines["p"].steps


def test_a_step_depends_on_what_it_reads_and_on_what_it_names(agents: Files) -> None:
    built = steps(
        agents,
        """
inputs: [{name: q}]
steps:
- {id: last, agent: free, input_mapping: {x: b_out, y: q}, depends_on: [c]}
- {id: b, agent: free, input_mapping: {x: q}, output_key: b_out}
- {id: c, agent: free}
- {id: d, agent: free, when: "c == 'refund' && b_out[?q > `1`] | [0]"}
""",
    )
    assert {step.id: set(step.depends_on) for step in built} == {
        "last": {"b", "c"},
        "b": set(),
        "c": set(),
        "d": {"b", "c"},
    }


def test_all_keys_of_a_step_are_read(agents: Files) -> None:
    [step] = steps(
        agents,
        """
steps:
- id: s
  type: agent_flow
  agent: slow
  flow: quick
  input_mapping: {x: q}
  output_key: out
  required: false
  timeout: 60
  retries: {max: 2, backoff_seconds: [1, 2.5]}
  when: "q != 'no'"
  model_override: m
  concurrent_group: g
  batch_mode: true
  batch_size: 10
  concurrent: false
  max_workers: 5
  description: d
""",
    )
    assert step == Step(
        id="s",
        output_key="out",
        agent="slow",
        flow="quick",
        input_mapping={"x": Source("q")},
        required=False,
        timeout_seconds=60,
        retries=2,
        backoff_seconds=(1, 2.5),
        when="q != 'no'",
        model_override="m",
        batch_mode=True,
        concurrent=False,
        max_workers=5,
        description="d",
    )


def test_retries_may_be_a_number(agents: Files) -> None:
    [step] = steps(agents, "steps: [{id: s, agent: free, retries: 3}]")
    assert (step.retries, step.backoff_seconds) == (3, ())


@pytest.mark.parametrize(
    ("keys", "aggregation"),
    [
        ("", {"strategy": "concat", "fields": []}),
        (
            "aggregation_strategy: concat, separator: '--'",
            {"strategy": "concat", "fields": [], "separator": "--"},
        ),
        ("aggregation_strategy: stats, fields: [a]", {"strategy": "stats", "fields": ["a"]}),
        (
            "aggregation_strategy: filter, condition: 'item.x > 1'",
            {"strategy": "filter", "fields": [], "condition": "item.x > 1"},
        ),
        (
            "aggregation_strategy: group, group_by: a",
            {"strategy": "group", "fields": [], "group_by": "a"},
        ),
        (
            "aggregation_strategy: summary, summary_fields: [a]",
            {"strategy": "summary", "fields": [], "summary_fields": ["a"]},
        ),
    ],
)
def test_an_aggregator_knows_its_strategy(
    agents: Files, keys: str, aggregation: dict[str, object]
) -> None:
    [step] = steps(
        agents, f"steps: [{{id: s, type: batch_aggregator, input_mapping: {{items: q}}, {keys}}}]"
    )
    assert step.aggregation == aggregation


def test_without_outputs_those_that_no_step_reads_are_returned(agents: Files) -> None:
    agents.pipeline(
        "p", "steps: [{id: a, agent: free}, {id: b, agent: free, input_mapping: {x: a}}]"
    )
    assert agents.load().pipelines["p"].outputs == (Output("b"),)


def test_declared_outputs_are_returned_with_their_labels(agents: Files) -> None:
    agents.pipeline(
        "p",
        "steps: [{id: a, agent: free}, {id: b, agent: free}]\noutputs: [{key: a, label: 结果}]",
    )
    assert agents.load().pipelines["p"].outputs == (Output("a", "结果"),)


@pytest.mark.parametrize(
    ("text", "isolation"),
    [
        ("steps: [{id: a, agent: free}]", "thread"),
        ("steps: [{id: a, agent: free}, {id: b, agent: slow}]", "process"),
        ("steps: [{id: a, type: batch_aggregator, input_mapping: {items: q}}]", "thread"),
    ],
)
def test_a_pipeline_runs_in_threads_where_all_its_flows_do(
    agents: Files, text: str, isolation: str
) -> None:
    agents.pipeline("p", text)
    assert agents.load().pipelines["p"].isolation == isolation


def test_a_flow_that_only_a_variant_runs_counts_for_the_isolation(files: Files) -> None:
    flows = (
        "flows:\n- {name: default, entrypoint: flow.py:run, isolation: thread}\n"
        "- {name: b, entrypoint: flow.py:run}\n"
    )
    files.agent("a", flows)
    files.pipeline(
        "p",
        "steps: [{id: s, agent: a}]\nvariants: {v: {overrides: {s: {flow: b, model: m}}}}\n"
        "baseline: {x: 1}\n",
    )
    pipeline = files.load().pipelines["p"]
    assert pipeline.isolation == "process"
    assert pipeline.variants == {"v": {"s": {"flow": "b", "model": "m"}}}


ADVICE = "Code in YAML files is not supported. Write an agent with a Python flow instead."

WRONG = {
    "a cycle": (
        "steps:\n- {id: a, agent: free, depends_on: [c]}\n- {id: b, agent: free, depends_on: [a]}\n"
        "- {id: c, agent: free, depends_on: [b]}\n",
        ":1: steps: The steps depend on each other in a cycle: ",
    ),
    "a step that waits for itself": (
        "steps:\n- {id: a, agent: free, input_mapping: {x: a}}\n",
        ":2: steps.0: The step 'a' depends on itself.",
    ),
    "an unknown step": (
        "steps:\n- {id: a, agent: free, depends_on: [b]}\n",
        ":2: steps.0.depends_on: There is no step",
    ),
    "an unknown agent": (
        "steps:\n- id: a\n  agent: fre\n",
        ":3: steps.0.agent: There is no agent 'fre'.",
    ),
    "an unknown flow": (
        "steps:\n- {id: a, agent: slow, flow: fast}\n",
        ":2: steps.0.flow: The agent 'slow' has no flow 'fast'. Its flows are: default, quick.",
    ),
    "a key that nobody produces": (
        "inputs: [{name: q}]\nsteps:\n- id: a\n  agent: free\n  input_mapping:\n    x: p\n",
        ":6: steps.0.input_mapping.x: 'p' is neither an input of the pipeline nor the output_key"
        " of a step.",
    ),
    "a key called value that nobody produces": (
        "inputs: [{name: q}]\nsteps:\n- {id: a, agent: free, input_mapping: {value: p}}\n",
        ":3: steps.0.input_mapping.value: 'p' is neither",
    ),
    "a condition on what nobody produces": (
        "inputs: [{name: q}]\nsteps:\n- {id: a, agent: free, when: 'q == \"refund\"'}\n",
        ":3: steps.0.when: 'refund' is neither an input of the pipeline nor the output_key of a"
        " step. Write text in",
    ),
    "a condition that is no expression": (
        "steps:\n- {id: a, agent: free, when: 'x > 1'}\n",
        ":2: steps.0.when: This is not a valid JMESPath expression:",
    ),
    "two steps of one id": (
        "steps:\n- {id: a, agent: free}\n- {id: a, agent: free, output_key: b}\n",
        ":3: steps.1.id: Two steps have the same id 'a'.",
    ),
    "two steps of one output key": (
        "steps:\n- {id: a, agent: free}\n- {id: b, agent: free, output_key: a}\n",
        ":3: steps.1.output_key: Two steps have the same output_key 'a'.",
    ),
    "an output key that is an input": (
        "inputs: [{name: a}]\nsteps:\n- {id: a, agent: free}\n",
        ":3: steps.0.output_key: 'a' is already the name of an input.",
    ),
    "an input that the agent does not have": (
        "steps:\n- id: a\n  agent: strict\n  input_mapping:\n    text: q\n    txt: q\n",
        ":6: steps.0.input_mapping.txt: The agent 'strict' has no input 'txt'. Its inputs are:"
        " size, text, tone.",
    ),
    "a required input that is left out": (
        "steps:\n- {id: a, agent: strict}\n",
        ":2: steps.0.input_mapping: The agent 'strict' requires the input 'text'",
    ),
    "an output called metadata": (
        "steps:\n- {id: a, agent: free, output_key: metadata}\noutputs:\n- key: metadata\n",
        ":4: outputs.0.key: An output cannot be called 'metadata'",
    ),
    "an undeclared output called metadata": (
        "steps:\n- {id: metadata, agent: free}\n",
        ":1: steps: An output cannot be called 'metadata'",
    ),
    "an output that no step has": (
        "steps: [{id: a, agent: free}]\noutputs:\n- key: b\n",
        ":3: outputs.0.key: No step has",
    ),
    "an output without a key": (
        "steps: [{id: a, agent: free}]\noutputs:\n- label: b\n",
        ":3: outputs.0.key: Missing data",
    ),
    "a code node": (
        "steps:\n- id: a\n  type: code_node\n  language: python\n  code: |\n"
        "    def execute(): ...\n",
        f":3: steps.0.type: {ADVICE}",
    ),
    "custom code in an aggregator": (
        "steps:\n- id: a\n  type: batch_aggregator\n  aggregation_strategy: custom\n  code: x\n",
        f":4: steps.0.aggregation_strategy: {ADVICE}",
    ),
    "an unknown type": (
        "steps:\n- {id: a, type: agent, agent: free}\n",
        ":2: steps.0.type: Must be one of: agent_flow, batch_aggregator.",
    ),
    "a step without an agent": (
        "steps:\n- id: a\n",
        ":2: steps.0.agent: This step needs an agent.",
    ),
    "an unknown strategy": (
        "steps:\n- {id: a, type: batch_aggregator, aggregation_strategy: sum, input_mapping:"
        " {items: q}}\n",
        ":2: steps.0.aggregation_strategy: Must be one of: concat, stats, filter, group, summary.",
    ),
    "a strategy without its key": (
        "steps:\n- {id: a, type: batch_aggregator, aggregation_strategy: stats, input_mapping:"
        " {items: q}}\n",
        ":2: steps.0.fields: The strategy 'stats' requires this key.",
    ),
    "fields that are no list": (
        "steps:\n- {id: a, type: batch_aggregator, fields: b, input_mapping: {items: q}}\n",
        ":2: steps.0.fields: Not a valid list.",
    ),
    "an aggregator without items": (
        "steps:\n- {id: a, type: batch_aggregator, input_mapping: {list: q}}\n",
        ":2: steps.0.input_mapping: A batch_aggregator needs a list that is mapped to 'items'.",
    ),
    "a batch of nothing": (
        "steps:\n- {id: a, agent: free, batch_mode: true}\n",
        ":2: steps.0.input_mapping: A step with batch_mode needs an input",
    ),
    "a variant of an unknown step": (
        "steps: [{id: a, agent: free}]\nvariants:\n  v:\n    overrides:\n      b: {model: m}\n",
        ":5: variants.v.overrides.b: There is no step 'b'.",
    ),
    "a variant with an unknown flow": (
        "steps: [{id: a, agent: free}]\nvariants:\n  v:\n    overrides:\n      a:\n"
        "        flow: x\n",
        ":6: variants.v.overrides.a.flow: The agent 'free' has no flow 'x'. Its flows are:"
        " default.",
    ),
    "a variant of a step without an agent": (
        "steps:\n- {id: a, type: batch_aggregator, input_mapping: {items: q}}\n"
        "variants: {v: {overrides: {a: {flow: x}}}}\n",
        ":3: variants.v.overrides.a: The step 'a' runs no agent",
    ),
    "an unknown key": (
        "steps:\n- {id: a, agnet: free}\n",
        ":2: steps.0.agnet: Unknown field. Did you mean 'agent'?",
    ),
    "no steps": ("steps: []\n", ":1: steps: A pipeline must have 1 to 1000 steps."),
    "a timeout of nothing": (
        "steps:\n- {id: a, agent: free, timeout: 0}\n",
        ":2: steps.0.timeout: Must be greater than 0",
    ),
    "too many retries": (
        "steps:\n- {id: a, agent: free, retries: 11}\n",
        ":2: steps.0.retries.max: Must be greater than",
    ),
    "another file's id": (
        "id: q\nsteps: [{id: a, agent: free}]\n",
        ":1: id: Must be the same as the file name, 'p'.",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_pipeline_is_refused_with_file_line_and_reason(
    agents: Files, text: str, message: str
) -> None:
    path = agents.pipeline("p", text)
    with pytest.raises(ConfigurationError) as raised:
        agents.load()
    assert f"{path}{message}" in str(raised.value)


def test_a_cycle_is_named_step_by_step(agents: Files) -> None:
    agents.pipeline(
        "p", "steps: [{id: a, agent: free, depends_on: [b]}, {id: b, agent: free, depends_on: [a]}]"
    )
    with pytest.raises(ConfigurationError, match=r"a -> b -> a|b -> a -> b"):
        agents.load()


def test_more_than_a_thousand_steps_are_refused(agents: Files) -> None:
    agents.pipeline(
        "p", "steps:\n" + "".join(f"- {{id: s{n}, agent: free}}\n" for n in range(1001))
    )
    with pytest.raises(ConfigurationError, match="A pipeline must have 1 to 1000 steps"):
        agents.load()


def test_an_intermediate_key_may_be_called_metadata(agents: Files) -> None:
    built = steps(
        agents,
        "steps: [{id: metadata, agent: free}, {id: b, agent: free, input_mapping: {x: metadata}}]",
    )
    assert [step.output_key for step in built] == ["metadata", "b"]


def test_texts_for_people_do_not_change_the_hash_of_a_pipeline(agents: Files) -> None:
    plain = (
        "inputs: [{name: x}]\n"
        "steps: [{id: a, agent: free, input_mapping: {text: x}}]\n"
        "outputs: [{key: a}]\n"
    )
    worded = (
        "name: A name\ninputs: [{name: x, desc: What it is}]\n"
        "steps: [{id: a, agent: free, input_mapping: {text: x}, description: Says it}]\n"
        "outputs: [{key: a, label: It}]\n"
    )
    versions = []
    for text in (plain, worded, plain.replace("id: a,", "id: a, timeout: 5,")):
        agents.pipeline("p", text)
        versions.append(agents.load().pipelines["p"].definition_hash)
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize(
    ("condition", "message"),
    [("x >", "not a valid JMESPath expression"), ("nosuch(x) > `1`", "no function 'nosuch'")],
)
def test_a_condition_of_an_aggregator_is_checked_at_load(
    agents: Files, condition: str, message: str
) -> None:
    agents.pipeline(
        "p",
        "inputs: [{name: x}]\nsteps:\n"
        "- {id: a, type: batch_aggregator, aggregation_strategy: filter,"
        f' condition: "{condition}", input_mapping: {{items: x}}}}\n',
    )
    with pytest.raises(ConfigurationError, match=message):
        agents.load()
