"""Raises the number of files and connections that a process may have open at once.

Called by `gunicorn.conf.py` and by the worker at their start. Many systems allow only 1024.
"""

from __future__ import annotations

import resource


def raise_to(count: int) -> None:
    """Allows `count` open files, or as many as the system's hard limit permits.

    Never lowers the limit. Child processes inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # RLIM_INFINITY is -1, so a comparison alone would take "no limit" for the smallest one.
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
