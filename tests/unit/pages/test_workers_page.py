"""What the page of the workers shows of an overview, and to whom."""

from __future__ import annotations

from dataclasses import replace

from app.domain.key import ANYONE, EVERYTHING, USUAL, Identity
from app.pages.workers import MOST_SHOWN, workers_page
from app.services.overview import Check, Overview, Queue, Run, Worker

SHOP = Identity("shop", "key", USUAL)
OK = Check("store", "ok", "The store answers.")
FAILED = Check("disk", "failed", "The store keeps nothing on disk.", "appendonly yes")
UNKNOWN = Check("role", "unknown", "The store does not tell.")


def run(number: int, tenant: str = "shop") -> Run:
    return Run(f"exec_{number}", tenant, "greeter", 10.0)


def worker(name: str, *runs: Run, is_alive: bool = True) -> Worker:
    return Worker(name, "threads", 1, 4, 2.0, is_alive, "host", "1", "1.0.0", runs)


def queue(name: str, length: int, oldest: float, *, workers: int = 1, needed: bool = True) -> Queue:
    return Queue(name, "thread", length, oldest, workers, 0, 4, needed)


def test_what_is_broken_comes_first() -> None:
    shown = workers_page(Overview((OK, UNKNOWN, FAILED)), ANYONE)
    assert [check.status for check in shown.checks] == ["failed", "unknown", "ok"]
    assert not shown.is_ready
    assert (shown.checks[0].title, shown.checks[0].setting) == ("Disk", "appendonly yes")
    assert workers_page(Overview((OK, UNKNOWN)), ANYONE).is_ready


def test_a_check_without_a_title_is_shown_by_its_name() -> None:
    [check] = workers_page(Overview((Check("new_check", "ok", "Fine."),)), ANYONE).checks
    assert check.title == "new_check"


def test_a_tenant_sees_its_own_executions_and_an_admin_the_number_of_others() -> None:
    runs = (run(1), run(2, "bank"), run(3, "bank"))
    found = Overview((OK,), workers=(worker("w", *runs),), running=3, delayed=4)
    shown = workers_page(found, SHOP)
    [row] = shown.workers
    assert [own.execution_id for own in row.runs.own] == ["exec_1"]
    assert (row.runs.others, shown.running, shown.delayed) == (0, 1, None)
    shown = workers_page(found, replace(SHOP, scopes=EVERYTHING))
    [row] = shown.workers
    assert [own.execution_id for own in row.runs.own] == ["exec_1"], "no scope shows others"
    assert (row.runs.others, shown.running, shown.delayed) == (2, 3, 4)


def test_a_busy_worker_is_not_listed_without_end() -> None:
    runs = [run(number) for number in range(MOST_SHOWN + 5)]
    [row] = workers_page(Overview((OK,), workers=(worker("w", *runs),)), SHOP).workers
    assert (len(row.runs.own), row.runs.more) == (MOST_SHOWN, 5)


def test_only_an_admin_sees_hosts() -> None:
    assert not workers_page(Overview((OK,)), SHOP).shows_hosts
    assert workers_page(Overview((OK,)), replace(SHOP, scopes=EVERYTHING)).shows_hosts


def test_silent_workers_come_last() -> None:
    found = Overview((OK,), workers=(worker("a", is_alive=False), worker("c"), worker("b")))
    assert [row.worker.name for row in workers_page(found, SHOP).workers] == ["b", "c", "a"]


def test_the_sums_are_of_all_queues() -> None:
    found = Overview((OK,), queues=(queue("threads", 2, 1.0), queue("processes", 3, 70.0)))
    shown = workers_page(found, SHOP)
    assert (shown.waiting, shown.oldest_seconds) == (5, 70.0)


def test_a_queue_that_nothing_uses_is_left_out() -> None:
    unused = queue("threads", 0, 0.0, workers=0, needed=False)
    found = Overview((OK,), queues=(unused, queue("processes", 0, 0.0, workers=0)))
    assert [row.name for row in workers_page(found, SHOP).queues] == ["processes"]


def test_executions_of_workers_that_are_gone_are_shown_too() -> None:
    shown = workers_page(Overview((OK,), lost=(run(1), run(2, "bank"))), SHOP)
    assert [own.execution_id for own in shown.lost.own] == ["exec_1"]
    assert (shown.lost.others, shown.running) == (0, 1)
