"""Checks answers against the published response schema, `tests/contract`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

CONTRACT = Path(__file__).resolve().parent.parent / "contract"
_SCHEMA = json.loads((CONTRACT / "responses.schema.json").read_text())


def check_shape(body: Any, shape: str) -> None:
    """Raises `ValidationError` if the body does not match this shape."""
    jsonschema.Draft202012Validator(
        {"$ref": f"#/$defs/{shape}", "$defs": _SCHEMA["$defs"]}
    ).validate(body)
