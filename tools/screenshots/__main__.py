"""Takes the pictures of `docs/images`: `python -m tools.screenshots`.

`python -m tools.screenshots FOLDER` takes every page into another folder, at both widths and in
both colour schemes, for somebody who wants to look at all of them.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from tests.support.browser import opened_browser, opened_page
from tests.support.model_server import ModelServer
from tests.support.service import ROOT, Service
from tools.embedded_store import EmbeddedStore
from tools.screenshots import scene

DOCS = ROOT / "docs" / "images"
PAGES = {
    "list": "/",
    "execution": "/ui/executions/{running}",
    "targets": "/ui/targets",
    "target": "/ui/targets/pipeline/contract_review",
    "workers": "/ui/workers",
}
WIDTHS = {"wide": 1280, "phone": 390}
SCHEMES = ("light", "dark")
IN_DOCS = (
    *(("list", "wide", "light"), ("list", "phone", "dark")),
    *(("execution", "wide", "light"), ("target", "wide", "light")),
)
_HEIGHT = 860


def main() -> None:
    parser = argparse.ArgumentParser("python -m tools.screenshots", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="for every page, at both widths")
    chosen = parser.parse_args().folder
    folder = chosen or DOCS
    folder.mkdir(parents=True, exist_ok=True)
    wanted = itertools.product(PAGES, WIDTHS, SCHEMES) if chosen else IN_DOCS
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        agents, pipelines = scene.write_targets(work)
        store = EmbeddedStore(work / "store", end_signal=signal.SIGKILL)
        store.start()
        try:
            with (
                ModelServer() as model,
                Service(
                    store.url,
                    work,
                    agents=agents,
                    pipelines=pipelines,
                    WORKER_THREADS=3,
                    OPENAI_BASE_URL=model.url,
                    OPENAI_API_KEY="sk-of-nobody",
                ) as service,
            ):
                model.reply = scene.reply
                running = scene.play(service)
                with opened_browser() as browser:
                    for picture_of in wanted:
                        _take(browser, service.url, running, folder, *picture_of)
        finally:
            store.stop()


def _take(
    browser: Browser, url: str, running: str, folder: Path, name: str, width: str, scheme: str
) -> None:
    size = {"width": WIDTHS[width], "height": _HEIGHT}
    with opened_page(browser, viewport=size, color_scheme=scheme) as page:
        page.goto(url + PAGES[name].format(running=running))
        whole = width == "wide" or folder != DOCS  # the docs show what a phone shows at once
        page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=whole)


if __name__ == "__main__":
    main()
