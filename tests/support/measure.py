"""How far a test goes: `make test` takes a short measure, `make faults` the full one."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("LONG_FAULTS"))
