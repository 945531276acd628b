"""Reads the webhook deliveries of an execution, and sends one again when somebody asks for it.

The web side uses `Deliveries`. A worker sends them: see `delivery_queue`. Both write and read tries
by the functions here. What a delivery is in the store is said in `scripts/deliveries.lua`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

from app.domain.delivery import Delivery, DeliveryPage, DeliveryStatus, Try
from app.store.functions import Functions
from app.store.job_reader import MAX_COUNT, read_callback, read_time
from app.store.steps import read_moment, to_datetime

STATUS_OF_RQ = {
    b"queued": DeliveryStatus.PENDING,
    b"started": DeliveryStatus.SENDING,
    b"scheduled": DeliveryStatus.WAITING,
    b"finished": DeliveryStatus.DELIVERED,
    b"failed": DeliveryStatus.FAILED,
    b"canceled": DeliveryStatus.STOPPED,
}

MOST = 100
"""The most deliveries that one call reads."""


def delivery_id(execution_id: str, number: int) -> str:
    """The id of the delivery's RQ job, and its `webhook-id`."""
    return f"{execution_id}-{number}"


class Deliveries:
    """Safe to use from many threads. Every method raises `StoreUnavailable`."""

    def __init__(self, functions: Functions, calling: Callable[[], AbstractContextManager[None]]):
        self._functions, self._calling = functions, calling

    def read(
        self, execution_id: str, tenant: str, after: int = 0, count: int = MOST
    ) -> DeliveryPage | None:
        """Up to `count` deliveries with numbers above `after`; None if the tenant has no such
        execution.
        """
        with self._calling():
            arguments = [execution_id, tenant, after, min(count, MOST)]
            found: Any = self._functions("read_deliveries", arguments)
        if not found:
            return None
        total, callback, *rows = found
        read = (_read(execution_id, int(number), due, fields) for number, due, fields in rows)
        return DeliveryPage(tuple(read), total, read_callback(callback))

    def redeliver(self, execution_id: str, tenant: str, number: int) -> DeliveryStatus | None:
        """Has a delivery sent again at once, and returns its status then; None if there is no such
        delivery. One that is not yet delivered has all its tries again.
        """
        with self._calling():
            word: Any = self._functions("redeliver", [execution_id, tenant, number])
        return DeliveryStatus(word.decode()) if word else None


def write_try(tried: Try) -> str:
    """As the scripts store it, behind the time of the store's clock."""
    fields = (tried.code, tried.error, round(tried.seconds, 3), tried.answer)
    return (
        json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        .encode(errors="replace")
        .decode()
    )


def _read(execution_id: str, number: int, due: bytes, flat: list[bytes]) -> Delivery:
    """A delivery as it is stored. Another program may have written anything into it."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    status = STATUS_OF_RQ.get(fields.get(b"status", b""), DeliveryStatus.FAILED)
    created_at, ended_at = to_datetime(0), None
    with suppress(KeyError, ValueError):
        created_at = read_time(fields[b"created_at"])
    with suppress(KeyError, ValueError):
        ended_at = read_time(fields[b"ended_at"])
    return Delivery(
        id=delivery_id(execution_id, number),
        number=number,
        event=_text(fields.get(b"event")) or "unknown",
        event_number=_number(fields.get(b"number")),
        status=status,
        created_at=created_at,
        next_try_at=read_moment(due) if due and status is DeliveryStatus.WAITING else None,
        ended_at=ended_at,
        error=_text(fields.get(b"error")),
        tries_made=_number(fields.get(b"tries")),
        tries=tuple(_tries(fields)),
    )


def _tries(fields: Mapping[bytes, bytes]) -> list[Try]:
    """The stored tries, the first one first. Unreadable ones are left out."""
    numbers = sorted(
        _number(name[4:]) for name in fields if name[:4] == b"try:" and name[4:].isdigit()
    )
    tries = []
    for number in numbers:
        with suppress(KeyError, ValueError, TypeError, OverflowError, RecursionError):
            tries.append(_read_try(fields[b"try:%d" % number]))
    return tries


def _read_try(text: bytes) -> Try:
    at, _, stored = text.partition(b":")
    code, error, seconds, answer = json.loads(stored)
    if not isinstance(code, int | None) or not isinstance(error, str | None):
        raise ValueError("It was not written by a worker.")
    return Try(to_datetime(int(at)), code, error, float(seconds), str(answer))


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() and len(value) <= len(str(MAX_COUNT)) else 0


def _text(value: bytes | None) -> str | None:
    return value.decode(errors="replace") if value else None
