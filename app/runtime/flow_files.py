"""Loads the files of Python flows as modules. `python_flow.py` calls `load`.

A flow's file is the module `app.runtime.flow_files.<its path>`, and a package: the files of two
agents never get into each other's way, and `from . import other` finds files in the same folder.
Because the path is the name, processes that `multiprocessing` spawns can import the module too:
pickle names it.

Python's import system locks each module for itself, so a slow import delays no other flow.

The files in the folder of a flow are compiled in each process, and their bytecode is neither read
nor stored. Python would take stored bytecode for current if the file has the same size and was
changed in the same second, which is what happens when an author saves twice.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

__path__: list[str] = []
"""Makes this module a package. Only `_Finder` finds modules in it."""

PREFIX = f"{__name__}."

_SUFFIX = ".py"


def load(path: Path) -> ModuleType:
    """The module of a flow's file, loaded once in a process. Raises whatever its code raises."""
    _folders.add(str(path.parent))
    return importlib.import_module(module_name(path))


def module_name(path: Path) -> str:
    # A dot in a module's name would mean a package, so the dots of the path are escaped.
    return PREFIX + str(path).removesuffix(_SUFFIX).replace("%", "%25").replace(".", "%2E")


def _path_of(name: str) -> Path:
    path = name.removeprefix(PREFIX).replace("%2E", ".").replace("%25", "%")
    return Path(path + _SUFFIX)


def forget_main() -> None:
    """Puts an empty module in the place of this process's main module.

    Processes that `multiprocessing` spawns import the main module, and that is the whole worker
    here.
    """
    sys.modules["__main__"] = ModuleType("__main__")


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles the file as it is now."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


_folders: set[str] = set()
"""The folders of the flows that this process has loaded."""


def _source_finder(folder: str) -> importlib.machinery.FileFinder:
    """A path hook: finds the modules in the folders of flows. Other folders are left to Python."""
    path = Path(folder).absolute()
    # A copy: other threads may load flows meanwhile.
    if not any(path.is_relative_to(known) for known in tuple(_folders)):
        raise ImportError
    extensions = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    return importlib.machinery.FileFinder(folder, extensions, (_SourceLoader, [_SUFFIX]))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the files of flows. `_source_finder` finds the other files of their folders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(PREFIX) or "." in fullname.removeprefix(PREFIX):
            return None
        file = _path_of(fullname)
        return importlib.util.spec_from_file_location(
            fullname,
            file,
            loader=_SourceLoader(fullname, str(file)),
            submodule_search_locations=[str(file.parent)],
        )


sys.meta_path.append(_Finder())
sys.path_hooks.insert(0, _source_finder)
