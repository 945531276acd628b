"""The interactive description at /docs: Swagger UI out of a package, which the browser may load
from here alone.
"""

from __future__ import annotations

import base64
import hashlib
import re

from flask import Flask, Response
from flask_swagger_ui import get_swaggerui_blueprint

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def register(app: Flask) -> None:
    """Adds the page and what it needs."""
    # Nothing is asked of a validator elsewhere; and without an address of its own for OAuth2, which
    # the service does not speak, the package would make one of the request's Host.
    config = {"app_name": "Async Execution API", "validatorUrl": None, "oauth2RedirectUrl": ""}
    blueprint = get_swaggerui_blueprint("/docs", "/openapi.json", config)
    blueprint.after_request(_only_from_here)
    app.register_blueprint(blueprint)
    # Flask's own redirect would name the host that the request names.
    app.add_url_rule("/docs", "docs", lambda: Response(status=308, headers={"Location": "/docs/"}))


def _only_from_here(response: Response) -> Response:
    """Tells the browser to load nothing from elsewhere, and to run no script but the page's own."""
    if response.mimetype == "text/html" and not response.is_streamed:
        hashes = [
            base64.b64encode(hashlib.sha256(each).digest()).decode()
            for each in _SCRIPT.findall(response.data)
        ]
        scripts = " ".join(f"'sha256-{each}'" for each in hashes)
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    return response
