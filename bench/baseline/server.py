"""gunicorn's settings for the baselines: those of the service, without its hooks and event loop.

A baseline is served by threads, runs no reaper, and logs in gunicorn's own format.
"""

import runpy

own = runpy.run_path("gunicorn.conf.py")
globals().update(
    {name: value for name, value in own.items() if isinstance(value, (str, int, float))}
)
worker_class = "gthread"  # gunicorn's usual one for applications that wait; `sync` is no faster
threads = 64
loglevel = "error"
