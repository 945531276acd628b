"""`app.worker.liveness` and `bulkhead`: when a child counts as silent, and who runs alone.

A child is not blamed for what the machine does to it.
"""

from __future__ import annotations

import asyncio

from app.worker.bulkhead import PLACES, Bulkhead
from app.worker.liveness import LEAST_SHARE, Liveness
from app.worker.thread_stats import ThreadStat, ThreadStats, busiest, hindrance


def threads(*rows: tuple[float, float], state: str = "S", faults: int = 0) -> ThreadStats:
    """Of each, for how long it has computed, and been ready without a processor."""
    return {
        number: ThreadStat(f"t{number}", state, computed, delayed, faults)
        for number, (computed, delayed) in enumerate(rows)
    }


IDLE = threads((0, 0), (0, 0), (0, 0))


def silent_after(seconds: int, *after: ThreadStats, longest: float = 1.0) -> float:
    """One look in each second, at these threads in turn."""
    liveness = Liveness(longest)
    liveness.ask()
    for second in range(seconds + 1):
        liveness.sample(float(second), after[second % len(after)])
    return liveness.silent_seconds


def test_a_child_that_was_asked_and_says_nothing_is_silent() -> None:
    assert silent_after(5, IDLE) == 5


def test_a_child_that_has_answered_is_not_silent_until_it_is_asked_again() -> None:
    liveness = Liveness(1.0)
    liveness.sample(0, IDLE)
    liveness.sample(9, IDLE)
    assert liveness.silent_seconds == 0
    liveness.ask()
    liveness.sample(10, IDLE)
    liveness.sample(11, IDLE)
    assert liveness.silent_seconds == 1
    liveness.note_answer()
    liveness.sample(12, IDLE)
    assert liveness.silent_seconds == 0


def test_time_in_which_the_worker_did_not_look_is_no_silence() -> None:
    liveness = Liveness(1.0)
    liveness.ask()
    liveness.sample(0, IDLE)
    liveness.sample(1000, IDLE)
    assert liveness.silent_seconds == 1


def test_a_second_without_a_processor_counts_for_less() -> None:
    starved = [threads((0.0, 1.0 * second)) for second in range(11)]
    liveness = Liveness(1.0)
    liveness.ask()
    for second, facts in enumerate(starved):
        liveness.sample(float(second), facts)
    assert abs(liveness.silent_seconds - 10 * LEAST_SHARE) < 0.001


def test_one_thread_that_computes_holds_the_interpreter_and_many_take_turns() -> None:
    held = threads((1.0, 0), (0.01, 0), (0.0, 0))
    assert hindrance(IDLE, held, 1.0) == 0
    assert busiest(IDLE, held) == [0]
    turns = threads((0.3, 0), (0.3, 0), (0.3, 0))
    assert hindrance(IDLE, turns, 1.0) == 1
    assert busiest(IDLE, turns) == []
    assert busiest(IDLE, IDLE) == []


def test_a_process_that_is_swapped_in_cannot_answer() -> None:
    assert hindrance(IDLE, threads((0, 0), faults=100), 1.0) == 1
    assert hindrance(IDLE, threads((0, 0), state="D"), 1.0) == 1
    assert hindrance(IDLE, threads((0, 0), state="T"), 1.0) == 0  # whoever stopped it: no excuse


def test_the_only_one_waits_for_all_others_and_they_for_it() -> None:
    async def act() -> list[str]:
        bulkhead, seen = Bulkhead(), []

        async def stay(name: str, sole: bool) -> None:
            places = await bulkhead.enter(sole)
            seen.append(f"+{name}")
            await asyncio.sleep(0.01)
            seen.append(f"-{name}")
            bulkhead.leave(places)

        names = [("a", False), ("b", False), ("only", True), ("c", False)]
        await asyncio.wait_for(asyncio.gather(*(stay(*one) for one in names)), 10)
        return seen

    assert asyncio.run(act()) == ["+a", "+b", "-a", "-b", "+only", "-only", "+c", "-c"]


def test_who_gives_up_waiting_leaves_no_place_taken() -> None:
    async def act() -> None:
        bulkhead = Bulkhead()
        first = await bulkhead.enter(sole=False)
        waits = asyncio.ensure_future(bulkhead.enter(sole=True))
        await asyncio.sleep(0.01)
        waits.cancel()
        await asyncio.wait({waits})
        others = [await asyncio.wait_for(bulkhead.enter(sole=False), 5) for _ in range(PLACES - 1)]
        bulkhead.leave(first + sum(others))
        assert await asyncio.wait_for(bulkhead.enter(sole=True), 5) == PLACES

    asyncio.run(act())
