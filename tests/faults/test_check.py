"""`python -m app.check`, before a release and as a health check, against real stores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support.service import ROOT, Service
from tools.embedded_store import EmbeddedStore


def check(url: str, *arguments: str, **env: str) -> tuple[int, str]:
    """The exit code, and what it said on stderr."""
    run = subprocess.run(
        [sys.executable, "-m", "app.check", *arguments],
        cwd=ROOT,
        env={**os.environ, "REDIS_URL": url, **env},
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert "Traceback" not in run.stderr
    return run.returncode, run.stderr.strip()


def test_a_good_store_and_good_targets_are_fit_for_release(own_store: EmbeddedStore) -> None:
    assert check(own_store.url) == (0, "")


def test_a_store_that_throws_data_away_is_refused(own_store: EmbeddedStore) -> None:
    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    code, said = check(own_store.url)
    assert code == 1
    assert said.startswith(
        "The store deletes data when it is full: its maxmemory-policy is allkeys-lru."
    )
    assert said.endswith(" To change: maxmemory-policy noeviction.")


def test_a_replica_is_refused(own_store: EmbeddedStore) -> None:
    with redis.Redis.from_url(own_store.url) as client:
        client.replicaof("127.0.0.1", 1)
    code, said = check(own_store.url)
    assert (code, said) == (
        1,
        "The store is a replica, which takes no writes. To change: REDIS_URL, to its primary.",
    )


def test_a_store_that_is_not_there_is_said_in_one_sentence() -> None:
    for address in ("redis://ann:hunter2@127.0.0.1:1/0?protocol=2", "redis://127.0.0.1:1/0"):
        assert check(address) == (
            1,
            "The store cannot be reached. REDIS_URL names redis://127.0.0.1:1/0.",
        )


def test_a_broken_agent_and_a_wrong_setting_are_refused(
    own_store: EmbeddedStore, tmp_path: Path
) -> None:
    (tmp_path / "agents" / "bad").mkdir(parents=True)
    (tmp_path / "agents" / "bad" / "agent.yaml").write_text("flows: 5\n")
    code, said = check(own_store.url, AGENTS_PATH=str(tmp_path / "agents"))
    assert code == 1
    assert said.startswith(f"{tmp_path}/agents/bad/agent.yaml:1:")
    code, said = check(own_store.url, LEASE="long")
    assert code == 1
    assert said.startswith("LEASE: ")


def test_an_unknown_question_is_a_wrong_call() -> None:
    assert check("redis://127.0.0.1:1/0", "wrker") == (2, "usage: python -m app.check [worker]")


def test_a_worker_is_alive_also_when_the_store_was_emptied(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url)
    assert service.run("mem_l1_summarizer", {"text": "Test"})["status"] == "completed"
    with redis.Redis.from_url(own_store.url) as client:
        client.flushall()
    assert check(own_store.url, "worker") == (0, "")


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_worker_is_alive_until_it_is_not(
    make_service: Callable[..., Service], own_store: EmbeddedStore, end: str
) -> None:
    service = make_service(own_store.url, LEASE=1)
    assert service.run("mem_l1_summarizer", {"text": "Test"})["status"] == "completed"
    assert check(own_store.url, "worker", LEASE="1") == (0, "")
    getattr(service.workers[0], end)()
    service.workers[0].wait(60)
    deadline_tries = 20
    while (found := check(own_store.url, "worker", LEASE="1"))[0] == 0 and deadline_tries:
        deadline_tries -= 1
    assert found == (1, "No worker is alive on this machine.")
