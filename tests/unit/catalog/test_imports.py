"""Entry points that cannot be imported are told with their place, without harm to the check."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from app.catalog import imports
from app.catalog.__main__ import main
from tests.support.service import ROOT
from tests.unit.catalog.conftest import Files

BROKEN = {
    "an exception in a neighbour": (
        {"flow.py": "from . import other\n", "other.py": "def f():\n    1 / 0\nf()\n"},
        ":2: flows.0.entrypoint: flow.py cannot be imported: ZeroDivisionError: division by zero\n"
        '      File "{folder}/flow.py", line 1, in <module>\n'
        "        from . import other\n"
        '      File "{folder}/other.py", line 3, in <module>\n'
        "        f()\n"
        '      File "{folder}/other.py", line 2, in f\n'
        "        1 / 0",
    ),
    "a package that is missing": (
        {"flow.py": "import json\nimport surely_not_installed.part\n"},
        "flow.py cannot be imported: ModuleNotFoundError: No module named 'surely_not_installed'\n"
        '      File "{folder}/flow.py", line 2, in <module>\n',
    ),
    "an exception deep in a library": (
        {"flow.py": "import json\njson.loads('no')\n"},
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0)\n"
        '      File "{folder}/flow.py", line 2, in <module>\n'
        "        json.loads('no')",
    ),
    "a neighbour that is no Python": (
        {"flow.py": "from . import other\n", "other.py": "x = 1\ndef (\n"},
        'flow.py cannot be imported\n      File "{folder}/other.py", line 2\n        def (',
    ),
    "an end by sys.exit": (
        {"flow.py": "import sys\nsys.exit(3)\n"},
        "flow.py cannot be imported: SystemExit: 3\n",
    ),
    "an end by a signal": (
        {"flow.py": "import os\nprint('the last words', flush=True)\nos.abort()\n"},
        "Importing flow.py ends the process (SIGABRT).\n    the last words\n",
    ),
    "an end without a word": (
        {"flow.py": "import os\nos._exit(7)\n"},
        "Importing flow.py ends the process (exit code 7).",
    ),
    "a value that is no flow": ({"flow.py": "run = 5\n"}, "is not a function and has no .invoke()"),
    "a function that wants too much": (
        {"flow.py": "run = lambda inputs, context, model: None\n"},
        "flow.py:run cannot be called: missing a required argument: 'model'. A flow is a function "
        "of (inputs) or (inputs, context).",
    ),
    "a function that wants its context by name": (
        {"flow.py": "run = lambda inputs, *, context: None\n"},
        "flow.py:run cannot be called: missing a required",
    ),
    "a secret in the message": (
        {"flow.py": "raise ValueError('password=verysecretindeed')\n"},
        "ValueError: password=[masked]",
    ),
}


@pytest.fixture(autouse=True)
def _paths(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS_PATH", str(files.agents))
    monkeypatch.setenv("PIPELINES_PATH", str(files.pipelines))


def broken(files: Files, id: str, texts: dict[str, str]) -> None:
    files.agent(id, "flows:\n- {name: default, entrypoint: flow.py:run}\n")
    for name, text in texts.items():
        more = "" if "run = " in text or name != "flow.py" else "def run(inputs): pass\n"
        files.write(f"agents/{id}/{name}", text + more)


@pytest.mark.parametrize("name", BROKEN)
def test_an_entry_point_that_cannot_be_imported_is_told_with_its_places(
    files: Files, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    texts, message = BROKEN[name]
    broken(files, "bad", texts)
    files.agent("good")
    assert main(["check"]) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert f"{files.agents}/bad/agent.yaml:2: flows.0.entrypoint: " in captured.err
    assert message.format(folder=files.agents.resolve() / "bad") in captured.err
    assert "good" not in captured.err
    assert str(ROOT) not in captured.err


def test_a_function_that_an_installed_module_lacks_is_told(files: Files) -> None:
    files.agent("a", "flows:\n- {name: f, entrypoint: 'json:lods'}\n")
    [problem] = imports.problems(files.load())
    assert problem.endswith("agent.yaml:2: flows.0.entrypoint: json has no 'lods'.")


def test_an_import_that_hangs_is_told_with_its_place_and_delays_the_others_only(
    files: Files,
) -> None:
    broken(files, "hangs", {"flow.py": "import time\ntime.sleep(1000)\n"})
    broken(files, "zero", {"flow.py": "1 / 0\n"})
    hanging, failing = imports.problems(files.load(), seconds=8)
    assert "Importing flow.py takes longer than 8 s. It is here:" in hanging
    assert f'File "{files.agents.resolve()}/hangs/flow.py", line 2' in hanging
    assert "ZeroDivisionError" in failing


def test_one_agent_cannot_make_the_import_of_another_fail_or_succeed(files: Files) -> None:
    here = "import sys, os\nsys.path.insert(0, os.path.dirname(__file__))\nimport helper\n"
    for id in ("a", "b"):
        broken(files, id, {"flow.py": f"{here}helper.of_{id}\nos.chdir('/')\n"})
        files.write(f"agents/{id}/helper.py", f"of_{id} = 1\n")
    broken(files, "c", {"flow.py": "import helper\n"})
    [problem] = imports.problems(files.load())
    assert "/c/agent.yaml" in problem
    assert "No module named 'helper'" in problem


def test_what_an_import_starts_ends_with_the_check(files: Files, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    starts = (
        "import subprocess, pathlib\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(subprocess.Popen(['sleep', '600']).pid))\n"
    )
    broken(files, "a", {"flow.py": starts})
    assert list(imports.problems(files.load())) == []
    deadline = time.monotonic() + 30
    while is_running(int(mark.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_keys_of_clients_are_not_shown_to_the_code(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", "acme:0123456789abcdef")
    broken(files, "a", {"flow.py": "import os\nassert 'API_KEYS' not in os.environ\n"})
    assert list(imports.problems(files.load())) == []


def test_warnings_are_told_and_are_no_failure(
    files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    files.agent("a", "inputs: [{name: text}]\nflows: [{name: p, file: p.yaml}]\n")
    files.write("agents/a/prompts/p.yaml", "user_template: 'Hi {txet}'\n")
    assert main(["check"]) == 0
    captured = capfd.readouterr()
    assert "Warning: " in captured.err
    assert "p.yaml:1: user_template: {txet} is sent as text: 'txet' is" in captured.err
    assert captured.out.startswith("agent a: p (thread)\n")


def test_the_entry_points_can_be_checked_alone(
    files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    files.agent("a")
    assert main(["check", "--entrypoints"]) == 0
    assert capfd.readouterr() == ("", "")
    broken(files, "b", {"flow.py": "1 / 0\n"})
    assert main(["check", "--entrypoints"]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_release_with_a_broken_entry_point_is_refused(files: Files) -> None:
    broken(files, "b", {"flow.py": "1 / 0\n"})
    checked = subprocess.run(
        [sys.executable, "-m", "app.check"],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 1
    assert "flow.py cannot be imported: ZeroDivisionError: division by zero" in checked.stderr
