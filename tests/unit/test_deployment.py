"""The deployment files agree with the code: what they start, how long they wait for its end."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.setting_checks import settings_of
from app.settings import Settings
from app.worker.worker import HAND_BACK_SECONDS
from tests.support.service import BIN

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SHUTDOWN_SECONDS = Settings().shutdown_grace + HAND_BACK_SECONDS
GUNICORN = (ROOT / "gunicorn.conf.py").read_text()
GRACEFUL_SECONDS = float(re.findall(r"^graceful_timeout = (\d+)", GUNICORN, re.M)[0])
NEEDED_SECONDS = {"web": GRACEFUL_SECONDS, "worker": SHUTDOWN_SECONDS}
HEROKU_SECONDS = 30
"""Heroku sends SIGKILL this long after SIGTERM. It cannot be set."""


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy" / f"{name}.service")
    return parser["Service"]


@pytest.mark.parametrize("name", NEEDED_SECONDS)
def test_every_deployment_gives_its_processes_time_to_end(name: str) -> None:
    assert float(unit(name)["TimeoutStopSec"]) > NEEDED_SECONDS[name]
    assert float(COMPOSE[name]["stop_grace_period"].removesuffix("s")) > NEEDED_SECONDS[name]
    assert NEEDED_SECONDS[name] < HEROKU_SECONDS


def test_every_deployment_starts_the_same_two_commands() -> None:
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert procfile == {
        "release": "python -m app.check",
        "web": "gunicorn wsgi:app",
        "worker": "python worker.py",
    }
    for name in ("web", "worker"):
        assert unit(name)["ExecStart"] == f"/opt/execution-api/.venv/bin/{procfile[name]}"
    assert " ".join(COMPOSE["worker"]["command"]) == procfile["worker"]
    assert f"CMD {json.dumps(procfile['web'].split())}" in DOCKERFILE


@pytest.mark.parametrize("name", COMPOSE)
def test_every_container_has_no_privileges_and_a_health_check(name: str) -> None:
    service = COMPOSE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "healthcheck" in service or (name == "web" and "HEALTHCHECK" in DOCKERFILE)
    ports = service.get("ports", [])
    assert all(_filled(port, {}).startswith("127.0.0.1:") for port in ports)


def _filled(text: object, env: dict[str, str]) -> str:
    """A value of compose.yaml, with `${NAME:-default}` filled in as Compose does."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: env.get(m[1]) or m[2], str(text))


def _environment(name: str, env: dict[str, str]) -> dict[str, str]:
    given = COMPOSE[name]["environment"]
    return {variable: _filled(text, env) for variable, text in given.items()}


FIXED = {"REDIS_URL", "HOST", "PORT"}
"""The store of compose.yaml, and the address inside the container."""

VARIABLES = {setting.variable for setting in settings_of(Settings)} - FIXED


def test_compose_passes_every_setting_to_the_web_and_all_but_the_keys_to_the_worker() -> None:
    env = {variable: f"value of {variable}" for variable in VARIABLES}
    web, worker = _environment("web", env), _environment("worker", env)
    assert web == {"REDIS_URL": "redis://store:6379/0", **env}
    webs_own = {"API_KEYS", "AUTH", "CORS_ORIGINS", "METRICS", "SECRET_KEY", "UI"}
    assert web.keys() - worker.keys() == webs_own
    assert worker.items() <= web.items()
    published = {"HOST": "10.0.0.1", "PORT": "9000"}
    assert _filled(COMPOSE["web"]["ports"][0], published) == "10.0.0.1:9000:8000"


@pytest.mark.parametrize("command", [["-m", "app.settings"], ["-m", "gunicorn", "--check-config"]])
def test_what_compose_leaves_empty_counts_as_not_set(command: list[str]) -> None:
    own = ("PATH", "LANG", "HOME")
    plain = {name: os.environ[name] for name in own if name in os.environ}
    run = subprocess.run(
        [BIN / "python", *command, *(["wsgi:app"] if "gunicorn" in command else [])],
        cwd=ROOT,
        env={**plain, **_environment("web", {})},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_the_image_gets_every_file_that_it_copies_and_runs_as_an_ordinary_user() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    # `[t]`: Docker copies a file that matches a pattern only if it is there.
    optional = "requirements-agents.txt"
    copied = {
        name.replace("[t]", "t")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for name in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied - {optional})
    assert DOCKERFILE.index("USER 10001") < DOCKERFILE.index("\nCMD")


def test_the_app_json_names_both_processes() -> None:
    assert set(json.loads((ROOT / "app.json").read_text())["formation"]) == {"web", "worker"}


@pytest.mark.parametrize("present", [True, False])
def test_packages_of_agents_are_installed_everywhere_if_they_are_listed(
    tmp_path: Path, present: bool
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    pip = tmp_path / "programs" / "pip"
    pip.parent.mkdir()
    pip.write_text('#!/bin/sh\necho pip "$@"\n')
    pip.chmod(0o755)
    if present:
        (tmp_path / "requirements-agents.txt").write_text("requests\n")
    env = {**os.environ, "PATH": f"{pip.parent}{os.pathsep}{os.environ['PATH']}"}
    for command in (["make", "-n", "install"], ["bin/post_compile"]):
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        both = "-r requirements.txt -r requirements-agents.txt"
        assert (both in done.stdout) is present, done.stdout
    assert "-r runtime.txt -r requirements-agents.txt" in DOCKERFILE
    assert "!requirements-agents.txt" in (ROOT / ".dockerignore").read_text()


OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", ["web", "worker"])
def test_the_recipe_for_a_server_makes_everything_that_the_units_name(name: str) -> None:
    section = unit(name)
    recipe = OPERATIONS.partition("## A plain server")[2].partition("\n## ")[0]
    assert re.search(rf"^useradd .* {section['User']}$", recipe, re.M)
    assert f"git clone <repository> {section['WorkingDirectory']}" in recipe
    assert f"install -m 600 /dev/null {section['EnvironmentFile'].lstrip('-')}" in recipe
    path = (ROOT / "deploy" / f"{name}.service").read_text().splitlines()[0].removeprefix("# ")
    assert f"cp deploy/{name}.service {path}" in recipe
    assert re.search(rf"systemctl enable --now .*{Path(path).stem}", recipe)
    assert "reverse_proxy 127.0.0.1:8000" in recipe
