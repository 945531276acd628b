"""`error.details.location` names the place in the author's own files that explains a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.catalog.model import PromptFlow, PythonFlow
from app.runtime.errors import CUT, MAX_ANSWER_CHARACTERS, InvalidOutput, RunFailed
from app.runtime.failure_log import log_failure
from app.runtime.places import causes, location


def details_of(run_code: Callable[..., Any], source: str, **ports: Any) -> dict[str, Any]:
    with pytest.raises(RunFailed) as raised:
        run_code(source, **ports)
    details = raised.value.failure.details
    json.dumps(details)
    return details


SOURCES = {
    "an error in a function that the flow calls": (
        """
        def run(inputs):
            return inner()
        def inner():
            raise ValueError("x")  # HERE
        """,
        "inner",
    ),
    "an error in a library": (
        """
        import json
        def run(inputs):
            return json.loads("{")  # HERE
        """,
        "run",
    ),
    "an error that the author raises from another": (
        """
        def run(inputs):
            try:
                return {}["x"]
            except KeyError as error:
                raise RuntimeError("no x") from error  # HERE
        """,
        "run",
    ),
    "an error of a library that wraps one of a function it called": (
        """
        import statistics, contextlib
        class Wrapper:
            def __enter__(self): return self
            def __exit__(self, *_): pass
        def run(inputs):
            import asyncio
            exec(compile(
                "def call(f):\\n try:\\n  f()\\n except ValueError as e:\\n"
                "  raise RuntimeError('wrapped') from e\\n", "/lib/wrapper.py", "exec"
            ), globals())
            call(tool)
        def tool():
            raise ValueError("x")  # HERE
        """,
        "tool",
    ),
    "an error while another one is handled": (
        """
        import json
        def run(inputs):
            try:
                return {}["x"]
            except KeyError:
                return json.loads("{")  # HERE
        """,
        "run",
    ),
    "an error in a task of a group": (
        """
        import asyncio
        async def run(inputs):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        async def fails():
            raise ValueError("x")  # HERE
        """,
        "fails",
    ),
    "an error of a task in which only a library ran": (
        """
        import asyncio
        async def run(inputs):
            async with asyncio.TaskGroup() as group:  # HERE
                group.create_task(asyncio.wait_for(asyncio.sleep(9), 0.01))
        """,
        "run",
    ),
    "an import that fails": (
        """
        import no_such_module  # HERE
        def run(inputs): ...
        """,
        "<module>",
    ),
    "sys.exit": (
        """
        import sys
        def run(inputs):
            sys.exit(3)  # HERE
        """,
        "run",
    ),
    "an error whose class misbehaves": (
        """
        class Odd(Exception):
            __cause__ = property(lambda self: 1 / 0)
            __traceback__ = property(lambda self: 1 / 0)
            def __eq__(self, other): raise SystemExit
            __hash__ = None
        def run(inputs):
            raise Odd("x")  # HERE
        """,
        "run",
    ),
    "a recursion without an end": (
        """
        def run(inputs):
            return run(inputs)  # HERE
        """,
        "run",
    ),
}


@pytest.mark.parametrize("target", ["coded", "line"])
@pytest.mark.parametrize("case", SOURCES)
def test_the_location_is_the_authors_line(
    run_code: Callable[..., Any], case: str, target: str
) -> None:
    source, function = SOURCES[case]
    line = 1 + next(number for number, text in enumerate(source.split("\n")) if "# HERE" in text)
    found = details_of(run_code, source, target=target)["location"]
    assert found == {"file": "flow.py", "line": line, "function": function}


def test_a_failure_outside_of_the_agents_files_has_no_location(
    run_code: Callable[..., Any],
) -> None:
    assert "location" not in details_of(run_code, "def run(inputs): return {1, 2}")


def test_the_location_of_a_syntax_error_is_the_line_that_python_cannot_read(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tools" / "web.py"
    file.parent.mkdir()
    file.write_text("x = 1\ndef broken(:\n")
    try:
        compile(file.read_text(), str(file), "exec")
    except SyntaxError as error:
        place = location(error, tmp_path)
    assert place is not None
    assert (place.file, place.line, place.function) == ("tools/web.py", 2, "<module>")


def test_packages_that_are_installed_in_the_folder_are_not_the_authors(tmp_path: Path) -> None:
    file = tmp_path / "venv" / "site-packages" / "lib.py"
    with pytest.raises(ZeroDivisionError) as raised:
        exec(compile("1 / 0", str(file), "exec"), {})
    assert location(raised.value, tmp_path) is None


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert causes(first) == [first, second]


def _raise_in_a_handler(hidden: bool) -> None:
    try:
        raise KeyError("token=abc123secret")
    except KeyError:
        if hidden:
            raise RuntimeError("outer") from None
        raise RuntimeError("outer")  # noqa: B904


@pytest.mark.parametrize("hidden", [False, True])
def test_the_log_has_the_exception_that_was_handled_with_its_masked_message(hidden: bool) -> None:
    folder = Path(__file__).parent
    flow = PythonFlow("default", "test_places.py:x", folder)
    with pytest.raises(RuntimeError) as raised:
        _raise_in_a_handler(hidden)
    with capture_logs() as logged:
        log_failure(RunFailed.from_error(raised.value, {}, flow))
    line = logged[0]  # the others are the traceback, for DEBUG
    if hidden:
        assert "causes" not in line
        return
    [cause] = line["causes"]
    assert (cause["type"], cause["message"]) == ("KeyError", "'token=[masked]'")
    assert cause["at"][-1].endswith(" _raise_in_a_handler")


def test_a_prompt_flow_names_its_file_and_what_the_model_answered() -> None:
    flow = PromptFlow("main", "Say {x}", file="prompts/say.yaml")
    answer = "Not JSON, but token=abc123 " + "é" * 5000
    details = RunFailed.from_error(InvalidOutput("No.", answer), {"agent_id": "a"}, flow)
    found = details.failure.details
    assert found["prompt_file"] == "prompts/say.yaml"
    assert found["answer"].startswith("Not JSON, but token=[masked] é")
    assert len(found["answer"]) == MAX_ANSWER_CHARACTERS + len(CUT)
    assert "location" not in found
