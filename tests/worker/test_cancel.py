"""Cancel: an answer has the status `cancelled` only after the run has ended."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.measure import LONG
from tests.support.pace import within
from tests.support.service import Service

BOTH = pytest.mark.parametrize("flow", ["process", "thread"])
RACES = 5_000 if LONG else 40


def start(service: Service, flow: str, **inputs: object) -> str:
    return service.start("behaves", inputs, config={"flow_id": flow})


@BOTH
def test_a_running_flow_that_listens_ends_at_once(service: Service, flow: str) -> None:
    id = start(service, flow, do="listen", seconds=30)
    service.until(id, "running")
    time.sleep(0.1)
    began = time.monotonic()
    answer = service.cancel(id)
    assert time.monotonic() - began < within(1)
    assert answer.status_code == 200
    assert answer.json()["data"]["status"] == "cancelled"
    assert service.cancel(id).json() == answer.json()
    ended = service.status(id)
    assert ended["status"] == "cancelled"
    assert "outputs" not in ended


@pytest.mark.parametrize(
    ("flow", "do"),
    [
        ("process", "sleep"),
        ("process", "swallow"),
        ("process", "hold_the_lock"),
        ("process", "regex"),
        ("thread", "sleep"),
    ],
)
def test_a_running_flow_that_is_deaf_is_ended_after_the_grace(
    shared_service, flow: str, do: str
) -> None:
    service = shared_service(CANCEL_GRACE=0.5)
    id = start(service, flow, do=do, seconds=30)
    service.until(id, "running")
    began = time.monotonic()
    answer = service.cancel(id)
    assert answer.status_code == 200, answer.text
    assert 0.4 < time.monotonic() - began < within(3)
    assert service.run("behaves", {"do": "echo"}, config={"flow_id": flow})["status"] == "completed"


def test_no_side_effect_comes_after_cancelled(service: Service, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    id = start(service, "process", do="tick", seconds=30, ticks=str(ticks))
    service.until(id, "running")
    time.sleep(0.5)
    assert service.cancel(id).status_code == 200
    count = len(ticks.read_text().splitlines())
    time.sleep(0.5)
    assert len(ticks.read_text().splitlines()) == count


def test_a_pending_execution_that_is_cancelled_never_starts(make_service, tmp_path: Path) -> None:
    service = make_service(workers=0)
    marks = tmp_path / "marks"
    id = start(service, "process", do="echo", marks=str(marks))
    assert service.cancel(id).json()["data"]["status"] == "cancelled"
    other = start(service, "process", do="echo")
    service.start_worker()
    assert service.ended(other)["status"] == "completed"
    assert service.status(id)["status"] == "cancelled"
    assert "started_at" not in service.status(id)
    assert not marks.exists()


@BOTH
@pytest.mark.timeout(900 if LONG else 180)
def test_a_cancel_at_any_moment_of_a_short_run_gives_one_true_answer(
    service: Service, tmp_path: Path, flow: str
) -> None:
    """Cancels race with the claim and with the end; what is answered is what stays."""

    def start_and_cancel(number: int) -> tuple[str, int]:
        id = start(service, flow, do="listen", seconds=0.02)
        time.sleep((number % 10) * 0.005)
        return id, service.cancel(id).status_code

    with ThreadPoolExecutor(40) as clients:
        answers = dict(clients.map(start_and_cancel, range(RACES)))
    assert len(answers) == RACES
    for id, code in answers.items():
        expected = {200: {"cancelled"}, 202: {"cancelled"}, 400: {"completed"}}[code]
        assert service.ended(id)["status"] in expected


def test_a_cancel_that_takes_longer_than_five_seconds_says_so_and_is_kept(make_service) -> None:
    service = make_service(CANCEL_GRACE=7)
    id = start(service, "process", do="sleep", seconds=60)
    service.until(id, "running")
    answer = service.cancel(id)
    assert answer.status_code == 202
    assert answer.json()["data"] == {"execution_id": id, "status": "running", "phase": "cancelling"}
    assert service.ended(id)["status"] == "cancelled"


def test_cancels_that_wait_do_not_hold_the_whole_web_process(make_service) -> None:
    service = make_service(CANCEL_GRACE=20)
    ids = [start(service, "thread", do="sleep", seconds=60) for _ in range(40)]
    for id in ids:
        service.until(id, "running")
    answers: list[requests.Response] = []
    url = f"{service.url}/api/v1/executions"
    threads = [
        threading.Thread(
            target=lambda id=id: answers.append(requests.post(f"{url}/{id}/cancel", timeout=30))
        )
        for id in ids
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert requests.get(f"{service.url}/healthz", timeout=10).elapsed.total_seconds() < within(1)
    for thread in threads:
        thread.join()
    assert {(answer.status_code, answer.json()["data"]["phase"]) for answer in answers} == {
        (202, "cancelling")
    }


def test_an_ended_execution_is_not_cancelled_and_the_answer_names_its_status(
    service: Service,
) -> None:
    for do, status in (("echo", "completed"), ("fail", "failed")):
        id = service.run("behaves", {"do": do})["execution_id"]
        answer = service.cancel(id)
        assert answer.status_code == 400
        assert status in answer.json()["detail"]
        assert service.status(id)["status"] == status
