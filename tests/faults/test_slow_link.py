"""Outputs that take longer to reach the store than one call may: 12 MB at 50 Mbit/s."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.agents import write_agent
from tests.support.pace import within
from tests.support.proxy import Proxy
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

MBIT_50 = 50_000_000 / 8
OUTPUT_BYTES = 6_000_000  # as hexadecimal digits twice as many, which pack to about half

Make = Callable[..., Service]


@pytest.fixture
def behind_a_link(
    make_service: Make, own_store: EmbeddedStore, proxy: Proxy
) -> Callable[..., Service]:
    """A web process beside the store, and workers that reach it through the proxy."""

    def make(**options: object) -> Service:
        service = make_service(
            own_store.url, workers=0, **{"WORKER_THREADS": 2, "WORKER_PROCESSES": 3, **options}
        )
        service.env["REDIS_URL"] = proxy.url
        service.start_worker()
        service.run("behaves", {"do": "echo"})
        return service

    return make


def test_large_outputs_arrive_over_a_slow_link_and_hold_up_no_others(
    behind_a_link: Callable[..., Service], proxy: Proxy
) -> None:
    service = behind_a_link(MAX_RESULT_BYTES=40_000_000)
    proxy.bytes_per_second = MBIT_50
    large = [
        service.start(
            "behaves",
            {"do": "noise", "bytes": 2 * OUTPUT_BYTES, "seconds": 0},
            config={"max_attempts": 1},
        )
        for _ in range(2)
    ]
    for id in large:
        service.until(id, "running")
    small_seconds = []
    while any(service.status(id)["status"] == "running" for id in large):
        began = time.monotonic()
        assert (
            service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})["status"]
            == "completed"
        )
        small_seconds.append(time.monotonic() - began)
    assert [service.ended(id)["status"] for id in large] == ["completed"] * 2
    assert len(small_seconds) >= 2
    assert sorted(small_seconds)[len(small_seconds) // 2] < within(3)


def test_stored_steps_are_read_back_over_a_slow_link_and_hold_up_no_others(
    behind_a_link: Callable[..., Service], proxy: Proxy, tmp_path: Path
) -> None:
    write_agent(
        tmp_path / "agents",
        "noisy",
        'flows:\n  - {name: main, entrypoint: "flow.py:run"}\n',
        "import os, time\n\ndef run(inputs):\n"
        "    time.sleep(inputs.get('seconds') or 0)\n"
        "    return os.urandom(inputs.get('bytes') or 1).hex()\n",
    )
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/heavy.yaml").write_text(
        "inputs: [{name: bytes}, {name: seconds}]\n"
        "steps:\n"
        "  - {id: a, agent: noisy, input_mapping: {bytes: bytes}}\n"
        "  - {id: b, agent: noisy, input_mapping: {seconds: seconds}, depends_on: [a]}\n"
        "outputs: [{key: b}]\n"
    )
    service = behind_a_link(
        MAX_RESULT_BYTES=40_000_000,
        LEASE=3,
        agents=tmp_path / "agents",
        pipelines=tmp_path / "pipelines",
    )
    id = service.start("heavy", {"bytes": 2 * OUTPUT_BYTES, "seconds": 3}, type="pipeline")

    def statuses() -> list[str]:
        return [step["status"] for step in service.get(f"/executions/{id}/steps").json()["steps"]]

    deadline = time.monotonic() + 100
    while statuses() != ["completed", "running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.workers[0].kill()
    proxy.bytes_per_second = MBIT_50
    service.start_worker()
    while service.status(id)["attempt"] != 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (
        service.run("behaves", {"do": "echo"}, config={"flow_id": "thread"})["status"]
        == "completed"
    )
    ended = service.ended(id, seconds=60)
    assert (ended["status"], ended["attempt"]) == ("completed", 2)
    steps = service.get(f"/executions/{id}/steps").json()["steps"]
    assert [step["attempt"] for step in steps] == [1, 2]


@pytest.mark.timeout(180)  # it is tried for a minute
def test_outputs_that_the_store_never_takes_fail_the_execution_with_a_reason(
    make_service: Make, own_store: EmbeddedStore
) -> None:
    """A store that hangs up on what is too large for it goes on to serve everybody else meanwhile."""
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("proto-max-bulk-len", 1024 * 1024)
    service = make_service(own_store.url)
    large = service.start("behaves", {"do": "noise", "bytes": 3_000_000, "seconds": 0})
    for _ in range(5):
        assert service.run("behaves", {"do": "echo"})["status"] == "completed"
    ended = service.ended(large, seconds=100)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "InvalidOutput")
    assert "refused" in ended["error"]["message"]
