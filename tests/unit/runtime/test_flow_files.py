"""The files of flows as modules: separate from each other, and loaded without delaying others."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.catalog.model import PythonFlow
from app.runtime import flow_files
from app.runtime.python_flow import run_python
from tests.support.service import ROOT


class Context:
    """The part of a context that these flows use."""

    def for_flow(self) -> None:
        return None


def call(path: Path, name: str = "run") -> object:
    return run_python(PythonFlow("main", f"{path.name}:{name}", path.parent), {}, Context())  # type: ignore[arg-type]


def test_a_slow_import_delays_no_other_flow(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow, quick, loaded = (tmp_path / f"{name}.py" for name in ("slow", "quick", "loaded"))
    slow.write_text(
        "import pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
        "def run(inputs): return 'slow'\n"
    )
    quick.write_text("def run(inputs): return 'quick'\n")
    loaded.write_text("def run(inputs): return 'loaded'\n")
    assert call(loaded) == "loaded"
    answers: list[object] = []
    importing = threading.Thread(target=lambda: answers.append(call(slow)))
    importing.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    others = [
        threading.Thread(target=lambda path=path: answers.append(call(path)))
        for path in (quick, loaded)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join(10)
    assert sorted(map(str, answers)) == ["loaded", "quick"]
    gate.touch()
    importing.join(10)
    assert answers[-1] == "slow"


def test_threads_that_ask_for_one_module_at_once_load_it_once(tmp_path: Path) -> None:
    flow = tmp_path / "flow.py"
    flow.write_text(
        "import time\n"
        f"with open({str(tmp_path / 'loads')!r}, 'a') as file: file.write('load ')\n"
        "time.sleep(0.2)\n"
        "def run(inputs): return 'done'\n"
    )
    answers: list[object] = []
    threads = [threading.Thread(target=lambda: answers.append(call(flow))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == ["done"] * 8
    assert (tmp_path / "loads").read_text() == "load "


def test_a_module_that_could_not_be_loaded_is_loaded_anew(tmp_path: Path) -> None:
    flow = tmp_path / "flow.py"
    flow.write_text(
        f"import pathlib\nif not pathlib.Path({str(tmp_path / 'mended')!r}).exists():\n"
        "    raise OSError('not yet')\n"
        "def run(inputs): return 'done'\n"
    )
    with pytest.raises(OSError, match="not yet"):
        call(flow)
    (tmp_path / "mended").touch()
    assert call(flow) == "done"


@pytest.mark.parametrize("folder", ["plain", "with.dots", "100%", "déjà vu", "a%2Eb"])
def test_files_of_two_agents_with_one_name_never_meet_and_find_their_siblings(
    tmp_path: Path, folder: str
) -> None:
    for number in ("one", "two"):
        home = tmp_path / number / folder
        home.mkdir(parents=True)
        (home / "flow.py").write_text("from . import other\ndef run(inputs): return other.NAME\n")
        (home / "other.py").write_text(f"NAME = {number!r}\n")
    assert call(tmp_path / "one" / folder / "flow.py") == "one"
    assert call(tmp_path / "two" / folder / "flow.py") == "two"


def test_another_process_can_unpickle_what_a_flow_defines(tmp_path: Path) -> None:
    flow = tmp_path / "flow.py"
    flow.write_text("class Thing:\n    def __init__(self): self.name = 'thing'\n")
    data = pickle.dumps(flow_files.load(flow).Thing())
    read = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).name)"
    answer = subprocess.run(
        [sys.executable, "-c", read], cwd=ROOT, input=data, capture_output=True, check=True
    )
    assert answer.stdout == b"thing\n"


@pytest.mark.parametrize(
    "way", ["from . import other", "import sys; sys.path.insert(0, HERE); import other"]
)
def test_a_file_that_is_saved_twice_in_one_second_runs_as_it_was_saved_last(
    tmp_path: Path, way: str
) -> None:
    """Each version in a process of its own, as after a reload. Both have one size and one time."""
    flow, other = tmp_path / "flow.py", tmp_path / "other.py"
    run = (
        "import sys; from pathlib import Path; from app.runtime import flow_files; "
        "print(flow_files.load(Path(sys.argv[1])).VERSION)"
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    for version in ("a1", "b2"):
        flow.write_text(f"HERE = {str(tmp_path)!r}\n{way}\nVERSION = {version!r} + other.VERSION\n")
        other.write_text(f"VERSION = {version!r}\n")
        for file in (flow, other):
            os.utime(file, (1_700_000_000, 1_700_000_000))
        answer = subprocess.run(
            [sys.executable, "-c", run, str(flow)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout == f"{version}{version}\n"
    assert not list(tmp_path.rglob("*.pyc"))
