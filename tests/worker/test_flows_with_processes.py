"""`multiprocessing` works in a flow as in plain Python, in every run; if the machine is full, no
other run fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

WAYS = pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])

POOLS = """
import asyncio, multiprocessing, os, signal, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory
from . import sibling

class Thing:
    def __init__(self, value): self.value = value

def square(thing): return Thing(sibling.square(thing.value))
def slow_square(x): time.sleep(0.05); return x * x

def pool(inputs):
    with multiprocessing.get_context(inputs["how"]).Pool(2) as workers:
        return [thing.value for thing in workers.map(square, [Thing(n) for n in (1, 2, 3)])]

def leave_early(inputs):
    with multiprocessing.get_context(inputs["how"]).Pool(2) as workers:
        for found in workers.imap_unordered(slow_square, range(200)):
            if found >= 4:
                return found

def executor(inputs):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(inputs["how"])) as workers:
        return [thing.value for thing in workers.map(square, [Thing(n) for n in (1, 2, 3)])]

async def in_a_loop(inputs):
    context = multiprocessing.get_context(inputs["how"])
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        thing = await asyncio.get_running_loop().run_in_executor(workers, square, Thing(3))
        return thing.value

def shares(inputs):
    block = shared_memory.SharedMemory(create=True, size=10)  # and forgets it
    return block.name

def signals(inputs):
    pid = os.fork()
    if not pid:
        time.sleep(60)
        os._exit(0)
    time.sleep(inputs["seconds"])
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def speaks_from_a_fork(inputs, context):
    pid = os.fork()
    if not pid:
        try:
            context.progress(1, 2)
            os._exit(0)
        except RuntimeError:
            os._exit(7)
    refused = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    context.progress(1, 2)
    return refused
"""

FLOWS = ("pool", "leave_early", "executor", "in_a_loop", "shares", "signals", "speaks_from_a_fork")


@pytest.fixture
def child(make_child: Callable):  # type: ignore[no-untyped-def]
    made = make_child(POOLS, *FLOWS)
    (made.folder / "agents/coded/sibling.py").write_text("def square(x): return x * x\n")
    return made


@WAYS
def test_pools_of_processes_work_in_each_run(child, how: str) -> None:  # type: ignore[no-untyped-def]
    expected = {"pool": [1, 4, 9], "executor": [1, 4, 9], "in_a_loop": 9}
    for _ in range(2):
        for flow, output in expected.items():
            ended = child.run(flow, {"how": how})
            assert (ended.output, ended["leaked_threads"], ended.get("unfit")) == (
                output,
                0,
                None,
            ), ended


def test_a_pool_of_forked_processes_never_hangs(child) -> None:  # type: ignore[no-untyped-def]
    for _ in range(25):
        assert child.run("pool", {"how": "fork"}).output == [1, 4, 9]
        assert child.run("leave_early", {"how": "fork"}).output >= 4


def test_shared_memory_that_a_run_forgets_does_not_stay(child) -> None:  # type: ignore[no-untyped-def]
    from pathlib import Path

    name = child.run("shares").output
    assert not Path("/dev/shm", name).exists()


def test_a_forked_process_is_ended_by_sigterm_as_any_other(child) -> None:  # type: ignore[no-untyped-def]
    for seconds in (0.0, 0.0, 0.0, 0.001, 0.1):
        assert child.run("signals", {"seconds": seconds}).output == -15


def test_a_forked_process_cannot_garble_what_its_parent_says(child) -> None:  # type: ignore[no-untyped-def]
    token = child.start("speaks_from_a_fork")
    assert child.ended(token).output == 7
    assert len([head for head, _ in child.received if head["kind"] == "progress"]) == 1


def test_a_thread_that_cannot_be_started_costs_no_neighbour(make_child: Callable) -> None:
    child = make_child(
        """
        import threading, time, pathlib
        start = threading.Thread.start
        def waits(inputs):
            while not pathlib.Path(inputs["gate"]).exists(): time.sleep(0.01)
            return "waited"
        def fills(inputs):
            def refuse(thread):
                if thread.name == "flow":
                    raise MemoryError() if inputs["error"] == "memory" else RuntimeError("can't start new thread")
                start(thread)
            threading.Thread.start = refuse
        def empties(inputs):
            threading.Thread.start = start
        """,
        *("waits", "fills", "empties"),
        isolation="thread",
        slots=20,
    )
    for error in ("threads", "memory"):
        gate = child.folder / error
        waiting = [child.start("waits", {"gate": str(gate)}) for _ in range(3)]
        assert child.run("fills", {"error": error})["outcome"] == "completed"
        tokens = [child.start("waits", {"gate": str(gate)}) for _ in range(8)]
        refused = child.until("unstarted")  # the others have found a thread that was free
        assert refused["token"] in (*waiting, *tokens)
        assert "No thread could be started" in refused["reason"]
        gate.touch()
        ended = [child.ended(token) for token in (*waiting, *tokens)]
        assert {end.output for end in ended if end["kind"] == "ended"} == {"waited"}
        assert child.run("empties")["outcome"] == "completed"
        assert child.run("waits", {"gate": str(gate)}).output == "waited"
        child.received.clear()


@pytest.mark.parametrize(("isolation", "slots"), [("process", 1), ("thread", 4)])
def test_a_signal_to_the_group_of_a_flows_script_does_not_leave_the_process(
    make_child: Callable, isolation: str, slots: int
) -> None:
    child = make_child(
        """
        import os, subprocess
        def script(inputs):
            subprocess.run(["sh", "-c", "trap 'kill 0' EXIT; true"])
            return os.getpid()
        """,
        "script",
        isolation=isolation,
        slots=slots,
    )
    assert len({child.run("script").output for _ in range(2)}) == 1


def test_a_chain_of_processes_that_fork_and_end_is_ended_with_the_run(make_child: Callable) -> None:
    """Each link leads a session of its own, and lives for about a millisecond."""
    child = make_child(
        """
        import os, pathlib, time
        def chain(inputs):
            if os.fork():
                time.sleep(0.2)
                return "left"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if os.fork():
                    os._exit(0)
                os.setsid()
                pathlib.Path(inputs["beat"]).write_text(str(os.getpid()))
            os._exit(0)
        """,
        "chain",
    )
    beat = child.folder / "beat"
    ended = child.run("chain", {"beat": str(beat)})
    assert (ended.output, ended.get("unfit")) == ("left", None)
    last = beat.read_text()
    time.sleep(1)
    assert beat.read_text() == last
