"""A flow that harms its process and its worker. Its input `do` names how; see `ACTIONS`."""

import builtins
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

kept = []


def run(inputs, context):
    return ACTIONS[inputs["do"]](inputs, context) or "done"


def _use_up_files(inputs, context):
    try:
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return len(kept)


def _use_up_memory(inputs, context):
    kept.append(bytearray(300_000_000))


def _close_files(inputs, context):
    os.closerange(0, 4096)


def _lower_limits(inputs, context):
    for number in (
        resource.RLIMIT_NOFILE,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_CORE,
        resource.RLIMIT_STACK,
    ):
        resource.setrlimit(number, (8, 8))


def _slow_down(inputs, context):
    os.nice(19)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.setswitchinterval(10)
    sys.setrecursionlimit(60)


def _replace(inputs, context):
    """Replaces `open` last, because the flow still needs it before."""
    json.dumps = json.loads = time.monotonic = socket.socket.sendmsg = logging.Logger.info = None
    threading.Lock = threading.Thread.start = os.read = os.getpid = None
    builtins.isinstance = builtins.open = None


def _end_group(inputs, context):
    subprocess.run(["sh", "-c", "trap 'kill 0' EXIT; true"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


def _end_worker(inputs, context):
    # The parent is a keeper, which ignores SIGTERM. The keeper's parent is the worker.
    stat = Path(f"/proc/{os.getppid()}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGTERM)
    time.sleep(30)


def _log_much(inputs, context):
    text = "x" * 50_000_000
    context.log(text, field=text, nested={"list": [text] * 3, "password": text})
    print(text)
    logging.getLogger("vandal").warning(text)


def _progress_much(inputs, context):
    for number in range(200_000):
        context.progress(number, 200_000, "x" * 1000)


def _fork_in_a_chain(inputs, context):
    """Starts a chain of processes: each writes a byte, starts the next one, and ends.

    Whoever lists processes sees only those that are already gone.
    """
    file = os.open(inputs.get("file", os.devnull), os.O_WRONLY | os.O_APPEND)
    if os.fork() == 0:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if os.fork():
                os._exit(0)
            os.setsid()
            os.write(file, b".")
        os._exit(0)
    time.sleep(0.2)


def _exit(inputs, context):
    os._exit(0)


ACTIONS = {
    name[1:]: value for name, value in globals().items() if name.startswith("_") and callable(value)
}
