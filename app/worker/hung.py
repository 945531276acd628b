"""A child that does not answer: where it is stuck, and what becomes of the attempts in it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.worker.ending import Outcome
from app.worker.loop_watch import flows_places
from app.worker.threads_of import LOOP_NAME, ask_for_stack, thread_name

if TYPE_CHECKING:
    from app.worker.child_process import ChildProcess

MOST_SUSPECTS = 16
"""If so few may be to blame, each of them is run alone the next time. If there are more, only
after the second time.
"""

STACK_SECONDS, STACK_BYTES = 0.5, 64 * 1024

_PLACE = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_ID = re.compile(r"[0-9a-z]{15}")
"""As `thread_name` makes it."""


async def stack(pid: int, file: int, threads: Sequence[int]) -> list[str]:
    """Where in the flow's code these threads are, from the outside inwards; nothing where they
    do not say.
    """
    for thread in threads:
        ask_for_stack(pid, thread)
    for _ in range(10 if threads else 0):
        await asyncio.sleep(STACK_SECONDS / 10)
        with (
            contextlib.suppress(OSError),
            Path(f"/proc/{pid}/fd/{file}").open(errors="replace") as said,
        ):
            if found := _PLACE.findall(said.read(STACK_BYTES)):
                return flows_places(
                    [
                        (path, f"{path}:{line} {function}")
                        for path, line, function in reversed(found)
                    ]
                )
    return []


def outcomes(child: ChildProcess, seconds: float, places: Sequence[str]) -> dict[str, Outcome]:
    """By the attempts' wire keys. Only one that had the process for itself is known to be at fault;
    who may be, is run alone the next time, and all others are handed back.
    """
    if len(child.attempts) + child.stuck + child.leaked == 1:
        return dict.fromkeys(child.attempts, Outcome("hung", reason=_sentence(seconds, places)))
    suspects = _suspects(child)
    few = len(suspects) <= MOST_SUSPECTS
    blamed = (
        Outcome("set_apart") if few else Outcome("disturbed", reason=_sentence(seconds, places))
    )
    return {key: blamed if key in suspects else Outcome("displaced") for key in child.attempts}


def _suspects(child: ChildProcess) -> set[str]:
    names = {key: thread_name(attempt.claim.id) for key, attempt in child.attempts.items()}
    threads = child.pulse.threads
    holders = {threads[thread].name for thread in child.pulse.holders()}
    if holders & set(names.values()):
        return {key for key, name in names.items() if name in holders}
    if any(_ID.fullmatch(holder) for holder in holders):
        return set()  # a run that was abandoned before
    if LOOP_NAME in holders:
        in_threads = {facts.name for facts in threads.values()}
        return {key for key, name in names.items() if name not in in_threads}
    return set(names)


def _sentence(seconds: float, places: Sequence[str]) -> str:
    where = f" (at {', in '.join(dict.fromkeys((places[0], places[-1])))})" if places else ""
    return (
        f"The flow kept its process from doing anything else for {seconds:g} s{where}. "
        "Code that computes without a pause, or stops its process, needs a flow with `isolation: process`."
    )
