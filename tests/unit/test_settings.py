"""Settings: every wrong value is named, and the README has them all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.setting_checks import allowed, http_url, kind_of, rate, store_url
from app.settings import Settings, describe, load, warnings

ROOT = Path(__file__).resolve().parent.parent.parent
FIELDS = fields(Settings)

NOT_OF_THE_KIND = {
    "int": ["many", "1.5", "1e3", "true"],
    "float": ["soon", "nan", "inf", "-inf"],
    "bool": ["perhaps", "2"],
    "str": ["two words", "a\nline break", "tab\t"],
    "tuple[Path, ...]": ["/no/such/folder", f"{ROOT}{os.pathsep}/no/such/folder"],
}


def bad_values(each: Field[Any]) -> list[str]:
    """What this setting must refuse, from its kind and its limits; a kind that is not known here fails."""
    values = list(NOT_OF_THE_KIND[kind_of(each)])
    if kind_of(each) in ("int", "float"):
        values += [str(each.metadata["min"] - 1), str(each.metadata["max"] + 1), "-1", "9" * 30]
    if "one_of" in each.metadata:
        values += [each.metadata["one_of"][0].swapcase(), "elsewhere"]
    if "check" in each.metadata:
        values += ["localhost", "ftp://localhost"]
    if each.metadata.get("check") is store_url:
        values += [
            *("redis://:S3cr/et@h:6379/0", "redis://h:abc/0", "redis://:x@[::1", "redis://h?foo=bar"),
            *("redis://h/xyz", "redis://", "unix://"),
        ]
    if each.metadata.get("check") is http_url:
        values += ["http://", "http://h:port/"]
    if each.metadata.get("check") is rate:
        values += ["5", "0/minute", "5/fortnight", "5/minute;", "5/minute;7", "5/minute7/day"]
    return values


def at_the_limits() -> Iterator[tuple[str, str]]:
    for each in FIELDS:
        if kind_of(each) in ("int", "float"):
            yield each.metadata["env"], str(each.metadata["min"])
            yield each.metadata["env"], str(each.metadata["max"])
        for value in each.metadata.get("one_of", ()):
            yield each.metadata["env"], value


@pytest.mark.parametrize(
    ("each", "value"),
    [pytest.param(each, value, id=f"{each.name}-{value!r}") for each in FIELDS for value in bad_values(each)],
)
def test_a_wrong_value_is_refused_by_its_name_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, each: Field[Any], value: str
) -> None:
    monkeypatch.setenv(each.metadata["env"], value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    [line] = str(raised.value).splitlines()
    assert line.startswith(f"{each.metadata['env']}: ")
    assert f"Allowed: {allowed(each)}." in line
    assert each.metadata["help"] in line


@pytest.mark.parametrize(("variable", "value"), list(at_the_limits()))
def test_a_value_at_its_limit_is_taken(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    load()


@pytest.mark.parametrize("each", FIELDS, ids=lambda each: each.name)
def test_a_default_is_one_of_the_allowed_values(monkeypatch: pytest.MonkeyPatch, each: Field[Any]) -> None:
    default = getattr(Settings(), each.name)
    if default is not None:
        text = os.pathsep.join(map(str, default)) if isinstance(default, tuple) else str(default)
        monkeypatch.setenv(each.metadata["env"], text)
        assert getattr(load(), each.name) == default


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "100000"], "WORKER_THREADS: Must be"),
        (["--processes", "some"], "WORKER_PROCESSES: Not a valid integer."),
        (["--threads", "0", "--processes", "0"], "WORKER_THREADS and WORKER_PROCESSES are both 0"),
    ],
)
def test_the_workers_options_are_checked_like_the_variables_they_stand_for(options: list[str], message: str) -> None:
    run = subprocess.run([sys.executable, "worker.py", *options], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.returncode == 1
    assert run.stderr.startswith(message)
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", [["gunicorn", "wsgi:app"], ["python", "worker.py"], ["python", "-m", "app.settings"]]
)
def test_every_process_refuses_to_start_with_one_line_and_exit_code_1(command: list[str]) -> None:
    program = str(Path(sys.executable).parent / command[0])
    run = subprocess.run(
        [program, *command[1:]],
        cwd=ROOT,
        env={**os.environ, "PORT": "http", "REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        "PORT: Not a valid integer. Allowed: a whole number from 1 to 65535. It means: Its port."
    ]


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE", "x")
    monkeypatch.setenv("RETENTION", "y")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == ["LEASE", "RETENTION"]


@pytest.mark.parametrize(
    "url", ["sentinel://a", "sentinel://a/", "sentinel://a:b/main", "sentinel://a,,b/main", "sentinel://a/main?db=x"]
)
def test_an_address_of_sentinels_without_hosts_or_service_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(ConfigurationError, match=r"^REDIS_URL: Must be like sentinel://"):
        load()


def test_a_wrong_secret_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc \n")
    monkeypatch.setenv("REDIS_URL", "http://:pass-word@host/0")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert "sk-abc" not in str(raised.value)
    assert "pass-word" not in str(raised.value)


def test_a_variable_that_is_nearly_a_setting_is_named_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKER_THREAD", "WORKERS_PROCESSES", "REDIS_ULR", "PIP_DEFAULT_TIMEOUT", "HOSTNAME", "REDIS_TLS_URL"):
        monkeypatch.setenv(name, "1")
    assert warnings() == [
        ("REDIS_ULR", "REDIS_URL"),
        ("WORKERS_PROCESSES", "WORKER_PROCESSES"),
        ("WORKER_THREAD", "WORKER_THREADS"),
    ]


def test_no_setting_is_taken_for_another_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in FIELDS:
        monkeypatch.setenv(each.metadata["env"], "1")
    assert warnings() == []


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANCEL_GRACE", "")
    assert load().cancel_grace == Settings().cancel_grace


def test_secrets_are_never_shown() -> None:
    shown = describe(Settings("redis://:pass-word@host/0", openai_api_key="sk-abc", api_keys="acme:chosen"))
    assert not any(secret in cell for row in shown for cell in row for secret in ("pass-word", "sk-abc", "chosen"))


def test_retention_can_be_set_for_one_status() -> None:
    settings = Settings(retention=100.0, retention_failed=5.0)
    assert (settings.retention_for("completed"), settings.retention_for("failed")) == (100.0, 5.0)


def test_the_readme_names_every_setting_with_its_default_and_meaning() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, _, default, meaning in describe(Settings()):
        shown = "one per core" if name == "WORKER_PROCESSES" else f"`{default}`" if default else ""
        assert f"| `{name}` | {shown} | {meaning} |" in readme


def test_a_env_file_that_lies_about_is_read_by_no_process_of_production(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LEASE=never\n")
    run = subprocess.run(
        [sys.executable, "-m", "app.settings"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ENV_FILE": str(tmp_path / ".env")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 0
