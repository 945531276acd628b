"""Those who listen in `make chaos`: they follow streams, wait for ends, and receive callbacks.

`tests.chaos.load` calls `Listeners.listen` for executions that were accepted. `tests.chaos.verdict`
compares what was heard with what is true.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import requests

from tests.support.receiver import SECRET, Answer, Received, Receiver
from tests.support.service import ENDED

SETTINGS = {
    "WEBHOOK_SECRET": SECRET,
    "WEBHOOK_ALLOW_PRIVATE": 1,
    "WEBHOOK_PAUSES": ",".join(["1"] * 30),
}
"""For the service. It sends a webhook that was refused again after a second."""

FINAL_TYPES = tuple(f"execution.{status}" for status in ENDED)

PAUSE_SECONDS = 0.2  # before the next request, after one that failed
SILENCE_SECONDS = 30.0  # a stream sends at least a comment every 15 s

REFUSED_SHARE = 0.2
"""The share of webhooks that the receiver answers with 500."""


@dataclass
class Heard:
    """What one listener heard of an execution, and when it listened, in wall-clock times.

    `events` are the number and type of each event of a stream. `status` is what a waiting request
    was told at the end. 404 means that the execution was not found.
    """

    began_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    events: list[tuple[int, str]] = field(default_factory=list)
    status: str | int | None = None


class Listeners:
    """`url` is the service's. `streams`, `waits` and `callbacks` are by execution id."""

    def __init__(self, url: str, receiver: Receiver):
        self._api = f"{url}/api/v1/executions"
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.receiver = receiver
        receiver.answer = self._answer
        self.streams: dict[str, Heard] = {}
        self.waits: dict[str, Heard] = {}
        self.callbacks: dict[str, list[str]] = defaultdict(list)
        """The types of the events that the receiver has accepted."""

    def listen(self, execution_id: str) -> None:
        """Follows the stream of an execution and waits for its end, in a thread each."""
        self.streams[execution_id], self.waits[execution_id] = Heard(), Heard()
        for act, heard in ((self._follow, self.streams), (self._wait, self.waits)):
            thread = threading.Thread(target=act, args=(execution_id, heard[execution_id]))
            self._threads.append(thread)
            thread.start()

    def finish(self, seconds: float) -> None:
        """Waits until every listener has heard the end, or for `seconds`."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._over.set()

    def _follow(self, execution_id: str, heard: Heard) -> None:
        """Reads the whole log, over as many connections as it takes."""
        after = 0
        while not self._over.is_set() and heard.ended_at is None:
            try:
                with requests.get(
                    f"{self._api}/{execution_id}/events",
                    # `after` would do; the header is what a browser sends.
                    headers={"Accept": "text/event-stream", "Last-Event-ID": str(after)},
                    stream=True,
                    timeout=SILENCE_SECONDS,
                ) as answer:
                    if answer.status_code in (204, 404):
                        heard.status = answer.status_code
                        heard.ended_at = time.time()
                    for number, type in _events(answer) if answer.status_code == 200 else ():
                        heard.events.append((number, type))
                        after = number
                        if type in FINAL_TYPES:
                            heard.ended_at = time.time()
            except (requests.RequestException, OSError):
                pass
            if heard.ended_at is None:
                time.sleep(PAUSE_SECONDS)

    def _wait(self, execution_id: str, heard: Heard) -> None:
        """Waits for the end, with as many requests as it takes."""
        while not self._over.is_set() and heard.ended_at is None:
            try:
                answer = requests.get(f"{self._api}/{execution_id}?wait=10", timeout=60)
                status = answer.json().get("status")
            except (requests.RequestException, ValueError):
                status = None
            if status in (*ENDED, 404):
                heard.status, heard.ended_at = status, time.time()
            elif status is None or answer.status_code != 200:
                time.sleep(PAUSE_SECONDS)

    def _answer(self, webhook: Received) -> Answer:
        execution_id, type = webhook.body["data"]["execution_id"], webhook.body["type"]
        if random.random() < REFUSED_SHARE:
            return Answer(500)
        self.callbacks[execution_id].append(type)
        return Answer()


def _events(answer: requests.Response) -> Iterator[tuple[int, str]]:
    """The number and type of each complete event, without snapshots."""
    number, type = 0, ""
    for line in answer.iter_lines(chunk_size=1):
        name, _, value = line.decode().partition(": ")
        if name == "id":
            number = int(value)
        elif name == "event":
            type = value
        elif not line and type:
            if type != "snapshot":
                yield number, type
            type = ""
