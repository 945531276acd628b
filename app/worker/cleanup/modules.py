"""The modules that belong to one flow: found by its own additions to `sys.path`, and kept for it
alone.

Two agents that each put their folder on `sys.path` and import their own `utils` must not get each
other's. What is installed, and the files of flows themselves, stays for all: it means the same
everywhere.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from app.runtime import flow_files


class OwnModules:
    """Made at the birth of a process. What is loaded then belongs to everybody."""

    def __init__(self) -> None:
        self._born_with = dict(sys.modules)
        self._common = set(sys.modules)
        self._paths = {os.path.realpath(path) for path in sys.path}

    def take_out(self) -> dict[str, ModuleType]:
        """Removes a flow's own modules, and returns them; what it replaced or removed is put back."""
        for name, module in self._born_with.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        new = sys.modules.keys() - self._common
        own = {name for name in new if self._is_own(name)}
        self._common |= new - own
        return {name: sys.modules.pop(name) for name in own}

    def _is_own(self, name: str) -> bool:
        """Decided by where the outermost package was found."""
        if name.startswith(flow_files.PREFIX):
            return False
        outermost = sys.modules.get(name.partition(".")[0])
        file = getattr(outermost, "__file__", None)
        if file is None:
            paths = list(getattr(outermost, "__path__", ()))  # a package without an __init__.py
            file = paths[0] + "/" if paths else None
        if not file:
            return False
        folder = os.path.dirname(file)
        if hasattr(outermost, "__path__"):
            folder = os.path.dirname(folder)
        return os.path.realpath(folder) not in self._paths
