"""Reads all agents and pipelines. A file that is wrong is never skipped: it stops the start, by name and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from app.catalog.agents import read_agent
from app.catalog.model import Agent, Catalog, Pipeline
from app.catalog.pipelines import read_pipeline
from app.errors import ConfigurationError

T = TypeVar("T", Agent, Pipeline)

_YAML = (".yaml", ".yml")


def load(agents_paths: Sequence[Path], pipelines_paths: Sequence[Path]) -> Catalog:
    """Everything that can be run, from `<id>/agent.yaml` in the ones and `<id>.yaml` in the others.

    Names that begin with `_` or `.` are passed over (`_template`). Raises `ConfigurationError` with a line
    for each thing that is wrong; pipelines are looked at once all agents are right.
    """
    agents = _by_id(list(_agent_files(agents_paths)), read_agent)
    pipelines = _by_id(
        list(_pipeline_files(pipelines_paths)), lambda path: read_pipeline(path, agents)
    )
    if shared := sorted(agents.keys() & pipelines.keys()):
        names = ", ".join(map(repr, shared))
        raise ConfigurationError(
            f"An agent and a pipeline must not share an id, as they do here: {names}."
        )
    return Catalog(agents, pipelines)


def _agent_files(folders: Iterable[Path]) -> Iterator[Path]:
    for path in _entries(folders, "AGENTS_PATH"):
        if path.is_dir():
            found = [
                path / f"agent{suffix}" for suffix in _YAML if (path / f"agent{suffix}").exists()
            ]
            yield from found or [path / "agent.yaml"]  # which is then reported as missing
        elif path.suffix in _YAML:
            raise ConfigurationError(
                f"{path}:1: An agent stands in a folder of its own: <id>/agent.yaml."
            )


def _pipeline_files(folders: Iterable[Path]) -> Iterator[Path]:
    return (path for path in _entries(folders, "PIPELINES_PATH") if path.suffix in _YAML)


def _entries(folders: Iterable[Path], variable: str) -> Iterator[Path]:
    """What stands in the folders, by name."""
    for folder in folders:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise ConfigurationError(
                f"{folder}: {error.strerror}. The folder is named by {variable}."
            ) from None
        yield from (path for path in entries if not path.name.startswith(("_", ".")))


def _by_id(files: Iterable[Path], read_one: Callable[[Path], T]) -> dict[str, T]:
    """Reads every file and reports the problems of all of them together."""
    found: dict[str, T] = {}
    origin: dict[str, Path] = {}
    wrong: list[str] = []
    for path in files:
        try:
            target = read_one(path)
        except ConfigurationError as error:
            wrong.append(str(error))
            continue
        if target.id in found:
            wrong.append(f"{path}:1: The id {target.id!r} is taken by {origin[target.id]}.")
        found[target.id], origin[target.id] = target, path
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    return found
