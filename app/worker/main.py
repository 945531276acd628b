"""Starts a worker process: reads the settings, starts the forkserver, runs until SIGTERM or Ctrl-C.

Called by `worker.py` in the root folder. Makes one `ExecutionWorker` for flows in threads, one for
flows in processes, and a `Deliverer` for webhooks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import secrets
import signal
import sys

import structlog

from app import catalog, settings
from app.catalog.model import Catalog
from app.domain.errors import ConfigurationError, StoreUnavailable
from app.process import file_limit, gc_tuning
from app.process.prctl import adopt_orphans
from app.store import connection
from app.store.delivery_queue import QUEUE as WEBHOOKS
from app.store.executions import QUEUES
from app.store.registration import Registration
from app.store.store_check import refuse_newer_format
from app.telemetry import logs, tracing
from app.worker.bulkhead import Bulkhead
from app.worker.child import ChildConfig
from app.worker.forkserver import Forkserver
from app.worker.heartbeat import FENCE_SHARE
from app.worker.orphans import OrphanSweeper
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog
from app.worker.pool import Pool
from app.worker.watchdog import Watchdog
from app.worker.webhooks.deliverer import Deliverer
from app.worker.worker import ExecutionWorker

FILES_PER_THREAD = 8
OTHER_FILES = 1024
"""Open files that a process may need: some connections for each flow in a thread, and all the rest.
"""

log = structlog.get_logger(__name__)


def main() -> None:
    """Runs the worker to its end. A mistake in the configuration is one message and exit code 1."""
    try:
        _read_options()
        config = settings.load()
        if not config.worker_threads + config.worker_processes and not _delivers(config):
            raise ConfigurationError(
                "WORKER_THREADS and WORKER_PROCESSES are both 0: this worker would run nothing."
            )
        # Flows see this environment. Only the web processes check API keys and sign sessions, and
        # only this process signs webhooks.
        for variable in ("API_KEYS", "SECRET_KEY", "WEBHOOK_SECRET"):
            os.environ.pop(variable, None)
        logs.configure(config.log_level, config.secrets)
        # Loaded here only to report mistakes before anything is started.
        catalog.load(config.agents_path, config.pipelines_path)
        _run(config)
    except ConfigurationError as error:
        sys.exit(str(error))


def _run(config: settings.Settings) -> None:
    for variable, setting in settings.warnings():
        log.warning("setting_unknown", variable=variable, meant=setting)
    tracing.warn_if_missing(config)
    openai = ["openai"] if config.openai_api_key or config.openai_base_url else []
    for name in [*openai, *tracing.preload(config)]:
        # Half a second and 20 MB: once, before any child is forked, so that all of them share it.
        importlib.import_module(name)
    # Both count for all forked processes, too.
    gc_tuning.settle()
    files = OTHER_FILES + FILES_PER_THREAD * config.worker_threads + config.webhook_concurrency
    file_limit.raise_to(files)
    adopt_orphans()
    forkserver = Forkserver()
    try:
        forkserver.start()
    except OSError as error:
        raise ConfigurationError(f"The worker cannot start a process: {error}.") from error
    runner = asyncio.Runner()
    try:
        runner.run(_work(config, forkserver))
    finally:
        # RuntimeError: closing starts a thread, and the machine may have no room for one.
        with contextlib.suppress(RuntimeError):
            runner.close()


def _read_options() -> None:
    """Reads the command line. An option overrides its variable, and is checked in the same way."""
    parser = argparse.ArgumentParser(description="Runs executions until SIGTERM or Ctrl-C.")
    parser.add_argument("--threads", help="as WORKER_THREADS")
    parser.add_argument("--processes", help="as WORKER_PROCESSES")
    options = parser.parse_args()
    for name, value in (
        ("WORKER_THREADS", options.threads),
        ("WORKER_PROCESSES", options.processes),
    ):
        if value is not None:
            os.environ[name] = value


async def _work(config: settings.Settings, forkserver: Forkserver) -> None:
    client = connection.connect(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A SIGHUP before the workers exist must not end the process. The catalog is read below anyway.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
    if not await _store_answers(config, stop):
        return
    traces = tracing.connect(config)
    known = catalog.load(config.agents_path, config.pipelines_path)
    _log_warnings(known)
    orphans, bulkhead, process = OrphanSweeper(forkserver), Bulkhead(), secrets.token_hex(6)
    workers = [
        ExecutionWorker(
            Registration(client, QUEUES[isolation], process),
            QUEUES[isolation],
            config,
            Pool(_child(config, known, slots), size, forkserver, orphans, bulkhead),
            traces,
        )
        for isolation, slots, size in (
            ("thread", config.worker_threads, 1),
            ("process", 1, config.worker_processes),
        )
        if slots and size
    ]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, Reloader(config, workers).request)
    deliverer = _deliverer(config, Registration(client, WEBHOOKS, process))
    parts: list[ExecutionWorker | Deliverer] = [*workers, *([deliverer] if deliverer else [])]
    names = [part.name for part in parts]
    slots = {"threads": config.worker_threads, "processes": config.worker_processes}
    log.info("worker_started", workers=names, **slots)
    watchdog = Watchdog()
    watchdog.start()
    sweeping = asyncio.ensure_future(orphans.sweep_for_life())
    running = [asyncio.ensure_future(part.run()) for part in parts]
    await asyncio.wait(
        {*running, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    for part in parts:
        part.request_shutdown()
    # `return_exceptions`: the error of one worker must not cut short the shutdown of the other.
    ends = await asyncio.gather(*running, return_exceptions=True)
    sweeping.cancel()
    watchdog.close()
    traces.close()
    for end in ends:
        if isinstance(end, BaseException):
            raise end


class Reloader:
    """Reads the agents and pipelines again after a SIGHUP, in a thread.

    If one of them has a mistake, all stay as they were. Signals that arrive during a reading lead
    to one more.
    """

    def __init__(self, config: settings.Settings, workers: list[ExecutionWorker]):
        self._config, self._workers = config, workers
        self._wanted = False
        self._reading: asyncio.Task[None] | None = None

    def request(self) -> None:
        """Starts a reading. Called in a signal handler of the event loop."""
        self._wanted = True
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._reload())

    async def _reload(self) -> None:
        while self._wanted:
            self._wanted = False
            try:
                known = await asyncio.to_thread(
                    catalog.load, self._config.agents_path, self._config.pipelines_path
                )
            except (ConfigurationError, RuntimeError) as error:
                # RuntimeError: the machine has no room for another thread.
                log.error("reload_refused", reason=str(error))
                continue
            for worker in self._workers:
                worker.renew(known)
            _log_warnings(known)
            log.info("reloaded", agents=len(known.agents), pipelines=len(known.pipelines))


def _log_warnings(known: Catalog) -> None:
    for warning in known.warnings:
        log.warning("file_doubtful", detail=warning)


def _delivers(config: settings.Settings) -> bool:
    """Whether this worker sends webhooks. Without a secret it could not sign them."""
    return bool(config.webhook_secrets and config.webhook_concurrency)


def _deliverer(config: settings.Settings, registration: Registration) -> Deliverer | None:
    if not _delivers(config):
        return None
    # Imported only here: its HTTP client takes 0.1 s and 10 MB.
    from app.worker.webhooks.sender import Sender

    return Deliverer(config, registration, Sender(config))


def _child(config: settings.Settings, known: Catalog, slots: int) -> ChildConfig:
    return ChildConfig(config, known, slots, silence_seconds=config.lease * FENCE_SHARE)


async def _store_answers(config: settings.Settings, stop: asyncio.Event) -> bool:
    """Waits for the store, however long that takes. Returns False if the shutdown came first.

    Raises `ConfigurationError` if a newer version of the service has written to the store.
    """
    outage, client = OutageLog(), connection.connect(config)
    try:
        while not stop.is_set():
            try:
                await asyncio.to_thread(refuse_newer_format, client)
                outage.done("start")
                return True
            except (StoreUnavailable, RuntimeError) as error:
                # RuntimeError: the machine has no room for another thread.
                outage.refused("start", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
        return False
    finally:
        client.close()
