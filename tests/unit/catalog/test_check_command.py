"""The command `python -m app.catalog check`: its output, its errors and its exit codes."""

from __future__ import annotations

import pytest

from app.catalog.__main__ import main
from tests.unit.catalog.conftest import Files


@pytest.fixture(autouse=True)
def _paths(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_PATH", str(files.agents))
    monkeypatch.setenv("PIPELINES_PATH", str(files.pipelines))
    files.agent("a")


def test_each_pipeline_is_drawn_level_by_level(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.pipeline(
        "p",
        """
steps:
- {id: split, agent: a, input_mapping: {x: text}, output_key: parts}
- {id: count, agent: a, input_mapping: {x: text}}
- {id: join, type: batch_aggregator, input_mapping: {items: parts}, when: count, output_key: whole}
""",
    )
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines()[:-3] == [
        "agent a: default (thread)",
        "",
        "pipeline p (thread) -> whole",
        "  1. text -> count (a) -> count",
        "  1. text -> split (a) -> parts",
        "  2. parts -> join (concat) -> whole, after count, split, when count",
    ]


def test_it_says_how_many_of_each_kind_run_at_once_here(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKER_THREADS", "70")
    monkeypatch.setenv("WORKER_PROCESSES", "3")
    flow = "entrypoint: 'flow.py:"
    files.agent(
        "kinds",
        f"flows:\n- {{name: plain, {flow}run'}}\n- {{name: waits, {flow}waits'}}\n"
        f"- {{name: new, {flow}run', isolation: fresh}}\n",
    )
    files.write("agents/kinds/flow.py", "def run(i): ...\nasync def waits(i): ...\n")
    assert main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "agent kinds: plain (process), new (fresh process), waits (thread)" in lines
    assert lines[-2:] == [
        "One worker runs at once: 70 of the kind thread (WORKER_THREADS),",
        "and 3 of the kinds process and fresh process (WORKER_PROCESSES).",
    ]


def test_errors_go_to_the_error_stream_with_exit_code_1(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.pipeline("p", "steps: []\n")
    assert main(["check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "p.yaml:1: steps: A pipeline must have 1 to 1000 steps." in captured.err


def test_any_other_call_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m app.catalog check" in capsys.readouterr().err
