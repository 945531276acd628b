"""The service's own gunicorn settings, without its hooks: a baseline has no reaper, and logs in gunicorn's way."""

import runpy

own = runpy.run_path("gunicorn.conf.py")
globals().update({name: value for name, value in own.items() if isinstance(value, (str, int, float))})
loglevel = "error"
