"""The task of the baseline `plain_rq`. This module can be imported without a store."""

from __future__ import annotations

import time
from typing import Any


def task(inputs: dict[str, Any]) -> dict[str, Any]:
    time.sleep(inputs.get("seconds", 0))
    return inputs
