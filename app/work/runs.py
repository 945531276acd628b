"""The attempts of a worker, each from its start to its end. Decides; the store is written by others.

An attempt ends once: by what its child says, by its child's death, or by force after it was asked to
stop. What is to be written goes into `entries`, in order; whoever has written it calls `written`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from app.executions.payload import read_call
from app.settings import Settings
from app.tracing import Tracing
from app.work import spans
from app.work.attempt import Attempt, Entry, Stopping
from app.work.pool import Pool
from app.work.protocol import split

TIMEOUT_GRACE_SECONDS = 0.5
DEFAULT_BACKOFF_SECONDS = [1.0, 5.0, 30.0]

REFUSED_SECONDS = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
"""The waits before something is written again that the store refused, for whatever is wrong may be put right."""

log = structlog.get_logger(__name__)


class Runs:
    """Used in one event loop. `attempts` are by token, `idle` is set while there are none.

    `entries` is what to write next.
    """

    def __init__(self, settings: Settings, make_pool: Callable[..., Pool], tracing: Tracing):
        self._tracing = tracing
        self._cancel_grace_seconds = settings.cancel_grace
        self.pool = make_pool(on_ended=self._on_ended, on_checkpoint=self._on_checkpoint, on_died=self._on_died)
        self.attempts: dict[str, Attempt] = {}
        self.entries: asyncio.Queue[Entry] = asyncio.Queue()
        self.idle = asyncio.Event()
        self.idle.set()

    def start(self, attempt: Attempt) -> None:
        """Hands an attempt to a child that has a free slot, and watches its timeout."""
        self.attempts[attempt.token] = attempt
        self.idle.clear()
        spans.begin(self._tracing, attempt)
        if not self.pool.place(attempt):
            attempt.conclude()
            self._release(attempt, "handed_back")
            return
        self._after(attempt.timeout_seconds, attempt, lambda: self.stop(attempt, Stopping.TIMEOUT))
        log.info("attempt_started", **attempt.names())

    def of(self, execution_id: str) -> list[Attempt]:
        """The attempts at this execution: a new one may have come before it is known that an old one is lost."""
        return [each for each in self.attempts.values() if each.id == execution_id]

    def stop(self, attempt: Attempt, why: Stopping) -> None:
        """Asks a flow to end, and ends it by force after a grace; what is lost already gets none.

        The first reason stands, but for `LOST`: then nothing is to be written any more.
        """
        if attempt.concluded or (attempt.stopping and why is not Stopping.LOST):
            return
        attempt.stopping = why
        if attempt.child:
            attempt.child.send({"kind": "stop", "token": attempt.token})
        if why is Stopping.LOST:
            self._end_by_force(attempt)
        elif why is not Stopping.SHUTDOWN:  # then all children are killed together, see `close`
            grace = self._cancel_grace_seconds if why is Stopping.CANCEL else TIMEOUT_GRACE_SECONDS
            self._after(grace, attempt, lambda: self._end_by_force(attempt))

    async def close(self) -> None:
        """Hands back what runs: first every child is dead, then it is said."""
        for attempt in list(self.attempts.values()):
            self.stop(attempt, Stopping.SHUTDOWN)
        await self.pool.close()

    def forget(self, attempt: Attempt, end: Entry | None = None, status: str = "lost") -> None:
        """Its end is written, or somebody else's; then its status now is told, else it is lost."""
        spans.end(attempt, end, status)
        self.attempts.pop(attempt.token, None)
        if not self.attempts:
            self.idle.set()

    def written(self, entry: Entry, word: str) -> None:
        """The store has answered to an entry: see `Ledger.write`."""
        attempt = entry.attempt
        if word.startswith("!"):
            self._refused(entry, word)
        elif entry.script != "checkpoint":
            self.forget(attempt, entry, word)
            log.info("attempt_ended", **attempt.names(), how=entry.arguments[0], status=word)
        elif word == "lost":
            self.stop(attempt, Stopping.LOST)
        else:
            if attempt.child:
                attempt.child.send({"kind": "stored", "token": attempt.token, "number": entry.number})
            if word == "cancel":
                self.stop(attempt, Stopping.CANCEL)

    def _refused(self, entry: Entry, why: str) -> None:
        """The store would not write this: try again for a minute, then fail the execution, or give it up."""
        attempt = entry.attempt
        log.error("entry_refused", **attempt.names(), script=entry.script, error=why)
        if entry.refusals < len(REFUSED_SECONDS):
            again = replace(entry, refusals=entry.refusals + 1)
            asyncio.get_running_loop().call_later(REFUSED_SECONDS[entry.refusals], self.entries.put_nowait, again)
            return
        if entry.script == "checkpoint" and not attempt.concluded:
            attempt.conclude()
            self.pool.end(attempt)
        elif entry.arguments[0] != "completed":
            self.forget(attempt)
            return
        self._finish(attempt, "failed", error=_error(attempt, "InvalidOutput", "The store refused the outputs."))

    def _end_by_force(self, attempt: Attempt) -> None:
        if not attempt.concluded and not self.pool.end(attempt):
            self._conclude(attempt, {"outcome": "stopped"}, b"")

    def _on_ended(self, attempt: Attempt, ended: dict[str, Any], outputs: bytes) -> None:
        if not attempt.concluded:
            attempt.used = ended["usage"]
            self._conclude(attempt, ended, outputs)

    def _on_checkpoint(self, attempt: Attempt, head: dict[str, Any], body: bytes) -> None:
        """What a pipeline's run wants stored; its child waits for the answer."""
        values = dict(zip(head["values"], split(head["lengths"], body), strict=True))
        attempt.usage, attempt.used, attempt.progress = "", head["usage"], ""
        counts = [len(head[name]) for name in ("records", "outcomes", "values", "dropped")]
        listed = [part for name in ("records", "outcomes") for each in head[name] for part in each]
        outputs = [part for each in values.items() for part in each]
        arguments = (head["progress"], head["definition"], *counts, *listed, *outputs, *head["dropped"])
        self.entries.put_nowait(Entry(attempt, "checkpoint", arguments, head["number"]))

    def _on_died(self, attempt: Attempt, how: str) -> None:
        if not attempt.concluded:
            self._conclude(attempt, {"outcome": "died", "how": how}, b"")

    def _conclude(self, attempt: Attempt, ended: dict[str, Any], outputs: bytes) -> None:
        """Decides what is written of an attempt that is over: the reason why it was stopped goes first."""
        attempt.conclude()
        outcome = ended["outcome"]
        if attempt.stopping is Stopping.LOST:
            self.forget(attempt)
        elif attempt.stopping is Stopping.TIMEOUT:
            message = f"The run took longer than its timeout of {attempt.timeout_seconds:g} s."
            self._finish(attempt, "failed", error=_error(attempt, "Timeout", message))
        elif attempt.stopping is Stopping.CANCEL:
            self._finish(attempt, "cancelled")
        elif outcome == "completed":
            self._finish(attempt, "completed", outputs)
        elif outcome == "failed":
            self._fail(attempt, ended)
        elif outcome == "died" and attempt.stopping is not Stopping.SHUTDOWN:
            self._release(attempt, "lost", reason=ended["how"])
        else:
            self._release(attempt, "handed_back")

    def _fail(self, attempt: Attempt, ended: dict[str, Any]) -> None:
        if ended["retryable"] and attempt.retried < attempt.retry_max:
            self._release(
                attempt, "failed", _backoff_seconds(attempt, ended.get("retry_after_seconds")), ended["error"]["type"]
            )
        else:
            self._finish(attempt, "failed", error=json.dumps(ended["error"]))

    def _finish(self, attempt: Attempt, status: str, outputs: bytes = b"", error: str = "") -> None:
        self.entries.put_nowait(Entry(attempt, "finish", (status, outputs, error)))

    def _release(self, attempt: Attempt, how: str, delay_seconds: float = 0.0, reason: str = "") -> None:
        arguments = (how, int(delay_seconds * 1_000_000), reason)
        self.entries.put_nowait(Entry(attempt, "release", arguments))

    def _after(self, seconds: float, attempt: Attempt, act: Callable[[], None]) -> None:
        attempt.timers.append(asyncio.get_running_loop().call_later(seconds, act))


def _error(attempt: Attempt, type: str, message: str) -> str:
    call = read_call(attempt.data)
    return json.dumps({"type": type, "message": message, "details": {f"{call['type']}_id": call["target_id"]}})


def _backoff_seconds(attempt: Attempt, retry_after_seconds: float | None) -> float:
    """The model provider's own wish goes first; else the configured wait, the last one for all further retries.

    Jitter takes up to a fifth off, so that what failed together does not come back together.
    """
    if retry_after_seconds is not None:
        return retry_after_seconds
    waits = attempt.retry_backoff_seconds or DEFAULT_BACKOFF_SECONDS
    return waits[min(attempt.retried, len(waits) - 1)] * random.uniform(0.8, 1.0)  # noqa: S311  no secret
