"""The files of flows, as modules that any process of this service can import by name.

A flow's file is the module `app.runtime.flow_files.<its path>`, a package of its own: two agents' files
never meet, and `from . import other` finds its folder. Because the path is the name, a process that
`multiprocessing` has spawned can import it, too: pickle asks for it by name.

Python's import system locks each module for itself, so one slow import holds up nobody else.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__path__: list[str] = []
"""Makes this module a package; what is in it is found by `_Finder` alone."""

PREFIX = f"{__name__}."

_SUFFIX = ".py"


def load(path: Path) -> ModuleType:
    """The module of a flow's file, loaded once in a process."""
    return importlib.import_module(module_name(path))


def module_name(path: Path) -> str:
    """Dots have a meaning in the names of modules, so those of the path are escaped."""
    return PREFIX + str(path).removesuffix(_SUFFIX).replace("%", "%25").replace(".", "%2E")


def _path_of(name: str) -> Path:
    path = name.removeprefix(PREFIX).replace("%2E", ".").replace("%25", "%")
    return Path(path + _SUFFIX)


def forget_main() -> None:
    """Leaves nothing of the program that started this process for spawned processes to run again.

    `multiprocessing` has each of them import the main module, which here is the whole worker.
    """
    sys.modules["__main__"] = ModuleType("__main__")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the files; their siblings are found by Python's own finders, as those of any package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(PREFIX) or "." in fullname.removeprefix(PREFIX):
            return None
        file = _path_of(fullname)
        return importlib.util.spec_from_file_location(
            fullname, file, submodule_search_locations=[str(file.parent)]
        )


sys.meta_path.append(_Finder())
