"""The service's own gunicorn settings, without its hooks and its event loop: a baseline is served
by threads, has no reaper, and logs in gunicorn's way.
"""

import runpy

own = runpy.run_path("gunicorn.conf.py")
globals().update(
    {name: value for name, value in own.items() if isinstance(value, (str, int, float))}
)
worker_class, threads = (
    "gthread",
    64,
)  # gunicorn's usual one for applications that wait; `sync` answers no more
loglevel = "error"
