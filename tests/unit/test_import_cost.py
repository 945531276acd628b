"""What a process imports before it does anything. How long that takes, `make bench` measures."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.service import BIN, ROOT

VENDORS = ("openai", "aiohttp", "httpx2", "pydantic")
SERVES_HTTP = (
    "flask",
    "werkzeug",
    "flask_smorest",
    "flask_limiter",
    "apispec",
    "gunicorn",
    "gevent",
    "prometheus_client",
)


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        pytest.param("worker, app.work.child", (*VENDORS, *SERVES_HTTP), id="worker"),
        pytest.param("app.work.child", ("redis", "rq", *VENDORS, *SERVES_HTTP), id="child"),
        pytest.param("wsgi", ("gevent", *VENDORS, "app.runtime", "app.work", "app.models"), id="web"),
    ],
)
def test_a_process_imports_nothing_that_it_does_not_need(modules: str, forbidden: tuple[str, ...]) -> None:
    """The clients of models' vendors and the web framework are the largest part of what a process can import."""
    assert _imported(f"import {modules}", forbidden) == []


def test_the_master_of_the_web_processes_imports_nothing_that_must_be_patched_first() -> None:
    """gevent patches the standard library in each web process, before the application and its clients are imported."""
    code = "import runpy; runpy.run_path('gunicorn.conf.py')"
    assert _imported(code, ("redis", "rq", "flask", "urllib3", "requests", "limits", "app.api")) == []


def _imported(code: str, names: tuple[str, ...]) -> list[str]:
    command = [str(BIN / "python"), "-c", f"import sys; {code}; print(*(n for n in {names!r} if n in sys.modules))"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
