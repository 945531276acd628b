"""Shows values as text for people: lists of rows as tables, everything else by its name."""

from __future__ import annotations

import json
from typing import Any

WIDEST = 60
"""A longer cell of a table is cut."""


def shown(found: dict[str, Any]) -> str:
    """The values, each under its name. Control characters are shown as escapes."""
    parts = []
    for name, value in found.items():
        title = name.replace("_", " ")
        if isinstance(value, list) and all(isinstance(row, dict) for row in value):
            parts.append(f"{title}: {len(value) or 'none'}")
            parts += _table(value)
        elif isinstance(value, list):
            parts.append(f"{title}:")
            parts += [f"  {_cell(inner)}" for inner in value]
        elif isinstance(value, dict):
            parts.append(f"{title}:")
            parts += [f"  {key}: {_cell(inner)}" for key, inner in value.items()]
        else:
            parts.append(f"{title}: {_cell(value)}")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name))[:WIDEST] for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # What is stored must not move the cursor of a terminal.
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
