"""Breaks parts of a running service at random: one method for each fault.

`tests.chaos.__main__` runs it. A fault undoes what does not recover by itself, and is timed.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
import requests

from tests.chaos.load import Load
from tests.support.process_limits import process_limit
from tests.support.proxy import Proxy
from tests.support.service import ENDED, Service
from tools.embedded_store import EmbeddedStore

PATIENCE_SECONDS = 60.0

AWAY = (
    "cut the connection",
    "silence the connection",
    "lose what is sent",
    "crash the store",
    "freeze the store",
    "set the store back",
)
"""During one of these the store is out of reach, so no lost execution can be recovered."""


@dataclass
class Fault:
    """One fault that happened. `began_at` and `ended_at` are wall-clock times.

    `recovery_seconds` is None if the service did not recover within `PATIENCE_SECONDS`.
    """

    name: str
    began_at: float
    ended_at: float = 0.0
    recovery_seconds: float | None = None


class Breaker:
    def __init__(
        self,
        service: Service,
        store: EmbeddedStore,
        proxy: Proxy,
        load: Load,
        choose: random.Random,
    ):
        self._service = service
        self._store = store
        self._proxy = proxy
        self._load = load
        self._choose = choose
        self._workers = len(service.workers)
        self.faults: list[Fault] = []
        self.frozen: set[int] = set()
        """The processes that were frozen. Each may run for a moment before it checks the time."""
        self.set_back: list[tuple[float, float]] = []
        """Spans, in wall-clock times, of which the store lost all writes."""
        self.skipped: set[str] = set()

    def break_things(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(self._choose.uniform(0.5, 2.0))
            act = self._choose.choice(self._every_fault())
            fault = Fault(act.__name__.strip("_").replace("_", " "), time.time())
            self.faults.append(fault)
            act()
            fault.ended_at = time.time()
            fault.recovery_seconds = self._recovery_seconds()
            print(
                f"{datetime.now(UTC):%H:%M:%S} {fault.name}: {fault.recovery_seconds or 99:.2f} s",
                flush=True,
            )

    def _every_fault(self) -> list[Callable[[], None]]:
        return [
            self._kill_a_child,
            self._kill_a_worker,
            self._stop_a_worker,
            self._freeze_a_worker,
            self._cut_the_connection,
            self._silence_the_connection,
            self._close_connections,
            self._crash_the_store,
            self._freeze_the_store,
            self._kill_a_web_process,
            self._set_the_store_back,
            self._limit_processes,
            self._lose_what_is_sent,
            self._slow_the_link,
        ]

    def _kill_a_child(self) -> None:
        self._kill_a_child_of(self._a_worker())

    def _kill_a_child_of(self, worker: Any) -> None:
        children = [child for child in _descendants(worker) if _name(child).startswith("exec-")]
        if children:
            _quietly(self._choose.choice(children).kill)

    def _kill_a_worker(self) -> None:
        self._a_worker().kill()
        self._service.start_worker()

    def _stop_a_worker(self) -> None:
        self._a_worker().terminate()
        self._service.start_worker()

    def _freeze_a_worker(self) -> None:
        worker = self._a_worker()
        family = [psutil.Process(worker.pid), *_descendants(worker)]
        self.frozen.update(process.pid for process in family)
        for process in family:
            _quietly(lambda process=process: process.send_signal(signal.SIGSTOP))
        time.sleep(self._choose.uniform(1, 16))  # shorter and longer than a lease of 12 s
        for process in family:
            _quietly(lambda process=process: process.send_signal(signal.SIGCONT))

    def _cut_the_connection(self) -> None:
        self._proxy.mode = "cut"
        time.sleep(self._choose.uniform(0.2, 6))
        self._proxy.mode = "pass"

    def _silence_the_connection(self) -> None:
        self._proxy.mode = "blackhole"
        time.sleep(self._choose.uniform(0.2, 14))  # shorter and longer than a lease, too
        self._proxy.mode = "pass"

    def _close_connections(self) -> None:
        self._proxy.kill_connections()

    def _crash_the_store(self) -> None:
        self._store.kill()
        time.sleep(self._choose.uniform(0, 2))
        self._store.start()

    def _freeze_the_store(self) -> None:
        self._store.send_signal(signal.SIGSTOP)
        time.sleep(self._choose.uniform(0.2, 14))
        self._store.send_signal(signal.SIGCONT)

    def _kill_a_web_process(self) -> None:
        assert self._service.web is not None
        processes = psutil.Process(self._service.web.pid).children()
        if processes:
            _quietly(self._choose.choice(processes).kill)

    def _set_the_store_back(self) -> None:
        """Makes the store lose its last second.

        So does a power loss with `everysec`, or a fail-over to a replica that lags behind.
        """
        saved, began_at = self._store.folder.with_name("saved"), time.time()
        shutil.copytree(self._store.folder, saved)
        time.sleep(1)
        self._store.kill()
        shutil.rmtree(self._store.folder)
        saved.rename(self._store.folder)
        self.set_back.append((began_at, time.time()))
        self._store.start()

    def _limit_processes(self) -> None:
        """Forbids further processes and threads while children die."""
        worker = self._a_worker()
        with process_limit(worker.pid) as limit:
            if limit is None:
                self.skipped.add("limit processes")
                return
            # At or just below the present number: no further process can start.
            limit.set(max(2, limit.count - self._choose.randrange(3)))
            self._kill_a_child_of(worker)
            time.sleep(self._choose.uniform(1, 5))

    def _lose_what_is_sent(self) -> None:
        """Simulates an outage after which delayed calls arrive later than newer ones."""
        seconds = self._choose.uniform(0.3, 3)
        self._proxy.lose_for(seconds, deliver_after_seconds=seconds + self._choose.uniform(1, 8))
        time.sleep(seconds)

    def _slow_the_link(self) -> None:
        """Slows the link to 50 Mbit/s and starts an execution whose outputs take two seconds of it."""
        self._proxy.bytes_per_second = 50_000_000 / 8
        with requests.Session() as session:
            self._load.begin(session, "picture", self._choose)
        time.sleep(self._choose.uniform(4, 8))
        self._proxy.bytes_per_second = None

    def _a_worker(self) -> Any:
        # Stopped workers may still be ending: only the newest ones count as running.
        living = [worker for worker in self._service.workers if worker.poll() is None]
        return self._choose.choice(living[-self._workers :])

    def _recovery_seconds(self) -> float | None:
        """Returns how long an execution takes that is started now; None if it does not end."""
        began = time.monotonic()
        accepted = None
        with requests.Session() as session:
            while time.monotonic() - began < PATIENCE_SECONDS:
                accepted = accepted or self._load.begin(session, "echo", self._choose)
                response = accepted and self._load.ask(session, "GET", f"/executions/{accepted.id}")
                if (
                    response is not None
                    and response.status_code == 200
                    and response.json()["status"] in ENDED
                ):
                    return time.monotonic() - began
                time.sleep(0.02)
        return None


def _descendants(worker: Any) -> list[psutil.Process]:
    try:
        return list(psutil.Process(worker.pid).children(recursive=True))
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    """Returns the name of a process; a worker's are called `exec-flows`, `exec-forkserver`, ..."""
    try:
        return process.name()
    except psutil.Error:
        return ""


def _quietly(act: Callable[[], Any]) -> None:
    """Calls `act`, and ignores that its process may have ended meanwhile."""
    with contextlib.suppress(psutil.Error, OSError):
        act()
