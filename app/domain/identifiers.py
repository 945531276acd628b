"""Makes execution ids: `exec_` and 20 characters of 0-9a-z.

The services call it for every start. The first nine characters are the milliseconds since 1970, so
that ids sort by time of creation. The other eleven are random (56 bits from the system's source),
so that nobody can guess an id.
"""

from __future__ import annotations

import re
import secrets
import time

# Accepts more than what `new_id` makes, so that the length may change without a new API version.
PATTERN = re.compile(r"exec_[0-9a-z]{12,32}")

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id() -> str:
    milliseconds = time.time_ns() // 1_000_000
    return f"exec_{_base36(milliseconds, 9)}{_base36(secrets.randbelow(36**11), 11)}"


def _base36(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
