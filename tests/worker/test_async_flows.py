"""Asynchronous flows: one event loop outlives the runs of a process, and is shared without harm."""

from __future__ import annotations

import asyncio
import textwrap
import time
from collections.abc import Callable

import pytest

BOTH = pytest.mark.parametrize(("isolation", "slots"), [("process", 1), ("thread", 8)])

CLIENT = """
import asyncio

class Client:
    '''As clients of HTTP and of stores do: keeps a connection, which belongs to the loop that made it.'''
    connection = None

    async def ask(self, port):
        if self.connection is None:
            self.connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = self.connection
        writer.write(b"hello\\n")
        await writer.drain()
        return (await asyncio.wait_for(reader.readline(), 10)).decode().strip()

client = Client()
lock = None

async def ask(inputs):
    global lock
    lock = lock or asyncio.Lock()
    async with lock:
        return await client.ask(inputs["port"])

def asks_by_a_plain_function(inputs):
    return ask(inputs)
"""


class Echo:
    """A server on a free port, in a thread of its own."""

    def __enter__(self) -> int:
        import threading

        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0)
        )
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
        finally:
            writer.close()

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@BOTH
def test_a_client_of_the_module_works_in_each_run(
    make_child: Callable, isolation: str, slots: int
) -> None:
    flows = ("ask", "asks_by_a_plain_function")
    child = make_child(CLIENT, *flows, isolation=isolation, slots=slots)
    with Echo() as port:
        answers = [child.run(flows[number % 2], {"port": port}).output for number in range(40)]
    child.__exit__()
    assert answers == ["hello"] * 40


PLAIN = """
import asyncio
async def nothing(): await asyncio.sleep(0); return "ok"
async def run(inputs): return await nothing()
def old_style(inputs): return asyncio.get_event_loop().run_until_complete(nothing())
def runs(inputs): return asyncio.run(nothing())
def closes(inputs): asyncio.get_event_loop().close(); return "ok"
def unsets(inputs): asyncio.set_event_loop(None); return "ok"
"""


def test_after_an_asynchronous_flow_a_plain_one_finds_asyncio_as_in_a_fresh_python(
    make_child: Callable,
) -> None:
    child = make_child(
        PLAIN
        + textwrap.dedent("""
        def installs(inputs):
            class Policy(asyncio.DefaultEventLoopPolicy):
                def get_event_loop(self): raise RuntimeError("mine")
            asyncio.set_event_loop_policy(Policy()); return "ok"
        """),
        *("run", "old_style", "runs", "closes", "unsets", "installs"),
    )
    order = "old_style run old_style runs old_style closes old_style unsets old_style installs old_style"
    for flow in order.split():
        assert child.run(flow).output == "ok", flow


def test_a_plain_flow_in_a_thread_finds_a_loop_of_its_own_as_in_a_main_thread(
    make_child: Callable,
) -> None:
    child = make_child(
        PLAIN,
        *("run", "old_style", "runs", "closes", "unsets"),
        isolation="thread",
        slots=8,
    )
    for flow in [
        "old_style",
        "run",
        "old_style",
        "runs",
        "old_style",
        "closes",
        "old_style",
        "unsets",
        "old_style",
    ]:
        assert child.run(flow).output == "ok", flow


def test_tasks_that_a_run_leaves_are_cancelled_at_its_end(make_child: Callable) -> None:
    source = """
    import asyncio, pathlib
    kept = []
    async def leaves(inputs):
        async def ticks():
            try:
                while True:
                    await asyncio.sleep(0.01)
            finally:
                pathlib.Path(inputs["ended"]).touch()
        kept.append(asyncio.create_task(ticks()))
        await asyncio.sleep(0.05)
        return "left"
    async def counts(inputs):
        return len(asyncio.all_tasks()), [task.cancelled() for task in kept]
    """
    for isolation, slots, own in (("process", 1, 1), ("thread", 4, 2)):
        child = make_child(source, "leaves", "counts", isolation=isolation, slots=slots)
        ended = child.folder / "ended"
        assert child.run("leaves", {"ended": str(ended)})["leaked_threads"] == 0
        assert ended.exists()
        assert child.run("counts").output == [own, [True]]


def test_thread_flows_that_wait_cost_tasks_and_not_threads(make_child: Callable) -> None:
    child = make_child(
        """
        import asyncio
        gate = None
        async def waits(inputs):
            global gate
            gate = gate or asyncio.Event()
            await gate.wait()
            return inputs["number"]
        async def opens(inputs):
            while len(asyncio.all_tasks()) < 2 * inputs["waiting"]:
                await asyncio.sleep(0.01)
            gate.set()
        """,
        "waits",
        "opens",
        isolation="thread",
        slots=1000,
    )
    tokens = [child.start("waits", {"number": number}) for number in range(500)]
    child.ended(child.start("opens", {"waiting": 500}), seconds=60)
    assert child.threads() < 40
    assert [child.ended(token, seconds=60).output for token in tokens] == list(range(500))


def test_a_flow_that_blocks_the_loop_is_named_and_holds_up_no_sign_of_life(
    make_child: Callable,
) -> None:
    child = make_child(
        """
        import asyncio, pathlib, time
        async def blocks(inputs):
            pathlib.Path(inputs["begun"]).touch()
            while not pathlib.Path(inputs["gate"]).exists():
                time.sleep(0.01)
        async def waits(inputs, context):
            await asyncio.sleep(0)
        def plain(inputs):
            return "plain"
        """,
        *("blocks", "waits", "plain"),
        isolation="thread",
        slots=8,
    )
    gate, begun = child.folder / "gate", child.folder / "begun"
    blocking = child.start("blocks", {"gate": str(gate), "begun": str(begun)})
    deadline = time.monotonic() + 30
    while "loop_blocked" not in child.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.received.clear()
    child.tell({"kind": "alive"})
    child.until("alive")
    assert child.run("plain").output == "plain"
    gate.touch()
    assert child.ended(blocking)["outcome"] == "completed"
    [line] = [line for line in child.log.read_text().splitlines() if "loop_blocked" in line]
    assert '"execution_id": "exec_1"' in line
    assert "flow.py:6 blocks" in line


@BOTH
@pytest.mark.parametrize(
    "how", ["sys.exit(3)", "task(sys.exit)", "loop.stop()", "raise KeyboardInterrupt"]
)
def test_the_loop_outlives_what_a_flow_does_to_it(
    make_child: Callable, isolation: str, slots: int, how: str
) -> None:
    child = make_child(
        """
        import asyncio, sys
        async def breaks(inputs):
            loop = asyncio.get_running_loop()
            async def exits(): sys.exit(3)
            if inputs["how"] == "sys.exit(3)": sys.exit(3)
            if inputs["how"] == "task(sys.exit)": await asyncio.create_task(exits())
            if inputs["how"] == "loop.stop()": loop.stop()
            if inputs["how"] == "raise KeyboardInterrupt": raise KeyboardInterrupt
            await asyncio.sleep(0.01)
        async def works(inputs):
            await asyncio.sleep(0.01)
            return "works"
        """,
        "breaks",
        "works",
        isolation=isolation,
        slots=slots,
    )
    for _ in range(2):
        ended = child.run("breaks", {"how": how})
        assert ended["outcome"] == ("completed" if how == "loop.stop()" else "failed")
        assert child.run("works").output == "works"


@BOTH
def test_a_stop_cancels_a_flow_that_waits(make_child: Callable, isolation: str, slots: int) -> None:
    child = make_child(
        """
        import asyncio, pathlib
        async def waits(inputs):
            pathlib.Path(inputs["begun"]).touch()
            try:
                await asyncio.sleep(600)
            finally:
                pathlib.Path(inputs["ended"]).touch()
        """,
        "waits",
        isolation=isolation,
        slots=slots,
    )
    begun, ended = child.folder / "begun", child.folder / "ended"
    for _ in range(2):
        token = child.start("waits", {"begun": str(begun), "ended": str(ended)})
        while not begun.exists():
            time.sleep(0.01)
        child.tell({"kind": "stop", "token": token})
        assert child.ended(token)["outcome"] == "stopped"
        assert ended.exists()
        begun.unlink()


def test_log_lines_of_flows_side_by_side_carry_their_own_names(make_child: Callable) -> None:
    child = make_child(
        """
        import asyncio, logging
        async def logs(inputs):
            for _ in range(5):
                await asyncio.sleep(0.01)
                logging.getLogger("library").warning("said by exec_%s", inputs["number"])
            await asyncio.to_thread(logging.getLogger("library").warning, "said by exec_%s", inputs["number"])
            await asyncio.create_task(inner(inputs))
        async def inner(inputs):
            logging.getLogger("library").warning("said by exec_%s", inputs["number"])
        """,
        "logs",
        isolation="thread",
        slots=8,
    )
    for token in [child.start("logs", {"number": number}) for number in range(1, 9)]:
        assert child.ended(token)["outcome"] == "completed"
    lines = [line for line in child.log.read_text().splitlines() if "said by" in line]
    assert len(lines) == 8 * 7
    for line in lines:
        number = line.partition("said by exec_")[2].partition('"')[0]
        assert f'"execution_id": "exec_{number}"' in line


def test_ainvoke_goes_before_invoke_which_still_works_where_there_is_nothing_else(
    make_child: Callable,
) -> None:
    child = make_child(
        """
        import asyncio
        class Both:
            def invoke(self, inputs): raise AssertionError("the nodes are asynchronous")
            async def ainvoke(self, inputs): await asyncio.sleep(0); return "ainvoke"
        class Plain:
            def invoke(self, inputs): return "invoke"
        class NoAsyncForm:
            def invoke(self, inputs): return "invoke"
            async def ainvoke(self, inputs): return await AS_IN_A_LIBRARY(inputs)
        class Fails:
            calls = 0
            def invoke(self, inputs): return "again"
            async def ainvoke(self, inputs): raise NotImplementedError("of the flow's own code")
        both, plain, half, fails = Both(), Plain(), NoAsyncForm(), Fails()
        exec(compile('''async def AS_IN_A_LIBRARY(inputs): raise NotImplementedError''', "/a/library.py", "exec"))
        NoAsyncForm.ainvoke = staticmethod(AS_IN_A_LIBRARY)
        """,
        *("both", "plain", "half", "fails"),
    )
    assert child.run("both").output == "ainvoke"
    assert child.run("plain").output == "invoke"
    assert child.run("half").output == "invoke"
    assert child.run("fails")["error"]["type"] == "NotImplementedError"


def test_an_async_generator_is_refused_by_its_place(make_child: Callable) -> None:
    child = make_child("async def run(inputs):\n    yield 1\n", "run")
    error = child.run("run")["error"]
    assert (error["type"], error["message"].split(",")[0]) == (
        "InvalidOutput",
        "outputs.output is an async generator (collect it in a list)",
    )
