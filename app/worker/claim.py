"""A claimed execution, as `claim.lua` returns it: what an attempt begins with. Values only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

MAX_SECONDS = 86_400 * 365
"""More than any time that a request may name. Whatever stands in a record, a timer can hold this.
"""


ALONE, SOLE = 2, 3
"""From so many deaths on; the same as in prelude.lua."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`token` is the fencing token: what is written without it, or with an older one, is refused.

    No token is ever given out twice, whatever the store loses. `resumes`: earlier attempts, or the
    execution that this one retries, have stored steps.
    """

    id: str
    token: str
    number: int
    retried: int = 0
    timeout_seconds: float = 600.0
    retry_max: int = 0
    retry_backoff_seconds: tuple[float, ...] = ()
    tenant: str = "default"
    request_id: str | None = None
    data: bytes = b""
    used_before: str = ""
    definition: str = ""
    resumes: bool = False
    traceparent: str | None = None
    deaths: int = 0
    """How often it was in a process or a worker that died or hung with others in it."""

    @classmethod
    def from_row(cls, row: list[bytes]) -> Claim:
        """From a row of `claim.lua`'s answer. Raises `ValueError` if the record makes no sense."""
        if len(row) < 13:
            raise ValueError("The row is too short.")
        id, token, number, retried, timeout, retries, tenant, request_id = (
            value.decode() for value in row[:8]
        )
        retry = json.loads(retries or "[0]")
        if not isinstance(retry, list) or not retry:
            raise ValueError("`retries` is not a list.")
        return cls(
            id=id,
            token=token,
            number=int(number),
            retried=int(retried),
            timeout_seconds=_seconds(timeout),
            retry_max=int(_seconds(retry[0])),
            retry_backoff_seconds=tuple(_seconds(pause) for pause in retry[1:]),
            tenant=tenant,
            request_id=request_id or None,
            data=row[8],
            used_before=row[9].decode(),
            definition=row[10].decode(),
            resumes=row[11] == b"1",
            traceparent=row[12].decode() or None,
            deaths=int(row[13]) if len(row) > 13 else 0,
        )

    @property
    def alone(self) -> bool:
        """Whether it runs in a process of its own."""
        return self.deaths >= ALONE

    @property
    def sole(self) -> bool:
        """Whether, besides, its worker's process runs no other that is to run alone meanwhile."""
        return self.deaths >= SOLE

    @property
    def key(self) -> tuple[str, str]:
        """What tells this attempt from every other one, also of the same execution."""
        return self.id, self.token


def _seconds(value: object) -> float:
    """Raises `ValueError` for what is no finite number from 0 to `MAX_SECONDS`."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever stands in a record
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if not 0 <= number <= MAX_SECONDS or math.isnan(number):
        raise ValueError(f"{number} is not a number of seconds.")
    return number
