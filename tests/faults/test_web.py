"""Web processes are stopped and killed while clients send requests."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
import requests

from tests.support.pace import until, within
from tests.support.service import Service

Make = Callable[..., Service]
BODY = {"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "Test"}}
EXIT_SECONDS = 25.0
CLIENTS = 8


class Load:
    """Clients that start executions and read them until told to stop, each on a kept connection or
    on new ones.
    """

    def __init__(self, service: Service, *, retries: bool):
        self._url, self._retries = f"{service.url}/api/v1/executions", retries
        self.accepted: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(number % 2 == 0,))
            for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _client(self, keeps_connection: bool) -> None:
        session = requests.Session()
        while not self._stop.is_set():
            try:
                response = (session if keeps_connection else requests).post(
                    self._url, json=BODY, timeout=20
                )
            except requests.RequestException as error:
                refused = "Connection refused" in str(error)
                self.outcomes[self._named(error, keeps_connection)] += 1
                if refused and not self._retries:
                    return
                time.sleep(0.05)
            else:
                self.outcomes[str(response.status_code)] += 1
                if response.status_code == 202:
                    self.accepted.append(response.json()["execution_id"])
        session.close()

    def _named(self, error: Exception, keeps_connection: bool) -> str:
        """A connection that is kept may be closed just as the next request sets out (RFC 9112,
        9.5).
        """
        if "Connection refused" in str(error):
            return "refused"
        if keeps_connection and "RemoteDisconnected" in str(error):
            return "closed between requests"
        return f"broken: {error}"

    def goes_on(self, number: int = 10) -> None:
        """Returns when so many more executions have been accepted."""
        enough = len(self.accepted) + number
        until(lambda: len(self.accepted) >= enough)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_web_server_that_is_stopped_under_load_fails_no_request_it_took(
    make_service: Make,
) -> None:
    """Whoever was connected is answered; whoever comes later is refused at once."""
    service = make_service(workers=0, WEB_CONCURRENCY=2)
    load = Load(service, retries=False)
    load.goes_on(51)
    assert service.web is not None
    began = time.monotonic()
    service.web.send_signal(signal.SIGTERM)
    assert service.web.wait(within(EXIT_SECONDS)) == 0
    assert time.monotonic() - began < within(EXIT_SECONDS)
    load.end()
    assert load.outcomes["202"] > 50
    assert set(load.outcomes) <= {"202", "refused", "closed between requests"}
    assert load.outcomes["closed between requests"] <= 2


def test_a_cancel_that_waits_is_answered_before_the_web_server_ends(make_service: Make) -> None:
    service = make_service(CANCEL_GRACE=3)
    id = service.start("behaves", {"do": "sleep", "seconds": 60})
    service.until(id, "running")
    answers: list[requests.Response] = []
    cancelling = threading.Thread(target=lambda: answers.append(service.cancel(id)))
    cancelling.start()
    time.sleep(0.5)
    assert service.web is not None
    service.web.send_signal(signal.SIGTERM)
    cancelling.join()
    assert answers[0].json()["data"]["status"] == "cancelled"
    assert service.web.wait(within(EXIT_SECONDS)) == 0


def test_web_processes_that_are_killed_under_load_are_replaced_and_lose_nothing(
    make_service: Make,
) -> None:
    """Clients that try again get through; every execution that was accepted is there, and
    ends.
    """
    service = make_service(WEB_CONCURRENCY=2)
    assert service.web is not None
    master = psutil.Process(service.web.pid)
    load = Load(service, retries=True)
    for _ in range(5):
        load.goes_on()
        master.children()[0].kill()
    load.goes_on()
    load.end()
    assert {
        outcome for outcome in load.outcomes if not outcome.startswith(("202", "broken", "closed"))
    } <= {"refused"}
    assert load.outcomes["202"] > 50
    for id in load.accepted:
        assert service.ended(id, seconds=60)["status"] == "completed"
    assert len(set(load.accepted)) == len(load.accepted)
