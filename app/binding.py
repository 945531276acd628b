"""Who can reach the web process: this machine alone, until it was decided who may use the service.

An open run API is an open wallet, so listening for everyone is never the default, and never an accident.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from app.settings import Settings

THIS_MACHINE, EVERYONE = "127.0.0.1", "0.0.0.0"  # noqa: S104  chosen below, never by default

_DECIDE = (
    "Set API_KEYS=tenant:key, or AUTH=keys (and make keys with `flask keys add`), "
    "or AUTH=off where something else keeps strangers out."
)


def default_host(settings: Settings) -> str:
    """Where to listen when HOST does not say."""
    return EVERYONE if settings.may_be_reached else THIS_MACHINE


def refusal(settings: Settings, hosts: Iterable[str], on_heroku: bool) -> str | None:
    """Why the web process must not serve on these hosts (a unix socket has none); None: it may."""
    if settings.may_be_reached:
        return None
    reachable = [each for each in hosts if not _is_this_machine(each)]
    if reachable:
        return f"Whoever reaches {reachable[0]} could start executions without a key. {_DECIDE}"
    if on_heroku:
        return f"Heroku's router can not reach a web process that listens for this machine alone. {_DECIDE}"
    return None


def remark(settings: Settings) -> str | None:
    """What whoever starts the service should know; None where keys are asked for."""
    if settings.keys_required:
        return None
    if settings.auth == "off":
        return (
            "AUTH=off: whoever reaches this address may start executions, read and cancel those of the tenant default."
        )
    return f"No key is asked for, so only this machine is served. {_DECIDE}"


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name may resolve to anything
