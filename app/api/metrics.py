"""Defines the service's Prometheus metrics, and builds them from a snapshot of the store.

`app.api.operations` serves them at `/metrics`. All counters are kept in the store, so any web
process can answer for all processes. The number of series is bounded: a target or model that the
catalog does not know counts under an empty label, only workers that are alive have one, and tenants
and executions are never labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from app.domain.errors import StoreUnavailable
from app.store.counters import BOUNDS_MS
from app.store.statistics import Snapshot

Labels = tuple[str, ...]

_OUTCOMES = ("lost", "retried", "handed_back")
"""Present from the start with 0: an alert on an increase misses the first event of a new series."""

_DELIVERY_OUTCOMES = ("delivered", "failed", "stopped", "expired")

_DELIVERY_GAUGES = (
    (
        "webhook_deliveries_undelivered",
        "Webhook deliveries that have not ended, those that wait for their next try included.",
        "undelivered",
    ),
    (
        "webhook_delivery_oldest_seconds",
        "How long the oldest of them has been undelivered.",
        "oldest_seconds",
    ),
    ("webhook_queue_length", "Webhook deliveries in the queue, waiting for a worker.", "queued"),
    (
        "webhook_queue_oldest_seconds",
        "How long the oldest of these has waited for a worker.",
        "queue_oldest_seconds",
    ),
)

_QUEUE_GAUGES = (
    ("execution_queue_length", "Executions in the queue, waiting for a worker.", "length"),
    (
        "execution_queue_oldest_seconds",
        "How long the oldest queued execution has waited.",
        "oldest_seconds",
    ),
    ("execution_workers", "Live workers of the queue.", "workers"),
    ("execution_worker_slots", "How many executions the workers can run at once.", "slots"),
    ("execution_worker_slots_used", "How many executions the workers run now.", "used"),
)

_WORKER_GAUGES = (
    ("execution_slots", "How many executions this worker can run at once.", "slots_of"),
    ("execution_slots_used", "How many executions this worker runs now.", "used_of"),
)
"""By worker. They have names of their own, so that a sum over the others stays what it is."""


class StoreCollector(Collector):
    """Reads the store at each scrape. If it does not answer, `execution_store_up` 0 is the only
    metric.
    """

    def __init__(
        self, read: Callable[[], Snapshot], targets: Collection[str], models: Collection[str]
    ):
        self._read = read
        self._targets = frozenset(targets)
        self._models = frozenset(models)

    def collect(self) -> Iterator[Metric]:
        try:
            snapshot: Snapshot | None = self._read()
        except StoreUnavailable:
            snapshot = None
        up = int(snapshot is not None)
        yield GaugeMetricFamily(
            "execution_store_up", "Whether the store answered this scrape.", value=up
        )
        if snapshot:
            yield from _gauges(snapshot)
            yield from self._executions(_by_kind(snapshot.counts))
            yield from self._model_calls(_by_kind(snapshot.counts))
            yield from _deliveries(_by_kind(snapshot.counts))
            yield from _http(_by_kind(snapshot.counts))

    def _executions(self, counts: dict[str, list[tuple[str, int]]]) -> Iterator[Metric]:
        created = ((self._target(rest), amount) for rest, amount in counts["c"])
        yield _counter("executions_created", "Accepted executions.", ("type", "target"), created)
        waited = [((queue,), bucket, amount) for queue, bucket, amount in _split(counts["w"])]
        yield _histogram(
            "execution_wait_seconds",
            "From the start request to the start of the first attempt.",
            ("queue",),
            waited,
        )
        ran = [(self._target(rest), bucket, amount) for rest, bucket, amount in _split(counts["r"])]
        labels = ("type", "target", "status")
        yield _histogram(
            "execution_run_seconds", "From the start of the last attempt to the end.", labels, ran
        )
        # Runs are counted in buckets, so their sum is the number of executions that ran and ended.
        ended = [(target, amount) for target, bucket, amount in ran if bucket != "sum"]
        ended += [(self._target(rest), amount) for rest, amount in counts["x"]]
        yield _counter(
            "executions_ended", "Executions that reached their final status.", labels, ended
        )
        how = [
            ((outcome,), amount)
            for outcome, amount in [*counts["a"], *((outcome, 0) for outcome in _OUTCOMES)]
        ]
        text = (
            "Attempts that were lost with their process, retried after a failure, or handed back."
        )
        yield _counter("execution_attempts", text, ("outcome",), how)
        unreadable: list[tuple[Labels, int]] = [
            ((), amount) for _, amount in [*counts["u"], ("", 0)]
        ]
        yield _counter(
            "executions_unreadable",
            "Executions that failed because their record could not be read.",
            (),
            unreadable,
        )

    def _model_calls(self, counts: dict[str, list[tuple[str, int]]]) -> Iterator[Metric]:
        def labelled(kind: str) -> Iterable[tuple[Labels, int]]:
            return (((self._model(model),), amount) for model, amount in counts[kind])

        yield _counter(
            "model_calls", "Model calls, failed ones included.", ("model",), labelled("mc")
        )
        yield _counter(
            "model_retries", "Repeated model calls after a 429 or 5xx.", ("model",), labelled("mr")
        )
        tokens = [((model[0], "input"), amount) for model, amount in labelled("mi")]
        tokens += [((model[0], "output"), amount) for model, amount in labelled("mo")]
        yield _counter(
            "model_tokens",
            "Tokens as reported by the model servers.",
            ("model", "direction"),
            tokens,
        )
        errors = [(rest.partition(":"), amount) for rest, amount in counts["mx"]]
        failed = (((self._model(model), error), amount) for (error, _, model), amount in errors)
        yield _counter(
            "model_errors",
            "Failed model calls by the type of their error.",
            ("model", "type"),
            failed,
        )

    def _target(self, rest: str) -> Labels:
        type, target, *status = rest.split(":")
        return (type, target if target in self._targets else "", *status)

    def _model(self, model: str) -> str:
        return model if model in self._models else ""


def _gauges(snapshot: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "executions_running", "Executions that are running now.", value=snapshot.running
    )
    yield GaugeMetricFamily(
        "executions_delayed", "Executions that wait for an automatic retry.", value=snapshot.delayed
    )
    for name, text, attribute in _DELIVERY_GAUGES:
        yield GaugeMetricFamily(name, text, value=getattr(snapshot.deliveries, attribute))
    for name, text, attribute in _QUEUE_GAUGES:
        family = GaugeMetricFamily(name, text, labels=("queue",))
        for queue, state in snapshot.queues.items():
            family.add_metric((queue,), getattr(state, attribute))
        yield family
    for name, text, attribute in _WORKER_GAUGES:
        family = GaugeMetricFamily(name, text, labels=("queue", "worker"))
        for queue, state in snapshot.queues.items():
            for worker, amount in getattr(state, attribute).items():
                family.add_metric((queue, worker), amount)
        yield family


def _deliveries(counts: dict[str, list[tuple[str, int]]]) -> Iterator[Metric]:
    ended = [*counts["wd"], *((outcome, 0) for outcome in _DELIVERY_OUTCOMES)]
    yield _counter(
        "webhook_deliveries",
        "Webhook deliveries that ended.",
        ("outcome",),
        (((outcome,), amount) for outcome, amount in ended),
    )
    yield _counter(
        "webhook_tries",
        "Tries of webhook deliveries, by the status that the receiver answered.",
        ("answer",),
        (((answer,), amount) for answer, amount in counts["wt"]),
    )


def _http(counts: dict[str, list[tuple[str, int]]]) -> Iterator[Metric]:
    requests = [(rest.split(":", 2), amount) for rest, amount in counts["h"]]
    answered = (((route, method, status), amount) for (method, status, route), amount in requests)
    yield _counter("http_requests", "Answered requests.", ("route", "method", "status"), answered)
    durations = [(rest.split(":", 2), amount) for rest, amount in counts["d"]]
    took = [((route, method), bucket, amount) for (method, bucket, route), amount in durations]
    text = "From the arrival of a request in the application to its answer."
    yield _histogram("http_request_duration_seconds", text, ("route", "method"), took)


def _by_kind(counts: dict[str, int]) -> dict[str, list[tuple[str, int]]]:
    """Groups the store's counters by the kind before the first colon: kind -> (rest, amount)."""
    kinds: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for field, amount in counts.items():
        kind, _, rest = field.partition(":")
        kinds[kind].append((rest, amount))
    return kinds


def _split(counts: list[tuple[str, int]]) -> Iterator[tuple[str, str, int]]:
    """Splits off the bucket, which is the part after the last colon."""
    for labels, amount in counts:
        rest, _, bucket = labels.rpartition(":")
        yield rest, bucket, amount


def _counter(name: str, text: str, labels: Labels, amounts: Iterable[tuple[Labels, int]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    sums: dict[Labels, int] = defaultdict(int)  # unknown targets share one series
    for values, amount in amounts:
        sums[values] += amount
    for values, amount in sums.items():
        family.add_metric(values, amount)
    return family


def _histogram(
    name: str, text: str, labels: Labels, amounts: Iterable[tuple[Labels, str, int]]
) -> Metric:
    """Converts counts per bucket to Prometheus' form, where a bucket includes all lower ones."""
    family = HistogramMetricFamily(name, text, labels=labels)
    series: dict[Labels, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for values, bucket, amount in amounts:
        series[values][bucket] += amount
    for values, buckets in series.items():
        bounds = [*map(str, BOUNDS_MS), "inf"]
        totals = accumulate(buckets[bound] for bound in bounds)
        shown = [*(f"{bound / 1000:g}" for bound in BOUNDS_MS), "+Inf"]
        family.add_metric(values, list(zip(shown, totals, strict=True)), buckets["sum"] / 1_000_000)
    return family
