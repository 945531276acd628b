"""`make chaos`: a whole service under load, while a seeded random script breaks its parts.

At the end it asks of every execution that was accepted: was it found, did it end, once, and in a state
that agrees with every answer that was given. Side effects go into files, which show whether two runs of
one execution overlapped, or one went on after `cancelled`. Prints a table and exits 1 if a promise broke.

    python -m tests.chaos --seconds 60 --seed 7
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from tests.support.proxy import Proxy
from tests.support.service import ENDED, Service
from tools.embedded_store import EmbeddedStore

SETTLE_SECONDS = 60.0
RECOVERY_LIMIT_SECONDS = 20.0
WORKERS = 2


@dataclass
class Accepted:
    """What the client knows of one execution it was given a 202 for."""

    id: str
    kind: str
    cancel_answers: list[int] = field(default_factory=list)


@dataclass
class Fault:
    name: str
    at: float
    recovered_after_seconds: float | None = None


class Chaos:
    def __init__(self, folder: Path, seed: int, seconds: float):
        self.random, self.seconds, self.folder = random.Random(seed), seconds, folder
        self.store = EmbeddedStore(folder / "store", args=["--appendfsync", "always"])
        self.accepted: list[Accepted] = []
        self.faults: list[Fault] = []
        self.codes: dict[int, int] = {}
        self.slowest_seconds = 0.0
        self.lock = threading.Lock()
        self.over = threading.Event()

    def run(self) -> bool:
        """True where every promise held."""
        self.store.start()
        try:
            with Proxy(self.store.url.removeprefix("unix://")) as self.proxy:
                (self.folder / "service").mkdir()
                with Service(self.proxy.url, self.folder / "service", workers=WORKERS, CANCEL_GRACE=1) as self.service:
                    return self._load_and_break()
        finally:
            self.store.stop()

    def _load_and_break(self) -> bool:
        clients = [threading.Thread(target=self._client, args=(number,)) for number in range(4)]
        for client in clients:
            client.start()
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            time.sleep(self.random.uniform(0.5, 2.0))
            fault = self.random.choice(self._every_fault())
            self.faults.append(Fault(fault.__name__.strip("_").replace("_", " "), time.monotonic()))
            fault()
            self._time_recovery(self.faults[-1])
            print(
                f"{datetime.now(UTC):%H:%M:%S} {self.faults[-1].name}: {_recovery(self.faults[-1]):.2f} s", flush=True
            )
        self.over.set()
        for client in clients:
            client.join()
        return self._report(self._settle())

    # The load.

    def _client(self, number: int) -> None:
        choose = random.Random(f"{self.random.random()}-{number}")
        session = requests.Session()
        while not self.over.wait(choose.uniform(0.1, 0.5)):
            kind = choose.choice(["echo", "work", "work", "cancel", "fail", "crash"])
            # What makes side effects must be a process: a thread that does not listen can not be ended.
            flow = choose.choice(["process", "thread"]) if kind in ("echo", "fail") else "process"
            inputs = self._inputs(kind, choose)
            id = self._start(session, inputs, flow)
            if id is None:
                continue
            accepted = Accepted(id, kind)
            with self.lock:
                self.accepted.append(accepted)
            if kind == "cancel":
                time.sleep(choose.uniform(0, 0.3))
                self._ask(session, "POST", f"/executions/{id}/cancel", accepted)
        session.close()

    def _inputs(self, kind: str, choose: random.Random) -> dict[str, Any]:
        path = str(self.folder / f"marks-{time.monotonic_ns()}-{choose.randrange(10**9)}")
        doing = {"echo": "echo", "fail": "fail", "crash": "kill"}.get(kind, "tick")
        return {
            "do": doing,
            "ticks": path,
            "marks": path + ".marks",
            "seconds": choose.uniform(0.05, 0.8),
            "until_attempt": 2,
        }

    def _start(self, session: requests.Session, inputs: dict[str, Any], flow: str) -> str | None:
        body = {
            "type": "agent",
            "target_id": "behaves",
            "inputs": inputs,
            "config": {"flow_id": flow, "max_attempts": 10},
        }
        response = self._ask(session, "POST", "/executions", json=body)
        if response is None or response.status_code != 202:
            return None
        id = str(response.json()["execution_id"])
        (self.folder / f"{id}.paths").write_text(inputs["ticks"])
        return id

    def _ask(
        self, session: requests.Session, method: str, path: str, cancel: Accepted | None = None, **options: Any
    ) -> requests.Response | None:
        """None where the connection broke: then anything may have happened."""
        began = time.monotonic()
        try:
            response = session.request(method, f"{self.service.url}/api/v1{path}", timeout=30, **options)
        except requests.RequestException:
            return None
        with self.lock:
            self.codes[response.status_code] = self.codes.get(response.status_code, 0) + 1
            if cancel is None:
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            else:
                cancel.cancel_answers.append(response.status_code)
        return response

    # The faults.

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
        ]

    def _kill_a_child(self) -> None:
        children = [each for each in self._tree(self._a_worker()) if "forkserver" in self._name(each)]
        if children:
            _quietly(self.random.choice(children).kill)

    def _kill_a_worker(self) -> None:
        self._a_worker().kill()
        self.service.start_worker()

    def _stop_a_worker(self) -> None:
        self._a_worker().terminate()
        self.service.start_worker()

    def _freeze_a_worker(self) -> None:
        worker = self._a_worker()
        family = [psutil.Process(worker.pid), *self._tree(worker)]
        for each in family:
            _quietly(lambda each=each: each.send_signal(signal.SIGSTOP))
        time.sleep(self.random.uniform(1, 16))
        for each in family:
            _quietly(lambda each=each: each.send_signal(signal.SIGCONT))

    def _cut_the_connection(self) -> None:
        self.proxy.mode = "cut"
        time.sleep(self.random.uniform(0.2, 6))
        self.proxy.mode = "pass"

    def _silence_the_connection(self) -> None:
        self.proxy.mode = "blackhole"
        time.sleep(self.random.uniform(0.2, 14))
        self.proxy.mode = "pass"

    def _close_connections(self) -> None:
        self.proxy.kill_connections()

    def _crash_the_store(self) -> None:
        self.store.kill()
        time.sleep(self.random.uniform(0, 2))
        self.store.start()

    def _freeze_the_store(self) -> None:
        self.store.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, 14))
        self.store.send_signal(signal.SIGCONT)

    def _kill_a_web_process(self) -> None:
        assert self.service.web is not None
        processes = psutil.Process(self.service.web.pid).children()
        if processes:
            _quietly(self.random.choice(processes).kill)

    def _a_worker(self) -> Any:
        return self.random.choice([each for each in self.service.workers if each.poll() is None][-WORKERS:])

    def _tree(self, worker: Any) -> list[psutil.Process]:
        try:
            return psutil.Process(worker.pid).children(recursive=True)
        except psutil.Error:
            return []

    def _name(self, process: psutil.Process) -> str:
        try:
            return " ".join(process.cmdline())
        except psutil.Error:
            return ""

    def _time_recovery(self, fault: Fault) -> None:
        """How long until an execution that is started now has ended."""
        began, session = time.monotonic(), requests.Session()
        while time.monotonic() - began < SETTLE_SECONDS:
            id = self._start(session, self._inputs("echo", self.random), self.random.choice(["process", "thread"]))
            if id is None:
                time.sleep(0.05)
                continue
            with self.lock:
                self.accepted.append(Accepted(id, "echo"))
            while time.monotonic() - began < SETTLE_SECONDS:
                response = self._ask(session, "GET", f"/executions/{id}")
                if response is not None and response.status_code == 200 and response.json()["status"] in ENDED:
                    fault.recovered_after_seconds = time.monotonic() - began
                    break
                time.sleep(0.02)
            break
        session.close()

    # The verdict.

    def _settle(self) -> dict[str, dict[str, Any]]:
        """The last body of every accepted execution, once it ended or the patience is over."""
        last: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + SETTLE_SECONDS
        waiting = [each.id for each in self.accepted]
        while waiting and time.monotonic() < deadline:
            for id in waiting:
                try:
                    last[id] = self.service.status(id)
                except (requests.RequestException, ValueError):
                    continue
            waiting = [id for id in waiting if last.get(id, {}).get("status") not in ENDED]
            time.sleep(0.2)
        return last

    def _report(self, last: dict[str, dict[str, Any]]) -> bool:
        counts = {status: sum(body.get("status") == status for body in last.values()) for status in ENDED}
        broken = {
            "lost (accepted, not found)": [id for id, body in last.items() if body.get("status") == 404],
            "stuck (not ended)": [id for id, body in last.items() if body.get("status") not in (*ENDED, 404)],
            "cancel lied": [each.id for each in self.accepted if self._lied(each, last[each.id])],
            "two runs at a time": [each.id for each in self.accepted if self._overlapped(each.id)],
            "went on after cancelled": [each.id for each in self.accepted if self._went_on(each, last[each.id])],
            "list and status differ": self._differing(last),
            "an answer other than 2xx, 400, 503": [
                str(code) for code in self.codes if code not in (200, 202, 400, 503)
            ],
            "slow recovery": [
                each.name for each in self.faults if (each.recovered_after_seconds or 99) > RECOVERY_LIMIT_SECONDS
            ],
        }
        print(f"\n{len(self.accepted)} accepted; " + ", ".join(f"{count} {status}" for status, count in counts.items()))
        print(f"slowest from its start to its end, over all faults in between: {max(map(_lived, last.values())):.1f} s")
        print(f"answers: {dict(sorted(self.codes.items()))}; slowest {self.slowest_seconds:.2f} s\n")
        print("| fault | times | recovery, median | worst |\n|---|---|---|---|")
        for name in sorted({each.name for each in self.faults}):
            times = [_recovery(each) for each in self.faults if each.name == name]
            print(f"| {name} | {len(times)} | {statistics.median(times):.2f} s | {max(times):.2f} s |")
        print("\n| promise broken | times |\n|---|---|")
        for promise, cases in broken.items():
            print(f"| {promise} | {len(cases)}{' ' + ' '.join(cases[:3]) if cases else ''} |")
        return not any(broken.values())

    def _lied(self, each: Accepted, body: dict[str, Any]) -> bool:
        status = body.get("status")
        return (200 in each.cancel_answers and status != "cancelled") or (
            400 in each.cancel_answers and status == "cancelled"
        )

    def _rows(self, id: str) -> list[tuple[int, float]]:
        """Process and time of each side effect."""
        path = Path((self.folder / f"{id}.paths").read_text())
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[1]), float(line.split()[2])) for line in lines if len(line.split()) == 3]

    def _overlapped(self, id: str) -> bool:
        """Whether side effects of two runs alternate: A B A. A frozen process has one moment after it wakes."""
        pids = [pid for pid, _ in sorted(self._rows(id), key=lambda row: row[1])]
        changes = [pid for position, pid in enumerate(pids) if not position or pids[position - 1] != pid]
        return len(changes) - len(set(changes)) > self._frozen_workers()

    def _went_on(self, each: Accepted, body: dict[str, Any]) -> bool:
        if body.get("status") != "cancelled":
            return False
        ended_at = time.mktime(time.strptime(body["cancelled_at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone + 1
        return sum(at > ended_at for _, at in self._rows(each.id)) > self._frozen_workers()

    def _frozen_workers(self) -> int:
        return 1 if any("freeze a worker" in each.name for each in self.faults) else 0

    def _differing(self, last: dict[str, dict[str, Any]]) -> list[str]:
        with redis.Redis.from_url(self.store.url) as client:
            listed = {
                status: {id.decode() for id in client.zrange(f"exec:index:default:{status}:all", 0, -1)}
                for status in ENDED
            }
            leftover = [id.decode() for id in client.zrange("exec:leases", 0, -1)]
        return [id for id, body in last.items() if id not in listed.get(body.get("status", ""), set())] + leftover


def _lived(body: dict[str, Any]) -> float:
    """Seconds from its creation to its end."""
    ended_at = body.get("completed_at") or body.get("failed_at") or body.get("cancelled_at")
    times = [datetime.fromisoformat(at) for at in (body.get("created_at"), ended_at) if at]
    return (times[1] - times[0]).total_seconds() if len(times) == 2 else 0.0


def _recovery(fault: Fault) -> float:
    """Seconds; a hundred where it did not come."""
    return 100.0 if fault.recovered_after_seconds is None else fault.recovered_after_seconds


def _quietly(act: Callable[[], Any]) -> None:
    """The process may have ended by itself meanwhile."""
    try:
        act()
    except (psutil.Error, OSError):
        return


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks a service at random, and checks what it promised.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--keep", type=Path, help="a new folder for the logs and data of all processes, to look at afterwards"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        if options.keep:
            options.keep.mkdir()
        held = Chaos(options.keep or Path(folder), options.seed, options.seconds).run()
    print(f"\nseed {options.seed}: " + ("every promise held" if held else "a promise was broken"))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
