"""Checks the API key of every request, and whether its scopes allow the view that it calls.

`app.api.build` registers the `Gate`, which runs before every view. A view declares its scope with
`@needs(Scope.READ)`; a view without a declaration needs `admin`, so a forgotten one stays closed.
`OPEN` lists the paths that need no key. A path that does not exist needs a key too, so that
strangers cannot find out which paths exist. The dashboard adds open paths of its own, and the way
in which its callers present their key: `Gate.admit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flask import Request, current_app, g
from flask.globals import request_ctx
from werkzeug.routing import RequestRedirect

from app.api import credentials
from app.api.application import Application
from app.api.problems import Problem
from app.domain.errors import StoreUnavailable
from app.domain.key import ANYONE, Identity, Scope, digest_of
from app.services.authentication import Authenticator
from app.services.invalid_keys import InvalidKeyThrottle
from app.telemetry import logs

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs", "/docs/", "/docs/<path:path>"})
METRICS = "/metrics"  # open only with METRICS=open: its figures cover all tenants

_View = TypeVar("_View", bound=Callable[..., object])

Presented = Callable[[Request], str]
"""Returns the digest of the key that a request presents. Raises a `Problem` if there is none. It is
asked again while an answer is sent, when Flask has already left the request.
"""


def needs(scope: Scope) -> Callable[[_View], _View]:
    """Decorates a view with the scope that a key must have to call it.

    Put it below `@blueprint.operation`, which copies the scope to the function that Flask calls.
    """

    def declare(view: _View) -> _View:
        view.needs_scope = scope  # type: ignore[attr-defined]
        return view

    return declare


def scope_of(view: object) -> Scope:
    """The scope that a view needs; `admin` if it declares none."""
    return getattr(view, "needs_scope", None) or Scope.ADMIN


def identity() -> Identity:
    """The owner of the request's key. Only for views that are not open."""
    caller: Identity = g.identity
    return caller


def tenant() -> str:
    """The tenant whose executions this request may see and start. Not for open views."""
    return identity().tenant


def still_allowed() -> Callable[[], bool]:
    """For answers that take long: a function that says whether the request's key is still valid."""
    gate: Gate = current_app.extensions["gate"]
    return gate.recheck(request_ctx.request, identity())


class Gate:
    """Lets a request through to its view, or refuses it. Stores the caller as `g.identity`."""

    def __init__(
        self, authenticator: Authenticator, open_rules: frozenset[str], views: Mapping[str, object]
    ):
        self.required = authenticator.required
        self._authenticator = authenticator
        self._open_rules = open_rules
        self._presented: list[tuple[Callable[[str], bool], Presented]] = []
        self._views = views  # Flask's own dict, so views that are added later are found too
        self._throttle = InvalidKeyThrottle()

    def admit(
        self, has_path: Callable[[str], bool], presented: Presented, open_rules: frozenset[str]
    ) -> None:
        """Lets the callers of some paths present their keys in another way than in a header.

        The `open_rules` among them need no key.
        """
        self._presented.append((has_path, presented))
        self._open_rules |= open_rules

    def check(self, request: Request, context: Any) -> None:
        """Raises a `Problem`: 401, 403 or 429, or 400 if two different keys were sent."""
        rule = request.url_rule
        if rule is not None and rule.rule in self._open_rules:
            return
        if isinstance(request.routing_exception, RequestRedirect):
            return  # the request to the new address is checked
        caller = self._identify(request) if self.required else ANYONE
        context.identity = caller
        key_name = {} if caller.key is None else {"key_name": caller.key}
        logs.name_in_request(tenant=caller.tenant, **key_name)
        if rule is None:
            return  # Flask answers 404 or 405 after this step
        scope = scope_of(self._views[rule.endpoint])
        if scope not in caller.scopes:
            raise refuse_scope(scope)

    def recheck(self, request: Request, caller: Identity) -> Callable[[], bool]:
        """A function that says whether a caller who was let in would still be let in."""
        if not self.required:
            return lambda: True

        def is_allowed() -> bool:
            try:
                digest = self._digest(request)  # again: a session ends by itself
                found = self._authenticator.known(digest) or self._authenticator.look_up(digest)
            except Problem:
                return False
            except StoreUnavailable:
                return True  # nobody knows; it is asked again
            return found == caller

        return is_allowed

    def owner(self, digest: str, environ: Mapping[str, Any]) -> Identity:
        """The owner of a key. Raises a `Problem`: 401, or 429 after too many invalid keys."""
        # The cache first: a throttled address must not slow down keys that are known to be valid.
        known = self._authenticator.known(digest)
        return known or self._look_up(digest, environ.get("REMOTE_ADDR", ""))

    def _identify(self, request: Request) -> Identity:
        return self.owner(self._digest(request), request.environ)

    def _digest(self, request: Request) -> str:
        for has_path, presented in self._presented:
            if has_path(request.path):
                return presented(request)
        return digest_of(credentials.presented(request.environ))

    def _look_up(self, digest: str, address: str) -> Identity:
        """Asks the store for the key, unless this address sent too many invalid keys."""
        wait_seconds = self._throttle.wait_seconds(address)
        # A key that was valid before is looked up all the same. Many clients may share one address
        # (a proxy's), and one of them that guesses keys must not lock out the others.
        if wait_seconds and not self._authenticator.has_seen(digest):
            raise credentials.too_many_invalid_keys(wait_seconds)
        caller = self._authenticator.look_up(digest)
        if caller is None:
            self._throttle.count(address)
            raise credentials.invalid_key()
        return caller


def register(app: Application, authenticator: Authenticator, metrics_open: bool) -> None:
    """Puts a `Gate` before every view that the application has or will have."""
    open_rules = OPEN | {METRICS} if metrics_open else OPEN
    gate = app.extensions["gate"] = Gate(authenticator, open_rules, app.view_functions)
    app.before.append(gate.check)


def refuse_scope(scope: Scope) -> Problem:
    """A 403 that names the scope that the key lacks."""
    challenge = f'Bearer realm="executions", error="insufficient_scope", scope="{scope}"'
    detail = f"This API key does not have the required scope {scope.value!r}."
    return Problem(403, "forbidden", detail, headers={"WWW-Authenticate": challenge})
