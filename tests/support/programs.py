"""Runs a piece of Python as a program of its own, for what would change the test's process."""

from __future__ import annotations

import subprocess
import sys

from tests.support.service import ROOT

SECONDS = 50


def run_program(code: str) -> subprocess.CompletedProcess[str]:
    """Returns its output. Raises `CalledProcessError` unless the exit code is 0."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
