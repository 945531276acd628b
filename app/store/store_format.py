"""The version of the store's format, which the reaper writes into the store.

The number grows only if older code cannot use what newer code writes. So code that finds a higher
number than its own does nothing with that store: its functions refuse every call
(`scripts/prelude.lua`), a worker does not start, and `/readyz` and `python -m app.check` fail. If
the number is lower, or missing, `scripts/old.lua` rewrites the records. `tests/store/formats` has a
store of each format.
"""

from __future__ import annotations

FORMAT = 5
"""The format that this code reads and writes. The scripts get it from here."""

KEY = "exec:format:version"

NEWER = "NEWERFORMAT"
"""How the error of the scripts begins if newer code has written to the store."""

REMEDY = "run that version again, or restore the copy of the store from before the upgrade"


def read(answer: object) -> int | None:
    """The number in a reply to `GET`; None if there is none, or no readable one."""
    if not isinstance(answer, bytes) or not answer.isdigit() or len(answer) > 9:
        return None
    return int(answer)


def is_newer(found: int | None) -> bool:
    return found is not None and found > FORMAT


REFUSAL = (
    "A newer version of this service has written to the store. This version knows the store's "
    f"formats up to {FORMAT}, so it does nothing with it."
)
"""Says why this code does not use a store of a newer format."""
