"""Distributes tests over the test processes: the slowest first, files that share a service whole.

`tests/conftest.py` installs it for pytest-xdist. Tests of the same rank keep the random order of
pytest-randomly's seed.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOWEST_FIRST = (
    "tests/faults/test_slow_link.py",
    "tests/hostile/",
    "tests/ui/",
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
"""Long tests and files come first, so that short ones fill the rest and all processes end together.
"""

ONE_BY_ONE = ("tests/faults/", "tests/hostile/")
"""Each of these tests has its own service, so it can run in any process. Other files stay whole."""


def rank(nodeid: str) -> int:
    """Returns a test's place in the order: the index of the first entry that matches."""
    return next(
        (place for place, start in enumerate(SLOWEST_FIRST) if nodeid.startswith(start)),
        len(SLOWEST_FIRST),
    )


class SlowestFirst(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist exports no types
    """Distributes whole files in the order of the collection, and some files test by test."""

    def __init__(self, config: pytest.Config, log: object):
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]
