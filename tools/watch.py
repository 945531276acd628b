"""Watches the files of agents and pipelines, and names the targets whose content has changed.

The kernel says *that* something happened below a folder, through the library `watchfiles`. *What*
has changed is found by comparing all contents with those of before. So it makes no difference how
an editor saves (in place, or with a temporary file and a rename), and a `touch`, a backup file or
what a flow writes beside its code changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from watchfiles import watch

SUFFIXES = (".py", ".yaml", ".yml")
"""What the service reads by itself. Flows may write other files beside their code."""

QUIET_MS = 150
"""Changes are passed on when nothing has changed for this long: `git checkout` writes many files.
"""

LOOK_MS = 2000
"""How often to look even if the kernel says nothing. It does not follow a link that is turned to
another folder, and reports nothing from some network drives.
"""

MAX_NAMES = 8
"""How many targets a line names."""

Contents = dict[str, dict[Path, bytes]]
"""The digest of each file, by target: `agents/greeter`, `pipelines/welcome`."""

Known = dict[Path, tuple[tuple[int, ...], bytes]]
"""Of files that were read before: how they were, and the digest."""

SETTLED_NS = 1_000_000_000
"""A file that has changed since then may change again without another time: clocks have ticks."""


def contents(folders: Sequence[Path], known: Known | None = None) -> Contents:
    """The files that count, below these folders. Reads only those that differ from `known`, which
    it also fills: a folder may hold thousands of files of installed packages.
    """
    known = {} if known is None else known
    found: Contents = {}
    for folder in folders:
        for path in _files(folder):
            if digest := _digest(path, known):
                name = path.relative_to(folder).parts[0]
                target = f"{folder.name}/{name.removesuffix(path.suffix)}"
                found.setdefault(target, {})[path] = digest
    return found


def differences(old: Contents, new: Contents) -> str:
    """Says what differs: `agents/greeter changed, pipelines/welcome added`. Empty if nothing."""
    words = {
        target: "added" if target not in old else "removed" if target not in new else "changed"
        for target in sorted(old.keys() | new.keys())
        if old.get(target) != new.get(target)
    }
    named = [f"{target} {word}" for target, word in words.items()]
    more = [f"{len(named) - MAX_NAMES} more"] if len(named) > MAX_NAMES else []
    return ", ".join([*named[:MAX_NAMES], *more])


class Watcher:
    """Calls `on_change` in a thread of its own, until `stop`."""

    def __init__(
        self,
        folders: Sequence[Path],
        on_change: Callable[[Contents], None],
        on_trouble: Callable[[str], None],
    ):
        self._folders, self._on_change, self._on_trouble = folders, on_change, on_trouble
        self._known: Known = {}
        self._seen = contents(folders, self._known)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    @property
    def first(self) -> Contents:
        """What was there before the watching began."""
        return self._seen

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        for _ in self._occasions():
            if self._stop.is_set():
                return
            now = contents(self._folders, self._known)
            if now != self._seen:
                self._seen = now
                self._on_change(now)

    def _occasions(self) -> Iterator[None]:
        """Yields whenever something may have changed."""
        while not self._stop.is_set():
            try:
                for _ in watch(
                    *self._folders,
                    step=QUIET_MS,
                    rust_timeout=LOOK_MS,
                    yield_on_timeout=True,
                    stop_event=self._stop,
                    raise_interrupt=False,
                    ignore_permission_denied=True,
                ):
                    yield
            except (OSError, RuntimeError) as error:
                # The kernel's limit of watches is reached, or a folder is gone.
                self._on_trouble(str(error))
                while not self._stop.wait(LOOK_MS / 1000):
                    yield


def _files(folder: Path) -> Iterator[Path]:
    """Follows links, but enters no folder twice: a link may lead to a folder above it."""
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = _visible(folders)
        yield from (Path(place, name) for name in _visible(files) if name.endswith(SUFFIXES))


def _visible(names: Iterable[str]) -> list[str]:
    # Hidden files are those of editors (`.#greet.py`, `.greet.py.swp`).
    return sorted(name for name in names if not name.startswith(".") and name != "__pycache__")


def _digest(path: Path, known: Known) -> bytes | None:
    try:
        found = path.stat()
        # A pipe must not be opened: reading it would wait for a writer.
        if not stat.S_ISREG(found.st_mode):
            return None
        # No program can set the last one: it changes with each save, in whatever way.
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if path in known and known[path][0] == state:
            return known[path][1]
        digest = hashlib.blake2b(path.read_bytes()).digest()
    except OSError:
        return None  # it was removed meanwhile, or may not be read
    if time.time_ns() - found.st_ctime_ns > SETTLED_NS:
        known[path] = state, digest
    return digest
