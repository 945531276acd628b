"""The service's own gunicorn settings, without its hooks: a baseline has no reaper, and logs in gunicorn's way."""

import runpy

_HOOKS = ("on_starting", "post_worker_init")

globals().update({name: value for name, value in runpy.run_path("gunicorn.conf.py").items() if name not in _HOOKS})
loglevel = "error"
