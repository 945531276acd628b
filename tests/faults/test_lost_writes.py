"""The store loses its last writes: power loss with `everysec`, a fail-over to a lagging replica,
FLUSHALL.

The lost writes do not come back. But an execution never gets the output of another one, even if the
store gives out an id or a number for the second time.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
import redis

from tests.faults.conftest import LEASE_SECONDS, ticks
from tests.support.model_server import Answer, ModelServer
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

Make = Callable[..., Service]
BOTH = pytest.mark.parametrize("flow", ["process", "thread"])


@pytest.fixture
def went_back(own_store: EmbeddedStore, tmp_path: Path) -> Callable[[Callable[[], None]], None]:
    """Does something, then puts the store back to what it was before."""

    def go_back(lost: Callable[[], None]) -> None:
        with redis.Redis.from_url(own_store.url) as client:
            client.set("last", "write")  # of this connection, for which the next call waits
            client.execute_command("WAITAOF", 1, 0, 30_000)
        saved = tmp_path / "saved"
        shutil.copytree(own_store.folder, saved)
        lost()
        own_store.kill()
        shutil.rmtree(own_store.folder)
        shutil.copytree(saved, own_store.folder)
        own_store.start()

    return go_back


def start_when_it_takes_it(
    service: Service, target_id: str, inputs: dict[str, object], flow: str = "main"
) -> str:
    deadline = time.monotonic() + 60
    while True:
        body = {
            "type": "agent",
            "target_id": target_id,
            "inputs": inputs,
            "config": {"flow_id": flow},
        }
        response = service.post("/executions", json=body)
        if response.status_code == 202:
            return str(response.json()["execution_id"])
        assert time.monotonic() < deadline
        time.sleep(0.02)


@BOTH
def test_an_execution_ends_with_its_own_outputs_though_another_one_was_lost_while_it_ran(
    make_service: Make,
    own_store: EmbeddedStore,
    went_back: Callable[[Callable[[], None]], None],
    flow: str,
) -> None:
    service = make_service(own_store.url, LEASE=LEASE_SECONDS, WORKER_PROCESSES=2)
    service.run("behaves", {"do": "echo"}, config={"flow_id": flow})

    def start_what_is_lost() -> None:
        id = service.start(
            "behaves", {"do": "attempt_sleeps", "seconds": [4] * 3}, config={"flow_id": flow}
        )
        service.until(id, "running")

    went_back(start_what_is_lost)
    id = start_when_it_takes_it(service, "behaves", {"do": "sleep", "seconds": 6}, flow)
    ended = service.ended(id, seconds=40)
    assert (ended["status"], ended["outputs"]["output"], ended["attempt"]) == (
        "completed",
        "slept",
        1,
    )


@BOTH
def test_an_emptied_store_mixes_up_nothing(
    make_service: Make, own_store: EmbeddedStore, flow: str
) -> None:
    service = make_service(own_store.url, LEASE=LEASE_SECONDS, WORKER_PROCESSES=2)
    lost = service.start(
        "behaves", {"do": "attempt_sleeps", "seconds": [4] * 3}, config={"flow_id": flow}
    )
    service.until(lost, "running")
    with redis.Redis.from_url(own_store.url) as client:
        client.flushall()
        client.function_flush()
    id = service.start("behaves", {"do": "sleep", "seconds": 6}, config={"flow_id": flow})
    ended = service.ended(id, seconds=40)
    assert (ended["status"], ended["outputs"]["output"], ended["attempt"]) == (
        "completed",
        "slept",
        1,
    )
    assert service.get(f"/executions/{lost}").status_code == 404


def test_no_tenant_is_given_what_a_model_answered_another(
    make_service: Make,
    own_store: EmbeddedStore,
    went_back: Callable[[Callable[[], None]], None],
    tmp_path: Path,
) -> None:
    (tmp_path / "agents/asker/prompts").mkdir(parents=True)
    (tmp_path / "agents/asker/agent.yaml").write_text("flows:\n  - {name: main, file: ask.yaml}\n")
    (tmp_path / "agents/asker/prompts/ask.yaml").write_text("user_template: 'Summarise: {text}'\n")
    keys = {"acme": "a" * 20, "umbrella": "b" * 20}
    with ModelServer() as model:
        model.reply = lambda asked: Answer(
            text=f"About {asked['messages'][-1]['content']}", delay_seconds=2.5
        )
        service = make_service(
            own_store.url,
            LEASE=LEASE_SECONDS,
            agents=tmp_path / "agents",
            OPENAI_BASE_URL=model.url,
            OPENAI_API_KEY="x",
            API_KEYS=",".join(f"{tenant}:{key}" for tenant, key in keys.items()),
        )

        def act_as(tenant: str) -> None:
            service.http.headers["Authorization"] = f"Bearer {keys[tenant]}"

        act_as("acme")
        service.run("asker", {"text": "nothing"})

        def ask_what_is_lost() -> None:
            service.until(service.start("asker", {"text": "the plans of acme"}), "running")
            time.sleep(0.3)

        went_back(ask_what_is_lost)
        act_as("umbrella")
        ended = service.ended(start_when_it_takes_it(service, "asker", {"text": "the weather"}))
    assert (ended["status"], ended["outputs"]["output"]) == (
        "completed",
        "About Summarise: the weather",
    )


def test_a_run_whose_claim_was_lost_ends_as_soon_as_its_worker_hears_of_it(
    make_service: Make,
    own_store: EmbeddedStore,
    went_back: Callable[[Callable[[], None]], None],
    tmp_path: Path,
) -> None:
    """It may overlap with the next run of the same execution for that long, and not for a lease."""
    service = make_service(
        own_store.url, WORKER_THREADS=0, WORKER_PROCESSES=1
    )  # a lease of twelve seconds
    service.run("behaves", {"do": "echo"})
    worker, path = service.workers[0], tmp_path / "ticks"
    worker.send_signal(19)  # SIGSTOP: it claims nothing before the store is saved
    id = service.start("behaves", {"do": "tick", "seconds": 4, "ticks": str(path)})

    def claim() -> None:
        worker.send_signal(18)
        service.until(id, "running")
        while not ticks(path):
            time.sleep(0.02)

    went_back(claim)
    ended = service.ended(id, seconds=40)
    assert (ended["status"], ended["attempt"]) == ("completed", 1)
    runs = [pid for pid, _ in groupby(ticks(path), key=lambda tick: tick[1])]
    assert len(runs) == len(set(runs)) == 2  # one after the other
    assert "store_went_back" in service.output("worker0") or "attempt_lost" in service.output(
        "worker0"
    )
