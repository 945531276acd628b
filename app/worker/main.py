"""Puts the workers of one machine together and runs them until a signal. See `worker.py`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import secrets
import signal
import sys

import redis
import structlog

from app import catalog, settings
from app.catalog.model import Catalog
from app.domain.errors import ConfigurationError
from app.process import file_limit, gc_tuning
from app.store import connection
from app.store.executions import QUEUES
from app.telemetry import logs, tracing
from app.worker.bulkhead import Bulkhead
from app.worker.child import ChildConfig, adopt_orphans
from app.worker.forkserver import Forkserver
from app.worker.orphans import OrphanSweeper
from app.worker.outage import RETRY_STORE_SECONDS, OutageLog
from app.worker.pool import Pool
from app.worker.watchdog import Watchdog
from app.worker.worker import FENCE_SHARE, ExecutionWorker

FILES_PER_THREAD, OTHER_FILES = 8, 1024
"""Open files that a process may need: for each flow in a thread its connections, and all the rest.
"""

log = structlog.get_logger(__name__)


def main() -> None:
    """Never returns before the end. A mistake in the configuration is one message and exit code 1."""
    try:
        _read_options()
        config = settings.load()
        if not config.worker_threads + config.worker_processes:
            raise ConfigurationError(
                "WORKER_THREADS and WORKER_PROCESSES are both 0: this worker would run nothing."
            )
        os.environ.pop(
            "API_KEYS", None
        )  # flows see this environment, and only the web asks for keys
        logs.configure(config.log_level, config.secrets)
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
        importlib.import_module(
            name
        )  # half a second, and 20 MB: once, before all children are forked
    gc_tuning.settle()  # for all that is forked, too
    file_limit.raise_to(
        OTHER_FILES + FILES_PER_THREAD * config.worker_threads
    )  # inherited by all children
    adopt_orphans()
    forkserver = Forkserver()
    try:
        forkserver.start()
    except OSError as error:
        raise ConfigurationError(f"No process can be started here: {error}.") from error
    runner = asyncio.Runner()
    try:
        runner.run(_work(config, forkserver))
    finally:
        with contextlib.suppress(
            RuntimeError
        ):  # it starts a thread to wait for threads, and there may be no room
            runner.close()


def _read_options() -> None:
    """They go before the variables they stand for, and are checked like these."""
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
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, lambda: None
    )  # what is to be read, is read below
    if not await _store_answers(config, stop):
        return
    traces = tracing.connect(config)
    known = catalog.load(config.agents_path, config.pipelines_path)
    orphans, bulkhead, process = OrphanSweeper(forkserver), Bulkhead(), secrets.token_hex(6)
    workers = [
        ExecutionWorker(
            QUEUES[isolation],
            client,
            config,
            Pool(_child(config, known, slots), size, forkserver, orphans, bulkhead),
            traces,
            process,
        )
        for isolation, slots, size in (
            ("thread", config.worker_threads, 1),
            ("process", 1, config.worker_processes),
        )
        if slots and size
    ]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, Reloader(config, workers).request)
    log.info("worker_started", threads=config.worker_threads, processes=config.worker_processes)
    watchdog = Watchdog()
    watchdog.start()
    sweeping = asyncio.ensure_future(orphans.sweep_for_life())
    running = [asyncio.ensure_future(worker.run()) for worker in workers]
    await asyncio.wait(
        {*running, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    for worker in workers:
        worker.request_shutdown()
    ends = await asyncio.gather(
        *running, return_exceptions=True
    )  # an error of one costs no other its shutdown
    sweeping.cancel()
    watchdog.close()
    traces.close()
    for end in ends:
        if isinstance(end, BaseException):
            raise end


class Reloader:
    """SIGHUP: reads the agents and pipelines again, in a thread: nothing waits for the files.

    With a mistake in one of them all stay as they were. Signals that come meanwhile lead to one
    more reading.
    """

    def __init__(self, config: settings.Settings, workers: list[ExecutionWorker]):
        self._config, self._workers = config, workers
        self._wanted = False
        self._reading: asyncio.Task[None] | None = None

    def request(self) -> None:
        """For a signal handler of the event loop."""
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
            except (
                ConfigurationError,
                RuntimeError,
            ) as error:  # the latter: no thread can be started just now
                log.error("reload_refused", reason=str(error))
                continue
            for worker in self._workers:
                worker.renew(known)
            log.info("reloaded", agents=len(known.agents), pipelines=len(known.pipelines))


def _child(config: settings.Settings, known: Catalog, slots: int) -> ChildConfig:
    return ChildConfig(config, known, slots, silence_seconds=config.lease * FENCE_SHARE)


async def _store_answers(config: settings.Settings, stop: asyncio.Event) -> bool:
    """Waits for the store, however long that takes; False if the shutdown came first."""
    outage, client = OutageLog(), connection.connect_async(config)
    try:
        while not stop.is_set():
            try:
                await client.ping()
                outage.done("start")
                return True
            except (redis.RedisError, OSError) as error:
                outage.refused("start", error)
                await asyncio.sleep(RETRY_STORE_SECONDS)
        return False
    finally:
        await client.aclose()
