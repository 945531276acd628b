"""Tells open pages that something has changed, so that they refresh at once.

The API's stream of all changes (`app.api.streams`) says what has changed, for programs. A page only
has to know that it should ask again, about once a second at most, however much happens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response

from app.api import event_stream, streams
from app.api.access import needs, tenant
from app.domain.key import Scope
from app.pages.blueprint import pages
from app.pages.kept import KEPT_SECONDS
from app.services.feed import FeedStream, Filter
from app.services.streams import Crowded, Pause, Position
from app.services.waiting import Caller

PATH = "/ui/changes"

PAUSE_SECONDS = 0.5
"""The wait between telling one change and looking for the next."""

SPREAD_SECONDS = 0.5
"""Pages are told within this time, so that they do not all ask again at the same moment."""

CHANGED = "changed"


@pages.get(PATH)
@needs(Scope.READ)
def follow_changes() -> Response:
    followed = streams.feeds().follow(tenant(), None, Filter())
    return streams.streamed(Pulses(followed), _block)


class Pulses:
    """A stream with at most one item for all changes of a second."""

    def __init__(self, followed: FeedStream):
        self._followed = followed

    def batches(self, caller: Caller, is_allowed: Callable[[], bool]) -> Iterator[list[Any]]:
        for items in self._followed.batches(caller, is_allowed):
            quiet = [item for item in items if isinstance(item, Crowded | Pause | Position)]
            if len(quiet) == len(items):
                yield [item for item in quiet if not isinstance(item, Position)]
                continue
            # Not before all parts that are kept are newer than the change.
            time.sleep(KEPT_SECONDS + random.uniform(0, SPREAD_SECONDS))  # noqa: S311  no secret
            yield [CHANGED]
            time.sleep(PAUSE_SECONDS)  # what comes meanwhile is one batch


def _block(item: Any) -> bytes:
    return event_stream.block(b"{}", CHANGED) if item == CHANGED else streams.other_block(item)
