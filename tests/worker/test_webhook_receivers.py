"""The receivers in docs/events.md run as they stand there: they accept what a worker sends, and
nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from app.domain.delivery import Try
from app.settings import Settings
from app.worker.webhooks.sender import Sender
from tests.support.service import ROOT, free_port

SECRET, OTHER = ("whsec_" + base64.b64encode(bytes([i]) * 32).decode() for i in (1, 2))
PACKAGES = ROOT / "tests" / "javascript" / "node_modules"
PAGE = (ROOT / "docs" / "events.md").read_text()
EXAMPLES = re.findall(r"^```(python|js)\n(.+?)^```$", PAGE, re.M | re.S)
RECEIVERS = [(language, code) for language, code in EXAMPLES if "webhook-id" in code]

BODY = '{"type": "execution.completed", "data": {"execution_id": "exec_1", "output": "Grüße"}}'


def _command(language: str, code: str) -> list[str]:
    if language == "python":
        return [sys.executable]
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    if "standardwebhooks" in code and not PACKAGES.is_dir():
        pytest.skip("no npm packages: npm install --prefix tests/javascript")
    return ["node"]


@contextmanager
def _running(language: str, code: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Runs an example. Yields its address, and the file that it prints into."""
    command, port = _command(language, code), free_port()
    program, printed = folder / "receiver", folder / "printed"
    assert "9000" in code
    program.write_text(code.replace("9000", str(port)))
    env = {"WEBHOOK_SECRET": SECRET, "NODE_PATH": str(PACKAGES)}
    with (
        printed.open("wb") as output,
        subprocess.Popen([*command, program], env=env, stdout=output) as receiver,
    ):
        try:
            url = f"http://127.0.0.1:{port}/executions"
            _wait_for(url, receiver)
            yield url, printed
        finally:
            receiver.kill()


def _wait_for(url: str, receiver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and receiver.poll() is None:
        try:
            requests.get(url, timeout=10)
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise AssertionError("The receiver does not start.")


def _sent(url: str, secret: str, at: datetime, body: str = BODY) -> Try:
    async def send() -> Try:
        sender = Sender(Settings(webhook_secret=secret, webhook_allow_private=True))
        try:
            return await sender.send(url, "exec_1-1", body.encode(), at)
        finally:
            await sender.close()

    return asyncio.run(send())


def test_the_page_has_a_receiver_in_python_and_two_in_javascript() -> None:
    assert [language for language, _ in RECEIVERS] == ["python", "js", "js"]


@pytest.mark.parametrize(("language", "code"), RECEIVERS, ids=["python", "package", "by hand"])
def test_the_receivers_of_the_page_accept_genuine_webhooks_only(
    language: str, code: str, tmp_path: Path
) -> None:
    now, long_ago = datetime.now(UTC), datetime(2020, 1, 1, tzinfo=UTC)
    with _running(language, code, tmp_path) as (url, printed):
        assert _sent(url, SECRET, now).code == 204
        assert _sent(url, f"{OTHER},{SECRET}", now).code == 204
        assert "execution.completed exec_1" in printed.read_text().splitlines()
        assert _sent(url, OTHER, now).code == 401
        assert _sent(url, SECRET, long_ago).code == 401
        for headers in (
            {},
            {"webhook-id": "a", "webhook-timestamp": "x", "webhook-signature": "v1,x"},
            {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "x"},
            {
                "webhook-id": "a",
                "webhook-timestamp": str(int(time.time())),
                "webhook-signature": "v1 v2,x v1,",
            },
        ):
            answer = requests.post(url, data=b"\xff{}", headers=headers, timeout=10)
            assert answer.status_code == 401, headers
