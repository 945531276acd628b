"""Reads a claimed execution, as `claim.lua` returns it. `worker` makes one `Attempt` of each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

MAX_SECONDS = 86_400 * 365
"""A year: more than any time that a request may ask for. A record may hold any number, but a timer
can take only a limited one.
"""

ALONE = 2
SOLE = 3
"""The numbers of `deaths` from which `Claim.alone` and `Claim.sole` are true. prelude.lua has the
same numbers.
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an attempt begins with.

    `token` is the fencing token: the store refuses writes with any other. No token is given out
    twice, even if the store loses writes. `resumes`: earlier attempts, or the execution that this
    one retries, have stored steps. `data` is the request, `used_before` the usage so far.
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
    definition_hash: str = ""
    resumes: bool = False
    traceparent: str | None = None
    deaths: int = 0
    """How often it was in a process or a worker that died or hung together with other runs."""
    listened: bool = False
    """Whether somebody follows its events."""

    @classmethod
    def from_row(cls, row: list[bytes]) -> Claim:
        """Reads a row of `claim.lua`'s answer. Raises `ValueError` or `RecursionError` if the
        record makes no sense: it may have been written by an older version, or by hand.
        """
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
            definition_hash=row[10].decode(),
            resumes=row[11] == b"1",
            traceparent=row[12].decode() or None,
            deaths=int(row[13]) if len(row) > 13 else 0,
            listened=len(row) > 14 and row[14] == b"1",
        )

    @property
    def worker(self) -> str:
        """The name of its worker, which `attempts` shows, too. The token begins with it."""
        return self.token.rsplit(":", 2)[0]

    @property
    def alone(self) -> bool:
        """Whether it runs in a process of its own."""
        return self.deaths >= ALONE

    @property
    def sole(self) -> bool:
        """Whether, in addition, no other execution that runs alone may run at the same time."""
        return self.deaths >= SOLE

    @property
    def key(self) -> tuple[str, str]:
        """Tells this attempt from every other, even of the same execution."""
        return self.id, self.token


def _seconds(value: object) -> float:
    """Raises `ValueError` for anything but a number from 0 to `MAX_SECONDS`."""
    try:
        number = float(value)  # type: ignore[arg-type]  # a record may hold anything
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    if not 0 <= number <= MAX_SECONDS or math.isnan(number):
        raise ValueError(f"{number} is not a number of seconds.")
    return number
