"""The form of API keys and scopes, the variable `API_KEYS`, and the modes of `AUTH`."""

from __future__ import annotations

import re

import pytest

from app.domain.errors import ConfigurationError
from app.domain.key import USUAL, Scope, digest_of, new_key, parse_environment, parse_scopes
from app.settings import Settings, load

GOOD = "0123456789abcdef"


def test_a_new_key_has_the_prefix_and_is_never_made_twice() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch(r"exkey_[0-9A-Za-z]{43}", key) for key in keys)


def test_keys_of_the_environment_belong_to_their_tenant_and_may_do_all_but_admin() -> None:
    first, second, third = parse_environment(f"acme:{GOOD}1, acme:{GOOD}2,{GOOD}3")
    assert [key.identity.tenant for key in (first, second, third)] == ["acme", "acme", "default"]
    assert first.matches(digest_of(f"{GOOD}1".encode()))
    assert not first.matches(second.digest)
    assert first.identity.scopes == USUAL == {Scope.START, Scope.READ, Scope.CANCEL}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acme:too-short", "key in entry 1 must have at least 16"),
        ("acme", "key in entry 1 must have at least 16"),
        (f"acme:{GOOD},", "key in entry 2 must have at least 16"),
        (f"acme:{GOOD}é", "key in entry 1 must have at least 16"),
        (f"acme:{GOOD} x", "key in entry 1 must have at least 16"),
        (f"a b:{GOOD}", "Entry 1 must have the form tenant:key"),
        (f"a:b:{GOOD}", "Entry 1 must have the form tenant:key"),
        (f"acme:{GOOD},other:{GOOD}", "Entry 2 repeats an earlier key"),
    ],
)
def test_a_wrong_entry_is_named_by_its_position_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("API_KEYS", text)
    with pytest.raises(ConfigurationError, match=f"^API_KEYS: .*{message}") as raised:
        load()
    assert GOOD not in str(raised.value)
    assert "too-short" not in str(raised.value)


def test_keys_beside_auth_off_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", GOOD)
    monkeypatch.setenv("AUTH", "off")
    with pytest.raises(ConfigurationError, match=r"^API_KEYS: .*AUTH=off"):
        load()


@pytest.mark.parametrize(("variable", "value"), [("AUTH", "on"), ("METRICS", "1")])
def test_an_unknown_mode_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"^{variable}: Must be one of"):
        load()


@pytest.mark.parametrize(
    ("settings", "required", "may_be_reached"),
    [
        (Settings(), False, False),
        (Settings(auth="off"), False, True),
        (Settings(auth="keys"), True, True),
        (Settings(api_keys=GOOD), True, True),
    ],
)
def test_auth_and_api_keys_decide_whether_keys_are_required(
    settings: Settings, required: bool, may_be_reached: bool
) -> None:
    assert (settings.keys_required, settings.may_be_reached) == (required, may_be_reached)


def test_an_unknown_scope_is_named() -> None:
    assert parse_scopes("read, start") == {Scope.READ, Scope.START}
    with pytest.raises(ValueError, match="'write'"):
        parse_scopes("read,write")
