"""Reads all agents and pipelines. A file that is wrong is never skipped: it stops the start, by name and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError

from app.catalog import graph
from app.catalog.documents import Document, Place, read
from app.catalog.model import (
    MISSING,
    Agent,
    Catalog,
    Flow,
    InputField,
    Output,
    OutputParser,
    Pipeline,
    PromptFlow,
    PythonFlow,
    Step,
)
from app.catalog.schemas import AgentSchema, PipelineSchema, PromptSchema
from app.errors import ConfigurationError

_AGENT, _PROMPT, _PIPELINE = AgentSchema(), PromptSchema(), PipelineSchema()

_AS_THEY_ARE = (
    *("id", "output_key", "type", "flow", "input_mapping", "required", "retries", "when", "model_override"),
    *("batch_mode", "concurrent", "max_workers"),
)
"""The keys of a step that mean in `Step` what they mean in the file."""

_AGGREGATION = ("separator", "condition", "group_by", "summary_fields")


def load(agents_paths: Sequence[Path], pipelines_paths: Sequence[Path]) -> Catalog:
    """Everything that can be run. Raises `ConfigurationError` with a line for each thing that is wrong."""
    agent_files = [path for folder in _folders(agents_paths, "AGENTS_PATH") for path in folder.glob("*/agent.y*ml")]
    agents = _by_id(agent_files, _agent)
    pipeline_files = [
        path
        for folder in _folders(pipelines_paths, "PIPELINES_PATH")
        for path in folder.iterdir()
        if path.suffix in (".yaml", ".yml")
    ]
    pipelines = _by_id(pipeline_files, lambda path: _pipeline(path, agents))
    for shared in agents.keys() & pipelines.keys():
        raise ConfigurationError(f"{shared!r} is the id of an agent and of a pipeline. Give one of them another id.")
    return Catalog(agents, pipelines)


def _folders(paths: Sequence[Path], variable: str) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            raise ConfigurationError(f"{path}: There is no such folder. It is named in {variable}.")
        yield path


def _by_id(files: Iterable[Path], read_one: Any) -> dict[str, Any]:
    """Reads every file and reports the problems of all of them together."""
    found: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    wrong: list[str] = []
    for path in sorted(files):
        try:
            target = read_one(path)
        except ConfigurationError as error:
            wrong.append(str(error))
            continue
        if target.id in found:
            wrong.append(f"{path}:1: The id {target.id!r} stands in {origin[target.id]} already.")
        found[target.id], origin[target.id] = target, path
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    return found


def _checked(schema: Schema, document: Document) -> dict[str, Any]:
    try:
        return dict(schema.load(document.data))
    except ValidationError as error:
        raise _refusal(document, _flat(error.messages, ())) from None


def _flat(messages: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """marshmallow's nested messages, one by one. `_schema` is about the whole, `value` about a mapping's value."""
    if isinstance(messages, dict):
        for key, value in messages.items():
            yield from _flat(value, place if key in ("_schema", "value", "key") else (*place, key))
    else:
        for message in messages:
            yield place, message


def _refusal(document: Document, wrong: Iterable[tuple[Place, str]]) -> ConfigurationError:
    return ConfigurationError("\n".join(document.problem(place, message) for place, message in wrong))


def _agent(path: Path) -> Agent:
    document = read(path)
    data = _checked(_AGENT, document)
    flows = {flow["name"]: _flow(document, position, flow) for position, flow in enumerate(data["flows"])}
    default_flow = data.get("default_flow") or ("default" if "default" in flows else next(iter(flows)))
    wrong: list[tuple[Place, str]] = []
    if data.get("id", path.parent.name) != path.parent.name:
        wrong.append((("id",), f"Must equal the folder's name, {path.parent.name!r}."))
    if len(flows) < len(data["flows"]):
        wrong.append((("flows",), "Two flows have the same name."))
    if default_flow not in flows:
        wrong.append((("default_flow",), f"There is no flow {default_flow!r}."))
    if wrong:
        raise _refusal(document, wrong)
    return Agent(
        id=path.parent.name,
        flows=flows,
        default_flow=default_flow,
        inputs=_inputs(data["inputs"]),
        **_described(data),
    )


def _flow(document: Document, position: int, data: Mapping[str, Any]) -> Flow:
    folder = document.path.parent
    if "file" in data:
        return _prompt_flow(document, position, data["name"], folder / "prompts" / data["file"])
    file = data["entrypoint"].rpartition(":")[0]
    if file.endswith(".py") and not (folder / file).is_file():
        raise _refusal(document, [(("flows", position, "entrypoint"), f"There is no file {file!r} in {folder}.")])
    return PythonFlow(data["name"], data["entrypoint"], folder.resolve(), data.get("isolation", "process"))


def _prompt_flow(document: Document, position: int, name: str, path: Path) -> PromptFlow:
    if not path.is_file():
        raise _refusal(document, [(("flows", position, "file"), f"There is no file {path}.")])
    data = _checked(_PROMPT, read(path))
    parser = data["output_parser"]
    return PromptFlow(
        name=name,
        user_template=data["user_template"],
        system_prompt=data["system_prompt"] or "",
        defaults=data["defaults"],
        model=data["model"],
        temperature=data["temperature"],
        max_tokens=data["max_tokens"],
        output_parser=OutputParser(**parser) if parser else OutputParser(),
    )


def _pipeline(path: Path, agents: Mapping[str, Agent]) -> Pipeline:
    document = read(path)
    data = _checked(_PIPELINE, document)
    for step in data["steps"]:
        step.setdefault("output_key", step["id"])
    inputs = _inputs(data["inputs"])
    steps, names = data["steps"], [each.name for each in inputs] if inputs is not None else None
    wrong = [
        *graph.problems(steps, names, data["outputs"]),
        *graph.agent_problems(steps, agents),
        *_variant_problems(data, agents),
    ]
    if data.get("id", path.stem) != path.stem:
        wrong.append((("id",), f"Must equal the file's name, {path.stem!r}."))
    if wrong:
        raise _refusal(document, wrong)
    waits_for = graph.dependencies(steps)
    built = tuple(_step(step, waits_for[step["id"]]) for step in steps)
    return Pipeline(
        id=path.stem,
        steps=built,
        outputs=_outputs(data["outputs"], built),
        isolation="thread" if all(flow.isolation == "thread" for flow in _all_flows(data, agents)) else "process",
        inputs=inputs,
        variants={name: variant["overrides"] for name, variant in data["variants"].items()},
        **_described(data),
    )


def _step(data: Mapping[str, Any], depends_on: frozenset[str]) -> Step:
    aggregation = {name: data[name] for name in _AGGREGATION if name in data}
    if data["type"] == "batch_aggregator":
        aggregation["strategy"] = data.get("aggregation_strategy") or "concat"
        aggregation["fields"] = data.get("fields_", [])
    return Step(
        depends_on=depends_on,
        aggregation=aggregation,
        agent=data.get("agent"),
        timeout_seconds=data["timeout"],
        description=data["description"] or "",
        **{name: data[name] for name in _AS_THEY_ARE},
    )


def _outputs(declared: Sequence[Mapping[str, Any]], steps: Sequence[Step]) -> tuple[Output, ...]:
    """The declared ones; else those of the steps that no other step reads."""
    if declared:
        return tuple(Output(each["key"], each["label"] or "") for each in declared)
    read_by_others = {key for step in steps for key in step.input_mapping.values()}
    return tuple(Output(step.output_key) for step in steps if step.output_key not in read_by_others)


def _variant_problems(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[tuple[Place, str]]:
    steps = {step["id"]: step for step in data["steps"]}
    for name, variant in data["variants"].items():
        for step_id, override in variant["overrides"].items():
            place: Place = ("variants", name, "overrides", step_id)
            if step_id not in steps:
                yield place, f"There is no step {step_id!r}."
            elif "flow" in override:
                agent = agents.get(steps[step_id].get("agent", ""))
                if agent and agent.flow(override["flow"]) is None:
                    yield (*place, "flow"), f"The agent {agent.id!r} has no flow {override['flow']!r}."


def _all_flows(data: Mapping[str, Any], agents: Mapping[str, Agent]) -> Iterator[Flow]:
    """Every flow that a run may come to, in any variant."""
    for step in data["steps"]:
        if step["type"] == "agent_flow":
            overrides = [variant["overrides"].get(step["id"], {}) for variant in data["variants"].values()]
            for name in {step["flow"], *(each["flow"] for each in overrides if "flow" in each)}:
                flow = agents[step["agent"]].flow(name)
                assert flow is not None
                yield flow


def _inputs(declared: Sequence[Mapping[str, Any]] | None) -> tuple[InputField, ...] | None:
    if declared is None:
        return None
    return tuple(
        InputField(each["name"], each["type"], each["required"], each.get("default", MISSING), each["desc"] or "")
        for each in declared
    )


def _described(data: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(data[name] or "") for name in ("name", "description", "version")}
