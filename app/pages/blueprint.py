"""The blueprint of all pages. Each page's module adds its views to it.

A view declares its scope with `app.api.access.needs`, as the API's views do.
"""

from __future__ import annotations

from flask import Blueprint

pages = Blueprint("pages", __name__)


def is_page(path: str) -> bool:
    """Whether a path belongs to the pages, also if there is no page with this path."""
    return path in ("/", "/ui") or path.startswith("/ui/")
