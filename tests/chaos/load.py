"""The clients of `make chaos`: start executions, cancel some, and record every answer.

`tests.chaos.__main__` starts them; `tests.chaos.verdict` reads the records.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.chaos.listeners import Listeners
from tests.support.service import Service

KINDS = ["echo", "work", "work", "cancel", "fail", "crash", "pipeline"]

HEARD_SHARE = 0.3
"""The share of executions whose stream is followed and whose end is waited for."""

CALLED_BACK_SHARE = 0.5

PICTURE_BYTES = 12_000_000
"""The output of an execution of kind `picture`. It takes two seconds at 50 Mbit/s."""


@dataclass
class Accepted:
    """What a client knows about an execution for which it got a 202.

    The flow writes its side effects into the file `marks`. The path is part of the inputs, and so
    of the outputs. `told_at` has the wall-clock times of the answers to its start and its cancels.
    `calls_back` says whether the end is to be told to the receiver of `Listeners`.
    """

    id: str
    kind: str
    marks: Path
    cancel_answers: list[int] = field(default_factory=list)
    told_at: list[float] = field(default_factory=list)
    calls_back: bool = False


class Load:
    def __init__(self, service: Service, folder: Path, choose: random.Random, listeners: Listeners):
        self._service, self._folder, self._choose = service, folder, choose
        self._listeners = listeners
        self._over, self._lock = threading.Event(), threading.Lock()
        self._clients: list[threading.Thread] = []
        self.accepted: list[Accepted] = []
        self.codes: dict[int, int] = {}
        self.slowest_seconds = 0.0

    def start(self, clients: int) -> None:
        for number in range(clients):
            self._clients.append(
                threading.Thread(target=self._client, args=(f"{self._choose.random()}-{number}",))
            )
            self._clients[-1].start()

    def stop(self) -> None:
        self._over.set()
        for client in self._clients:
            client.join()

    def begin(self, session: requests.Session, kind: str, choose: random.Random) -> Accepted | None:
        """Starts one execution. Returns None if it was refused, or if no answer came."""
        marks = self._folder / f"marks-{time.monotonic_ns()}-{choose.randrange(10**9)}"
        body, calls_back = _body(kind, marks, choose), choose.random() < CALLED_BACK_SHARE
        if calls_back:
            body["callback_url"] = self._listeners.receiver.url
        response = self.ask(session, "POST", "/executions", json=body)
        if response is None or response.status_code != 202:
            return None
        id = str(response.json()["execution_id"])
        accepted = Accepted(id, kind, marks, told_at=[time.time()], calls_back=calls_back)
        with self._lock:
            self.accepted.append(accepted)
        if choose.random() < HEARD_SHARE:
            self._listeners.listen(id)
        return accepted

    def ask(
        self,
        session: requests.Session,
        method: str,
        path: str,
        cancel: Accepted | None = None,
        **options: Any,
    ) -> requests.Response | None:
        """Sends a request. Returns None if the connection broke; the request may have arrived."""
        began = time.monotonic()
        try:
            response = session.request(
                method, f"{self._service.url}/api/v1{path}", timeout=30, **options
            )
        except requests.RequestException:
            return None
        with self._lock:
            self.codes[response.status_code] = self.codes.get(response.status_code, 0) + 1
            # A cancel waits for the end of the run, so its time says nothing of the service.
            if cancel is None:
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            else:
                cancel.cancel_answers.append(response.status_code)
                cancel.told_at.append(time.time())
        return response

    def _client(self, seed: str) -> None:
        choose = random.Random(seed)
        with requests.Session() as session:
            while not self._over.wait(choose.uniform(0.1, 0.5)):
                accepted = self.begin(session, choose.choice(KINDS), choose)
                if accepted and accepted.kind == "cancel":
                    time.sleep(choose.uniform(0, 0.3))
                    self.ask(session, "POST", f"/executions/{accepted.id}/cancel", accepted)


def _body(kind: str, marks: Path, choose: random.Random) -> dict[str, Any]:
    seconds = choose.uniform(0.05, 0.8)
    # More attempts than faults can cost: else executions fail that should show a fault's effect.
    config: dict[str, Any] = {"max_attempts": 10}
    if kind == "pipeline":
        first = {"seconds": seconds, "ticks": str(marks)}
        inputs: dict[str, Any] = {"first": first, "second": {"seconds": choose.uniform(0.05, 0.8)}}
        return {"type": "pipeline", "target_id": "relay", "inputs": inputs, "config": config}
    # A flow with side effects must run in a process: a thread that ignores a cancel cannot be
    # ended, so its side effects would go on.
    config["flow_id"] = (
        choose.choice(["process", "thread"]) if kind in ("echo", "fail") else "process"
    )
    doing = {"echo": "echo", "fail": "fail", "crash": "kill"}.get(kind, "tick")
    inputs = {"do": doing, "ticks": str(marks), "seconds": seconds, "until_attempt": 2}
    if kind == "picture":
        inputs |= {"do": "picture", "bytes": PICTURE_BYTES}
    return {"type": "agent", "target_id": "behaves", "inputs": inputs, "config": config}
