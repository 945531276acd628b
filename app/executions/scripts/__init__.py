"""The transitions of an execution, as Lua scripts: the only code that ever changes an execution's state.

Each file begins with what it promises. They run in the store, one at a time, on the store's clock, and
each may be repeated without harm, because an answer can be lost on its way. `prelude.lua` stands in
front of each, and `admission.lua` in front of what lets new executions in.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_IN_FRONT = {"submit": ("prelude", "admission", "submit")}


@cache
def source(name: str) -> str:
    """The complete text of one script."""
    return "".join((_FOLDER / f"{part}.lua").read_text() for part in _IN_FRONT.get(name, ("prelude", name)))
