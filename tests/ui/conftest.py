"""Fixtures for the tests of pages in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Seen, watch
from tests.support.kept import KeptServices
from tests.ui import scene

expect.set_options(timeout=30_000)  # the machine may be busy


@pytest.fixture
def seen(page: Page) -> Iterator[Seen]:
    """What the test's page does. Afterwards: no error, and nothing was asked of another machine."""
    seen = watch(page)
    yield seen
    assert seen.errors == []
    assert [line for line in seen.console if line.startswith(("error", "warning"))] == []
    outside = [url for url in seen.addresses if not url.startswith(("http://127.0.0.1:", "data:"))]
    assert outside == []


@pytest.fixture(scope="module")
def filled(
    kept_services: KeptServices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[scene.Filled]:
    """The scene, once for all tests of a file: they only look at it."""
    service = kept_services.take(**scene.options(tmp_path_factory.mktemp("targets")))
    yield service, scene.fill(service)
    kept_services.give_back(service, failed=False)
