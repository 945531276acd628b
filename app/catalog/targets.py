"""What agents and pipelines have in common when they are built from their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from app.catalog.documents import Problem
from app.catalog.model import MISSING, InputField
from app.catalog.schemas import IDENTIFIER
from app.errors import ConfigurationError

LARGE_FILE_BYTES = 1024 * 1024


def described(data: Mapping[str, Any]) -> dict[str, str]:
    """What is shown to people."""
    return {name: str(data[name]).strip() for name in ("name", "description", "version")}


def input_fields(declared: Sequence[Mapping[str, Any]] | None) -> tuple[InputField, ...] | None:
    """The declared inputs; None where the file has no list of them."""
    if declared is None:
        return None
    return tuple(
        InputField(
            each["name"], each["type"], each["required"], each.get("default", MISSING), each["desc"]
        )
        for each in declared
    )


def id_problems(data: Mapping[str, Any], own: str, whose: str) -> Iterator[Problem]:
    """An id is the name of a folder or file, `own`, and may be repeated inside; `whose` says which."""
    if data.get("id", own) != own:
        yield ("id",), f"Must equal the name of the {whose}, {own!r}."
    try:
        IDENTIFIER(own)
    except ValidationError as error:
        yield (), f"The name of the {whose}, {own!r}, is no id. {error.messages[0]}"


def version_of_folder(folder: Path) -> str:
    """Sixteen hex digits that change with any file below it, and are the same on every machine.

    Of a file over a MiB (weights, say) only the size counts. Names that begin with `.` or `__` are passed over.
    Raises `ConfigurationError` for a file that can not be read.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder)
        if file.is_file() and not any(part.startswith((".", "__")) for part in place.parts):
            digest.update(f"{place.as_posix()}\0".encode() + _content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        return str(size).encode() + b"\0" + (file.read_bytes() if size <= LARGE_FILE_BYTES else b"")
    except OSError as error:
        raise ConfigurationError(f"{file}: It can not be read: {error.strerror}.") from None


def version_of(data: Any) -> str:
    """Sixteen hex digits that change with the data, but not with how a file spells it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
