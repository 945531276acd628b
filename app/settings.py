"""Defines all settings: one frozen object, read from the environment and checked once.

Every process calls `load()` at its start, and ends if a value is wrong: the message names each
wrong variable, what is wrong with it and what is allowed. `python -m app.settings` prints every
setting with its value, its limits and its default; `--table` prints the tables of the README.

No file is read here. `make run` and the `flask` command load `.env` into their own environment, so
a `.env` that was left on a production server has no effect on gunicorn and the workers.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import environs
from marshmallow import ValidationError

from app.domain.errors import ConfigurationError
from app.domain.key import chosen_keys, parse_environment
from app.domain.webhook_secret import secrets_of
from app.setting_checks import (
    Setting,
    checks_of,
    http_url,
    long_secret,
    misspelt,
    origins,
    pauses,
    rate,
    settings_of,
    store_url,
    webhook_secrets,
)
from app.setting_texts import listing, refusal, tables

ROOT = Path(__file__).resolve().parent.parent

MIB = 1024 * 1024
DAY = 86_400


def _setting(default: Any, env: str, help: str, *, group: str, **check: Any) -> Any:
    """A field of `Settings`: the variable it is read from, its meaning for people, its limits.

    `shown` is printed in place of the default. The value of a `secret` is never printed.
    """
    return field(default=default, metadata={"env": env, "help": help, "group": group, **check})


_shared = partial(_setting, group="store and targets")
_web = partial(_setting, group="web")
_worker = partial(_setting, group="worker")
_limit = partial(_setting, group="limits")
_retention = partial(_setting, group="retention")
_model = partial(_setting, group="models")
_webhooks = partial(_setting, group="webhooks")
_operations = partial(_setting, group="operations")


def _api_keys(text: str) -> None:
    """tenant:key,tenant:key, where each key has at least 16 characters"""
    try:
        parse_environment(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None
    # A check sees one variable only, so the other one is read from the environment. With AUTH=off
    # no request needs these keys, while whoever set them believes the service protected.
    if os.environ.get("AUTH") == "off":
        raise ValidationError("API_KEYS cannot be used with AUTH=off. Remove one of the two.")


@dataclass(frozen=True, slots=True)
class Settings:
    """The service's settings, in groups. Durations are in seconds, sizes in bytes."""

    redis_url: str = _shared(
        "redis://127.0.0.1:6379/0",
        "REDIS_URL",
        "The Redis or Valkey store: a `redis://`, `rediss://`, `unix://` or `sentinel://` address.",
        secret=True,  # it may hold a password
        check=store_url,
    )
    redis_tls_verify: bool = _shared(
        True,
        "REDIS_TLS_VERIFY",
        "`0` accepts a self-signed certificate on `rediss://`, which Heroku's store uses.",
    )
    agents_path: tuple[Path, ...] = _shared(
        (ROOT / "agents",),
        "AGENTS_PATH",
        "Folders that hold agents, separated as in `PATH`.",
    )
    pipelines_path: tuple[Path, ...] = _shared(
        (ROOT / "pipelines",),
        "PIPELINES_PATH",
        "Folders that hold pipelines, separated as in `PATH`.",
    )

    host: str | None = _web(
        None,
        "HOST",
        "The address to listen on. Default: `0.0.0.0` if `API_KEYS` or `AUTH` is set, else "
        "`127.0.0.1`.",
    )
    port: int = _web(8000, "PORT", "The port to listen on.", min=1, max=65_535)
    web_concurrency: int = _web(2, "WEB_CONCURRENCY", "The number of web processes.", min=1, max=64)
    web_connections: int = _web(
        5000,
        "WEB_CONNECTIONS",
        "Maximum number of client connections to one web process.",
        min=8,
        max=100_000,
    )
    max_wait: float = _web(
        60.0,
        "MAX_WAIT",
        "Seconds that a request may wait for an execution's end or change, whatever it asks for. "
        "Lower it below the limit of a router in front: Heroku's is 30. `0`: no request waits.",
        min=0,
        max=3600,
    )
    max_waiters: int = _web(
        2000,
        "MAX_WAITERS",
        "Requests of one web process that may wait at the same time, and at most two fifths of "
        "`WEB_CONNECTIONS`; a further one is answered at once. `0`: no request waits.",
        min=0,
        max=50_000,
    )
    max_streams: int = _web(
        2000,
        "MAX_STREAMS",
        "Event streams that one web process keeps open, and at most two fifths of "
        "`WEB_CONNECTIONS`; a further one ends once it has sent what there is, and its client "
        "comes back later.",
        min=0,
        max=50_000,
    )
    cors_origins: str | None = _web(
        None,
        "CORS_ORIGINS",
        "Web pages that may call the API from a browser, such as `https://app.example.com`: their "
        "origins, with commas between. `*`: all pages. Default: none.",
        check=origins,
    )
    ui: bool = _web(
        True,
        "UI",
        "`off` leaves out the dashboard: the page `/` and those under `/ui/`.",
        shown="on",
    )
    secret_key: str | None = _web(
        None,
        "SECRET_KEY",
        "Signs the sessions of the dashboard; at least 32 characters. Set the same one on every "
        "machine. Default: a random one for each start of the web processes, which ends all "
        "sessions.",
        secret=True,
        check=long_secret,
    )
    auth: str | None = _web(
        None,
        "AUTH",
        "`keys`: every request needs an API key, created by `flask keys` or listed in `API_KEYS`. "
        "`off`: no request needs one, whoever sends it. Default: `keys` if `API_KEYS` is set; "
        "otherwise no request needs a key, and the server listens on localhost only.",
        one_of=("keys", "off"),
    )
    api_keys: str | None = _web(
        None,
        "API_KEYS",
        "API keys set directly: `tenant:key,tenant:key`; a key without a tenant belongs to the "
        "tenant `default`. They have the scopes start, read and cancel. At least 16 characters "
        "each.",
        secret=True,
        check=_api_keys,
        several_words=True,
    )

    worker_threads: int = _worker(
        100,
        "WORKER_THREADS",
        "How many executions that mostly wait (prompts, `async` flows) run at once, in the "
        "worker's one process for threads. `0`: none.",
        min=0,
        max=5000,
    )
    worker_processes: int = _worker(
        os.cpu_count() or 1,
        "WORKER_PROCESSES",
        "How many executions that compute run at once, in one warm process each. `0`: none.",
        shown="one per core",  # the README must not depend on the machine that it is checked on
        min=0,
        max=256,
    )
    runs_per_process: int = _worker(
        1000,
        "RUNS_PER_PROCESS",
        "A warm process is replaced after this many executions.",
        min=1,
        max=1_000_000,
    )
    process_memory_limit: int = _worker(
        1024 * MIB,
        "PROCESS_MEMORY_LIMIT",
        "A warm process that uses more bytes than this after a run is replaced.",
        min=64 * MIB,
        max=1 << 40,
    )
    lease: float = _worker(
        12.0,
        "LEASE",
        "Seconds without a heartbeat after which a worker counts as lost. It sends three in this "
        "time.",
        min=1,
        max=600,
    )
    child_hung_seconds: float = _worker(
        5.0,
        "CHILD_HUNG_SECONDS",
        "Seconds without an answer after which a process for threads counts as hung and is "
        "replaced.",
        min=1,
        max=3600,
    )
    cancel_grace: float = _worker(
        2.0,
        "CANCEL_GRACE",
        "Seconds that a running flow has to react to a cancel before it is killed.",
        min=0,
        max=60,
    )
    shutdown_grace: float = _worker(
        20.0,
        "SHUTDOWN_GRACE",
        "Seconds that running executions have to end after SIGTERM. The others go back to the "
        "queue.",
        min=0,
        max=3600,
    )

    max_content_length: int = _limit(
        MIB,
        "MAX_CONTENT_LENGTH",
        "Maximum size of a request body, in bytes.",
        min=1024,
        max=64 * MIB,
    )
    max_text_length: int = _limit(
        MIB // 2,
        "MAX_TEXT_LENGTH",
        "Maximum length of one string in a request body, in characters.",
        min=1024,
        max=64 * MIB,
    )
    max_result_bytes: int = _limit(
        16 * MIB,
        "MAX_RESULT_BYTES",
        "Maximum size of the outputs of one execution, in bytes.",
        min=1024,
        max=256 * MIB,
    )
    max_events: int = _limit(
        5000,
        "MAX_EVENTS",
        "Maximum number of events that are kept of one execution; beyond it the oldest are "
        "dropped.",
        min=10,
        max=1_000_000,
    )
    default_timeout: float = _limit(
        600.0,
        "DEFAULT_TIMEOUT",
        "Seconds that a run may take if the request sets no `config.timeout`.",
        min=1,
        max=DAY,
    )
    max_unfinished: int = _limit(
        0,
        "MAX_UNFINISHED_PER_TENANT",
        "Pending and running executions that a tenant may have; a further start gets 429. `0`: no "
        "limit.",
        min=0,
        max=100_000_000,
    )
    max_retried_bytes: int = _limit(
        256 * MIB,
        "MAX_RETRIED_BYTES_PER_TENANT",
        "Bytes of inputs and step outputs that a tenant's retries may copy; a further retry gets "
        "429. `0`: no limit.",
        min=0,
        max=2**50,
    )
    max_queue_length: int = _limit(
        100_000,
        "MAX_QUEUE_LENGTH",
        "Executions that may wait in each of the two queues (prompts, code); a further start gets "
        "503. `0`: no limit.",
        min=0,
        max=100_000_000,
    )
    max_queue_age: float = _limit(
        0.0,
        "MAX_QUEUE_AGE",
        "While the oldest execution in a queue has waited longer than this many seconds, a start "
        "gets 503. `0`: no limit.",
        min=0,
        max=30 * DAY,
    )
    rate_limit_start: str | None = _limit(
        None,
        "RATE_LIMIT_START",
        "Starts that one caller may send, such as `100/minute` or `5/second;1000/day`.",
        check=rate,
    )
    rate_limit_cancel: str | None = _limit(
        None, "RATE_LIMIT_CANCEL", "Cancels that one caller may send.", check=rate
    )
    rate_limit_read: str | None = _limit(
        None,
        "RATE_LIMIT_READ",
        "Reads of each endpoint that one caller may send. Clients poll, so be generous.",
        check=rate,
    )

    retention: float = _retention(
        7.0 * DAY,
        "RETENTION",
        "Seconds for which an ended execution is kept.",
        min=1,
        max=3650 * DAY,
    )
    retention_completed: float | None = _retention(
        None,
        "RETENTION_COMPLETED",
        "The same for completed executions only. Default: `RETENTION`.",
        min=1,
        max=3650 * DAY,
    )
    retention_failed: float | None = _retention(
        None,
        "RETENTION_FAILED",
        "The same for failed executions only. Default: `RETENTION`.",
        min=1,
        max=3650 * DAY,
    )
    retention_cancelled: float | None = _retention(
        None,
        "RETENTION_CANCELLED",
        "The same for cancelled executions only. Default: `RETENTION`.",
        min=1,
        max=3650 * DAY,
    )
    idempotency_ttl: float = _retention(
        1.0 * DAY,
        "IDEMPOTENCY_TTL",
        "Seconds for which an `Idempotency-Key` is kept after its first use.",
        min=1,
        max=30 * DAY,
    )

    openai_base_url: str | None = _model(
        None,
        "OPENAI_BASE_URL",
        "The address of an OpenAI-compatible server. Default: OpenAI's own.",
        check=http_url,
    )
    openai_api_key: str | None = _model(
        None, "OPENAI_API_KEY", "The key for that server.", secret=True
    )
    openai_model_name: str = _model(
        "gpt-4o-mini", "OPENAI_MODEL_NAME", "The model of flows that do not name one."
    )
    model_timeout: float = _model(
        120.0,
        "MODEL_TIMEOUT",
        "Seconds that one model call may take, including its retries and the waits between them.",
        min=0.1,
        max=3600,
    )
    model_max_retries: int = _model(
        2,
        "MODEL_MAX_RETRIES",
        "How often a model call is repeated after 429, 5xx or a failed connection.",
        min=0,
        max=10,
    )
    max_retry_after: float = _model(
        3600.0,
        "MAX_RETRY_AFTER",
        "The longest wait, in seconds, that a model's server may ask for. After a longer one, the "
        "normal backoff applies.",
        min=0,
        max=DAY,
    )

    webhook_secret: str | None = _webhooks(
        None,
        "WEBHOOK_SECRET",
        "What webhooks are signed with: `whsec_...`, as `python -m app.admin webhook-secret` makes "
        "it. Several, with commas between, while they are rotated. Without one, a start with a "
        "`callback_url` is refused.",
        secret=True,
        check=webhook_secrets,
        several_words=True,
    )
    webhook_allow_private: bool = _webhooks(
        False,
        "WEBHOOK_ALLOW_PRIVATE",
        "`1` sends webhooks also to private addresses, such as 127.0.0.1, for development: every "
        "caller can then reach what the worker reaches.",
    )
    webhook_concurrency: int = _webhooks(
        200,
        "WEBHOOK_CONCURRENCY",
        "How many webhooks a worker sends at once; a quarter of them to the same host. `0`: none.",
        min=0,
        max=5000,
    )
    webhook_pauses: str = _webhooks(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        "WEBHOOK_PAUSES",
        "Seconds before a webhook that failed is sent again: after the first try, the second, and "
        "so on. After one more try it has failed for good.",
        check=pauses,
    )

    metrics: str | None = _operations(
        None,
        "METRICS",
        "`open`: `/metrics` needs no key. Default: it needs a key with the scope `admin`.",
        one_of=("open",),
    )
    otlp_endpoint: str | None = _operations(
        None,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Where to send spans (OTLP over HTTP); needs requirements-otel.txt. The OpenTelemetry SDK "
        "reads its other `OTEL_*` variables by itself.",
        check=http_url,
    )
    log_level: str = _operations(
        "INFO",
        "LOG_LEVEL",
        "The level from which log lines are written.",
        one_of=("DEBUG", "INFO", "WARNING", "ERROR"),
    )

    @property
    def keys_required(self) -> bool:
        return self.auth == "keys" or self.api_keys is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The API keys, and the secrets of sessions and webhooks, which the log must mask wherever
        they are.
        """
        return (*chosen_keys(self.api_keys or ""), self.secret_key or "", *self.webhook_secrets)

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        return secrets_of(self.webhook_secret or "")

    @property
    def most_waiters(self) -> int:
        """How many requests of a web process may wait."""
        return min(self.max_waiters, self._two_fifths_of_connections)

    @property
    def most_streams(self) -> int:
        """How many streams a web process keeps open."""
        return min(self.max_streams, self._two_fifths_of_connections)

    @property
    def _two_fifths_of_connections(self) -> int:
        # If all places of both kinds are taken, a fifth is still there for all other requests.
        return self.web_connections * 2 // 5

    @property
    def may_be_reached(self) -> bool:
        """Whether the operator decided who may use the service, so others may reach it."""
        return self.keys_required or self.auth == "off"

    def retention_for(self, status: str) -> float:
        """Returns for how many seconds an execution that ended in `status` is kept."""
        own: float | None = getattr(self, f"retention_{status}")
        return self.retention if own is None else own


def load() -> Settings:
    """Reads the environment. Raises `ConfigurationError` with a line for each wrong variable."""
    # `eager=False` collects the mistakes of all variables; `seal` raises them together.
    env = environs.Env(eager=False)
    known = settings_of(Settings)
    values = {setting.name: _read(env, setting) for setting in known}
    try:
        env.seal()
    except environs.EnvValidationError as error:
        by_variable = {setting.variable: setting for setting in known}
        reasons = cast(dict[str, list[str]], error.error_messages)
        lines = [refusal(by_variable[name], reasons[name]) for name in sorted(reasons)]
        raise ConfigurationError("\n".join(lines)) from None
    return Settings(**values)


def _read(env: environs.Env, setting: Setting) -> Any:
    # Compose files and CI systems pass unset variables on as empty ones: empty counts as not set.
    if not os.environ.get(setting.variable):
        return setting.default
    checks = checks_of(setting)
    if setting.is_list:
        paths = env.list(setting.variable, subcast=Path, delimiter=os.pathsep, validate=checks)
        return tuple(paths or ())  # None if it was refused
    return getattr(env, setting.kind.__name__)(setting.variable, validate=checks)


def warnings() -> list[tuple[str, str]]:
    """Returns variables that look like a misspelt setting, each with the setting's name."""
    return list(misspelt(os.environ, [setting.variable for setting in settings_of(Settings)]))


def main() -> None:
    """Prints every setting; with `--table`, the tables of the README."""
    if "--table" in sys.argv:
        print("\n".join(tables(Settings)).strip())
        return
    try:
        settings = load()
    except ConfigurationError as error:
        sys.exit(str(error))
    print("\n".join(listing(settings)).strip())
    for variable, setting in warnings():
        print(f"Unknown variable {variable}. Did you mean {setting}?", file=sys.stderr)


if __name__ == "__main__":
    main()
