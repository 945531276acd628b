"""Serves the API's interactive description at /docs, which is Swagger UI from a Python package.

`app.api.build` registers it. A Content-Security-Policy keeps the browser from loading anything from
another server, so the page works without internet access and cannot leak what is typed into it.
"""

from __future__ import annotations

import base64
import hashlib
import re

from flask import Flask, Response
from flask_swagger_ui import get_swaggerui_blueprint

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def register(app: Flask) -> None:
    """Adds the page and its files."""
    # No validator: Swagger UI would send the description to a public one. No OAuth2, which the
    # service does not use: without a value, the package would build a URL from the Host header.
    config = {"app_name": "Async Execution API", "validatorUrl": None, "oauth2RedirectUrl": ""}
    blueprint = get_swaggerui_blueprint("/docs", "/openapi.json", config)
    blueprint.after_request(_only_from_here)
    app.register_blueprint(blueprint)
    # Flask's own redirect would contain the Host header, which the client chooses.
    app.add_url_rule("/docs", "docs", lambda: Response(status=308, headers={"Location": "/docs/"}))


def _only_from_here(response: Response) -> Response:
    """Allows the page's own inline scripts by their hashes, and nothing from other servers."""
    if response.mimetype == "text/html" and not response.is_streamed:
        hashes = [
            base64.b64encode(hashlib.sha256(script).digest()).decode()
            for script in _SCRIPT.findall(response.data)
        ]
        scripts = " ".join(f"'sha256-{digest}'" for digest in hashes)
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    return response
