"""The web process's application, for gunicorn: `gunicorn wsgi:app`."""

from __future__ import annotations

import os
import sys
import time

from app import create_app
from app.errors import ConfigurationError

GUNICORN_APP_LOAD_ERROR = 4  # gunicorn's own code: it stops instead of starting the process again for ever
TRY_AGAIN_SECONDS = 1.0

try:
    app = create_app()
except ConfigurationError as error:
    print(error, file=sys.stderr, flush=True)
    if os.environ.get("WEB_PROCESS_IS_FIRST") == "":
        # The service runs, a process died, and a file was broken meanwhile: the others serve on until it is mended.
        time.sleep(TRY_AGAIN_SECONDS)
        os._exit(1)
    os._exit(GUNICORN_APP_LOAD_ERROR)
