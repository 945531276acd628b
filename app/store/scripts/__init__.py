"""The transitions of an execution, in Lua: the only code that ever changes an execution's state.

They are one library of functions, which the store keeps and runs one at a time, on its own clock.
Each file of a function begins with what it promises, and each may be repeated without harm, because
an answer can be lost on its way.

The names of the library and of its functions end with a digest of its code. So two versions of the
service may work on one store, each with its own functions, and none is ever called with the
arguments of another version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent

_SHARED = ("prelude", "record", "moves", "old", "admission")

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
    "reap": "allow-oom",
    "count": "allow-oom",
    "mend": "allow-oom",
    "quarantine": "allow-oom",
    "status": "no-writes",
    "page": "no-writes",
    "observe": "no-writes",
}
"""Each function with its flag. `allow-oom`: a full store takes it, because executions that end make
room. `no-writes`: it only reads, so a store that takes no writes runs it. New executions have
neither.
"""

PREFIX = "executions_"

NOT_FOUND = "Function not found"
"""What a store answers that does not have the library: it was emptied or replaced, or never asked
before.
"""


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of this version of the service, as the store is given them."""

    name: str
    code: str

    @classmethod
    def of(cls, text: str) -> Library:
        """Names the library, and its functions, after the digest of their text."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(
            f"{PREFIX}{digest}", f"#!lua name={PREFIX}{digest}\n{text.replace('@digest@', digest)}"
        )

    def function(self, name: str) -> str:
        """What a function is called in the store."""
        return f"{name}_{self.name.removeprefix(PREFIX)}"


@cache
def text() -> str:
    """The library's code, before it has a name."""
    shared = [_read(name) for name in _SHARED]
    return "".join([*shared, *(_function(name, flag) for name, flag in _FUNCTIONS.items())])


@cache
def library() -> Library:
    return Library.of(text())


def _function(name: str, flag: str) -> str:
    """A block of its own, so that what one file names is not seen by the others. Each file has a
    function `run`.
    """
    flags = f"flags = {{'{flag}'}}, " if flag else ""
    return (
        f"do\n{_read(name)}"
        f"redis.register_function{{function_name = '{name}_@digest@', {flags}callback = function(_, ARGV)\n"
        f"  call, try = redis.call, redis.pcall\n  return run(ARGV)\nend}}\nend\n"
    )


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text()
