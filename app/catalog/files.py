"""Reads files that people put there: whatever they are, it ends soon, and with a reason."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from app.errors import ConfigurationError

MAX_FILE_BYTES = 1024 * 1024


def read_text(path: Path, limit_bytes: int = MAX_FILE_BYTES) -> str:
    """The text of a file. Raises `ConfigurationError` where it is none, or is too large.

    A pipe or a device would be waited for, or never end, so it is opened without waiting and looked at.
    """
    try:
        return read_bytes(path, limit_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{_name(path)}:{line}: The file is not UTF-8.") from None


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """What is in a regular file. Raises `ConfigurationError`."""
    try:
        return _read(path, limit_bytes)
    except OSError as error:
        raise ConfigurationError(
            f"{_name(path)}:1: The file cannot be read: {error.strerror}."
        ) from None


def _name(path: Path) -> str:
    name = str(path)
    return name if len(name) <= 1000 else f"{name[:500]}…{name[-100:]}"


def _read(path: Path, limit_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigurationError(f"{path}:1: This is no regular file.")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ConfigurationError(f"{path}:1: The file is larger than {limit_bytes} bytes.")
    return content
