"""How many files a process may have open, its connections among them. Many systems begin with 1024."""

from __future__ import annotations

import resource


def allow(count: int) -> None:
    """Asks for `count` files, for this process and those it starts, as far as the system's hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
