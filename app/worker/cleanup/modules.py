"""Keeps the modules that one flow imports away from other flows.

Two agents may each put their folder on `sys.path` and import their own `utils`: neither must get
the other's. So `cleanup` calls `take_out` after each run, and puts the modules back for the next
run of the same flow. Installed packages and the files of flows stay loaded, because no two of these
modules have the same name (see `app.runtime.flow_files`).
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from app.runtime import flow_files


class OwnModules:
    """Finds the modules that a run has added. `cleanup` creates it before the first run: modules
    that are loaded by then belong to all flows.
    """

    def __init__(self) -> None:
        self._born_with = dict(sys.modules)
        self._common = set(sys.modules)
        self._paths = {os.path.realpath(path) for path in sys.path}

    def take_out(self) -> dict[str, ModuleType]:
        """Removes a flow's own modules from `sys.modules`, and returns them by their names. Puts
        back modules that the flow replaced or removed.
        """
        for name, module in self._born_with.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        new = sys.modules.keys() - self._common
        own = {name for name in new if self._is_own(name)}
        self._common |= new - own
        return {name: sys.modules.pop(name) for name in own}

    def _is_own(self, name: str) -> bool:
        """Whether the module's top package is in a folder that a flow added to `sys.path`."""
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
