"""Reads files of agents and pipelines from disk: bounded in size, and never waiting for a device.

`documents` reads YAML files with it, `entrypoints` Python files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from app.domain.errors import ConfigurationError

# Real prompts have tens of KiB, and a parsed YAML file takes many times its size in memory.
MAX_FILE_BYTES = 1024 * 1024


def read_text(path: Path, limit_bytes: int = MAX_FILE_BYTES) -> str:
    """The text of a UTF-8 file. Raises `ConfigurationError` if it is not one, or is too large."""
    try:
        return read_bytes(path, limit_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"{_shortened(path)}:{line}: The file is not UTF-8."
        raise ConfigurationError(message) from None


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """The content of a regular file. Raises `ConfigurationError` if it cannot be read."""
    try:
        return _read(path, limit_bytes)
    except OSError as error:
        message = f"{_shortened(path)}:1: The file cannot be read: {error.strerror}."
        raise ConfigurationError(message) from None


def _shortened(path: Path) -> str:
    name = str(path)
    return name if len(name) <= 1000 else f"{name[:500]}…{name[-100:]}"


def _read(path: Path, limit_bytes: int) -> bytes:
    # O_NONBLOCK: without it, opening a named pipe waits for a writer, perhaps forever.
    # O_NOCTTY: a terminal must not become this process's own.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        # The open file is checked, not its path: the path could be replaced in between.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigurationError(f"{path}:1: This is not a regular file.")
        content = file.read(limit_bytes + 1)
    # The size is counted while reading: a file can grow, and /proc reports sizes of 0.
    if len(content) > limit_bytes:
        raise ConfigurationError(f"{path}:1: The file is larger than {limit_bytes} bytes.")
    return content
