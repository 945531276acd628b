"""Whose request this is: the one place to ask, as long as there is one tenant for all."""

from __future__ import annotations

from flask import request

from app.executions.service import DEFAULT_TENANT


def tenant() -> str:
    """Whose executions this request may see."""
    return DEFAULT_TENANT


def counted_as() -> str:
    """Whom the request counts for, where requests are limited: without keys, the peer's address."""
    return f"address:{request.remote_addr}"
