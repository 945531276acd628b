"""`app.process.aside`: errors of the thread reach the caller, and who gives way lets others run."""

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


GIVES_WAY_ON_A_LOOP = """
from gevent import monkey; monkey.patch_all()
import gevent
from app.process.aside import give_way

ticks = []

def tick():
    while True:
        gevent.sleep(0.0001)
        ticks.append("tick")

gevent.spawn(tick)
gevent.sleep(0.01)
ticks.clear()
for _ in range(20):
    sum(range(100_000))
    give_way()
print(len(ticks))
"""


def test_who_gives_way_lets_those_run_that_wait_for_a_moment() -> None:
    # With `sleep(0)` in its place, two or three of twenty come to their turn.
    assert int(run_program(GIVES_WAY_ON_A_LOOP).stdout) >= 15
