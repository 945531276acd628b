"""What agents and pipelines have in common when they are built from their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from app.catalog.documents import Problem
from app.catalog.model import MISSING, InputField
from app.catalog.schemas import IDENTIFIER


def described(data: Mapping[str, Any]) -> dict[str, str]:
    """What is shown to people."""
    return {name: str(data[name]).strip() for name in ("name", "description", "version")}


def input_fields(declared: Sequence[Mapping[str, Any]] | None) -> tuple[InputField, ...] | None:
    """The declared inputs; None where the file has no list of them."""
    if declared is None:
        return None
    return tuple(
        InputField(each["name"], each["type"], each["required"], each.get("default", MISSING), each["desc"])
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


def version_of_files(files: Iterable[Path]) -> str:
    """Sixteen hex digits that change with any of these files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def version_of(data: Any) -> str:
    """Sixteen hex digits that change with the data, but not with how a file spells it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]
