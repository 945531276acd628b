"""Checks whether a store is fit to keep executions, and whether a worker of this machine is alive.

The release check (`app.check`), the worker's health check and `readiness` call it. No request does.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import redis
from rq.utils import as_text

from app.domain.errors import ConfigurationError, StoreUnavailable
from app.store import store_format
from app.store.connection import translated
from app.store.functions import Functions, is_missing

OLDEST_VERSION = (7, 0)
"""The first version with functions. (Every Valkey has them.)"""

WORKERS = "exec:workers"
"""A sorted set: `<queue>:<name>` of each worker -> the time of its last heartbeat, in µs."""

SLOTS = "exec:slots"
"""A hash: the slots of each of these workers, as `<used>/<all>`."""

COMMANDS = {
    "info": ("INFO",),
    "save": ("CONFIG GET", "save"),
    "write": ("SET", "exec:probe", "1", "EX", "60"),
    "format": ("GET", store_format.KEY),
}
"""The commands whose replies `checks` needs. A store that would refuse a start also refuses this
small write, and its error has the reason.
"""

_OTHER_CHECKS = ("ReadOnly", "OutOfMemory", "OOM ", "MISCONF", "NOREPLICAS")
"""Errors that another check explains."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `unknown`: the store does not tell, which does not make it unfit.

    `detail` is a sentence for a person; `setting` is what to change, `""` if nothing is wrong.
    """

    name: str
    status: Literal["ok", "failed", "unknown"]
    detail: str
    setting: str = ""


def failed_store(error: StoreUnavailable) -> Check:
    """The check of a store that does not answer."""
    return Check("store", "failed", str(error), "REDIS_URL")


def check_store(client: redis.Redis) -> list[Check]:
    """Checks a store, and loads the functions if they are missing. Raises `StoreUnavailable`."""
    functions = Functions(client)
    with translated(), client.pipeline(transaction=False) as pipe:
        for command in (functions.probe(), *COMMANDS.values()):
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis's
        probed, *answers = pipe.execute(raise_on_error=False)
        return [*checks(*answers), check_functions(functions, probed)]


def refuse_newer_format(client: redis.Redis) -> None:
    """Raises `ConfigurationError` if newer code has written to this store."""
    with translated(), client.pipeline(transaction=False) as pipe:
        pipe.execute_command(*COMMANDS["format"])  # type: ignore[no-untyped-call]  # redis's
        [answer] = pipe.execute(raise_on_error=False)
    check = _check_format(answer)
    if check.status == "failed":
        raise ConfigurationError(f"{check.detail} To change: {check.setting}.")


def checks(info: Any, save: Any, write: Any, format: Any) -> Iterator[Check]:
    """Evaluates the replies to `COMMANDS`. Managed stores may refuse them, or leave out fields."""
    known: dict[str, Any] = {} if isinstance(info, redis.ResponseError) else info
    yield _check_version(str(known.get("valkey_version") or known.get("redis_version", "")))
    yield _check_role(known.get("role", ""))
    yield _check_write(write)
    yield _check_eviction(known.get("maxmemory_policy", ""))
    yield _check_disk(known.get("aof_enabled"), save)
    yield _check_format(format)


def check_functions(functions: Functions, probed: Any) -> Check:
    """Loads the library if it is missing, so that no request has to."""
    try:
        if is_missing(probed):
            functions.load()
        elif isinstance(probed, redis.ResponseError) and store_format.NEWER not in str(probed):
            raise probed
    except redis.ResponseError as error:
        if any(word in f"{type(error).__name__} {error}" for word in _OTHER_CHECKS):
            return Check(
                "scripts",
                "unknown",
                "The store takes no writes now, so the functions cannot be loaded.",
            )
        detail = f"The store does not allow this service to use functions: {error}"
        return Check(
            "scripts", "failed", detail, "the ACL of the service's user: allow FCALL and FUNCTION"
        )
    return Check("scripts", "ok", "All functions are loaded.")


def worker_is_alive(client: redis.Redis, silent_seconds: float) -> bool:
    """Whether a worker of this machine sent a heartbeat within this time, by the store's clock.

    If the store was emptied, it no longer has the worker's host name. Then any worker counts if a
    `worker.py` runs here.
    """
    with translated():
        now, _ = client.time()
        oldest = (now - silent_seconds) * 1_000_000
        alive: list[Any] = client.zrangebyscore(WORKERS, oldest, "inf")
        for worker in alive:
            host = _host(client, as_text(worker).partition(":")[2])
            if host == socket.gethostname() if host else _worker_runs_here():
                return True
    return False


def worker_key(name: str) -> str:
    """The key of RQ's hash of a worker."""
    return f"rq:worker:{name}"


def _host(client: redis.Redis, name: str) -> str | None:
    """The host name of a worker; None if RQ's key for it is gone or has another type."""
    try:
        host = client.hget(worker_key(name), "hostname")
    except redis.ResponseError:
        return None
    return as_text(host) if host else None


def _worker_runs_here() -> bool:
    commands = (process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"]))
    return any(Path(word).name == "worker.py" for command in commands for word in command)


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
        return Check("write", "unknown", "The store is read-only; see `role`.")
    error = f"{type(answer).__name__} {answer}"
    for word, detail, setting in (
        ("OutOfMemory", "The store is full.", "maxmemory, or RETENTION"),
        ("MISCONF", "The store cannot write to its disk.", "the room on its disk"),
        (
            "NOREPLICAS",
            "Too few replicas follow the store.",
            "min-replicas-to-write, or the replicas",
        ),
    ):
        if word.lower() in error.replace("_", "").lower():
            return Check("write", "failed", detail, setting)
    return Check(
        "write", "failed", "The store refuses writes.", "the store's ACL: allow SET on exec:*"
    )


def _check_eviction(policy: str) -> Check:
    if not policy:
        return Check("eviction", "unknown", "The store does not tell its maxmemory-policy.")
    if policy == "noeviction":
        return Check("eviction", "ok", "The store evicts nothing.")
    detail = f"The store deletes data when it is full: its maxmemory-policy is {policy}."
    return Check("eviction", "failed", detail, "maxmemory-policy noeviction")


def _check_format(answer: Any) -> Check:
    """An older format is fit: its records are rewritten when they are read, or by the reaper."""
    found = store_format.read(answer)
    if store_format.is_newer(found):
        return Check("format", "failed", store_format.REFUSAL, store_format.REMEDY)
    if found == store_format.FORMAT:
        return Check("format", "ok", f"The store's data has format {found}.")
    stored = "no format" if found is None else f"format {found}"
    detail = f"The store has {stored} yet; the reaper brings it to {store_format.FORMAT}."
    return Check("format", "ok", detail)


def _check_disk(keeps_log: Any, save: Any) -> Check:
    """Either way of keeping data is enough. A store may refuse to tell about the second one."""
    if keeps_log:
        return Check("disk", "ok", "The store keeps an append-only file.")
    if isinstance(save, redis.ResponseError):
        return Check("disk", "unknown", "The store does not tell whether it saves to disk.")
    if save.get("save"):
        return Check(
            "disk",
            "ok",
            "The store saves to disk at intervals: writes after the last save can be lost.",
        )
    return Check(
        "disk",
        "failed",
        "The store keeps nothing on disk: a restart loses everything.",
        "appendonly yes",
    )
