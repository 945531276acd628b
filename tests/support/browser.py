"""Opens web pages in a real browser without a window: the system's Chromium, driven by Playwright.

The fixtures `browser` and `page` of `tests/conftest.py` use it. `make test` installs Chromium; a
test that needs it is skipped where that is not possible.
"""

from __future__ import annotations

import contextlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MISSING = "There is no Chromium here: apt-get install chromium"
PAGE_SECONDS = 30.0

_OPTIONS = (
    "--no-sandbox",  # it does not start as root otherwise, and tests run as root in containers
    "--disable-dev-shm-usage",  # containers have a small /dev/shm
    "--disable-gpu",
)


@contextlib.contextmanager
def opened_browser() -> Iterator[Browser]:
    """A browser. While it is open, this thread cannot call `asyncio.run`, so close it soon."""
    assert CHROMIUM, MISSING
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """What a page has done so far: messages on its console, errors, and the addresses it asked."""

    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)


@contextlib.contextmanager
def opened_page(browser: Browser, **options: object) -> Iterator[Page]:
    """A page with cookies and storage of its own. `options` are those of a Playwright context."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    context.set_default_timeout(PAGE_SECONDS * 1000)
    try:
        yield context.new_page()
    finally:
        context.close()


def watch(page: Page) -> Seen:
    """Notes from now on what the page does."""
    seen = Seen()
    page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))

    def asked(request: Request) -> None:
        seen.addresses.append(request.url)

    page.on("request", asked)
    return seen


class Site:
    """A web site of its own origin with one page, whose `html` may change."""

    def __init__(self) -> None:
        site = self
        self.html = ""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(site.html.encode())

            def log_message(self, *_: object) -> None:
                """Prints nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Site:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def picture(page: Page, path: Path) -> None:
    """Writes what the whole page looks like into a PNG file."""
    page.screenshot(path=path, full_page=True)
