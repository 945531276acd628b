"""Defines the secrets that webhooks are signed with: their form, and how to make one.

The form is that of the Standard Webhooks specification, so that receivers' libraries accept it.
"""

from __future__ import annotations

import base64
import secrets

PREFIX = "whsec_"

KEY_BYTES = 32
_ALLOWED_BYTES = range(24, 65)


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def secrets_of(text: str) -> tuple[str, ...]:
    """The secrets in WEBHOOK_SECRET, which has commas or spaces between them."""
    return tuple(text.replace(",", " ").split())


def is_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        return False
    return text.startswith(PREFIX) and len(key) in _ALLOWED_BYTES
