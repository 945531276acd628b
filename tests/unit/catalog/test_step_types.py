"""What the inputs of steps are mapped to: keys, parts, constants; and types that do not fit."""

from __future__ import annotations

import pytest

from app.catalog.__main__ import overview
from app.catalog.model import Source
from app.domain.errors import ConfigurationError
from tests.unit.catalog.conftest import Files

TYPED = """
inputs:
- {name: n, type: number}
- {name: i, type: integer}
- {name: s, type: string}
- {name: l, type: array}
- {name: o, type: object}
- {name: must, required: true, default: x}
"""

PROMPTS = """
flows:
- {name: text, file: text.yaml}
- {name: object, file: object.yaml}
- {name: list, file: list.yaml}
- {name: number, file: number.yaml}
- {name: either, file: either.yaml}
"""

SCHEMA = (
    "{type: object, additionalProperties: false, properties: {title: {type: string},"
    " pages: {type: array, items: {type: object, properties: {number: {type: integer}}}}}}"
)


@pytest.fixture
def agents(files: Files) -> Files:
    """`typed` takes an input of each type, `needs` requires `s`, `free` takes anything, and
    `writer` has a prompt for each kind of answer.
    """
    files.agent("typed", TYPED)
    files.agent("needs", "inputs: [{name: s, type: string, required: true}]\n")
    files.agent("free")
    files.agent("writer", PROMPTS)
    files.write("agents/writer/prompts/text.yaml", "user_template: hi\n")
    parser = "user_template: hi\noutput_parser: {type: json, schema: {%s}}\n"
    files.write("agents/writer/prompts/number.yaml", parser % "type: number")
    either = "type: object, properties: {a: {}}, anyOf: [{properties: {b: {}}}]"
    files.write("agents/writer/prompts/either.yaml", parser % either)
    for kind, schema in (("json", SCHEMA), ("list", "{type: array, items: {type: integer}}")):
        name = "object" if kind == "json" else "list"
        files.write(
            f"agents/writer/prompts/{name}.yaml",
            f"user_template: hi\noutput_parser: {{type: {kind}, schema: {schema}}}\n",
        )
    return files


INPUTS = """
inputs:
- {name: text, type: string, required: true}
- {name: count, type: integer, required: true}
- {name: size, type: number, required: true}
- {name: rows, type: array, required: true}
- {name: more, type: array, required: true}
- {name: any, required: true}
- {name: extra, type: string}
"""


def problem(agents: Files, steps: str, inputs: str = INPUTS) -> str:
    agents.pipeline("p", f"{inputs}steps:\n{steps}\n")
    with pytest.raises(ConfigurationError) as refused:
        agents.load()
    return str(refused.value)


def warnings(agents: Files, steps: str, inputs: str = INPUTS) -> tuple[str, ...]:
    agents.pipeline("p", f"{inputs}steps:\n{steps}\n")
    return agents.load().pipelines["p"].warnings


def mapped(name: str, source: str, more: str = "") -> str:
    return f"- {{id: a, agent: typed, input_mapping: {{{name}: {source}}}{more}}}"


BATCH = ", batch_mode: true"
WRITE = "- {id: w, agent: writer, flow: %s}\n"

WRONG = {
    "a string for a number": (mapped("n", "text"), "of the type number, but text is of the type s"),
    "a list for a string": (mapped("s", "rows"), "of the type string, but rows is of the type arr"),
    "a constant of another type": (mapped("n", "{value: five}"), 'number, but "five" is of the ty'),
    "a constant with a fraction": (mapped("i", "{value: 5.5}"), "but 5.5 is of the type number"),
    "a model's text for a number": (WRITE % "text" + mapped("n", "w"), "but w is of the type str"),
    "a model's object for a list": (WRITE % "object" + mapped("l", "w"), "but w is of the type ob"),
    "a part of another type": (
        WRITE % "object" + mapped("n", "{from: w.title}"),
        "steps.1.input_mapping.n: The input 'n' of the agent 'typed' is of the type number, but "
        "w.title is of the type string.",
    ),
    "a part of an item of another type": (
        WRITE % "object" + mapped("s", "{from: 'w.pages[0].number'}"),
        "but w.pages[0].number is of the type integer",
    ),
    "a part that does not exist": (
        WRITE % "object" + mapped("s", "{from: w.titel}"),
        "steps.1.input_mapping.s: 'w' has no 'titel'. Did you mean 'title'?",
    ),
    "a part of a text": (mapped("s", "{from: text.title}"), "'text' is of the type string, not an"),
    "an item of an object": (
        WRITE % "object" + mapped("s", "{from: 'w[0]'}"),
        "'w' is of the type object, not a list.",
    ),
    "a name in a list": (mapped("s", "{from: rows.title}"), "'rows' is of the type array, not an"),
    "a path that is none": (mapped("s", "{from: 'any..x'}"), "'any..x' is not a path."),
    "a path of an unknown key": (
        mapped("s", "{from: ani.title}"),
        "'ani' is neither an input of the pipeline nor the output_key of a step. Did you mean 'any",
    ),
    "a path without from": (mapped("s", "any.title"), "write {from: any.title}."),
    "a constant without value": (mapped("s", "formal"), "write {value: formal}."),
    "two sources at once": (mapped("s", "{from: any, value: 1}"), "Give either 'from'"),
    "a source that is misspelled": (mapped("s", "{form: any}"), "Did you mean 'from'?"),
    "a list as a source": (mapped("s", "[any]"), "Must be a key, {from: key.part} or {value:"),
    "a batch over no list": (
        mapped("s", "text", BATCH),
        "steps.0.batch_mode: batch_mode runs over a list, but 's' is of the type string.",
    ),
    "a batch over two lists": (
        "- {id: a, agent: free, input_mapping: {x: rows, y: more}, batch_mode: true}",
        "'x' and 'y' are lists. Name the one to run over: batch_over: x.",
    ),
    "a batch over a list that is a constant, and another": (
        "- {id: a, agent: free, input_mapping: {x: rows, y: {value: [1]}}, batch_mode: true}",
        "'x' and 'y' are lists.",
    ),
    "batch_over of an input that is not mapped": (
        mapped("s", "rows", BATCH + ", batch_over: rows"),
        "steps.0.batch_over: Must be one of the inputs that this step maps; 'rows' is not."
        " Did you mean 's'?",
    ),
    "batch_over of no list": (
        "- {id: a, agent: free, input_mapping: {x: rows, y: text}, batch_mode: true, batch_over: y}",
        "batch_over: batch_mode runs over a list, but 'y' is of the type string.",
    ),
    "batch_over without a batch": (mapped("s", "rows", ", batch_over: s"), "Only a step with 'bat"),
    "items of another type": (
        WRITE % "list" + mapped("s", "w", BATCH),
        "of the type string, but w is of the type integer",
    ),
    "a second list for a text": (
        "- {id: a, agent: typed, input_mapping: {l: rows, s: more}, batch_mode: true,"
        " batch_over: l}",
        "The input 's' of the agent 'typed' is of the type string, but more is",
    ),
    "the list of a batch for a text": (
        mapped("s", "rows", BATCH) + "\n- {id: b, agent: typed, input_mapping: {s: a}}",
        "but a is of the type array",
    ),
    "an aggregator over no list": (
        "- {id: j, type: batch_aggregator, input_mapping: {items: text}}",
        "steps.0.input_mapping.items: A batch_aggregator needs a list; this is of the type string.",
    ),
    "a joined text for a list": (
        "- {id: j, type: batch_aggregator, input_mapping: {items: rows}}\n" + mapped("l", "j"),
        "but j is of the type string",
    ),
    "figures of another field": (
        "- {id: j, type: batch_aggregator, aggregation_strategy: stats, fields: [score],"
        " input_mapping: {items: rows}}\n" + mapped("n", "{from: j.scroe.mean}"),
        "'j' has no 'scroe'. Did you mean 'score'?",
    ),
    "a flow of a variant": (
        "- {id: w, agent: writer, flow: text}\n"
        + mapped("s", "w")
        + "\nvariants: {v: {overrides: {w: {flow: list}}}}",
        "but w is of the type array. This is so in the variant 'v'.",
    ),
    "what is only doubted without the variant": (
        "- {id: w, agent: writer, flow: number}\n"
        + mapped("i", "w")
        + "\nvariants: {v: {overrides: {w: {flow: list}}}}",
        "but w is of the type array. This is so in the variant 'v'.",
    ),
    "a null for a required input": (
        "- {id: a, agent: needs, input_mapping: {s: {value: null}}}",
        "'s' of the agent 'needs' is required, so it cannot be null.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_fits_in_no_run_is_refused_at_load(agents: Files, name: str) -> None:
    steps, message = WRONG[name]
    assert message in problem(agents, steps)


DOUBTFUL = {
    "a number for an integer": (mapped("i", "size"), "A number with a fraction fails this step."),
    "an optional input for a required one": (
        "- {id: a, agent: needs, input_mapping: {s: extra}}",
        "is required, but 'extra' is an optional input of the pipeline without a default.",
    ),
    "the output of a step that may fail for a required input": (
        "- {id: w, agent: writer, flow: text, required: false}\n"
        "- {id: a, agent: needs, input_mapping: {s: w}}",
        "is required, but 'w' is the output of a step that is not required.",
    ),
    "the output of a step that may be skipped for a required input": (
        "- {id: w, agent: writer, flow: text, when: any}\n"
        "- {id: a, agent: needs, input_mapping: {s: w}}",
        "is required, but 'w' is the output of a step that may be skipped.",
    ),
    "a part that the schema does not name": (
        WRITE % "object" + mapped("i", "{from: 'w.pages[0].numbr'}"),
        "The schema of 'w.pages[0]' has no 'numbr'. Did you mean 'number'?",
    ),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_fits_in_some_runs_only_is_a_warning(agents: Files, name: str) -> None:
    steps, message = DOUBTFUL[name]
    [warning] = warnings(agents, steps)
    assert "p.yaml:" in warning
    assert message in warning


def test_a_key_like_an_output_is_a_warning_if_the_pipeline_takes_any_input(agents: Files) -> None:
    steps = "- {id: summary, agent: free}\n- {id: b, agent: free, input_mapping: {x: sumary}}"
    [warning] = warnings(agents, steps, "")
    assert "'sumary' counts as an input, since this pipeline declares none. Did you" in warning


RIGHT = (
    mapped("n", "count"),
    mapped("s", "any"),
    mapped("n", "{from: any.price}"),
    mapped("s", "{from: 'rows[0].title'}"),
    mapped("s", "rows", BATCH),
    mapped("s", "any", BATCH),
    mapped("o", "{value: {a: 1}}"),
    mapped("s", "{value: null}"),
    "- {id: a, agent: free, input_mapping: {x: rows, y: any}, batch_mode: true}",
    "- {id: a, agent: typed, input_mapping: {l: rows, s: more}, batch_mode: true, batch_over: s}",
    mapped("n", "{value: [1, 2]}", BATCH),
    "- {id: a, agent: needs, input_mapping: {s: extra}, when: extra}",
    WRITE % "object" + mapped("i", "{from: 'w.pages[-1].number'}"),
    WRITE % "list" + mapped("n", "w", BATCH),
    WRITE % "either" + mapped("n", "{from: w.b}"),
    "- {id: j, type: batch_aggregator, aggregation_strategy: stats, fields: [score],"
    " input_mapping: {items: rows}}\n" + mapped("n", "{from: j.score.mean}"),
)


@pytest.mark.parametrize("steps", RIGHT)
def test_what_may_fit_is_neither_refused_nor_doubted(agents: Files, steps: str) -> None:
    assert warnings(agents, steps) == ()


def test_a_path_begins_with_the_longest_key_that_it_can(agents: Files) -> None:
    agents.pipeline(
        "p",
        "inputs: [{name: a}, {name: a.b}]\nsteps:\n- {id: x, agent: free, input_mapping: {"
        "one: {from: a.b.c}, two: {from: 'a[0].b'}, three: {from: a.c.0}, four: {from: a.b}}}\n",
    )
    [step] = agents.load().pipelines["p"].steps
    assert step.input_mapping == {
        "one": Source("a.b", ("c",)),
        "two": Source("a", (0, "b")),
        "three": Source("a", ("c", "0")),
        "four": Source("a.b"),
    }


def test_a_step_waits_for_the_one_of_which_it_reads_a_part(agents: Files) -> None:
    agents.pipeline(
        "p",
        "inputs: []\nsteps:\n- {id: b, agent: free, input_mapping: {x: {from: a.part},"
        " tone: {value: formal}}}\n- {id: a, agent: free}\n",
    )
    catalog = agents.load()
    assert catalog.pipelines["p"].steps[0].depends_on == {"a"}
    assert [output.key for output in catalog.pipelines["p"].outputs] == ["b"]
    assert '  2. a.part, tone="formal" -> b (free) -> b, after a' in list(overview(catalog))


def test_a_constant_keeps_its_spelling_or_is_refused(agents: Files) -> None:
    message = problem(agents, mapped("s", "{value: no}"))
    assert "YAML reads no as false" in message


@pytest.mark.parametrize(
    "other",
    [
        "{value: formal}",
        "{value: 1}",
        '{value: "1"}',
        "{from: any.tone}",
        "{from: any}, batch_mode: true",
        "text",
    ],
)
def test_a_constant_or_path_counts_for_the_definition(agents: Files, other: str) -> None:
    def definition(source: str) -> str:
        step = f"- id: a\n  agent: free\n  input_mapping:\n    x: {source}"
        step = step.replace(", batch_mode", "\n  batch_mode")
        agents.pipeline("p", f"{INPUTS}steps:\n{step}\n")
        return agents.load().pipelines["p"].definition_hash

    assert definition(other) != definition("any")
    assert definition("{from: any}") == definition("any")
