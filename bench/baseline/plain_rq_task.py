"""The baseline's task, in a module that needs no store to be imported."""

from __future__ import annotations

import time
from typing import Any


def task(inputs: dict[str, Any]) -> dict[str, Any]:
    time.sleep(inputs.get("seconds", 0))
    return inputs
