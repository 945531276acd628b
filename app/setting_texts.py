"""Describes settings for people: in refusals, in the printed list and in the README's tables.

Called by `app.settings`. Works on any dataclass whose fields are settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from app.setting_checks import Setting, settings_of

ROOT = Path(__file__).resolve().parent.parent


def allowed(setting: Setting) -> str:
    """Describes the allowed values, as a part of a sentence: `an integer from 1 to 64`."""
    meta = setting.meta
    if setting.is_number:
        kind = "an integer" if setting.kind is int else "a number"
        return f"{kind} from {meta['min']} to {meta['max']}"
    if "one_of" in meta:
        options = ", ".join(meta["one_of"])
        return f"one of {options}" if len(meta["one_of"]) > 1 else options
    if setting.kind is bool:
        return "0 or 1"
    if setting.is_list:
        return f"existing folders, separated by {os.pathsep!r}"
    # The docstring of a check is the description of what it accepts.
    return str(meta["check"].__doc__) if "check" in meta else "one word"


def refusal(setting: Setting, reasons: list[str]) -> str:
    """Says in one line what is wrong with a variable, without its value: that may be a secret."""
    return (
        f"{setting.variable}: {' '.join(reasons)} Allowed: {allowed(setting)}. "
        f"Meaning: {setting.meta['help']}"
    )


def listing(settings: Any) -> Iterator[str]:
    """Yields the lines that `python -m app.settings` prints: all settings, secrets masked."""
    for group, members in _groups(type(settings)):
        yield f"{group}:"
        for setting in members:
            value = getattr(settings, setting.name)
            masked = "********" if setting.meta.get("secret") and value else _shown(value)
            yield f"  {setting.variable:30} {masked}".rstrip()
            yield f"      {setting.meta['help']}"
            yield f"      Allowed: {allowed(setting)}. Default: {_default(setting) or 'none'}."
        yield ""


def tables(owner: type) -> Iterator[str]:
    """Yields the lines of the README's tables, one table for each group, in Markdown."""
    for group, members in _groups(owner):
        yield f"**{group.capitalize()}**"
        yield ""
        yield "| variable | default | meaning |"
        yield "|---|---|---|"
        for setting in members:
            default = _default(setting)
            # Words such as "one per core" are no value that could be copied, so they get no quotes.
            quoted = default if "shown" in setting.meta or not default else f"`{default}`"
            yield f"| `{setting.variable}` | {quoted} | {setting.meta['help']} |"
        yield ""


def _groups(owner: type) -> Iterator[tuple[str, Iterator[Setting]]]:
    return groupby(settings_of(owner), key=lambda setting: str(setting.meta["group"]))


def _default(setting: Setting) -> str:
    return str(setting.meta.get("shown") or _shown(setting.default))


def _shown(value: Any) -> str:
    """Writes a value as it would be set: this repository's folders relative to it, 600.0 as 600."""
    if isinstance(value, tuple):
        folders = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path for path in value)
        return os.pathsep.join(map(str, folders))
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return "" if value is None else str(value)
