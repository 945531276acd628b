"""What a store says of itself: is it fit to keep executions? And whether a worker of this machine
lives.

Asked before a release, and by health checks; never for a request.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import psutil
import redis
from rq.utils import as_text, utcparse

from app.store.connection import translated
from app.store.functions import Functions, is_missing

OLDEST_VERSION = (7, 0)
"""The first with functions. (Every Valkey has them.)"""

COMMANDS = {
    "info": ("INFO",),
    "save": ("CONFIG GET", "save"),
    "write": ("SET", "exec:probe", "1", "EX", "60"),
}
"""What `checks` is made of. A store that would refuse a start refuses this small write too, and
says why.
"""


_OTHER_CHECKS = ("ReadOnly", "OutOfMemory", "OOM ", "MISCONF", "NOREPLICAS")
"""Refusals that other checks name."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `unknown`: the store does not tell, which is no reason to say
    no.

    `detail` is a sentence for a person; `setting` is what to change, `""` where nothing is wrong.
    """

    name: str
    status: Literal["ok", "failed", "unknown"]
    detail: str
    setting: str = ""


def look(client: redis.Redis) -> list[Check]:
    """Asks a store, and gives it the functions if it does not have them. Raises `StoreUnavailable`."""
    functions = Functions(client)
    with translated(), client.pipeline(transaction=False) as pipe:
        for command in (functions.probe(), *COMMANDS.values()):
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis's
        probed, *answers = pipe.execute(raise_on_error=False)
        return [*checks(*answers), check_functions(functions, probed)]


def checks(info: Any, save: Any, write: Any) -> Iterator[Check]:
    """From the answers to `COMMANDS`; managed stores may refuse either, and leave things out."""
    known: dict[str, Any] = {} if isinstance(info, redis.ResponseError) else info
    yield _check_version(str(known.get("valkey_version") or known.get("redis_version", "")))
    yield _check_role(known.get("role", ""))
    yield _check_write(write)
    yield _check_eviction(known.get("maxmemory_policy", ""))
    yield _check_disk(known.get("aof_enabled"), save)


def check_functions(functions: Functions, probed: Any) -> Check:
    """Warm means: no request has to send the library first. One that is missing is loaded."""
    try:
        if is_missing(probed):
            functions.load()
        elif isinstance(probed, redis.ResponseError):
            raise probed
    except redis.ResponseError as error:
        if any(word in f"{type(error).__name__} {error}" for word in _OTHER_CHECKS):
            return Check(
                "scripts", "unknown", "The store takes no writes just now, so no functions either."
            )
        detail = f"The store does not let this service use its functions: {error}"
        return Check(
            "scripts", "failed", detail, "the ACL of the service's user: allow FCALL and FUNCTION"
        )
    return Check("scripts", "ok", "All functions are loaded.")


def worker_beats(client: redis.Redis, silent_seconds: float) -> bool:
    """Whether a worker of this machine has said within so many seconds, by this machine's clock,
    that it lives.

    A store that was emptied has forgotten on which machine a worker runs; it is one of this
    machine's then if any is.
    """
    with translated():
        for name in client.sscan_iter("rq:workers"):
            host, beat = _said(client, as_text(name))
            if beat and _silence_seconds(as_text(beat)) < silent_seconds:
                here = as_text(host) == socket.gethostname() if host else _worker_runs_here()
                if here:
                    return True
    return False


def _said(client: redis.Redis, name: str) -> list[Any]:
    """Host name and last beat of a worker; nothing where somebody else's data is under its key."""
    try:
        return cast(list[Any], client.hmget(name, "hostname", "last_heartbeat"))
    except redis.ResponseError:
        return [None, None]


def _worker_runs_here() -> bool:
    commands = (process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"]))
    return any(Path(word).name == "worker.py" for command in commands for word in command)


def _silence_seconds(beat: str) -> float:
    """Infinite where somebody else wrote there."""
    try:
        return time.time() - utcparse(beat).timestamp()
    except ValueError:
        return math.inf


def _check_version(version: str) -> Check:
    if not version:
        return Check("version", "unknown", "The store does not tell its version.")
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_VERSION:
        return Check("version", "ok", f"The store is version {version}.")
    detail = f"The store is version {version}; Redis 7.0 or Valkey 7.2 is the oldest that works."
    return Check("version", "failed", detail, "the store itself")


def _check_role(role: str) -> Check:
    if not role:
        return Check("role", "unknown", "The store does not tell whether it is a replica.")
    if role == "master":
        return Check("role", "ok", "The store is a primary.")
    return Check(
        "role",
        "failed",
        "The store is a replica, which takes no writes.",
        "REDIS_URL, to its primary",
    )


def _check_write(answer: Any) -> Check:
    if not isinstance(answer, redis.RedisError):
        return Check("write", "ok", "The store takes writes.")
    if isinstance(answer, redis.ReadOnlyError):
        return Check("write", "unknown", "The store is read-only, which its role tells.")
    said = f"{type(answer).__name__} {answer}"
    for word, detail, setting in (
        ("OutOfMemory", "The store is full.", "maxmemory, or RETENTION"),
        ("MISCONF", "The store can not write to its disk.", "the room on its disk"),
        (
            "NOREPLICAS",
            "Too few replicas follow the store.",
            "min-replicas-to-write, or the replicas",
        ),
    ):
        if word.lower() in said.replace("_", "").lower():
            return Check("write", "failed", detail, setting)
    return Check(
        "write", "failed", "The store refuses writes.", "the store's ACL: allow SET on exec:*"
    )


def _check_eviction(policy: str) -> Check:
    if not policy:
        return Check("eviction", "unknown", "The store does not tell its maxmemory-policy.")
    if policy == "noeviction":
        return Check("eviction", "ok", "The store evicts nothing.")
    detail = f"The store throws data away when it is full: its maxmemory-policy is {policy}."
    return Check("eviction", "failed", detail, "maxmemory-policy noeviction")


def _check_disk(keeps_log: Any, save: Any) -> Check:
    """Either of the two ways to keep data will do; where the second can not be asked for, nobody
    knows.
    """
    if keeps_log:
        return Check("disk", "ok", "The store keeps an append-only file.")
    if isinstance(save, redis.ResponseError):
        return Check("disk", "unknown", "The store does not tell whether it saves to disk.")
    if save.get("save"):
        return Check(
            "disk",
            "ok",
            "The store saves to disk at times: what came after the last save can be lost.",
        )
    return Check(
        "disk",
        "failed",
        "The store keeps nothing on disk: a restart loses everything.",
        "appendonly yes",
    )
