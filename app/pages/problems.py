"""Shows every refusal of a page as a page, and sends who has no session to the login.

The handlers of `app.api.problems` have already made a problem of it, as for the API. So a page's
refusals have the same statuses, headers and sentences, and none is forgotten.
"""

from __future__ import annotations

import json
from urllib.parse import urlencode

from flask import Request, Response

from app.api.problems import CONTENT_TYPE
from app.pages.login import LOGIN
from app.pages.rendering import CONTENT_TYPE as HTML
from app.pages.rendering import render


def show(request: Request, response: Response) -> None:
    """Turns the answer to a request for a page into a page, if it is a refusal."""
    if response.mimetype != CONTENT_TYPE:
        return
    problem = json.loads(response.get_data())
    response.set_data(render("problem.html", problem=problem))
    response.content_type = HTML
    if "HX-Request" in request.headers:
        _show_in_whole(response)
    elif response.status_code == 401:
        _send_to_login(request, response)


def _show_in_whole(response: Response) -> None:
    """Has an open page loaded again that may not refresh itself any more: its session has ended, or
    what it shows was removed. Other refusals pass, so it goes on to ask.
    """
    if response.status_code < 500 and response.status_code != 429:
        response.headers["HX-Refresh"] = "true"


def _send_to_login(request: Request, response: Response) -> None:
    if request.method in ("GET", "HEAD"):
        login = f"{LOGIN}?{urlencode({'next': request.full_path.removesuffix('?')})}"
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            # Who follows a link from another website may have a session, but a browser sends its
            # cookie only with what a page of ours asks for. The login then leads back at once.
            response.headers["Refresh"] = f"0; url={login}"
        else:
            response.status_code = 303
            response.headers["Location"] = login
