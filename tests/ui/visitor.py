"""A person at the dashboard, without a browser: keeps cookies, and sends forms as they are."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import requests

from tests.support.service import Service

COOKIE = "async_executions_session"


class _Forms(HTMLParser):
    """Reads the forms of a page: by their action, the names and values of their hidden fields."""

    def __init__(self, text: str):
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        if tag == "form":
            self._fields = self.forms.setdefault(named["action"], {})
        elif tag == "input" and named.get("type") == "hidden":
            self._fields[named["name"]] = named["value"]


class Visitor:
    def __init__(self, service: Service):
        self.url = service.url
        self.http = requests.Session()

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.http.get(self.url + path, timeout=60, allow_redirects=False, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.http.post(self.url + path, timeout=60, allow_redirects=False, **options)

    def send_form(
        self, page: str, action: str, headers: Any = None, **fields: str
    ) -> requests.Response:
        """Opens a page, fills in its form with this action, and sends it."""
        hidden = _Forms(self.get(page).text).forms[action]
        return self.post(action, data={**hidden, **fields}, headers=headers)

    def log_in(self, key: str, next: str = "/", **options: Any) -> requests.Response:
        return self.send_form(f"/ui/login?next={next}", "/ui/login", key=key, **options)

    def token(self, page: str) -> str:
        """The token of the forms on a page."""
        return next(fields["csrf_token"] for fields in _Forms(self.get(page).text).forms.values())

    @property
    def cookie(self) -> str | None:
        return self.http.cookies.get(COOKIE)


def text_of(answer: requests.Response) -> str:
    """What a page says, without its tags."""
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8", answer.headers
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())
