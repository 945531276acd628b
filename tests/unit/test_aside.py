"""`app.process.aside`: the caller gets the errors of the thread, and none is printed."""

from __future__ import annotations

import pytest

from app.process.aside import SMALL_BYTES, aside
from tests.support.programs import run_program

FAILS_ON_A_LOOP = """
from gevent import monkey; monkey.patch_all()
import json
from app.process.aside import SMALL_BYTES, aside

try:
    aside(SMALL_BYTES + 1, json.loads, "{")
except ValueError as error:
    print("raised", error)
"""


def test_what_fails_aside_of_a_loop_is_raised_and_not_printed() -> None:
    done = run_program(FAILS_ON_A_LOOP)
    assert done.stdout.startswith("raised Expecting property name")
    assert done.stderr == ""


def test_without_a_loop_it_is_a_plain_call() -> None:
    with pytest.raises(ZeroDivisionError):
        aside(SMALL_BYTES + 1, divmod, 1, 0)
