"""Reads one agent: `agent.yaml` and its prompt files become an `Agent`.

`loader` calls `read_agent` for each folder. No code of an agent is run or imported here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.catalog import coroutines, entrypoints
from app.catalog.documents import Document, Place, Problem, read
from app.catalog.model import Agent, Flow, OutputParser, PromptFlow, PythonFlow
from app.catalog.model_options import MODEL_OPTIONS
from app.catalog.prompts.compiler import TemplateProblem
from app.catalog.prompts.compiler import doubts as template_doubts
from app.catalog.prompts.compiler import problems as template_problems
from app.catalog.prompts.scanner import is_formatted
from app.catalog.schemas import AgentSchema, PromptSchema
from app.catalog.shapes import types
from app.catalog.suggestions import did_you_mean
from app.catalog.targets import described, hash_of_folder, id_problems, input_fields
from app.domain.errors import ConfigurationError

DeclaredInputs = Sequence[Mapping[str, Any]] | None
"""The list `inputs` of an agent's file; None if it has none, so that any input is accepted."""

_AGENT = AgentSchema()
_PROMPT = PromptSchema()


def read_agent(path: Path) -> Agent:
    """The agent of one `agent.yaml`. Raises `ConfigurationError` with a line for each problem."""
    document = read(path)
    data = document.validated(_AGENT)
    names = [flow["name"] for flow in data["flows"]]
    default_flow = data.get("default_flow") or ("default" if "default" in names else names[0])
    problems = [
        *id_problems(data, path.parent.name, "folder"),
        *_flow_problems(document, data, default_flow),
    ]
    # The prompt files are read even if agent.yaml is wrong, so that all problems appear at once.
    errors = [str(document.error(problems))] if problems else []
    flows: dict[str, Flow] = {}
    warnings: list[str] = []
    for flow in data["flows"]:
        try:
            flows[flow["name"]] = _flow(path.parent, flow, data["inputs"], warnings)
        except ConfigurationError as error:
            errors.append(str(error))
    if errors:
        raise ConfigurationError("\n".join(errors))
    return Agent(
        id=path.parent.name,
        flows=flows,
        default_flow=default_flow,
        inputs=input_fields(data["inputs"]),
        definition_hash=hash_of_folder(path.parent),
        warnings=(*document.lines(_code_doubts(path.parent, data)), *warnings),
        **described(data),
    )


def _flow_problems(
    document: Document, data: Mapping[str, Any], default_flow: str
) -> Iterator[Problem]:
    counts = Counter(flow["name"] for flow in data["flows"])
    if default_flow not in counts:
        names = ", ".join(sorted(counts))
        near = did_you_mean(default_flow, counts)
        yield ("default_flow",), f"There is no flow {default_flow!r}. The flows are: {names}.{near}"
    for position, flow in enumerate(data["flows"]):
        place: Place = ("flows", position)
        if counts[flow["name"]] > 1:
            yield (*place, "name"), f"Two flows have the same name {flow['name']!r}."
        key, file = _file_of(document.path.parent, flow)
        if file is None:
            continue
        # os.path.exists is false for a name that is too long, where Path.exists raises.
        if not os.path.exists(file):
            yield (*place, key), f"There is no file {file}.{_near_file(file)}"
        elif key == "entrypoint":
            name = flow[key].rpartition(":")[2]
            if reason := entrypoints.problem(file, name):
                yield (*place, key), reason


def _near_file(file: Path) -> str:
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(file.name, names)


def _code_doubts(folder: Path, data: Mapping[str, Any]) -> Iterator[Problem]:
    """What flows import and what is not installed here, once for each file."""
    seen: set[Path] = set()
    for position, flow in enumerate(data["flows"]):
        key, file = _file_of(folder, flow)
        place: Place = ("flows", position, key)
        if key == "entrypoint" and file is None:
            module = flow[key].partition(":")[0].partition(".")[0]
            if not entrypoints.is_installed(module):
                yield place, f"The module {module!r} is not installed here."
        elif key == "entrypoint" and file is not None and file not in seen:
            seen.add(file)
            for reason in entrypoints.missing_modules(file):
                yield place, reason


def _file_of(folder: Path, flow: Mapping[str, Any]) -> tuple[str, Path | None]:
    """The key that says what a flow runs, and the file it names; None if it names a module."""
    if "file" in flow:
        return "file", folder / "prompts" / flow["file"]
    file, _, _ = flow["entrypoint"].rpartition(":")
    return "entrypoint", folder / file if file.endswith(".py") else None


def _flow(
    folder: Path, data: Mapping[str, Any], inputs: DeclaredInputs, warnings: list[str]
) -> Flow:
    if "file" in data:
        return _prompt_flow(data["name"], folder, f"prompts/{data['file']}", inputs, warnings)
    entrypoint = data["entrypoint"]
    isolation = data.get("isolation")
    if isolation is None:
        isolation = "thread" if coroutines.only_waits(entrypoint, folder) else "process"
    return PythonFlow(
        data["name"],
        entrypoint,
        folder.resolve(),  # the process that runs it may have another working directory
        isolation="thread" if isolation == "thread" else "process",
        fresh=isolation == "fresh",
    )


def _prompt_flow(
    name: str, folder: Path, file: str, inputs: DeclaredInputs, warnings: list[str]
) -> PromptFlow:
    document = read(folder / file)
    data = document.validated(_PROMPT)
    names = None
    if inputs is not None:
        names = frozenset([*(field["name"] for field in inputs), *data["defaults"]])
    problems = [*_template_problems(document, data, names), *_schema_problems(document, data)]
    if problems:
        raise document.error_at(problems)
    if names is not None:
        found = _template_problems(document, data, names, template_doubts)
        warnings += document.lines_at(found)
    parser = data["output_parser"]
    return PromptFlow(
        name=name,
        user_template=data["user_template"],
        system_prompt=data["system_prompt"],
        defaults=data["defaults"],
        model=data["model"],
        # An option that is not given must not be sent: servers refuse some nulls.
        options={option: data[option] for option in MODEL_OPTIONS if data[option] is not None},
        output_parser=OutputParser(**parser) if parser else OutputParser(),
        stream=data["stream"],
        names=names,
        file=file,
    )


def _template_problems(
    document: Document,
    data: Mapping[str, Any],
    names: frozenset[str] | None,
    look: Callable[..., Iterator[TemplateProblem]] = template_problems,
) -> Iterator[tuple[int, Place, str]]:
    formatted = is_formatted(data["system_prompt"], data["user_template"])
    for key in ("system_prompt", "user_template"):
        for problem in look(data[key], names, formatted):
            yield document.line_in_text((key,), problem.line), (key,), problem.reason


def _schema_problems(
    document: Document, data: Mapping[str, Any]
) -> Iterator[tuple[int, Place, str]]:
    schema = (data["output_parser"] or {}).get("schema")
    if schema is None:
        return
    from app.catalog import json_schema  # imports much, and few prompts have a schema

    parser = data["output_parser"]["type"]
    place: Place = ("output_parser", "schema")
    known = types(schema) if isinstance(schema.get("type"), (str, list)) else None
    for inner, reason in json_schema.problems(schema):
        yield document.line_in_text((*place, *inner), 1), (*place, *inner), reason
        known = None
    made = {"none": "string", "list": "array"}.get(parser)
    if known and made and made not in known:
        message = f"With the type {parser!r}, the output is of the type {made}, which never matches"
        yield document.line_in_text(place, 1), place, f"{message}. Did you mean 'type: json'?"
