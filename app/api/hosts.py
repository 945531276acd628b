"""Refuses requests that came under a foreign name, as long as no request needs an API key.

`app.api.build` registers it. A website can make its own name point to this machine ("DNS
rebinding"). A browser then takes the service for a part of that website, and lets the website start
executions and read them, but still sends the website's name in `Host`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Any

from flask import Request

from app.api.application import Application
from app.api.problems import Problem

# A name or an IPv4 address, or an IPv6 address in brackets; perhaps a port. Nothing else, so no
# other program can find another name in the same header.
_FORM = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z.\-]+))(?::[0-9]*)?", re.IGNORECASE)

_REFUSAL = (
    "The service answers under the names localhost and 127.0.0.1 only, because no API keys are "
    "configured. Use one of these names. Or set API_KEYS or AUTH=keys, or AUTH=off if something "
    "else keeps strangers out."
)


def register(app: Application, *, local_only: bool) -> None:
    """Guards every view, if the service is for this machine alone."""
    if local_only:
        app.before.append(check)


def check(request: Request, _: Any) -> None:
    """Raises a 403 `Problem`. A request without `Host` passes: every browser sends one."""
    host = request.environ.get("HTTP_HOST")
    if host is not None and not is_this_machine(host):
        raise Problem(403, "foreign_host", _REFUSAL)


@functools.lru_cache(256)
def is_this_machine(host: str) -> bool:
    """Whether a `Host` header can mean nothing but this machine, however names are resolved."""
    found = _FORM.fullmatch(host)
    if found is None:
        return False
    name = (found["name"] or "").lower().removesuffix(".")  # the dot of a complete name
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        v6 = found["v6"]
        return (ipaddress.IPv6Address(v6) if v6 else ipaddress.IPv4Address(name)).is_loopback
    except ValueError:
        return False
