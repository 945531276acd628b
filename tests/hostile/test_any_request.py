"""Fuzzes a service: every answer must be well-formed HTTP and not 500, and the service keeps running.

A failure prints a seed: `FUZZ_SEED=<seed>` repeats the run, `FUZZ_SEED=<seed>:<number>` begins with
one request. `LONG_FAULTS=1` (`make faults`) runs it for ten minutes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from app.domain.webhook_secret import new_secret
from tests.hostile.fuzzed import Fuzzer
from tests.hostile.fuzzed_pages import PageFuzzer
from tests.hostile.judge import judge
from tests.hostile.wire import exchange
from tests.support.measure import LONG
from tests.support.service import Service
from tests.ui.visitor import COOKIE, Visitor
from tools.embedded_store import EmbeddedStore

SECONDS = float(os.environ.get("FUZZ_SECONDS", 600 if LONG else 6))
CLIENTS = 4  # more would only wait for the one web process
MOST_FAILURES = 5
KEY = "a-key-that-is-long-enough"
GROWTH_BYTES = 300 * 1024 * 1024


@pytest.fixture
def service(make_service: Callable[..., Service], own_store: EmbeddedStore) -> Service:
    """Sets keys and limits that nobody reaches, so that every request passes their code."""
    rate = "1000000/second"
    return make_service(
        own_store.url,
        API_KEYS=f"acme:{KEY}",
        METRICS="open",
        RATE_LIMIT_START=rate,
        RATE_LIMIT_READ=rate,
        RATE_LIMIT_CANCEL=rate,
        MAX_RETRIED_BYTES_PER_TENANT=0,
        MAX_QUEUE_LENGTH=0,
        WORKER_THREADS=20,
        WEBHOOK_SECRET=new_secret(),
        WEBHOOK_CONCURRENCY=0,  # the worker calls nobody outside
    )


@pytest.mark.timeout(SECONDS + 180)
def test_no_request_at_all_is_answered_with_500_or_with_what_is_no_http(service: Service) -> None:
    service.http.headers["X-API-Key"] = KEY
    run = Run(service, Fuzzer(_executions(service), KEY))
    _judge_run(service, run)
    assert run.statuses.keys() >= {200, 202, 400, 401, 404, 405}, run.statuses


@pytest.mark.timeout(SECONDS + 180)
def test_no_request_of_a_page_is_answered_with_500_either(service: Service) -> None:
    service.http.headers["X-API-Key"] = KEY
    visitor = Visitor(service)
    visitor.log_in(KEY)
    cookie, token = f"{COOKIE}={visitor.cookie}", visitor.token("/")
    run = Run(service, PageFuzzer(_executions(service), cookie, token, KEY))
    _judge_run(service, run)
    assert run.statuses.keys() >= {200, 303, 400, 403, 404}, run.statuses


def _judge_run(service: Service, run: Run) -> None:
    [process] = psutil.Process(service.web.pid).children()
    before = process.memory_info().rss
    run.go_on(SECONDS)
    assert not run.failures, "\n".join(run.failures)
    assert process.is_running(), run.shown
    assert process.memory_info().rss - before < GROWTH_BYTES, run.shown
    _cancel_the_rest(service)
    last = service.start("behaves", {"do": "echo"})
    assert service.ended(last, seconds=150)["status"] == "completed", run.shown
    _judge_log(service.output("web"), run.shown)


def _cancel_the_rest(service: Service) -> None:
    """Ends what the fuzzer started: a long run starts more than the workers do in minutes."""
    for status in ("pending", "running"):
        while found := service.get(f"/executions?status={status}&page_size=100").json()[
            "executions"
        ]:
            for item in found:
                service.cancel(item["execution_id"])


def _judge_log(log: str, shown: str) -> None:
    """Checks that each line is one event, so no request could write lines of its own."""
    for line in log.splitlines():
        event = json.loads(line)
        assert event["level"] not in ("error", "critical"), f"{shown}: {line[:3000]}"


class Run:
    """Clients that send requests until the time is over, or until `MOST_FAILURES` wrong answers."""

    def __init__(self, service: Service, fuzzer: Fuzzer | PageFuzzer):
        self._service, self._fuzzer = service, fuzzer
        seed = os.environ.get("FUZZ_SEED") or str(random.SystemRandom().randrange(10**9))
        name, _, first = seed.partition(":")
        self._seed, self._numbers = int(name), itertools.count(int(first or 0))
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.shown = f"FUZZ_SEED={self._seed}"

    def go_on(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in range(CLIENTS):
                clients.submit(self._client, deadline)
        print(
            f"{self.shown}: {sum(self.statuses.values())} answers, {dict(sorted(self.statuses.items()))}"
        )

    def _client(self, deadline: float) -> None:
        while time.monotonic() < deadline and not self._stop.is_set():
            number = next(self._numbers)
            try:
                self._send(number)
            except BaseException as error:
                self.failures.append(
                    f"FUZZ_SEED={self._seed}:{number}: {error!r}\n{self._sent_as(number)[:3000]!r}"
                )
                if len(self.failures) >= MOST_FAILURES:
                    self._stop.set()

    def _send(self, number: int) -> None:
        sent = self._fuzzer.request(self._seed, number)
        answers = judge(sent, exchange(self._service.port, sent.pieces))
        self.statuses.update(answer.status for answer in answers)

    def _sent_as(self, number: int) -> bytes:
        with contextlib.suppress(Exception):
            return b"".join(self._fuzzer.request(self._seed, number).pieces)
        return b""


def _executions(service: Service) -> list[str]:
    """Runs executions of all kinds, until they have ended; returns their ids."""
    started = [
        service.start("behaves", {"do": "echo"}),
        service.start("behaves", {"do": "fail"}),
        service.start("relay", {"first": {}, "second": {}}, type="pipeline"),
        service.start("relay", {"first": {}, "second": {"fail": "No."}}, type="pipeline"),
    ]
    waits = service.start("behaves", {"do": "listen", "seconds": 60})
    service.until(waits, "running")
    service.cancel(waits)
    for id in (*started, waits):
        service.ended(id)
    return [*started, waits]
