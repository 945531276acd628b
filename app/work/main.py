"""Puts the workers of one machine together and runs them until a signal. See `worker.py`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sys
from functools import partial

import redis
import structlog

from app import catalog, garbage, logs, settings, tracing
from app.catalog.model import Catalog
from app.errors import ConfigurationError
from app.executions import connection
from app.executions.store import QUEUES
from app.work.child import ChildConfig, adopt_orphans
from app.work.child_handle import zygote
from app.work.outage import RETRY_STORE_SECONDS, OutageLog
from app.work.pool import Pool
from app.work.worker import FENCE_SHARE, ExecutionWorker

log = structlog.get_logger(__name__)


def main() -> None:
    """Never returns before the end. A mistake in the configuration is one message and exit code 1."""
    try:
        _read_options()
        config = settings.load()
        if not config.worker_threads + config.worker_processes:
            raise ConfigurationError("WORKER_THREADS and WORKER_PROCESSES are both 0: this worker would run nothing.")
        os.environ.pop("API_KEYS", None)  # flows see this environment, and only the web asks for keys
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
        importlib.import_module(name)  # half a second, and 20 MB: once, before all children are forked
    garbage.settle()  # for all that is forked, too
    adopt_orphans()
    zygote.start()
    asyncio.run(_work(config))


def _read_options() -> None:
    """They go before the variables they stand for, and are checked like these."""
    parser = argparse.ArgumentParser(description="Runs executions until SIGTERM or Ctrl-C.")
    parser.add_argument("--threads", help="as WORKER_THREADS")
    parser.add_argument("--processes", help="as WORKER_PROCESSES")
    options = parser.parse_args()
    for name, value in (("WORKER_THREADS", options.threads), ("WORKER_PROCESSES", options.processes)):
        if value is not None:
            os.environ[name] = value


async def _work(config: settings.Settings) -> None:
    client = connection.connect(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)  # what is to be read, is read below
    if not await _store_answers(client, stop):
        return
    traces = tracing.connect(config)
    known = catalog.load(config.agents_path, config.pipelines_path)
    workers = [
        ExecutionWorker(QUEUES[isolation], client, config, partial(Pool, _child(config, known, slots), size), traces)
        for isolation, slots, size in (("thread", config.worker_threads, 1), ("process", 1, config.worker_processes))
        if slots and size
    ]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, config, workers)
    log.info("worker_started", threads=config.worker_threads, processes=config.worker_processes)
    running = [asyncio.ensure_future(worker.run()) for worker in workers]
    await asyncio.wait({*running, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        worker.request_shutdown()
    await asyncio.gather(*running)
    traces.close()


def _reload(config: settings.Settings, workers: list[ExecutionWorker]) -> None:
    """SIGHUP: reads the agents and pipelines again. With a mistake in one of them all stay as they were."""
    try:
        known = catalog.load(config.agents_path, config.pipelines_path)
    except ConfigurationError as error:
        log.error("reload_refused", reason=str(error))
        return
    for worker in workers:
        worker.renew(known)
    log.info("reloaded", agents=len(known.agents), pipelines=len(known.pipelines))


def _child(config: settings.Settings, known: Catalog, slots: int) -> ChildConfig:
    return ChildConfig(config, known, slots, silence_seconds=config.lease * FENCE_SHARE)


async def _store_answers(client: redis.Redis, stop: asyncio.Event) -> bool:
    """Waits for the store, however long that takes; False where the shutdown came first."""
    outage = OutageLog()
    while not stop.is_set():
        try:
            client.ping()
            outage.done("start")
            return True
        except (redis.RedisError, OSError) as error:
            outage.refused("start", error)
            await asyncio.sleep(RETRY_STORE_SECONDS)
    return False
