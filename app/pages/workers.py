"""The page of the workers: can executions run now, what runs where, and what waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from flask import current_app, request

from app.api.access import identity, needs
from app.api.application import Answer
from app.domain.key import Identity, Scope
from app.pages.blueprint import pages
from app.pages.rendering import page
from app.services.overview import Check, Overview, Overviews, Queue, Run, Worker

URL = "/ui/workers"
MOST_SHOWN = 20
"""How many executions of one worker are listed."""

_CHECKS = {
    "store": "Store",
    "scripts": "Functions in the store",
    "version": "Version of the store",
    "role": "Role of the store",
    "write": "Writing",
    "eviction": "Eviction",
    "disk": "Disk",
    "format": "Format of the data",
    "workers_threads": "Workers for threads",
    "workers_processes": "Workers for processes",
}
_WORST_FIRST = ("failed", "unknown", "ok")


@dataclass(frozen=True, slots=True)
class CheckRow:
    """A readiness check. `status` is `ok`, `failed` or `unknown`."""

    title: str
    status: str
    detail: str
    setting: str


@dataclass(frozen=True, slots=True)
class Runs:
    """Running executions: some of the caller's tenant, how many more of them, and of others, which
    is told to an `admin` only.
    """

    own: tuple[Run, ...] = ()
    more: int = 0
    others: int = 0

    @property
    def count(self) -> int:
        return len(self.own) + self.more + self.others


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker, and what it runs."""

    worker: Worker
    runs: Runs


@dataclass(frozen=True, slots=True)
class WorkersPage:
    """What the page shows. A caller without the scope `admin` sees no hosts, and of other tenants
    only how busy the queues and workers are that all share.
    """

    is_ready: bool
    is_complete: bool
    checks: tuple[CheckRow, ...]
    queues: tuple[Queue, ...]
    workers: tuple[WorkerRow, ...]
    lost: Runs
    running: int
    waiting: int
    delayed: int | None
    oldest_seconds: float
    shows_hosts: bool


@pages.get(URL)
@needs(Scope.READ)
def show_workers() -> Answer:
    overviews = cast(Overviews, current_app.extensions["overviews"])
    template = "workers_live.html" if "HX-Request" in request.headers else "workers.html"
    return page(template, shown=workers_page(overviews.read(), identity()), url=URL)


def workers_page(found: Overview, caller: Identity) -> WorkersPage:
    """Computes what this caller may see."""
    alive_first = sorted(found.workers, key=lambda worker: (not worker.is_alive, worker.name))
    rows = tuple(WorkerRow(worker, _runs(worker.runs, caller)) for worker in alive_first)
    lost, is_admin = _runs(found.lost, caller), Scope.ADMIN in caller.scopes
    own_running = lost.count + sum(row.runs.count for row in rows)
    return WorkersPage(
        is_ready=found.is_ready,
        is_complete=found.is_complete,
        checks=_checks(found.checks),
        queues=tuple(queue for queue in found.queues if queue.is_needed or queue.workers),
        workers=rows,
        lost=lost,
        running=found.running if is_admin else own_running,
        waiting=sum(queue.length for queue in found.queues),
        delayed=found.delayed if is_admin else None,
        oldest_seconds=max((queue.oldest_seconds for queue in found.queues), default=0.0),
        shows_hosts=is_admin,
    )


def _runs(found: Iterable[Run], caller: Identity) -> Runs:
    """A tenant sees its own executions only, whatever the scopes of its key. An `admin` is told how
    many there are beside them.
    """
    runs = tuple(found)
    own = [run for run in runs if run.tenant == caller.tenant]
    more = max(len(own) - MOST_SHOWN, 0)
    others = len(runs) - len(own) if Scope.ADMIN in caller.scopes else 0
    return Runs(tuple(own[:MOST_SHOWN]), more, others)


def _checks(found: Iterable[Check]) -> tuple[CheckRow, ...]:
    rows = [
        CheckRow(_CHECKS.get(check.name, check.name), check.status, check.detail, check.setting)
        for check in found
    ]
    return tuple(sorted(rows, key=lambda row: _WORST_FIRST.index(row.status)))
