"""The dashboard: pages for people, rendered on the server, beside the API of `app.api`.

`register` adds them to the application, unless `UI=off`. The pages call the same services as the
API, and every request of theirs passes the same steps. One module is one page.
"""

from __future__ import annotations

import secrets
from typing import Any

from flask import Request, Response

from app.api.application import Application
from app.pages import (
    assets,
    changes,  # noqa: F401
    execution,  # noqa: F401
    executions,  # noqa: F401  each page adds its views to the blueprint
    guard,
    login,
    problems,
    targets,  # noqa: F401
    workers,  # noqa: F401
)
from app.pages.blueprint import is_page, pages
from app.pages.sessions import Sessions
from app.services.overview import Overviews
from app.settings import Settings


def register(app: Application, settings: Settings) -> None:
    """Adds the pages to a complete application."""
    # gunicorn sets a secret for all of its processes; without it, this process is the only one.
    secret = settings.secret_key or secrets.token_hex(32)
    sessions = app.extensions["sessions"] = Sessions(secret)
    app.extensions["overviews"] = Overviews(settings, app.extensions["executions"].catalog)
    # Flask has a limit of its own for forms, which is lower.
    app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_content_length
    open_rules = frozenset({assets.RULE, login.LOGIN, login.LOGOUT})
    app.extensions["gate"].admit(is_page, sessions.digest, open_rules)
    app.register_blueprint(pages)
    app.before.append(guard.check)
    app.after.insert(0, _finish)  # the other steps measure what is really sent


def _finish(request: Request, _: Any, response: Response) -> None:
    """Runs after every view, also those of the API, for which it must cost next to nothing."""
    if is_page(request.path):
        problems.show(request, response)
        guard.protect(response)
