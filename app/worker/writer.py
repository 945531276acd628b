"""Writes what attempts did, and how they ended, into the store: many in one round trip, until it is
written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import structlog

from app.domain.errors import StoreUnavailable
from app.worker.attempt_store import LARGE_BYTES, AttemptStore
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog, refuses_everybody
from app.worker.write import Write

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""The pauses before a write is tried again that a store refused which takes others: about a minute
together, as whatever is wrong may be put right. Tries are counted, not seconds: an outage in
between is nobody's fault.
"""

LARGE_LANES = 2
"""Large writes at once. On a slow link more would only share it, until all of them took too long.
"""

log = structlog.get_logger(__name__)


class WriteRefused(Exception):
    """The store takes other writes, but for a minute did not take this one."""


@dataclass(slots=True, eq=False)
class PendingWrite:
    """A write on its way, and the future of the word that its script answers."""

    write: Write
    word: asyncio.Future[str]
    refused: str = ""
    refusals: int = 0


class ResultWriter:
    """Small writes share round trips, up to `limit` in one; large ones go one by one, beside them.

    While the store is away, writes wait for as long as it takes. A write that the store refuses,
    although it answers others, is put aside and tried again, so that it holds up no other one.
    """

    def __init__(
        self, store: AttemptStore, outage: OutageLog, limit: int, on_release: Callable[[], None]
    ):
        self._store, self._outage, self._limit, self._on_release = store, outage, limit, on_release
        self._small: asyncio.Queue[PendingWrite] = asyncio.Queue()
        self._large: asyncio.Queue[PendingWrite] = asyncio.Queue()

    async def write(self, write: Write) -> str:
        """Returns what the script answers, once it is written. Raises `WriteRefused`.

        The writes of one attempt are in order if each is awaited before the next. `on_release` is
        called after each `release`.
        """
        pending = PendingWrite(write, asyncio.get_running_loop().create_future())
        self._enqueue(pending)
        word = await pending.word
        if write.script == "release":
            self._on_release()
        return word

    async def run(self) -> None:
        """Works for life."""
        async with asyncio.TaskGroup() as lanes:
            lanes.create_task(self._serve(self._small, self._limit))
            for _ in range(LARGE_LANES):
                lanes.create_task(self._serve(self._large, 1))

    def _enqueue(self, pending: PendingWrite) -> None:
        (self._large if pending.write.size_bytes > LARGE_BYTES else self._small).put_nowait(pending)

    async def _serve(self, queue: asyncio.Queue[PendingWrite], limit: int) -> NoReturn:
        """One lane. After a failure the first is sent alone: a store may hang up on one write that
        it cannot read, and so on all that were sent with it.
        """
        left: list[PendingWrite] = []
        at_once = limit
        while True:
            if not left:
                left.append(await queue.get())
            while len(left) < limit and not queue.empty():
                left.append(queue.get_nowait())
            sent = _together(left[:at_once])
            words = await self._try(sent)
            if words is None:
                at_once = 1
                if len(sent) == 1 and sent[0].refused:
                    self._put_aside(left.pop(0))
                continue
            left, at_once = left[len(sent) :], limit
            for pending, word in zip(sent, words, strict=True):
                self._answer(pending, word)

    async def _try(self, sent: list[PendingWrite]) -> list[str] | None:
        """The words; None if nothing was written, as far as is known. If one that was sent alone is
        to blame, it is marked as refused: the store hung up on it, or took too long, and answers
        others.
        """
        sent[0].refused = ""
        try:
            words = await self._store.write([pending.write for pending in sent])
        except StoreUnavailable as error:
            if len(sent) == 1 and not refuses_everybody(error) and await self._store.answers():
                sent[0].refused = str(error.__cause__ or error)
            else:
                self._outage.refused("write", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
            return None
        except Exception as error:  # of our own: it may cost the one write, and no lane
            log.exception("write_broke")
            sent[0].refused = repr(error)
            return None
        self._outage.done("write")
        return words

    def _answer(self, pending: PendingWrite, word: str) -> None:
        if word.startswith("!"):
            pending.refused = word
            self._put_aside(pending)
        elif not pending.word.done():  # nobody waits for it any more if its attempt was cancelled
            pending.word.set_result(word)

    def _put_aside(self, pending: PendingWrite) -> None:
        """Tries it again after a pause, each longer than the last; gives it up after a minute."""
        if pending.word.done():
            return
        claim, refusals = pending.write.claim, pending.refusals
        script, error = (
            pending.write.script,
            pending.refused[:500],
        )  # the rest may quote what was written
        log.warning(
            "write_refused", execution_id=claim.id, script=script, times=refusals + 1, error=error
        )
        if refusals == len(PAUSES_SECONDS):
            pending.word.set_exception(WriteRefused(error))
            return
        pending.refusals += 1
        asyncio.get_running_loop().call_later(PAUSES_SECONDS[refusals], self._enqueue, pending)


def _together(waiting: list[PendingWrite]) -> list[PendingWrite]:
    """Those that go in one round trip: on a slow link, many that are nearly large would hold up
    what is behind them.
    """
    size_bytes = 0
    for number, pending in enumerate(waiting):
        size_bytes += pending.write.size_bytes
        if number and size_bytes > LARGE_BYTES:
            return waiting[:number]
    return waiting
