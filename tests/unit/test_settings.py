"""`app.settings`: every wrong value is refused by name, and the README lists every setting."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.admin.__main__ import main as admin
from app.domain.errors import ConfigurationError
from app.setting_checks import Setting, http_url, rate, settings_of, store_url
from app.setting_texts import allowed, listing, tables
from app.settings import Settings, load, warnings

ROOT = Path(__file__).resolve().parent.parent.parent
SETTINGS = settings_of(Settings)

NOT_OF_THE_KIND = {
    int: ["many", "1.5", "1e3", "true"],
    float: ["soon", "nan", "inf", "-inf"],
    bool: ["perhaps", "2"],
    str: ["two words", "a\nline break", "tab\t"],
    tuple[Path, ...]: ["/no/such/folder", f"{ROOT}{os.pathsep}/no/such/folder"],
}


def bad_values(setting: Setting) -> list[str]:
    """Values that this setting must refuse, from its kind and its limits. Fails for a new kind."""
    values = list(NOT_OF_THE_KIND[setting.kind])
    if setting.is_number:
        values += [str(setting.meta["min"] - 1), str(setting.meta["max"] + 1), "-1", "9" * 30]
    if "one_of" in setting.meta:
        values += [setting.meta["one_of"][0].swapcase(), "elsewhere"]
    if "check" in setting.meta:
        values += ["localhost", "ftp://localhost"]
    if setting.meta.get("check") is store_url:
        values += [
            *(
                "redis://:S3cr/et@h:6379/0",
                "redis://h:abc/0",
                "redis://:x@[::1",
                "redis://h?foo=bar",
            ),
            *("redis://h/xyz", "redis://", "unix://"),
        ]
    if setting.meta.get("check") is http_url:
        values += ["http://", "http://h:port/"]
    if setting.meta.get("check") is rate:
        values += ["5", "0/minute", "5/fortnight", "5/minute;", "5/minute;7", "5/minute7/day"]
    return values


def at_the_limits() -> Iterator[tuple[str, str]]:
    for setting in SETTINGS:
        if setting.is_number:
            yield setting.variable, str(setting.meta["min"])
            yield setting.variable, str(setting.meta["max"])
        for value in setting.meta.get("one_of", ()):
            yield setting.variable, value


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param(setting, value, id=f"{setting.name}-{value!r}")
        for setting in SETTINGS
        for value in bad_values(setting)
    ],
)
def test_a_wrong_value_is_refused_by_its_name_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, setting: Setting, value: str
) -> None:
    monkeypatch.setenv(setting.variable, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    [line] = str(raised.value).splitlines()
    assert line.startswith(f"{setting.meta['env']}: ")
    assert f"Allowed: {allowed(setting)}." in line
    assert setting.meta["help"] in line


@pytest.mark.parametrize(("variable", "value"), list(at_the_limits()))
def test_a_value_at_its_limit_is_taken(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    load()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_is_one_of_the_allowed_values(
    monkeypatch: pytest.MonkeyPatch, setting: Setting
) -> None:
    default = getattr(Settings(), setting.name)
    if default is not None:
        text = os.pathsep.join(map(str, default)) if isinstance(default, tuple) else str(default)
        monkeypatch.setenv(setting.variable, text)
        assert getattr(load(), setting.name) == default


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "100000"], "WORKER_THREADS: Must be"),
        (["--processes", "some"], "WORKER_PROCESSES: Not a valid integer."),
        (["--threads", "0", "--processes", "0"], "WORKER_THREADS and WORKER_PROCESSES are both 0"),
    ],
)
def test_the_workers_options_are_checked_like_the_variables_they_stand_for(
    options: list[str], message: str
) -> None:
    run = subprocess.run(
        [sys.executable, "worker.py", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
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
        "PORT: Not a valid integer. Allowed: an integer from 1 to 65535. "
        "Meaning: The port to listen on."
    ]


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE", "x")
    monkeypatch.setenv("RETENTION", "y")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == ["LEASE", "RETENTION"]


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://a",
        "sentinel://a/",
        "sentinel://a:b/main",
        "sentinel://a,,b/main",
        "sentinel://a/main?db=x",
    ],
)
def test_an_address_of_sentinels_without_hosts_or_service_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
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


WEBHOOK_SECRETS = [f"whsec_{base64.b64encode(key).decode()}" for key in (b"x" * 32, b"y" * 24)]


def test_the_secret_of_the_sessions_is_masked_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "the-secret-that-signs-the-sessions")
    assert "the-secret-that-signs-the-sessions" in load().secrets


@pytest.mark.parametrize("between", [",", " ", ", ", "\n"])
def test_several_webhook_secrets_are_read_and_masked(
    monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", between.join(WEBHOOK_SECRETS))
    found = load()
    assert found.webhook_secrets == tuple(WEBHOOK_SECRETS)
    assert set(WEBHOOK_SECRETS) <= set(found.secrets)
    assert "whsec_" not in "\n".join(line for line in listing(found) if line[:3] == "  W")


@pytest.mark.parametrize(
    "text",
    [
        "my-secret",
        WEBHOOK_SECRETS[0].removeprefix("whsec_"),
        "whsec_",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        WEBHOOK_SECRETS[0].removesuffix("="),
        WEBHOOK_SECRETS[0].replace("_", "-"),
        f"{WEBHOOK_SECRETS[0]};{WEBHOOK_SECRETS[1]}",
        f"{WEBHOOK_SECRETS[0]},{WEBHOOK_SECRETS[0]}",
        ",",
    ],
)
def test_a_webhook_secret_that_receivers_could_not_use_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", text)
    with pytest.raises(ConfigurationError, match=r"^WEBHOOK_SECRET: ") as raised:
        load()
    assert text not in str(raised.value) or len(text) < 8


def test_the_command_makes_a_secret_that_is_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    for _ in range(2):
        assert admin(["webhook-secret"]) == 0
        made.append(capsys.readouterr().out.strip())
    monkeypatch.setenv("WEBHOOK_SECRET", ",".join(made))
    assert load().webhook_secrets == tuple(made)


def test_a_variable_that_is_nearly_a_setting_is_named_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "WORKER_THREAD",
        "WORKERS_PROCESSES",
        "REDIS_ULR",
        "PIP_DEFAULT_TIMEOUT",
        "HOSTNAME",
        "REDIS_TLS_URL",
    ):
        monkeypatch.setenv(name, "1")
    assert warnings() == [
        ("REDIS_ULR", "REDIS_URL"),
        ("WORKERS_PROCESSES", "WORKER_PROCESSES"),
        ("WORKER_THREAD", "WORKER_THREADS"),
    ]


def test_no_setting_is_taken_for_another_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.setenv(setting.variable, "1")
    assert warnings() == []


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANCEL_GRACE", "")
    assert load().cancel_grace == Settings().cancel_grace


def test_secrets_are_never_shown() -> None:
    settings = Settings(
        "redis://:pass-word@host/0", openai_api_key="sk-abc", api_keys="acme:chosen"
    )
    printed = "\n".join(listing(settings))
    assert "REDIS_URL" in printed
    assert not any(secret in printed for secret in ("pass-word", "sk-abc", "chosen"))


def test_retention_can_be_set_for_one_status() -> None:
    settings = Settings(retention=100.0, retention_failed=5.0)
    assert (settings.retention_for("completed"), settings.retention_for("failed")) == (100.0, 5.0)


def test_the_readme_has_the_tables_that_the_settings_print() -> None:
    printed = "\n".join(tables(Settings)).strip()
    assert all(f"`{setting.variable}`" in printed for setting in SETTINGS)
    readme = (ROOT / "README.md").read_text()
    marked = readme.partition("<!-- settings: python -m app.settings --table -->\n")[2]
    assert marked.partition("<!-- end of settings -->")[0].strip() == printed


def test_every_group_of_settings_stands_in_one_piece() -> None:
    headings = [line for line in listing(Settings()) if line and not line.startswith(" ")]
    assert headings == [
        "store and targets:",
        "web:",
        "worker:",
        "limits:",
        "retention:",
        "models:",
        "webhooks:",
        "operations:",
    ]


def test_an_env_file_that_was_left_behind_is_not_read_in_production(tmp_path: Path) -> None:
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
