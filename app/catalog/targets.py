"""Reads what all targets (agents and pipelines) have in common: names, inputs, ids and hashes.

`agents` and `pipelines` call these functions after the schemas have checked a file.
"""

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
from app.domain.errors import ConfigurationError

# Of larger files (model weights, for example), only the size is hashed: reading them would make
# every start of a process slow.
LARGE_FILE_BYTES = 1024 * 1024


def described(data: Mapping[str, Any]) -> dict[str, str]:
    """The name, description and version of a target, as arguments for `Agent` or `Pipeline`."""
    return {name: str(data[name]).strip() for name in ("name", "description", "version")}


def input_fields(declared: Sequence[Mapping[str, Any]] | None) -> tuple[InputField, ...] | None:
    """The declared inputs; None if the file has no list of them, so that any input is accepted."""
    if declared is None:
        return None
    return tuple(
        InputField(
            field["name"],
            field["type"],
            field["required"],
            field.get("default", MISSING),  # not None, which is a default like any other
            field["desc"],
        )
        for field in declared
    )


def id_problems(data: Mapping[str, Any], name: str, kind: str) -> Iterator[Problem]:
    """Checks a target's id: the `name` of its folder or file. `kind` is "folder" or "file".

    The id may be repeated in the file, as other tools expect it there; it must then be the same.
    """
    if data.get("id", name) != name:
        yield ("id",), f"Must be the same as the {kind} name, {name!r}."
    try:
        IDENTIFIER(name)
    except ValidationError as error:
        yield (), f"The {kind} name {name!r} is not a valid id. {error.messages[0]}"


def hash_of_folder(folder: Path) -> str:
    """16 hex digits that change with any file in the folder, and are equal on every machine.

    Each execution records it. Names that begin with `.` or `__` (caches) are skipped. Raises
    `ConfigurationError` for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder)
        if file.is_file() and not any(part.startswith((".", "__")) for part in place.parts):
            # A zero byte ends the name, which cannot contain one: `a` + `bc` is not `ab` + `c`.
            digest.update(f"{place.as_posix()}\0".encode() + _content(file))
    return digest.hexdigest()[:16]


def _content(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= LARGE_FILE_BYTES else b""
    except OSError as error:
        message = f"{file}: The file cannot be read: {error.strerror}."
        raise ConfigurationError(message) from None
    return str(size).encode() + b"\0" + content


def hash_of_data(data: Any) -> str:
    """16 hex digits that change with the data, but not with its spelling or order in the file."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
