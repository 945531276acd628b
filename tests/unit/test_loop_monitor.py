"""`app.web.loop_monitor`: the log names the request that holds a web process's event loop."""

from __future__ import annotations

import json

from tests.support.programs import run_program

HOLDS = """
from gevent import monkey; monkey.patch_all()
import time, types
import gevent
from app.telemetry import logs
from app.web.loop_monitor import LoopMonitor
from app.domain import payload

logs.configure("INFO")
LoopMonitor().start()

def handle_request(req, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        payload.pack(b"held" * 500_000)

gevent.sleep(0.3)
gevent.joinall([gevent.spawn(handle_request, types.SimpleNamespace(method="POST", path="/slow"), 1)])
gevent.sleep(2.5)
"""


def test_a_request_that_holds_the_loop_is_logged_with_its_place() -> None:
    done = run_program(HOLDS)
    told = [json.loads(line) for line in done.stdout.splitlines() if '"loop_held"' in line]
    slow = [line for line in told if (line["method"], line["path"]) == ("POST", "/slow")]
    assert slow
    assert sum(line["seconds"] for line in slow) >= 0.1
    assert any("app/domain/payload.py" in place for line in slow for place in line["where"])
    assert done.stderr == ""
