"""Bodies against the published response schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

CONTRACT = Path(__file__).resolve().parent.parent / "contract"
_SCHEMA = json.loads((CONTRACT / "responses.schema.json").read_text())


def check_shape(body: Any, shape: str) -> None:
    """Raises `ValidationError` where the body is not of this published shape."""
    jsonschema.Draft202012Validator(
        {"$ref": f"#/$defs/{shape}", "$defs": _SCHEMA["$defs"]}
    ).validate(body)
