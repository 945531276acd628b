"""The web process's application, for gunicorn: `gunicorn wsgi:app`."""

from __future__ import annotations

import os
import sys

from app import create_app
from app.errors import ConfigurationError

GUNICORN_APP_LOAD_ERROR = 4  # gunicorn's own code: it stops instead of starting the process again for ever

try:
    app = create_app()
except ConfigurationError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(GUNICORN_APP_LOAD_ERROR)
