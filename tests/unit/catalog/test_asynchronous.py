"""A Python flow that names no isolation runs in the event loop if its source shows that it waits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.catalog import coroutines
from tests.unit.catalog.conftest import Files

WAITS = {
    "a function": "async def run(inputs): ...",
    "a decorated one": "@traced\nasync def run(inputs): ...",
    "in a branch": "if True:\n    async def run(inputs): ...\nelse:\n    async def run(inputs): ...",
    "in a try": "try:\n    import x\nexcept ImportError:\n    async def run(inputs): ...",
    "another name": "async def other(inputs): ...\nrun = other",
    "a partial": "import functools\nasync def f(a, inputs): ...\nrun = functools.partial(f, 1)",
    "a callable object": "class F:\n    async def __call__(self, inputs): ...\nrun = F()",
    "an object to ainvoke": "class F:\n    async def ainvoke(self, inputs): ...\nrun = F()",
    "one that can do both": (
        "class F:\n    def invoke(self, i): ...\n    async def ainvoke(self, i): ...\nrun = F()"
    ),
    "an inherited method": (
        "class A:\n    async def ainvoke(self, i): ...\nclass B(A): ...\nrun: object = B()"
    ),
    "of another file": "from .other import work as run",
    "a generator inside": "async def run(inputs):\n    def inner():\n        yield 1\n",
}
COMPUTES = {
    "a function": "def run(inputs): ...",
    "a coroutine inside": "def run(inputs):\n    async def inner(): ...\n",
    "an asynchronous generator": "async def run(inputs):\n    yield 1",
    "only in one branch": "try:\n    async def run(i): ...\nexcept E:\n    def run(i): ...",
    "an object to invoke": "class F:\n    def invoke(self, i): ...\nrun = F()",
    "invoke goes before a call": (
        "class F:\n    def invoke(self, i): ...\n    async def __call__(self, i): ...\nrun = F()"
    ),
    "something of a library": "from library import build\nrun = build()",
    "an import of a library": "from library import run",
    "a circle": "run = other\nother = run",
    "a circle of files": "from .circle import run",
    "a file that is not there": "from .nowhere import run",
    "no valid Python": "async def run(",
    "nested without end": "async def run(inputs): ...\nx = " + "-" * 100_000 + "1",
}


def flow_of(files: Files, source: str, more: str = "") -> str:
    files.agent("a", f"flows:\n- {{name: x, entrypoint: 'flow.py:run'{more}}}\n")
    folder = files.root / "agents" / "a"
    (folder / "flow.py").write_text(source)
    (folder / "other.py").write_text("async def work(inputs): ...")
    (folder / "circle.py").write_text("from .flow import run")
    return str(files.load().agents["a"].flows["x"].isolation)


@pytest.mark.parametrize("source", WAITS.values(), ids=WAITS)
def test_an_asynchronous_flow_runs_in_the_event_loop_unless_it_says_otherwise(
    files: Files, source: str
) -> None:
    assert flow_of(files, source) == "thread"


@pytest.mark.parametrize("more", [", isolation: process", ", isolation: fresh"])
def test_what_a_flow_says_counts(files: Files, more: str) -> None:
    assert flow_of(files, WAITS["a function"], more) == "process"


@pytest.mark.parametrize("source", COMPUTES.values(), ids=COMPUTES)
def test_anything_else_has_a_process_for_itself(tmp_path: Path, source: str) -> None:
    (tmp_path / "flow.py").write_text(source)
    (tmp_path / "circle.py").write_text("from .flow import run")
    assert not coroutines.only_waits("flow.py:run", tmp_path)


@pytest.mark.parametrize("package", ["installed", "installed.inner"])
def test_the_source_of_an_installed_module_is_read_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    folder = tmp_path.joinpath(*package.split("."))
    folder.mkdir(parents=True)
    (tmp_path / "installed" / "__init__.py").write_text("raise SystemExit('it ran')")
    (folder / "__init__.py").write_text("raise SystemExit('it ran')")
    (folder / "flow.py").write_text("async def run(inputs): ...\ndef plain(inputs): ...")
    monkeypatch.syspath_prepend(tmp_path)
    assert coroutines.only_waits(f"{package}.flow:run", tmp_path)
    assert not coroutines.only_waits(f"{package}.flow:plain", tmp_path)
    assert not coroutines.only_waits(f"{package}.nowhere:run", tmp_path)
    assert not coroutines.only_waits("sys:exit", tmp_path)
    assert package not in sys.modules
