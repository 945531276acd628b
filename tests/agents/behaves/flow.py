"""A flow for tests: does what its input `do` names. See `ACTIONS`, at the end.

All services of `tests.support.service` load it.
"""

import asyncio
import base64
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path


def run(inputs, context):
    with Marks(inputs):
        return ACTIONS[inputs.get("do", "echo")](inputs, context)


async def run_async(inputs, context):
    await asyncio.sleep(inputs.get("seconds", 0))
    return inputs


class _Invoked:
    def invoke(self, inputs):
        return {"output": inputs, "metadata": {"model_used": "invoked", "tokens_used": 7}}


invoked = _Invoked()


class Marks:
    """Writes `begin` and `end` lines into the file `marks`, so that tests can count runs."""

    def __init__(self, inputs):
        self._path = inputs.get("marks")

    def __enter__(self):
        self._write("begin")

    def __exit__(self, *_):
        self._write("end")

    def _write(self, word):
        if self._path:
            with Path(self._path).open("a") as file:
                file.write(f"{word} {os.getpid()} {time.time()}\n")


def _echo(inputs, context):
    return inputs


def _traceparent(inputs, context):
    return context.traceparent


def _sleep(inputs, context):
    """Sleeps without interruption, and ignores a cancel."""
    time.sleep(inputs["seconds"])
    return "slept"


def _listen(inputs, context):
    """Sleeps, and returns soon after a cancel."""
    deadline = time.monotonic() + inputs["seconds"]
    while time.monotonic() < deadline and not context.cancelled:
        time.sleep(0.01)
    return "listened"


def _tick(inputs, context):
    """Writes a line into `ticks` ten times a second."""
    deadline = time.monotonic() + inputs["seconds"]
    while time.monotonic() < deadline:
        with Path(inputs["ticks"]).open("a") as file:
            file.write(f"{context.attempt} {os.getpid()} {time.time()}\n")
        time.sleep(0.1)
    return {"attempt": context.attempt, "ticks": inputs["ticks"]}


def _swallow(inputs, context):
    """Spins, and swallows every exception that it can."""
    while True:
        try:
            while True:
                pass
        except Exception:
            continue


def _hold_the_lock(inputs, context):
    """Holds the interpreter's lock, so no other thread of the process runs meanwhile."""
    libc = ctypes.PyDLL(None)
    libc.usleep(int(inputs["seconds"] * 1_000_000))
    return "held"


def _regex(inputs, context):
    re.match(r"(a+)+$", "a" * 40 + "b")


def _progress(inputs, context):
    for step in range(inputs["steps"] + 1):
        context.progress(step, inputs["steps"], f"step {step}")
        time.sleep(inputs.get("pause", 0.05))
    return "done"


def _bad_progress(inputs, context):
    context.progress(0, 3, "fine")
    context.progress(1, 3, uuid.uuid4())


def _attempt_sleeps(inputs, context):
    """Sleeps for the seconds of its attempt and ignores a cancel. Returns the attempt's number."""
    time.sleep(inputs["seconds"][context.attempt - 1])
    return f"attempt {context.attempt}"


def _dirty(inputs, context):
    """Changes its process, and leaves a thread that writes a line after a second."""
    found = [os.getcwd(), os.environ.get("DIRTY", "clean"), os.getpid()]
    os.chdir("/")
    os.environ["DIRTY"] = "yes"
    if "late" in inputs:
        threading.Timer(1, Path(inputs["late"]).touch).start()
    return found


class _Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def _unspeakable(inputs, context):
    raise _Unspeakable


def _fail(inputs, context):
    raise ValueError(inputs.get("message", "It went wrong."))


def _fail_until(inputs, context):
    """Fails until the attempt with this number."""
    if context.attempt < inputs["attempt"]:
        raise ValueError(f"not yet: {context.attempt}")
    return {"attempt": context.attempt, "step_key": context.step_key}


def _sys_exit(inputs, context):
    sys.exit(3)


def _exit(inputs, context):
    os._exit(inputs.get("code", 0))


def _segfault(inputs, context):
    ctypes.string_at(0)


def _kill(inputs, context):
    """Kills itself until the attempt with this number."""
    if context.attempt < inputs.get("until_attempt", 99):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def _leave_children(inputs, context):
    """Leaves a detached process behind, and writes its pid into `pid_file`."""
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    Path(inputs["pid_file"]).write_text(str(child.pid))
    if inputs.get("then") == "exit":
        os._exit(1)
    if inputs.get("then") == "sleep":
        time.sleep(300)
    return "left"


def _not_json(inputs, context):
    loop = []
    loop.append(loop)
    return {
        "set": {1, 2},
        "nan": float("nan"),
        "object": object(),
        "generator": (item for item in ()),
        "keys": {1: 2},
        "loop": loop,
        "surrogate": "\ud800",
        "bytes": b"x",
    }[inputs["what"]]


def _large(inputs, context):
    return "x" * inputs["bytes"]


def _noise(inputs, context):
    """Like `_large`, but after a wait, and of random text, which does not compress."""
    time.sleep(inputs["seconds"])
    return os.urandom(inputs["bytes"]).hex()


def _picture(inputs, context):
    """Returns random bytes as base64, with its `ticks`.

    Compression undoes base64, so the outputs take as many bytes on the wire as were asked for.
    """
    return {
        "ticks": inputs["ticks"],
        "picture": base64.b64encode(os.urandom(inputs["bytes"])).decode(),
    }


def _leak(inputs, context):
    _leaked.append(bytearray(os.urandom(1024)) * (inputs["bytes"] // 1024))
    return os.getpid()


def _pid(inputs, context):
    return os.getpid()


def _complete(inputs, context):
    return context.complete([{"role": "user", "content": inputs["text"]}]).text


def _complete_and_hang(inputs, context):
    context.complete([{"role": "user", "content": inputs["text"]}])
    return _listen({"seconds": 60}, context)


_leaked = []

ACTIONS = {
    name[1:]: value
    for name, value in globals().items()
    if name.startswith("_") and callable(value) and name[1:2].islower()
}
