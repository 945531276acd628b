"""Builds the library of Lua functions that the store runs: the transitions of an execution.

Only these functions change the state of an execution. The store runs one at a time, by its own
clock. The file `<name>.lua` begins with what the function promises. Each function may be repeated
without harm, because its reply can be lost on the way.

The names of the library and its functions end with a digest of the code. So two versions of the
service can use one store, each with its own functions: no function ever receives the arguments of
another version. `app.store.functions` loads the library and calls the functions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.store.counters import BOUNDS_MS
from app.store.store_format import FORMAT, NEWER

_FOLDER = Path(__file__).parent

# Files whose local functions and constants all transitions see. Each file uses only those of the
# files before it. `old` rewrites records of older versions.
_SHARED = ("prelude", "record", "deliveries", "events", "moves", "old")

# Files whose code is a part of one transition alone.
_PARTS = {"submit": ("admission",), "reap": ("sweep", "restore", "reap_deliveries")}

_FUNCTIONS = {
    "submit": "",
    "copy": "",
    "claim": "allow-oom",
    "fence": "allow-oom",
    "beat": "allow-oom",
    "checkpoint": "allow-oom",
    "finish": "allow-oom",
    "release": "allow-oom",
    "cancel": "allow-oom",
    "listen": "allow-oom",
    "reap": "allow-oom",
    "count": "allow-oom",
    "take_deliveries": "allow-oom",
    "note_tries": "allow-oom",
    "redeliver": "allow-oom",
    "mend": "allow-oom",
    "quarantine": "allow-oom",
    "status": "no-writes",
    "log": "no-writes",
    "waiting": "no-writes",
    "page": "no-writes",
    "observe": "no-writes",
    "read_deliveries": "no-writes",
    "read_to_send": "no-writes",
}
"""Each function with its flag.

`allow-oom`: it also runs when the store is full, because executions that end make room.
`no-writes`: it only reads, so it also runs on a store that takes no writes. Functions that store
new executions have no flag, so a full store refuses them.
"""

PREFIX = "executions_"

NOT_FOUND = "Function not found"
"""The error of a store that does not have the library: it is new, or it was emptied or replaced."""


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of this version of the service: the library's name and its Lua code."""

    name: str
    code: str

    @classmethod
    def of(cls, text: str) -> Library:
        """Names the library and its functions after the digest of their text."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        code = text.replace("@digest@", digest)
        return cls(f"{PREFIX}{digest}", f"#!lua name={PREFIX}{digest}\n{code}")

    def function(self, name: str) -> str:
        """The name of a function in the store."""
        return f"{name}_{self.name.removeprefix(PREFIX)}"


@cache
def text() -> str:
    """The library's code, with `@digest@` in place of the digest."""
    shared = [_filled(_read(name)) for name in _SHARED]
    return "".join([*shared, *(_function(name, flag) for name, flag in _FUNCTIONS.items())])


def _filled(code: str) -> str:
    """Fills in what Python knows: stated once, so that the two cannot differ."""
    bounds = ", ".join(map(str, BOUNDS_MS))
    for name, value in (("bounds", bounds), ("format", str(FORMAT)), ("newer", NEWER)):
        code = code.replace(f"@{name}@", value)
    return code


@cache
def library() -> Library:
    return Library.of(text())


def _function(name: str, flag: str) -> str:
    # Each function is in a block of its own, so that its names are not visible to the others. All
    # of them call themselves `run`.
    code = "".join(_read(file) for file in (*_PARTS.get(name, ()), name))
    flags = f"flags = {{'{flag}'}}, " if flag else ""
    return (
        f"do\n{code}"
        f"redis.register_function{{function_name = '{name}_@digest@', {flags}"
        f"callback = function(_, ARGV)\n"
        f"  call, try = redis.call, redis.pcall\n"
        f"  return refusal_of_format() or run(ARGV)\nend}}\nend\n"
    )


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text()
