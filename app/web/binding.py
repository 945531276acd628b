"""Decides on which addresses the web process may listen: localhost only, until keys are configured.

Called by `gunicorn.conf.py` for the default address, and by `app.web.lifecycle` to check the
sockets before anybody is served. Whoever can start executions spends the operator's money on model
calls, so the service never listens to everyone by default or by accident.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from app.settings import Settings

THIS_MACHINE = "127.0.0.1"
EVERYONE = "0.0.0.0"  # noqa: S104  returned only if the operator decided who may use the service

_DECIDE = (
    "Set API_KEYS=tenant:key, or AUTH=keys (and create keys with `flask keys add`), "
    "or AUTH=off if something else keeps strangers out."
)


def default_host(settings: Settings) -> str:
    """Returns the address to listen on if HOST is not set."""
    return EVERYONE if settings.may_be_reached else THIS_MACHINE


def refusal(settings: Settings, hosts: Iterable[str], on_heroku: bool) -> str | None:
    """Returns why the web process must not serve on these hosts, or None if it may.

    `hosts` are those of the TCP sockets; a unix socket has none.
    """
    if settings.may_be_reached:
        return None
    reachable = [host for host in hosts if not _is_this_machine(host)]
    if reachable:
        return (
            f"Anyone who can reach {reachable[0]} could start executions without a key. {_DECIDE}"
        )
    if on_heroku:
        # Without this, Heroku would only report that the web process does not answer.
        return f"Heroku's router cannot reach a server that listens on localhost only. {_DECIDE}"
    return None


def remark(settings: Settings) -> str | None:
    """Returns the warning for the operator at the start, or None if requests need keys."""
    if settings.keys_required:
        return None
    if settings.auth == "off":
        return (
            "AUTH=off: anyone who can reach this address may start, read and cancel the executions "
            "of the tenant default."
        )
    return f"No API keys are configured, so the server listens on localhost only. {_DECIDE}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may resolve to any address
