"""Loads the catalog: reads every agent and pipeline file below the configured folders.

Called once at the start of each process. A wrong file is never skipped: the process does not start,
and the error names every problem in every file by file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from app.catalog.agents import read_agent
from app.catalog.model import Agent, Catalog, Pipeline
from app.catalog.pipelines import read_pipeline
from app.domain.errors import ConfigurationError

T = TypeVar("T", Agent, Pipeline)

_YAML = (".yaml", ".yml")


def load(agents_paths: Sequence[Path], pipelines_paths: Sequence[Path]) -> Catalog:
    """Reads `<id>/agent.yaml` in the folders of agents and `<id>.yaml` in those of pipelines.

    Names that begin with `_` or `.` are skipped (`_template`). Raises `ConfigurationError` with one
    line per problem.
    """
    agents = _by_id(list(_agent_files(agents_paths)), read_agent)
    # Pipelines are checked against the agents, so they are read only if all agents are valid:
    # one wrong agent would otherwise cause an error in each pipeline that uses it.
    pipelines = _by_id(
        list(_pipeline_files(pipelines_paths)), lambda path: read_pipeline(path, agents)
    )
    # Clients filter executions by `target_id` alone, so one id must not mean two things.
    if shared := sorted(agents.keys() & pipelines.keys()):
        names = ", ".join(map(repr, shared))
        raise ConfigurationError(f"An agent and a pipeline cannot have the same id: {names}.")
    return Catalog(agents, pipelines)


def _agent_files(folders: Iterable[Path]) -> Iterator[Path]:
    for path in _entries(folders, "AGENTS_PATH"):
        if path.is_dir():
            candidates = [path / f"agent{suffix}" for suffix in _YAML]
            existing = [file for file in candidates if file.exists()]
            # If there is none, reading the first reports it as missing. If there are both, the
            # second is reported as a duplicate id.
            yield from existing or candidates[:1]
        elif path.suffix in _YAML:
            raise ConfigurationError(
                f"{path}:1: An agent needs a folder of its own: move the file to <id>/agent.yaml."
            )


def _pipeline_files(folders: Iterable[Path]) -> Iterator[Path]:
    return (path for path in _entries(folders, "PIPELINES_PATH") if path.suffix in _YAML)


def _entries(folders: Iterable[Path], variable: str) -> Iterator[Path]:
    """The entries of all folders, sorted by name within each. `variable` is the setting's name."""
    for folder in folders:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            message = f"{folder}: {error.strerror}. Check the folders in {variable}."
            raise ConfigurationError(message) from None
        yield from (path for path in entries if not path.name.startswith(("_", ".")))


def _by_id(files: Iterable[Path], read_one: Callable[[Path], T]) -> dict[str, T]:
    """Reads all files, and raises the problems of all of them together."""
    targets: dict[str, T] = {}
    origins: dict[str, Path] = {}
    errors: list[str] = []
    for path in files:
        try:
            target = read_one(path)
        except ConfigurationError as error:
            errors.append(str(error))
            continue
        if target.id in targets:
            origin = origins[target.id]
            errors.append(f"{path}:1: The id {target.id!r} is already used by {origin}.")
        targets[target.id] = target
        origins[target.id] = path
    if errors:
        raise ConfigurationError("\n".join(errors))
    return targets
