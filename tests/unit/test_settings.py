"""Settings: every wrong value is named, and the README has them all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.settings import Settings, describe, load

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (each.metadata["env"], value)
        for each in dataclasses.fields(Settings)
        for value in {
            "int": ["many", "1.5", "-1"],
            "float": ["soon", "-1"],
            "float | None": ["soon", "0"],
            "bool": ["perhaps"],
        }.get(str(each.type), [])
    ]
    + [("REDIS_URL", "localhost"), ("LOG_LEVEL", "LOUD")]
    + [
        (variable, value)
        for variable in ("RATE_LIMIT_START", "RATE_LIMIT_CANCEL", "RATE_LIMIT_READ")
        for value in ("many", "5", "0/minute", "5/fortnight", "5/minute;", "5/minute 7/day")
    ],
)
def test_a_wrong_value_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"^{variable}: "):
        load()


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE", "x")
    monkeypatch.setenv("RETENTION", "y")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == ["LEASE", "RETENTION"]


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANCEL_GRACE", "")
    assert load().cancel_grace == Settings().cancel_grace


def test_secrets_are_never_shown() -> None:
    shown = describe(Settings(redis_url="redis://:pass-word@host/0", openai_api_key="sk-abc"))
    assert not any("pass-word" in cell or "sk-abc" in cell for row in shown for cell in row)


def test_retention_can_be_set_for_one_status() -> None:
    settings = Settings(retention=100.0, retention_failed=5.0)
    assert (settings.retention_for("completed"), settings.retention_for("failed")) == (100.0, 5.0)


def test_the_readme_names_every_setting_with_its_default_and_meaning() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, _, default, meaning in describe(Settings()):
        shown = "one per core" if name == "WORKER_PROCESSES" else f"`{default}`" if default else ""
        assert f"| `{name}` | {shown} | {meaning} |" in readme
