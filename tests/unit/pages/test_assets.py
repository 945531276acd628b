"""The static files: htmx is the published one, and browsers keep a file until it changes."""

from __future__ import annotations

import hashlib
import re

import pytest

from app.pages import assets
from app.settings import ROOT
from tests.support.service import Service

STATIC = ROOT / "app" / "pages" / "static"


def test_htmx_is_the_file_of_the_version_that_stands_beside_it() -> None:
    script = (STATIC / "htmx.min.js").read_bytes()
    told = dict(re.findall(r"^(\w+): (\S+)$", (STATIC / "htmx.txt").read_text(), re.MULTILINE))
    assert hashlib.sha256(script).hexdigest() == told["sha256"]
    assert f'this.version="{told["version"]}"'.encode() in script


def test_no_page_has_scripts_or_styles_in_it() -> None:
    for path in (ROOT / "app" / "pages" / "templates").glob("*.html"):
        text = path.read_text()
        assert (
            re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", text) == []
        ), path


def test_no_file_names_another_machine() -> None:
    for path in {*STATIC.glob("*.css"), *STATIC.glob("*.js")} - {STATIC / "htmx.min.js"}:
        assert "//" not in re.sub(r"(^|\s)//.*$", "", path.read_text(), flags=re.MULTILINE), path


@pytest.mark.parametrize(
    ("name", "kind"),
    [("style.css", "text/css"), ("htmx.min.js", "text/javascript"), ("icon.svg", "image/svg+xml")],
)
def test_a_file_may_be_kept_for_ever_under_its_present_address(
    service: Service, name: str, kind: str
) -> None:
    answer = service.http.get(service.url + assets.url(name), timeout=60)
    assert answer.content == (STATIC / name).read_bytes()
    assert answer.headers["Content-Type"].startswith(kind)
    assert "immutable" in answer.headers["Cache-Control"]
    old = service.http.get(f"{service.url}/ui/static/0000/{name}", timeout=60)
    assert (old.status_code, old.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize("name", ["htmx.txt", "..%2F__init__.py", "nothing.css", "%2Fetc%2Fpasswd"])
def test_other_files_are_not_served(service: Service, name: str) -> None:
    assert service.http.get(f"{service.url}/ui/static/0000/{name}", timeout=60).status_code == 404
