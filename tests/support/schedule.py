"""Which test process runs what, and when: the slowest first, and tests that share a service in one process.

With pytest-xdist only. The order of a seed (pytest-randomly) stays among tests of the same rank.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOWEST_FIRST = (
    "tests/faults/",
    "tests/hostile/",
    "tests/worker/",
    "tests/properties/",
    "tests/http/",
    "tests/store/",
    "tests/unit/",
)
"""What begins late should be short, so that no process works on while the others have nothing left."""

ONE_BY_ONE = ("tests/faults/", "tests/hostile/")
"""Each of these tests has a service of its own, so each may run in any process. Other files stay together."""


def rank(nodeid: str) -> int:
    """The place of a test's folder in the order."""
    return next((place for place, start in enumerate(SLOWEST_FIRST) if nodeid.startswith(start)), len(SLOWEST_FIRST))


class SlowestFirst(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist exports no types
    """Hands out whole files in the order of the collection, and some files test by test."""

    def __init__(self, config: pytest.Config, log: object):
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]
