"""What a run returns, as JSON; and what can not be, named by its place."""

from __future__ import annotations

import json
import math
from typing import Any

from app.runtime.errors import InvalidOutput

MAX_DEPTH = 200


def encode(outputs: Any, limit_bytes: int, place: str = "outputs") -> bytes:
    """Strict JSON. Raises `InvalidOutput` that names what is wrong and where, or the limit it passes."""
    check(outputs, place)
    try:
        text = json.dumps(outputs, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidOutput(f"{place}: there is text that is not valid Unicode (a lone surrogate).") from None
    if len(text) > limit_bytes:
        raise InvalidOutput(f"{place}: {len(text)} bytes are more than MAX_RESULT_BYTES allows ({limit_bytes}).")
    return text


def check(value: Any, place: str, depth: int = 0) -> None:
    """Raises `InvalidOutput` where JSON can not hold the value."""
    if value is None or isinstance(value, (str, bool, int)):
        return
    if depth > MAX_DEPTH:
        raise InvalidOutput(f"The outputs are nested deeper than {MAX_DEPTH}, or contain themselves.")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidOutput(f"{place} is {value}, which JSON can not hold.")
    elif isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise InvalidOutput(f"{place} has the key {key!r}; JSON's keys are text.")
            check(each, f"{place}.{key}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for position, each in enumerate(value):
            check(each, f"{place}[{position}]", depth + 1)
    else:
        raise InvalidOutput(f"{place} is a {type(value).__name__}, which JSON can not hold.")
