"""Who may call which view: every request is asked for its key, every view for what it needs.

A view says what it needs with `@needs(Scope.READ)`. One that says nothing needs `admin`, so that a
forgotten one is closed. What is open stands in `OPEN`, and nowhere else. An address that does not
exist needs a key too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flask import Request, g
from werkzeug.routing import RequestRedirect

from app.api import credentials
from app.api.application import Application
from app.api.problems import Problem
from app.domain.key import ANYONE, Identity, Scope, digest_of
from app.services.authentication import Authenticator
from app.services.invalid_keys import InvalidKeyThrottle
from app.telemetry import logs

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/", "/docs/<path:path>"})
METRICS = "/metrics"

_View = TypeVar("_View", bound=Callable[..., object])


def needs(scope: Scope) -> Callable[[_View], _View]:
    """Declares what a key must be allowed to, to call this view. Stands below `route`."""

    def declare(view: _View) -> _View:
        view.needs_scope = scope  # type: ignore[attr-defined]
        return view

    return declare


def scope_of(view: object) -> Scope:
    """What a view needs."""
    return getattr(view, "needs_scope", None) or Scope.ADMIN


def identity() -> Identity:
    """Who asks, in a view that is not open."""
    found: Identity = g.identity
    return found


def tenant() -> str:
    """Whose executions this request may see and start, in a view that is not open."""
    return identity().tenant


class Gate:
    """Stands before every view, and says who asks: `g.identity`."""

    def __init__(
        self, ring: Authenticator, open_rules: frozenset[str], views: Mapping[str, object]
    ):
        self._ring, self._open_rules, self._views = ring, open_rules, views
        self._wrong = InvalidKeyThrottle()

    def check(self, request: Request, context: Any) -> None:
        """Raises a `Problem`: 401, 403, 429, or 400 where it is not clear which key is meant."""
        rule = request.url_rule
        if rule is not None and rule.rule in self._open_rules:
            return
        if isinstance(request.routing_exception, RequestRedirect):
            return  # it leads to where the key is asked for
        context.identity = who = self._identify(request.environ) if self._ring.required else ANYONE
        logs.name_in_request(
            tenant=who.tenant, **({} if who.key is None else {"key_name": who.key})
        )
        if rule is not None and (scope := scope_of(self._views[rule.endpoint])) not in who.scopes:
            raise _lacks(scope)

    def _identify(self, environ: dict[str, Any]) -> Identity:
        digest = digest_of(credentials.presented(environ))
        return self._ring.known(digest) or self._look_up(digest, environ.get("REMOTE_ADDR", ""))

    def _look_up(self, digest: str, peer: str) -> Identity:
        """Asks the store, unless too many wrong keys came from this peer.

        A key that was right before is asked for all the same: whoever shares an address (a proxy's,
        say) with one who tries out keys is not locked out.
        """
        wait_seconds = self._wrong.wait_seconds(peer)
        if wait_seconds and not self._ring.has_seen(digest):
            raise credentials.too_many_wrong_keys(wait_seconds)
        found = self._ring.look_up(digest)
        if found is None:
            self._wrong.count(peer)
            raise credentials.unauthorized("This is no valid key.", error="invalid_token")
        return found


def register(app: Application, ring: Authenticator, metrics_open: bool) -> None:
    """Puts the gate before every view that the application has or will have."""
    app.before.append(
        Gate(ring, OPEN | {METRICS} if metrics_open else OPEN, app.view_functions).check
    )


def _lacks(scope: Scope) -> Problem:
    challenge = f'Bearer realm="executions", error="insufficient_scope", scope="{scope}"'
    detail = f"This API key does not have the required scope {scope.value!r}."
    return Problem(403, "forbidden", detail, headers={"WWW-Authenticate": challenge})
