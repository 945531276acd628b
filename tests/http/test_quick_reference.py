"""Runs every block of the published quick reference as it is written."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service
from tests.support.shapes import CONTRACT, check_shape

TEXT = (CONTRACT / "quick-reference.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SHELL = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)

QUICK_START, HELPERS, WAIT_WITH_PROGRESS, BATCH, ERROR_HANDLING = PYTHON


@pytest.fixture
def here(service: Service) -> Callable[[str], str]:
    """The block, at this service's address."""
    return lambda block: block.replace("http://localhost:8000", service.url)


@pytest.fixture
def helpers(here: Callable[[str], str]) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(here(HELPERS), scope)
    return scope


def test_the_quick_start_gives_a_real_summary(here: Callable[[str], str]) -> None:
    scope: dict[str, Any] = {}
    exec(here(QUICK_START), scope)
    assert scope["outputs"]["output"] == "Input text"
    assert scope["outputs"]["metadata"]["model_used"] == "extractive"


def test_the_helper_functions_do_what_they_say(helpers: dict[str, Any]) -> None:
    id = helpers["start_execution"]("agent", "mem_l1_summarizer", {"text": "Test input"})
    assert helpers["wait_for_completion"](id, poll_interval=0.01)["status"] == "completed"
    running = helpers["start_execution"](
        "agent", "behaves", {"do": "listen", "seconds": 30}, {"flow_id": "thread"}
    )
    assert helpers["cancel_execution"](running)["data"]["status"] == "cancelled"


def test_wait_with_progress(
    helpers: dict[str, Any], here: Callable[[str], str], capsys: Any
) -> None:
    block = (
        here(WAIT_WITH_PROGRESS)
        .replace('"my_pipeline"', '"relay"')
        .replace("sleep(1)", "sleep(0.05)")
    )
    helpers["inputs"] = {"first": {"seconds": 0.3}, "second": {"seconds": 0.6}}
    exec(block, helpers)
    assert helpers["status"]["status"] == "completed"
    assert re.search(r"\d+\.\d% - (left|right|both)", capsys.readouterr().out)


def test_batch_processing(helpers: dict[str, Any], here: Callable[[str], str]) -> None:
    helpers["batch_items"] = [{"do": "echo", "number": number} for number in range(3)]
    exec(here(BATCH).replace('"processor"', '"behaves"'), helpers)
    assert [result["output"]["number"] for result in helpers["results"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("inputs", "timeout", "said"),
    [
        ({"do": "echo"}, "60", None),
        ({"do": "fail", "message": "No such customer."}, "60", "Error: No such customer."),
        ({"do": "listen", "seconds": 30}, "0.5", "Execution timed out, cancelling..."),
        (None, "60", "API error: 404"),
    ],
)
def test_error_handling(
    helpers: dict[str, Any],
    here: Callable[[str], str],
    capsys: Any,
    inputs: Any,
    timeout: str,
    said: str | None,
) -> None:
    block = here(ERROR_HANDLING).replace("timeout=60", f"timeout={timeout}")
    block = block.replace('"my_agent"', '"behaves"' if inputs else '"nobody"')
    source = "def example():\n" + "\n".join(f"    {line}" for line in block.splitlines())
    helpers["inputs"] = inputs or {}
    exec(source, helpers)
    outputs = helpers["example"]()
    printed = capsys.readouterr().out
    assert said in printed if said else outputs["output"] == inputs


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.split("\n")[0][:40])
def test_curl_calls(
    service: Service, here: Callable[[str], str], block: str, tmp_path: Path
) -> None:
    """As written; the status of a made-up id is 404, as the reference's table of codes says."""
    if "exec_abc123/cancel" in block:
        block = block.replace(
            "exec_abc123", service.start("behaves", {"do": "listen", "seconds": 30})
        )
    commands = [
        command for command in re.split(r"\n(?=curl|#)", here(block)) if command.startswith("curl")
    ]
    assert commands
    for command in commands:
        # A shell reads an unquoted `&` as its own: the reference's last example then asks for page
        # 1 alone.
        done = subprocess.run(
            ["bash", "-c", command.replace("curl", "curl -s", 1) + "; wait"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        body = json.loads(done.stdout)
        if "exec_abc123" in command:
            assert body["status"] == 404
        elif "-X POST" in command:
            check_shape(body, "cancel" if "/cancel" in command else "started")
        else:
            check_shape(body, "list")


def test_nothing_of_the_reference_is_left_out() -> None:
    assert len(PYTHON) == 5
    assert len(SHELL) == 5
