"""The folders of agents and pipelines: what is read, what is skipped, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.catalog import load
from app.domain.errors import ConfigurationError
from tests.unit.catalog.conftest import Files

ONE_STEP = "steps:\n- {id: s, agent: a}\n"


def test_several_folders_make_one_catalog(files: Files, tmp_path: Path) -> None:
    files.agent("a")
    other = Files(tmp_path / "other")
    other.agent("b")
    other.pipeline("p", ONE_STEP)
    catalog = load([files.agents, other.agents], [files.pipelines, other.pipelines])
    assert [target.id for target in catalog] == ["a", "b", "p"]


def test_one_id_in_two_folders_is_refused(files: Files, tmp_path: Path) -> None:
    files.agent("a")
    other = Files(tmp_path / "other")
    other.agent("a")
    with pytest.raises(
        ConfigurationError,
        match=r"other/agents/a/agent.yaml:1: The id 'a' is already used by .*/agents/a/",
    ):
        load([files.agents, other.agents], [files.pipelines])


def test_one_id_in_two_spellings_of_the_suffix_is_refused(files: Files) -> None:
    files.agent("a")
    files.pipeline("p", ONE_STEP)
    files.write("pipelines/p.yml", ONE_STEP)
    with pytest.raises(ConfigurationError, match="The id 'p' is already used by"):
        files.load()


def test_an_agent_and_a_pipeline_never_share_an_id(files: Files) -> None:
    files.agent("a")
    files.pipeline("a", ONE_STEP)
    with pytest.raises(
        ConfigurationError,
        match="An agent and a pipeline cannot have the same id: 'a'",
    ):
        files.load()


@pytest.mark.parametrize("variable", ["AGENTS_PATH", "PIPELINES_PATH"])
def test_a_folder_that_is_not_there_is_named_with_its_variable(files: Files, variable: str) -> None:
    (files.agents if variable == "AGENTS_PATH" else files.pipelines).rmdir()
    with pytest.raises(
        ConfigurationError,
        match=rf"No such file or directory\. Check the folders in {variable}\.",
    ):
        files.load()


def test_a_file_in_place_of_a_folder_is_refused(files: Files) -> None:
    path = files.write("x.yaml", "")
    with pytest.raises(
        ConfigurationError, match=r"Not a directory\. Check the folders in AGENTS_PATH"
    ):
        load([path], [files.pipelines])


def test_a_folder_without_an_agent_is_refused(files: Files) -> None:
    files.write("agents/a/agents.yaml", "")
    with pytest.raises(
        ConfigurationError, match=r"a/agent\.yaml:1: The file cannot be read: No such file"
    ):
        files.load()


def test_an_agent_outside_a_folder_of_its_own_is_refused(files: Files) -> None:
    files.write("agents/judge.yaml", "flows: []\n")
    with pytest.raises(
        ConfigurationError, match=r"judge\.yaml:1: An agent needs a folder of its own"
    ):
        files.load()


@pytest.mark.parametrize(
    "name",
    ["agents/_template/agent.yaml", "agents/.git/x", "pipelines/_draft.yaml", "agents/README.md"],
)
def test_templates_hidden_files_and_notes_are_skipped(files: Files, name: str) -> None:
    files.write(name, "id: something else\n")
    assert list(files.load()) == []


@pytest.mark.parametrize("name", ["a b", "-a", "名字", "a" * 129])
def test_a_name_that_is_no_id_is_refused(files: Files, name: str) -> None:
    files.agent(name)
    with pytest.raises(
        ConfigurationError, match=r"The folder name .* is not a valid id\. Must be 1 to 128 letters"
    ):
        files.load()
