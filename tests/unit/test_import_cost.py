"""Each process imports only what it needs. (`make bench` measures how long its start takes.)"""

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
        pytest.param("worker, app.worker.child", (*VENDORS, *SERVES_HTTP), id="worker"),
        pytest.param("app.worker.child", ("redis", "rq", *VENDORS, *SERVES_HTTP), id="child"),
        pytest.param(
            "wsgi", ("gevent", *VENDORS, "app.runtime", "app.worker", "app.providers"), id="web"
        ),
    ],
)
def test_a_process_imports_only_what_it_needs(modules: str, forbidden: tuple[str, ...]) -> None:
    # The vendors' clients and the web framework are the largest libraries by far.
    assert _imported(f"import {modules}", forbidden) == []


def test_the_master_of_the_web_processes_imports_nothing_that_must_be_patched_first() -> None:
    # Each web process is forked from it, and patches the standard library with gevent before it
    # imports the application. What the master had imported would keep the unpatched one.
    code = "import runpy; runpy.run_path('gunicorn.conf.py')"
    patched = ("redis", "rq", "flask", "urllib3", "requests", "limits", "app.api")
    assert _imported(code, patched) == []


def _imported(code: str, names: tuple[str, ...]) -> list[str]:
    program = f"import sys; {code}; print(*(n for n in {names!r} if n in sys.modules))"
    command = [str(BIN / "python"), "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.split()
