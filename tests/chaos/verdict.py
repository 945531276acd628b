"""Checks, at the end of `make chaos`, whether every promise was kept.

`tests/unit/test_chaos_verdict.py` checks this module with forged histories.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

import redis
import requests

from tests.chaos.breaker import AWAY, Breaker, Fault
from tests.chaos.listeners import FINAL_TYPES, Heard, Listeners
from tests.chaos.load import Accepted, Load
from tests.support.service import ENDED, Service
from tools.embedded_store import EmbeddedStore

SETTLE_SECONDS = 60.0
MOVES_ON_SECONDS = 20.0  # a lease of 12 s, the next reap, and time for a busy machine
NEVER_SECONDS = 99.0  # shown in place of a recovery that did not come

SETTING_BACK_SECONDS = 2.0
"""How long after a loss a worker may need to learn that its claim is lost."""

Tick = tuple[int, int, float]
"""Attempt, process and wall-clock time of a side effect."""


@dataclass
class Verdict:
    """What happened, and what follows from it.

    `last` has the last body of each execution, `listed` the ids in the list of each status,
    `leased` the ids that still have a lease. `frozen` are the processes that were frozen,
    `set_back` the spans of which the store lost all writes, and `held` the log lines of workers
    whose event loop was held. `streams` and `waits` have what listeners heard of an execution,
    `callbacks` the types of the events that the receiver was sent, and `unsigned` how many had a wrong
    signature.
    """

    accepted: list[Accepted]
    last: dict[str, dict[str, Any]]
    ticks: dict[str, list[Tick]]
    listed: dict[str, set[str]]
    leased: list[str]
    codes: dict[int, int]
    slowest_seconds: float
    faults: list[Fault]
    frozen: set[int]
    set_back: list[tuple[float, float]]
    held: list[str]
    streams: dict[str, Heard]
    waits: dict[str, Heard]
    callbacks: dict[str, list[str]]
    unsigned: int

    @classmethod
    def gather(
        cls,
        service: Service,
        store: EmbeddedStore,
        load: Load,
        breaker: Breaker,
        listeners: Listeners,
    ) -> Verdict:
        """Waits until every execution has ended and was heard of, or for `SETTLE_SECONDS` each, and
        collects everything.
        """
        last = _settled(service, [execution.id for execution in load.accepted])
        listeners.finish(SETTLE_SECONDS)
        _await_callbacks(load.accepted, last, listeners)
        ticks = {execution.id: _read_ticks(execution) for execution in load.accepted}
        with redis.Redis.from_url(store.url) as client:
            listed = {status: _listed(client, status) for status in ENDED}
            leased = sorted(_members(client, "exec:leases"))
        codes, slowest_seconds = load.codes, load.slowest_seconds
        held = _held(service)
        return cls(
            load.accepted,
            last,
            ticks,
            listed,
            leased,
            codes,
            slowest_seconds,
            breaker.faults,
            breaker.frozen,
            breaker.set_back,
            held,
            listeners.streams,
            listeners.waits,
            listeners.callbacks,
            listeners.receiver.unsigned,
        )

    def broken(self) -> dict[str, list[str]]:
        """Returns each promise with the executions, answers or faults that broke it."""
        accepted = self.accepted
        return {
            "lost (accepted, not found)": [
                execution.id for execution in accepted if self._is_lost(execution)
            ],
            "stuck (not ended)": [
                id for id, body in self.last.items() if body.get("status") not in (*ENDED, 404)
            ],
            "cancel lied": [execution.id for execution in accepted if self._lied(execution)],
            "outputs of another attempt": [
                execution.id for execution in accepted if self._foreign(execution)
            ],
            "outputs of another execution": [
                execution.id for execution in accepted if self._mixed_up(execution)
            ],
            "two runs at a time": [
                execution.id for execution in accepted if self._overlapped(execution)
            ],
            "went on after cancelled": [
                execution.id for execution in accepted if self._went_on(execution)
            ],
            "list and status differ": [
                execution.id for execution in accepted if not self._is_listed(execution)
            ]
            + self.leased,
            "a stream had a hole or a repeat": [
                id for id, heard in self.streams.items() if self._has_gap(heard)
            ],
            "a stream did not end with the true end": [
                id for id, heard in self.streams.items() if self._ended_falsely(id, heard)
            ],
            "a waiting request was told otherwise": [
                id for id, heard in self.waits.items() if self._waited_falsely(id, heard)
            ],
            "the callback did not arrive": [
                execution.id for execution in accepted if not self._was_called_back(execution)
            ],
            "a callback told otherwise": [
                execution.id for execution in accepted if self._called_back_falsely(execution)
            ],
            "a webhook had no valid signature": ["1"] * self.unsigned,
            "a worker's event loop was held": self.held,
            "an answer other than 2xx, 400, 503": self._odd_answers(),
            f"moved on after more than {MOVES_ON_SECONDS:g} s": [
                f"{s:.1f}" for s in self._moved_on_seconds() if s > MOVES_ON_SECONDS
            ],
            f"recovered after more than {MOVES_ON_SECONDS:g} s": [
                fault.name
                for fault in self.faults
                if (fault.recovery_seconds or NEVER_SECONDS) > MOVES_ON_SECONDS
            ],
        }

    def report(self) -> bool:
        """Prints what happened. Returns whether every promise was kept."""
        bodies, moved_on, broken = self.last.values(), self._moved_on_seconds(), self.broken()
        counts = {status: sum(body.get("status") == status for body in bodies) for status in ENDED}
        print(
            f"\n{len(self.accepted)} accepted = "
            + " + ".join(f"{count} {name}" for name, count in counts.items())
        )
        print(f"answers: {dict(sorted(self.codes.items()))}; slowest {self.slowest_seconds:.2f} s")
        if moved_on:
            middle, worst = statistics.median(moved_on), moved_on[-1]
            print(
                f"{len(moved_on)} runs lost their process; from the last sign of life, or the end of the last outage "
                f"of the store, until the execution moved on: median {middle:.1f} s, worst {worst:.1f} s"
            )
        self._print_faults()
        print("\n| promise broken | times |\n|---|---|")
        for promise, cases in broken.items():
            print(f"| {promise} | {len(cases)}{' ' + ' '.join(cases[:3]) if cases else ''} |")
        return not any(broken.values())

    def _print_faults(self) -> None:
        print("\n| fault | times | recovery, median | worst |\n|---|---|---|---|")
        faults = sorted(self.faults, key=lambda fault: fault.name)
        for name, group in groupby(faults, key=lambda fault: fault.name):
            times = [fault.recovery_seconds or NEVER_SECONDS for fault in group]
            print(
                f"| {name} | {len(times)} | {statistics.median(times):.2f} s | {max(times):.2f} s |"
            )

    def _is_lost(self, execution: Accepted) -> bool:
        return self.last[execution.id].get("status") == 404 and not self._was_set_back(
            execution.told_at
        )

    def _was_set_back(self, times: list[float]) -> bool:
        """Whether the store lost its writes of one of these times."""
        return any(
            began <= at <= ended + SETTING_BACK_SECONDS
            for at in times
            for began, ended in self.set_back
        )

    def _odd_answers(self) -> list[str]:
        """Returns the code of each answer that no fault explains.

        A cancel of an execution that the store has lost is told 404, which is true.
        """
        odd = Counter(self.codes)
        for code in (200, 202, 400, 503):
            del odd[code]
        odd[404] -= sum(
            execution.cancel_answers.count(404)
            for execution in self.accepted
            if self._was_set_back(execution.told_at)
        )
        return [str(code) for code in odd.elements()]

    def _mixed_up(self, execution: Accepted) -> bool:
        """Whether it completed with outputs of another execution's inputs."""
        body = self.last[execution.id]
        if body.get("status") != "completed" or execution.kind in ("fail", "crash"):
            return False
        return str(execution.marks) not in json.dumps(body["outputs"])

    def _lied(self, execution: Accepted) -> bool:
        if self._was_set_back(execution.told_at):
            return False
        status = self.last[execution.id].get("status")
        said_yes, said_no = 200 in execution.cancel_answers, 400 in execution.cancel_answers
        return (said_yes and status != "cancelled") or (said_no and status == "cancelled")

    def _foreign(self, execution: Accepted) -> bool:
        """Whether its outputs are those of another attempt than the one that won."""
        body = self.last[execution.id]
        if body.get("status") != "completed":
            return False
        outputs = body["outputs"]
        if execution.kind == "pipeline":
            return bool(list(outputs["result"]) != ["work", "other"])
        return (
            execution.kind in ("work", "cancel") and outputs["output"]["attempt"] != body["attempt"]
        )

    def _overlapped(self, execution: Accepted) -> bool:
        """Whether side effects of two runs alternate: A B A."""
        runs = [run for run, _ in groupby(self.ticks[execution.id], key=lambda tick: tick[:2])]
        return len(runs) - len(set(runs)) > self._excused(
            execution
        ) and not self._ran_while_set_back(execution)

    def _went_on(self, execution: Accepted) -> bool:
        """Whether side effects came after `cancelled` was visible."""
        body = self.last[execution.id]
        if body.get("status") != "cancelled":
            return False
        ended_at = _at(body["cancelled_at"]) + 0.01  # the time in the body has milliseconds only
        late = sum(at > ended_at for _, _, at in self.ticks[execution.id])
        return late > self._excused(execution) and not self._ran_while_set_back(execution)

    def _excused(self, execution: Accepted) -> int:
        """Counts what a frozen process may do after it wakes, before it checks the time: one thing."""
        return len({pid for _, pid, _ in self.ticks[execution.id]} & self.frozen)

    def _ran_while_set_back(self, execution: Accepted) -> bool:
        """Whether its claim may be lost, so that it ran twice until its first worker learned of it."""
        return self._was_set_back([at for _, _, at in self.ticks[execution.id]])

    def _has_gap(self, heard: Heard) -> bool:
        numbers = [number for number, _ in heard.events]
        return numbers != list(range(1, len(numbers) + 1)) and not self._heard_while_set_back(heard)

    def _ended_falsely(self, id: str, heard: Heard) -> bool:
        """Whether the last event is not the execution's end, or anything came after the end."""
        status = self.last[id].get("status")
        if heard.ended_at is not None and self._heard_while_set_back(heard):
            return False
        if status == 404:
            return heard.status != 404
        ends = [type for _, type in heard.events if type in FINAL_TYPES]
        return ends != [f"execution.{status}"] or heard.events[-1][1] != ends[0]

    def _waited_falsely(self, id: str, heard: Heard) -> bool:
        if heard.ended_at is not None and self._heard_while_set_back(heard):
            return False
        return heard.status != self.last[id].get("status")

    def _heard_while_set_back(self, heard: Heard) -> bool:
        """Whether the store lost writes while this was heard."""
        until = heard.ended_at or time.time()
        return any(
            began <= until and heard.began_at <= ended + SETTING_BACK_SECONDS
            for began, ended in self.set_back
        )

    def _was_called_back(self, execution: Accepted) -> bool:
        """Whether the receiver was sent the true end. That also holds after the store lost writes:
        an execution that runs again tells its end again.
        """
        status = self.last[execution.id].get("status")
        heard = self.callbacks.get(execution.id, ())
        return not execution.calls_back or status == 404 or f"execution.{status}" in heard

    def _called_back_falsely(self, execution: Accepted) -> bool:
        body = self.last[execution.id]
        status = body.get("status")
        if not set(self.callbacks.get(execution.id, ())) - {f"execution.{status}"}:
            return False
        # An end that the store lost was told, too. The true one, if any, came later.
        ended_at = _at(body[f"{status}_at"]) if status in ENDED else math.inf
        return not any(
            execution.told_at[0] <= ended + SETTING_BACK_SECONDS and began <= ended_at
            for began, ended in self.set_back
        )

    def _is_listed(self, execution: Accepted) -> bool:
        status = self.last[execution.id].get("status", "")
        return execution.id in self.listed.get(status, set()) or (
            status == 404 and not self._is_lost(execution)
        )

    def _moved_on_seconds(self) -> list[float]:
        """Returns, sorted, how long each lost run's execution took to be queued again, or to end.

        The time begins with the last side effect of the run. After an outage of the store every
        lease is granted once more, so if there was one in between, the time begins with its end.
        """
        found = []
        for execution in self.accepted:
            for attempt in self.last[execution.id].get("attempts", []):
                times = [
                    at for number, _, at in self.ticks[execution.id] if number == attempt["number"]
                ]
                if attempt["outcome"] == "lost" and times and "ended_at" in attempt:
                    moved_at = _at(attempt["ended_at"])
                    found.append(moved_at - max(max(times), self._last_outage_ended_at(moved_at)))
        return sorted(found)

    def _last_outage_ended_at(self, before: float) -> float:
        """Returns when the last outage of the store before this moment ended; 0 if there was none."""
        ends = (
            min(fault.ended_at, before)
            for fault in self.faults
            if fault.name in AWAY and fault.began_at < before
        )
        return max(ends, default=0.0)


def _listed(client: redis.Redis, status: str) -> set[str]:
    keys = [f"exec:index:default:{status}:{type}" for type in ("agent", "pipeline")]
    return set().union(*(_members(client, key) for key in keys))


def _members(client: redis.Redis, key: str) -> set[str]:
    return {id.decode() for id in client.zrange(key, 0, -1)}


def _settled(service: Service, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Returns the last body of every execution, once all have ended or the time is over."""
    last: dict[str, dict[str, Any]] = {id: {} for id in ids}
    deadline = time.monotonic() + SETTLE_SECONDS
    waiting = ids
    while waiting and time.monotonic() < deadline:
        for id in waiting:
            try:
                last[id] = service.status(id)
            except (requests.RequestException, ValueError):
                continue
        waiting = [id for id in waiting if last[id].get("status") not in ENDED]
        time.sleep(0.2)
    return last


def _await_callbacks(
    accepted: list[Accepted], last: dict[str, dict[str, Any]], listeners: Listeners
) -> None:
    """Returns when every callback that must come has come, or after `SETTLE_SECONDS`."""
    missing = {
        execution.id
        for execution in accepted
        if execution.calls_back and last[execution.id].get("status") in ENDED
    }
    deadline = time.monotonic() + SETTLE_SECONDS
    while missing and time.monotonic() < deadline:
        missing = {
            id
            for id in missing
            if f"execution.{last[id]['status']}" not in listeners.callbacks.get(id, ())
        }
        time.sleep(0.2)


def _held(service: Service) -> list[str]:
    logs = (service.output(f"worker{number}") for number in range(len(service.workers)))
    return [line for log in logs for line in log.splitlines() if '"event_loop_held"' in line]


def _read_ticks(execution: Accepted) -> list[Tick]:
    """Reads the side effects of an execution, in the order of their times."""
    lines = execution.marks.read_text().splitlines() if execution.marks.exists() else []
    rows = [line.split() for line in lines]
    return sorted(
        ((int(row[0]), int(row[1]), float(row[2])) for row in rows if len(row) == 3),
        key=lambda row: row[2],
    )


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
