"""The session of a person who has logged in with an API key, and the tokens of the forms.

A session is a signed cookie that holds the digest of the key, never the key. So nothing has to be
stored, and a revoked key ends its sessions by itself. It ends with the browser, or after
`SESSION_SECONDS`.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, cast

from flask import Request, Response, current_app, g, request
from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer

from app.api.credentials import unauthorized

COOKIE = "async_executions_session"
SESSION_SECONDS = 12 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    """`digest` is the key's. `id` is random, and binds the tokens of forms to this session."""

    id: str
    digest: str


class Sessions:
    """Signs and reads cookies and tokens. All web processes of a service share its `secret`."""

    def __init__(self, secret: str):
        strong: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        self._cookies = URLSafeTimedSerializer(secret, salt="session", signer_kwargs=strong)
        self._tokens = Signer(secret, salt="form", **strong)

    def begin(self, response: Response, digest: str, *, secure: bool) -> None:
        """Adds the cookie of a new session. `secure`: the browser uses https."""
        value = self._cookies.dumps([secrets.token_hex(16), digest])
        response.set_cookie(COOKIE, value, **_attributes(secure))

    def read(self, request: Request) -> Session | None:
        """The session of a request; None if it has none that is valid now."""
        try:
            id, digest = self._cookies.loads(request.cookies.get(COOKIE, ""), SESSION_SECONDS)
        except (BadSignature, ValueError, TypeError):
            return None
        return Session(id, digest)

    def digest(self, request: Request) -> str:
        """The digest of the key that a request's session stands for. Raises a 401 `Problem`."""
        session = self.read(request)
        if session is None:
            raise unauthorized("Log in with an API key.")
        return session.digest

    def token(self, session: Session | None) -> str:
        """The token that the forms of a session carry."""
        return self._tokens.get_signature(_bound_to(session)).decode()

    def is_token(self, session: Session | None, token: str) -> bool:
        return self._tokens.verify_signature(_bound_to(session), token)


def _attributes(secure: bool) -> dict[str, Any]:
    return {"httponly": True, "samesite": "Strict", "secure": secure, "path": "/"}


def _bound_to(session: Session | None) -> str:
    return session.id if session else "nobody"


def end(response: Response) -> None:
    """Makes the browser forget the cookie."""
    response.delete_cookie(COOKIE, **_attributes(secure=False))


def sessions() -> Sessions:
    return cast(Sessions, current_app.extensions["sessions"])


def present() -> Session | None:
    """The session of the present request, which is read once."""
    if "session" not in g:
        g.session = sessions().read(request)
    return cast("Session | None", g.session)
