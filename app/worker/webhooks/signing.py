"""Signs webhooks as the Standard Webhooks specification says, with its reference library.

`sender` signs each try anew, because the time of the try is signed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook


class Signer:
    """Signs with these secrets (`whsec_...`), which `app.settings` has checked.

    While secrets are rotated there are several. Each makes one signature in the same header, and a
    receiver accepts a request if any of them is right.
    """

    def __init__(self, secrets: Sequence[str]):
        self._webhooks = [Webhook(secret) for secret in secrets]

    def headers(self, id: str, body: bytes, at: datetime) -> dict[str, str]:
        """The three headers of the specification. `at` is in UTC; `body` is UTF-8."""
        text = body.decode()
        return {
            "webhook-id": id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(
                webhook.sign(msg_id=id, timestamp=at, data=text) for webhook in self._webhooks
            ),
        }
