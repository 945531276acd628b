"""Attacks by records in the store and by files of agents: other executions are not affected."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.hostile.conftest import Town
from tests.hostile.neighbours import client_of, run, unharmed

pytestmark = pytest.mark.timeout(240)

QUEUES = ("processes", "threads")
GARBAGE = {
    "a time behind the year 9999": {"created": "9" * 20, "started": "9" * 20, "status": "started"},
    "steps that are no number": {"steps": "many", "progress": "[", "status": "started"},
    "an origin that is no queue": {"origin": "nowhere", "status": "queued"},
    "no record at all": {"x": "\xff"},
    "a status that is none": {"status": "odd", "tenant": "stranger"},
    "outputs of nobody": {"status": "finished", "ended": "nan", "error": "[1]"},
}


def test_records_that_make_no_sense_harm_nobody(town: Town, store_of_town: redis.Redis) -> None:
    """Writes them everywhere: into honest tenants' lists, queues, leases and delayed executions."""
    done = [_one_of(town, number) for number in range(2)]
    with unharmed(town, "thread", "process"):
        for kind, garbage in enumerate(GARBAGE.values()):
            _write(store_of_town, kind, garbage)
        time.sleep(2)  # reapers and workers read them meanwhile
        assert town.get("/executions?page_size=100").status_code == 200
    for number, id in enumerate(done):
        with client_of(town, number) as tenant:
            assert tenant.status(id)["status"] == "completed"
    assert '"request_crashed"' not in town.output("web")


def _write(store: redis.Redis, kind: int, garbage: dict[str, str]) -> None:
    for number in range(12):
        id = f"exec_garbage{kind:04d}{number:04d}"
        tenant = ("stranger", "tenant0", "tenant1")[number % 3]
        store.hset(f"rq:job:{id}", mapping={"tenant": tenant, "type": "agent", **garbage})
        store.set(f"rq:job:{id}:outputs", b"\xff{")
        store.zadd(f"exec:index:{tenant}:running:agent", {id: 9e17})
        store.zadd("exec:waiting", {id: 1})
        store.zadd("exec:leases" if number % 2 else "exec:delayed", {id: 1})
        store.rpush(f"rq:queue:{QUEUES[number % 2]}", id)


def _one_of(town: Town, number: int) -> str:
    with client_of(town, number) as tenant:
        return run(tenant, "thread", number)


TRAPS: dict[str, Callable[[Path], object]] = {
    "an alias bomb": lambda path: path.write_text(
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    ),
    "an anchor that contains itself": lambda path: path.write_text("a: &a\n- *a\n"),
    "a pipe that nobody writes to": os.mkfifo,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a hundred thousand brackets": lambda path: path.write_text("flows: " + "[" * 100_000),
    "a name of five thousand characters": lambda path: path.write_text(
        "flows:\n- {name: " + "n" * 5000 + ", file: x.yaml}\n"
    ),
}


def test_files_that_are_a_trap_are_refused_in_a_reload_while_all_go_on(town: Town) -> None:
    """Tries all at once: the reason must name each of them."""
    _wait_for_workers(town)
    processes = [town.web, *(worker for worker in town.workers if worker.poll() is None)]
    names = [trap.replace(" ", "-") for trap in TRAPS]
    try:
        for name, make in zip(names, TRAPS.values(), strict=True):
            (town.more_agents / name).mkdir()
            make(town.more_agents / name / "agent.yaml")
        with unharmed(town, "thread", "process"):
            for process in processes:
                assert process is not None
                process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 100
            while len(reasons := _refusals(town)) < len(processes):
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        for folder in town.more_agents.iterdir():
            (folder / "agent.yaml").unlink()
            folder.rmdir()
    for reason in reasons:
        assert [name for name in names if f"/{name}/agent.yaml:" not in reason] == []


def _wait_for_workers(town: Town) -> None:
    # A worker that still starts ignores SIGHUP, since it is about to read the files anyway.
    deadline = time.monotonic() + 60
    while town.log().count('"worker_started"') < len(town.workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _refusals(town: Town) -> list[str]:
    """Returns the reasons of refused reloads in the logs."""
    lines = [json.loads(line) for line in town.log().splitlines() if '"reload_refused"' in line]
    return [line["reason"] for line in lines]
