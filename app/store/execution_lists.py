"""Reads the lists of executions: pages of them, and how many there are.

The scripts keep sorted sets of ids for each tenant, which `index_keys` names. `ExecutionReader` has
an `ExecutionLists` for the services.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

import redis

from app.domain.errors import StoreUnavailable
from app.domain.execution import Execution, Status, TargetType
from app.store import records
from app.store.functions import Functions
from app.store.job_reader import ATTEMPT_FIELDS, SUMMARY_FIELDS
from app.store.together import Function, Together, checked


class ExecutionLists:
    """Safe to use from many threads; every method raises `StoreUnavailable`.

    A method is one round trip, and time that does not grow with the number of stored executions. A
    page that names deleted or unreadable records takes up to three.
    """

    def __init__(
        self,
        client: redis.Redis,
        together: Together,
        calling: Callable[[], AbstractContextManager[None]],
    ):
        self._client = client
        self._together = together
        self._calling = calling
        self._page = Function(together, "page")
        self._functions = Functions(client)

    def page(
        self,
        tenant: str,
        keys: Sequence[str],
        offset: int,
        count: int,
        descending: bool,
        *,
        with_attempts: bool = False,
    ) -> tuple[list[Execution], int]:
        """One page of the executions in these index keys, and their exact total."""
        order = "desc" if descending else "asc"
        fields = ATTEMPT_FIELDS if with_attempts else SUMMARY_FIELDS
        arguments = [offset, count, order, len(keys), *keys, *fields]
        with self._calling():
            total, rows = self._page(arguments)
        pairs = zip(rows, records.rows_of(rows, fields), strict=True)
        unreadable = [
            row[0] for row, (id, record) in pairs if records.is_unreadable(id, tenant, record)
        ]
        if unreadable:
            with suppress(StoreUnavailable), self._calling():
                self._functions("mend", unreadable)
                # Mending ends them, so they may now be in another list: read the page again.
                total, rows = self._page(arguments)
        found = {
            id: records.read_anyway(id, tenant, record)
            for id, record in records.rows_of(rows, fields)
        }
        gone = [id for id, execution in found.items() if execution is None]
        if gone:
            self._unlist(tenant, keys, gone)
        executions = [execution for execution in found.values() if execution is not None]
        return executions, total - len(gone)

    def counts(self, lists: Sequence[Sequence[str]]) -> list[int]:
        """How many executions are in each of these lists, which are given by their index keys.

        They are not counted at one instant.
        """
        commands = [("ZCARD", key) for keys in lists for key in keys]
        with self._calling():
            sizes = iter([checked(size) for size in self._together.execute(*commands)])
        return [sum(next(sizes) for _ in keys) for keys in lists]

    def _unlist(self, tenant: str, keys: Sequence[str], gone: Sequence[str]) -> None:
        """Removes ids from the lists if somebody deleted their records by hand."""
        with self._calling(), self._client.pipeline(transaction=False) as pipe:
            for key in {*keys, *index_keys(tenant)}:
                pipe.zrem(key, *gone)
            pipe.execute()


def index_keys(
    tenant: str,
    status: Status | None = None,
    type: TargetType | None = None,
    target_id: str | None = None,
) -> list[str]:
    """The sorted sets that hold the ids of exactly these executions.

    The scripts keep one set for each status and type, and one for each target among these.
    """
    scope = "" if target_id is None else f":{target_id}"
    statuses = [status] if status else list(Status)
    types = [type] if type else list(TargetType)
    return [
        f"exec:index:{tenant}:{status.value}:{type.value}{scope}"
        for status in statuses
        for type in types
    ]
