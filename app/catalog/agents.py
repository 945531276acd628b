"""From `agent.yaml` and its prompt files to an `Agent`. No code of an agent's is run or imported here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.catalog import entrypoints
from app.catalog.documents import Document, Place, Problem, read
from app.catalog.model import Agent, Flow, OutputParser, PromptFlow, PythonFlow
from app.catalog.model_options import MODEL_OPTIONS
from app.catalog.prompts.compiler import problems as template_problems
from app.catalog.prompts.scanner import is_formatted
from app.catalog.schemas import AgentSchema, PromptSchema
from app.catalog.targets import described, id_problems, input_fields, version_of_folder
from app.errors import ConfigurationError

Declared = Sequence[Mapping[str, Any]] | None
"""An agent's inputs as its file has them; None where it declares none, and any may be given."""

_AGENT, _PROMPT = AgentSchema(), PromptSchema()


def read_agent(path: Path) -> Agent:
    """The agent of one `agent.yaml`. Raises `ConfigurationError` with a line for each problem."""
    document = read(path)
    data = document.checked(_AGENT)
    names = [flow["name"] for flow in data["flows"]]
    default_flow = data.get("default_flow") or ("default" if "default" in names else names[0])
    problems = [
        *id_problems(data, path.parent.name, "folder"),
        *_flow_problems(document, data, default_flow),
    ]
    wrong = [str(document.refusal(problems))] if problems else []
    flows: dict[str, Flow] = {}
    for flow in data["flows"]:
        try:
            flows[flow["name"]] = _flow(path.parent, flow, data["inputs"])
        except ConfigurationError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    return Agent(
        id=path.parent.name,
        flows=flows,
        default_flow=default_flow,
        inputs=input_fields(data["inputs"]),
        definition=version_of_folder(path.parent),
        **described(data),
    )


def _flow_problems(
    document: Document, data: Mapping[str, Any], default_flow: str
) -> Iterator[Problem]:
    counts = Counter(flow["name"] for flow in data["flows"])
    if default_flow not in counts:
        yield (
            ("default_flow",),
            f"There is no flow {default_flow!r}; there is: {', '.join(sorted(counts))}.",
        )
    for position, flow in enumerate(data["flows"]):
        place: Place = ("flows", position)
        if counts[flow["name"]] > 1:
            yield (*place, "name"), f"Two flows have the name {flow['name']!r}."
        for key, file in _files(document.path.parent, flow):
            if not os.path.exists(file):  # pathlib's raises where a name is too long
                yield (*place, key), f"There is no file {file}."
            elif key == "entrypoint" and (
                reason := entrypoints.problem(file, flow[key].rpartition(":")[2])
            ):
                yield (*place, key), reason


def _files(folder: Path, flow: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The file that a flow names, if it names one, with the key that names it."""
    if "file" in flow:
        yield "file", folder / "prompts" / flow["file"]
    elif ".py:" in flow["entrypoint"]:
        yield "entrypoint", folder / flow["entrypoint"].rpartition(":")[0]


def _flow(folder: Path, data: Mapping[str, Any], inputs: Declared) -> Flow:
    if "entrypoint" in data:
        asked = data.get("isolation", "process")
        return PythonFlow(
            data["name"],
            data["entrypoint"],
            folder.resolve(),
            isolation="thread" if asked == "thread" else "process",
            fresh=asked == "fresh",
        )
    return _prompt_flow(data["name"], folder / "prompts" / data["file"], inputs)


def _prompt_flow(name: str, path: Path, inputs: Declared) -> PromptFlow:
    document = read(path)
    data = document.checked(_PROMPT)
    names = (
        None
        if inputs is None
        else frozenset([*(field["name"] for field in inputs), *data["defaults"]])
    )
    problems = [*_template_problems(document, data, names), *_schema_problems(document, data)]
    if problems:
        raise document.refusal_at(problems)
    parser = data["output_parser"]
    kept = ("user_template", "system_prompt", "defaults", "model")
    return PromptFlow(
        name=name,
        names=names,
        output_parser=OutputParser(**parser) if parser else OutputParser(),
        options={name: data[name] for name in MODEL_OPTIONS if data[name] is not None},
        **{key: data[key] for key in kept},
    )


def _template_problems(
    document: Document, data: Mapping[str, Any], names: frozenset[str] | None
) -> Iterator[tuple[int, Place, str]]:
    formatted = is_formatted(data["system_prompt"], data["user_template"])
    for key in ("system_prompt", "user_template"):
        for problem in template_problems(data[key], names, formatted):
            yield document.line_in_text((key,), problem.line), (key,), problem.reason


def _schema_problems(
    document: Document, data: Mapping[str, Any]
) -> Iterator[tuple[int, Place, str]]:
    schema = (data["output_parser"] or {}).get("schema")
    if schema is not None:
        from app.catalog import json_schema  # imports much, and few prompts have a schema

        for inner, reason in json_schema.problems(schema):
            place = ("output_parser", "schema", *inner)
            yield document.line_in_text(place, 1), place, reason
