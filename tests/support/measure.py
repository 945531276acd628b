"""`LONG`: whether tests run at full length (`make faults`) or are short (`make test`)."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("LONG_FAULTS"))
