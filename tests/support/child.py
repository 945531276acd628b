"""Starts a child process, in which flows run, with a test in the place of its worker.

Tests in `tests/worker` send it messages and read its answers.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

from app.domain.payload import unpack, write_call
from app.worker import protocol
from tests.support.service import ROOT

_PROGRAM = """
import os, socket, sys
from pathlib import Path
from app import catalog
from app.settings import Settings
from app.worker import child
end = socket.socket(fileno=int(sys.argv[1]))
known = catalog.load([Path(sys.argv[2])], [Path(sys.argv[3])])
config = child.ChildConfig(Settings(), known, int(sys.argv[4]), 60.0)
child.main(end, config, os.getppid())
"""


class Ended(dict):
    """The `ended` message of a run, with its `output` if it completed."""

    output: Any = None


class Child:
    """A child that runs flows of one agent, `coded`, whose file is `source`. Used with `with`."""

    def __init__(self, folder: Path, source: str, flows: str, *, slots: int = 1, limits: str = ""):
        home = folder / "agents" / "coded"
        home.mkdir(parents=True)
        (folder / "pipelines").mkdir()
        (home / "agent.yaml").write_text(flows)
        (home / "flow.py").write_text(textwrap.dedent(source))
        self.folder, self._slots, self._limits = folder, slots, limits
        self.received: list[tuple[protocol.Head, bytes]] = []
        self._number = 0

    def __enter__(self) -> Child:
        ours, theirs = socket.socketpair()
        paths = [str(self.folder / "agents"), str(self.folder / "pipelines")]
        command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *paths, str(self._slots)]
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal ends the tests, not the child
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        theirs.close()
        self._socket = protocol.ChildSocket(ours)
        self._ours = ours
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.until("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join(10)  # a process that a flow left may hold the other end for a moment
        self._ours.close()

    def _listen(self) -> None:
        try:
            while True:
                self.received.append(self._socket.receive(600))
        except (EOFError, OSError):
            pass

    def tell(self, head: protocol.Head, body: bytes = b"") -> None:
        self._socket.send(head, body)

    def start(self, flow: str, inputs: dict[str, Any] | None = None, **config: Any) -> str:
        """Starts an attempt; returns its token."""
        self._number += 1
        token = f"token-{self._number}"
        call = write_call(
            type="agent", target_id="coded", inputs=inputs or {}, config={"flow_id": flow, **config}
        )
        names = {"execution_id": f"exec_{self._number}", "attempt": 1}
        head = {"kind": "start", "token": token, "id": f"exec_{self._number}", "attempt": 1}
        self.tell({**head, "names": names, "traceparent": None}, call)
        return token

    def until(self, *kinds: str, token: str | None = None, seconds: float = 60) -> Any:
        """Waits for the first message of one of these kinds, and of this attempt if given."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for head, body in list(self.received):
                if head["kind"] in kinds and (token is None or head.get("token") == token):
                    ended = Ended(head)
                    if head.get("outcome") == "completed":
                        ended.output = json.loads(unpack(body))["output"]
                    return ended
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.005)
        raise AssertionError(f"No {kinds} for {token}: {self.log.read_text()[-3000:]}")

    def ended(self, token: str, seconds: float = 60) -> Ended:
        found: Ended = self.until("ended", "unstarted", token=token, seconds=seconds)
        return found

    def run(self, flow: str, inputs: dict[str, Any] | None = None, **config: Any) -> Ended:
        return self.ended(self.start(flow, inputs, **config))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))
