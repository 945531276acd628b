"""All settings: one frozen object, read from the environment and checked once.

A wrong value stops the start with the variable's name, what is wrong and what is allowed; all mistakes
are reported at once. `python -m app.settings` prints every setting with its value, its default and its limits.
No file is read here: `make run` and the `flask` command read `.env` into their own environment, so one that
lies about in production changes nothing for gunicorn and the workers.
"""

from __future__ import annotations

import os
import sys
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import environs
from marshmallow import ValidationError

from app.errors import ConfigurationError
from app.keys.model import chosen_keys, parse_environment
from app.setting_checks import allowed, checks_of, http_url, kind_of, misspelt, rate, store_url

ROOT = Path(__file__).resolve().parent.parent


def _setting(default: Any, env: str, help: str, **check: Any) -> Any:
    """A field of `Settings`: the variable it is read from, its meaning for people, and its limits."""
    return field(default=default, metadata={"env": env, "help": help, **check})


def _api_keys(text: str) -> None:
    """tenant:key,tenant:key, each key of 16 characters or more"""
    try:
        parse_environment(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None
    if os.environ.get("AUTH") == "off":
        raise ValidationError("Keys make no sense with AUTH=off: take one of the two away.")


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations are in seconds, sizes in bytes."""

    redis_url: str = _setting(
        "redis://127.0.0.1:6379/0",
        "REDIS_URL",
        "The store. `redis://`, `rediss://`, `unix://` or `sentinel://`.",
        secret=True,
        check=store_url,
    )
    redis_tls_verify: bool = _setting(
        True, "REDIS_TLS_VERIFY", "`0` accepts a self-signed certificate on `rediss://` (Heroku)."
    )
    auth: str | None = _setting(
        None,
        "AUTH",
        "`keys`: every request needs a key, of `flask keys` or `API_KEYS`. `off`: none does, whoever asks. "
        "Default: `keys` with `API_KEYS`; without, none does, and only this machine is served.",
        one_of=("keys", "off"),
    )
    api_keys: str | None = _setting(
        None,
        "API_KEYS",
        "Keys without a command: `tenant:key,tenant:key`, or a key alone for the tenant `default`. "
        "They may start, read and cancel. At least 16 characters each.",
        secret=True,
        check=_api_keys,
        several_words=True,
    )
    metrics: str | None = _setting(
        None, "METRICS", "`open`: `/metrics` needs no key. Default: one with the scope `admin`.", one_of=("open",)
    )
    agents_path: tuple[Path, ...] = _setting(
        (ROOT / "agents",), "AGENTS_PATH", "Folders of agents, separated like `PATH`."
    )
    pipelines_path: tuple[Path, ...] = _setting(
        (ROOT / "pipelines",), "PIPELINES_PATH", "Folders of pipelines, separated like `PATH`."
    )
    host: str | None = _setting(
        None, "HOST", "The address that the web listens on. Default: 0.0.0.0 with `API_KEYS` or `AUTH`, else 127.0.0.1."
    )
    port: int = _setting(8000, "PORT", "Its port.", min=1, max=65_535)
    web_concurrency: int = _setting(2, "WEB_CONCURRENCY", "Web processes.", min=1, max=64)
    web_connections: int = _setting(
        4000, "WEB_CONNECTIONS", "Clients connected to each of them, most of them waiting.", min=8, max=100_000
    )
    max_content_length: int = _setting(
        1024 * 1024, "MAX_CONTENT_LENGTH", "Largest request body, in bytes.", min=1024, max=64 * 1024 * 1024
    )
    max_text_length: int = _setting(
        512 * 1024, "MAX_TEXT_LENGTH", "Longest single text in a body, in characters.", min=1024, max=64 * 1024 * 1024
    )
    max_result_bytes: int = _setting(
        16 * 1024 * 1024,
        "MAX_RESULT_BYTES",
        "Largest outputs of one execution, in bytes.",
        min=1024,
        max=256 * 1024 * 1024,
    )
    default_timeout: float = _setting(
        600.0, "DEFAULT_TIMEOUT", "Seconds a run may take where `config.timeout` says nothing.", min=1, max=86_400
    )
    worker_threads: int = _setting(
        100,
        "WORKER_THREADS",
        "Executions that wait on models, at once, in one worker's thread process. `0`: none.",
        min=0,
        max=5000,
    )
    worker_processes: int = _setting(
        os.cpu_count() or 1,
        "WORKER_PROCESSES",
        "Executions that compute, at once: one warm process each. `0`: none.",
        shown="one per core",
        min=0,
        max=256,
    )
    runs_per_process: int = _setting(
        1000, "RUNS_PER_PROCESS", "A warm process is replaced after so many executions.", min=1, max=1_000_000
    )
    process_memory_limit: int = _setting(
        1024 * 1024 * 1024,
        "PROCESS_MEMORY_LIMIT",
        "A warm process that holds more bytes than this after a run is replaced.",
        min=64 * 1024 * 1024,
        max=1 << 40,
    )
    lease: float = _setting(
        12.0,
        "LEASE",
        "Seconds without a heartbeat after which a worker counts as lost; it beats three times in that.",
        min=1,
        max=600,
    )
    child_hung_seconds: float = _setting(
        5.0,
        "CHILD_HUNG_SECONDS",
        "A process of threads that does not answer its worker for so many seconds counts as hung and is replaced.",
        min=1,
        max=3600,
    )
    cancel_grace: float = _setting(
        2.0, "CANCEL_GRACE", "Seconds a running flow has to react to a cancel before it is killed.", min=0, max=60
    )
    shutdown_grace: float = _setting(
        20.0,
        "SHUTDOWN_GRACE",
        "Seconds running executions have to end after SIGTERM before they are handed back.",
        min=0,
        max=3600,
    )
    retention: float = _setting(
        7 * 86_400.0, "RETENTION", "Seconds an ended execution is kept.", min=1, max=10 * 365 * 86_400
    )
    retention_completed: float | None = _setting(
        None,
        "RETENTION_COMPLETED",
        "The same for completed ones alone; default RETENTION.",
        min=1,
        max=10 * 365 * 86_400,
    )
    retention_failed: float | None = _setting(
        None, "RETENTION_FAILED", "The same for failed ones alone; default RETENTION.", min=1, max=10 * 365 * 86_400
    )
    retention_cancelled: float | None = _setting(
        None,
        "RETENTION_CANCELLED",
        "The same for cancelled ones alone; default RETENTION.",
        min=1,
        max=10 * 365 * 86_400,
    )
    max_unfinished: int = _setting(
        0,
        "MAX_UNFINISHED_PER_TENANT",
        "Pending and running executions a tenant may have; one more is 429. `0`: no limit.",
        min=0,
        max=100_000_000,
    )
    max_retried_bytes: int = _setting(
        256 * 1024 * 1024,
        "MAX_RETRIED_BYTES_PER_TENANT",
        "Bytes of inputs and step outputs that a tenant's retries may have copied; more is 429. `0`: no limit.",
        min=0,
        max=2**50,
    )
    max_queue_length: int = _setting(
        100_000,
        "MAX_QUEUE_LENGTH",
        "Executions that may wait in a queue (there are two: prompts, code); one more is 503. `0`: no limit.",
        min=0,
        max=100_000_000,
    )
    max_queue_age: float = _setting(
        0.0,
        "MAX_QUEUE_AGE",
        "Seconds the oldest in a queue may have waited; a start is 503 while it is older. `0`: no limit.",
        min=0,
        max=30 * 86_400,
    )
    rate_limit_start: str | None = _setting(
        None, "RATE_LIMIT_START", "Starts of one caller, such as `100/minute` or `5/second;1000/day`.", check=rate
    )
    rate_limit_cancel: str | None = _setting(None, "RATE_LIMIT_CANCEL", "The same for cancels.", check=rate)
    rate_limit_read: str | None = _setting(
        None, "RATE_LIMIT_READ", "The same for reads, by endpoint; clients poll, so be generous.", check=rate
    )
    idempotency_ttl: float = _setting(
        86_400.0, "IDEMPOTENCY_TTL", "Seconds an `Idempotency-Key` is kept after its first use.", min=1, max=30 * 86_400
    )
    openai_base_url: str | None = _setting(
        None, "OPENAI_BASE_URL", "An OpenAI-compatible endpoint; default OpenAI's own.", check=http_url
    )
    openai_api_key: str | None = _setting(None, "OPENAI_API_KEY", "Its key.", secret=True)
    openai_model_name: str = _setting("gpt-4o-mini", "OPENAI_MODEL_NAME", "The model of flows that name none.")
    model_timeout: float = _setting(
        120.0,
        "MODEL_TIMEOUT",
        "Seconds one model call may take, with its repeats and the waits between them.",
        min=0.1,
        max=3600,
    )
    model_max_retries: int = _setting(
        2,
        "MODEL_MAX_RETRIES",
        "How often a model call is repeated that met 429, 5xx or no connection.",
        min=0,
        max=10,
    )
    max_retry_after: float = _setting(
        3600.0,
        "MAX_RETRY_AFTER",
        "Longest wait, in seconds, that a model's server may ask for; beyond it our own back-off decides.",
        min=0,
        max=86_400,
    )
    otlp_endpoint: str | None = _setting(
        None,
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Where spans are sent (OTLP over HTTP); needs requirements-otel.txt. The SDK reads its other OTEL_* itself.",
        check=http_url,
    )
    log_level: str = _setting(
        "INFO", "LOG_LEVEL", "`DEBUG`, `INFO`, `WARNING` or `ERROR`.", one_of=("DEBUG", "INFO", "WARNING", "ERROR")
    )

    @property
    def keys_required(self) -> bool:
        return self.auth == "keys" or self.api_keys is not None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never stand in a log, beside what looks like a secret."""
        return chosen_keys(self.api_keys or "")

    @property
    def may_be_reached(self) -> bool:
        """Whether it was decided who may use the service, so that others than this machine may reach it."""
        return self.keys_required or self.auth == "off"

    def retention_for(self, status: str) -> float:
        """Seconds an execution that ended in `status` is kept."""
        own: float | None = getattr(self, f"retention_{status}")
        return self.retention if own is None else own


def _read(env: environs.Env, each: Field[Any]) -> Any:
    """One setting from the environment; an empty variable counts as not set."""
    name, kind = each.metadata["env"], kind_of(each)
    if not os.environ.get(name):
        return each.default
    if kind.startswith("tuple"):
        return tuple(env.list(name, subcast=Path, delimiter=os.pathsep, validate=checks_of(each)) or ())
    return getattr(env, kind)(name, validate=checks_of(each))


def load() -> Settings:
    """Reads and checks the environment. Raises `ConfigurationError` with a line for each wrong variable."""
    env = environs.Env(eager=False)
    values = {each.name: _read(env, each) for each in fields(Settings)}
    try:
        env.seal()
    except environs.EnvValidationError as error:
        known = {each.metadata["env"]: each for each in fields(Settings)}
        lines = [
            f"{name}: {' '.join(reasons)} Allowed: {allowed(known[name])}. It means: {known[name].metadata['help']}"
            for name, reasons in sorted(cast(dict[str, list[str]], error.error_messages).items())
        ]
        raise ConfigurationError("\n".join(lines)) from None
    return Settings(**values)


def warnings() -> list[tuple[str, str]]:
    """Variables in the environment that look like a setting misspelt, each with the setting's name."""
    return list(misspelt(os.environ, [each.metadata["env"] for each in fields(Settings)]))


def describe(settings: Settings) -> list[tuple[str, str, str, str]]:
    """Name, value (secrets masked), default and meaning of every setting, for people."""
    defaults = Settings()
    return [
        (
            each.metadata["env"],
            "********"
            if each.metadata.get("secret") and getattr(settings, each.name)
            else _show(getattr(settings, each.name)),
            _show(getattr(defaults, each.name)),
            each.metadata["help"],
        )
        for each in fields(Settings)
    ]


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return os.pathsep.join(
            str(part.relative_to(ROOT)) if part.is_relative_to(ROOT) else str(part) for part in value
        )
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def main() -> None:
    """Prints every setting; with `--table`, as the README has them."""
    if "--table" in sys.argv:
        print("| variable | default | meaning |\n|---|---|---|")
        for each, (name, _, default, meaning) in zip(fields(Settings), describe(Settings()), strict=True):
            shown = each.metadata.get("shown") or (f"`{default}`" if default else "")
            print(f"| `{name}` | {shown} | {meaning} |")
        return
    try:
        settings = load()
    except ConfigurationError as error:
        sys.exit(str(error))
    for each, (name, value, default, meaning) in zip(fields(Settings), describe(settings), strict=True):
        print(f"{name:22} {value:32} (default {default or 'none'}; {allowed(each)}) {meaning}")
    for variable, setting in warnings():
        print(f"{variable} is set, but no setting has this name. Is {setting} meant?", file=sys.stderr)


if __name__ == "__main__":
    main()
