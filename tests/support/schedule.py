"""Which test process runs what, and when: the slowest first, and tests that share a service in one
process.

With pytest-xdist only. The order of a seed (pytest-randomly) stays among tests of the same rank.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOWEST_FIRST = (
    "tests/faults/test_slow_link.py",
    "tests/hostile/",
    "tests/http/test_description.py",
    "tests/worker/test_durable_pipelines.py",
    "tests/worker/test_models.py",
    "tests/http/test_raw_http.py",
    "tests/worker/",
    "tests/store/test_bounded.py",
    "tests/http/",
    "tests/properties/",
    "tests/faults/",
    "tests/store/",
    "tests/unit/",
)
"""Long tests and long files first; short tests fill what is left, so that all processes end
together.
"""

ONE_BY_ONE = ("tests/faults/", "tests/hostile/")
"""Each of these tests has a service of its own, so each may run in any process. Other files stay
together.
"""


def rank(nodeid: str) -> int:
    """The place of a test in the order: that of the first entry that fits."""
    return next(
        (place for place, start in enumerate(SLOWEST_FIRST) if nodeid.startswith(start)),
        len(SLOWEST_FIRST),
    )


class SlowestFirst(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist exports no types
    """Hands out whole files in the order of the collection, and some files test by test."""

    def __init__(self, config: pytest.Config, log: object):
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]
