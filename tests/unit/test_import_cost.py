"""What a process pays before it does anything, in CPU time of a fresh interpreter."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.service import BIN, ROOT

TRIES = 5
"""At most: whatever else the machine does makes a try longer, and none shorter."""


@pytest.mark.parametrize(
    ("modules", "limit_seconds"), [("wsgi", 0.6), ("worker, app.work.child", 0.5)], ids=["web", "worker"]
)
def test_a_process_is_imported_in_little_time(modules: str, limit_seconds: float) -> None:
    code = f"import time, {modules}; print(time.process_time())"
    taken_seconds = []
    while not taken_seconds or (min(taken_seconds) >= limit_seconds and len(taken_seconds) < TRIES):
        taken_seconds.append(float(_run(code)))
    assert min(taken_seconds) < limit_seconds


def test_a_worker_without_a_model_imports_no_vendors_client() -> None:
    """It is the largest part of what a worker can import, and flows that ask no model do not need it."""
    code = "import sys, worker, app.work.child; print([m for m in ('openai', 'aiohttp', 'flask') if m in sys.modules])"
    assert _run(code) == "[]"


def test_the_web_process_imports_nothing_that_runs_flows() -> None:
    code = "import sys, wsgi; print([m for m in ('openai', 'aiohttp', 'app.runtime') if m in sys.modules])"
    assert _run(code) == "[]"


def _run(code: str) -> str:
    command = [str(BIN / "python"), "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
