"""The addresses on which the web process listens or refuses to, in each mode of `AUTH`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.process.prctl import end_with_parent
from app.settings import Settings
from app.web import binding
from tests.support.service import BIN, ROOT, Service, free_port

KEY = "0123456789abcdef"
Launch = Callable[..., "tuple[subprocess.Popen[str], int]"]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts gunicorn with these variables and options."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, **env: str) -> tuple[subprocess.Popen[str], int]:
        port = free_port()
        plain = Service("redis://127.0.0.1:1/0", tmp_path).env
        command = [
            str(BIN / "gunicorn"),
            *(option.replace("PORT", str(port)) for option in options),
            "wsgi:app",
        ]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**plain, "PORT": str(port), **env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        started.append(process)
        return process, port

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def listens_on(process: subprocess.Popen[str], port: int) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        for connection in psutil.Process(process.pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return str(connection.laddr.ip)
        time.sleep(0.05)
    raise AssertionError("It does not listen.")


def said(process: subprocess.Popen[str]) -> str:
    process.terminate()
    return process.communicate(timeout=60)[0]


def test_without_a_decision_only_this_machine_is_served_and_that_is_said_once(
    launch: Launch,
) -> None:
    process, port = launch()
    assert listens_on(process, port) == "127.0.0.1"
    time.sleep(0.5)
    lines = [line for line in said(process).splitlines() if "No API keys are configured" in line]
    assert len(lines) == 1
    assert all(word in lines[0] for word in ("localhost only", "API_KEYS", "AUTH=keys", "AUTH=off"))


@pytest.mark.parametrize(
    ("env", "host"),
    [
        ({"API_KEYS": KEY}, "0.0.0.0"),
        ({"AUTH": "keys"}, "0.0.0.0"),
        ({"AUTH": "off"}, "0.0.0.0"),
        ({"AUTH": "keys", "DYNO": "web.1"}, "0.0.0.0"),
        ({"AUTH": "keys", "HOST": "127.0.0.1"}, "127.0.0.1"),
        ({"AUTH": "off", "HOST": "127.0.0.1"}, "127.0.0.1"),
        ({"HOST": "localhost"}, "127.0.0.1"),
        ({"API_KEYS": "", "AUTH": ""}, "127.0.0.1"),
    ],
)
def test_with_a_decision_everyone_is_served_unless_host_says_otherwise(
    launch: Launch, env: dict[str, str], host: str
) -> None:
    process, port = launch(**env)
    assert listens_on(process, port) == host


@pytest.mark.parametrize(
    ("options", "env"),
    [
        ((), {"HOST": "0.0.0.0"}),
        ((), {"DYNO": "web.1"}),
        (("--bind", "0.0.0.0:PORT"), {}),
        ((), {"GUNICORN_CMD_ARGS": "--bind=0.0.0.0:0"}),
        ((), {"HOST": "[::]"}),
    ],
)
def test_listening_for_others_without_a_decision_is_refused_in_one_sentence(
    launch: Launch, options: tuple[str, ...], env: dict[str, str]
) -> None:
    process, _ = launch(*options, **env)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert all(word in output.splitlines()[-1] for word in ("API_KEYS", "AUTH=keys", "AUTH=off"))
    assert "Traceback" not in output
    assert "Booting worker" not in output


def test_a_weak_key_is_refused_at_start_and_not_shown(launch: Launch) -> None:
    process, _ = launch(API_KEYS="acme:hunter2")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert output.startswith("API_KEYS: The key in entry 1 must have at least 16")
    assert "hunter2" not in output


def test_auth_off_is_said_at_start(launch: Launch) -> None:
    process, port = launch(AUTH="off", HOST="127.0.0.1")
    listens_on(process, port)
    time.sleep(0.5)
    assert "AUTH=off: anyone who can reach this address" in said(process)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_needs_no_decision(host: str) -> None:
    assert binding.refusal(Settings(), [host], on_heroku=False) is None


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.org", ""]
)
def test_anything_else_does(host: str) -> None:
    assert binding.refusal(Settings(), ["127.0.0.1", host], on_heroku=False) is not None
    assert binding.refusal(Settings(auth="keys"), [host], on_heroku=True) is None
