"""From `agent.yaml` and its prompt files to an `Agent`. No code of an agent's is run or imported here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.catalog.documents import Document, Place, Problem, read
from app.catalog.model import Agent, Flow, OutputParser, PromptFlow, PythonFlow
from app.catalog.schemas import AgentSchema, PromptSchema
from app.catalog.targets import described, id_problems, input_fields, version_of_folder
from app.errors import ConfigurationError

_AGENT, _PROMPT = AgentSchema(), PromptSchema()


def read_agent(path: Path) -> Agent:
    """The agent of one `agent.yaml`. Raises `ConfigurationError` with a line for each problem."""
    document = read(path)
    data = document.checked(_AGENT)
    names = [flow["name"] for flow in data["flows"]]
    default_flow = data.get("default_flow") or ("default" if "default" in names else names[0])
    problems = [*id_problems(data, path.parent.name, "folder"), *_flow_problems(document, data, default_flow)]
    wrong = [str(document.refusal(problems))] if problems else []
    flows: dict[str, Flow] = {}
    for flow in data["flows"]:
        try:
            flows[flow["name"]] = _flow(path.parent, flow)
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


def _flow_problems(document: Document, data: Mapping[str, Any], default_flow: str) -> Iterator[Problem]:
    counts = Counter(flow["name"] for flow in data["flows"])
    if default_flow not in counts:
        yield ("default_flow",), f"There is no flow {default_flow!r}; there is: {', '.join(sorted(counts))}."
    for position, flow in enumerate(data["flows"]):
        place: Place = ("flows", position)
        if counts[flow["name"]] > 1:
            yield (*place, "name"), f"Two flows have the name {flow['name']!r}."
        for key, file in _files(document.path.parent, flow):
            if not file.is_file():
                yield (*place, key), f"There is no file {file}."


def _files(folder: Path, flow: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The file that a flow names, if it names one, with the key that names it."""
    if "file" in flow:
        yield "file", folder / "prompts" / flow["file"]
    elif ".py:" in flow["entrypoint"]:
        yield "entrypoint", folder / flow["entrypoint"].rpartition(":")[0]


def _flow(folder: Path, data: Mapping[str, Any]) -> Flow:
    if "entrypoint" in data:
        asked = data.get("isolation", "process")
        return PythonFlow(
            data["name"],
            data["entrypoint"],
            folder.resolve(),
            isolation="thread" if asked == "thread" else "process",
            fresh=asked == "fresh",
        )
    return _prompt_flow(data["name"], folder / "prompts" / data["file"])


def _prompt_flow(name: str, path: Path) -> PromptFlow:
    data = read(path).checked(_PROMPT)
    parser = data["output_parser"]
    kept = ("user_template", "system_prompt", "defaults", "model", "temperature", "max_tokens")
    return PromptFlow(
        name=name,
        output_parser=OutputParser(**parser) if parser else OutputParser(),
        **{key: data[key] for key in kept},
    )
