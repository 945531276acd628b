"""Chooses the form of an answer by the `Accept` header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from flask import Request
from werkzeug.datastructures import MIMEAccept

from app.api.problems import Problem


def chosen(request: Request, offers: tuple[str, ...]) -> str:
    """The offer that the client prefers; of equals, the first one. Raises a 406 if it takes none.

    A client that sends no `Accept`, or one that cannot be read, takes any.
    """
    # Without parameters such as `charset`, which change nothing here.
    sent = request.accept_mimetypes
    ranges = [(name.partition(";")[0].strip(), quality) for name, quality in sent]
    accepted = MIMEAccept([(name, quality) for name, quality in ranges if "/" in name])
    if not accepted:
        return offers[0]
    best = accepted.best_match(offers)
    if best is None:
        forms = " and as ".join(offers)
        detail = f"This answer exists as {forms} only. Change the Accept header."
        raise Problem(406, "not_acceptable", detail)
    return best
