"""`/metrics`: the figures are exact, whichever of several web processes answers."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import redis
import requests
from prometheus_client.parser import text_string_to_metric_families
from rq.utils import utcformat

from app.api.metrics import StoreCollector
from app.domain.errors import StoreUnavailable
from app.settings import Settings
from app.store import scripts
from app.store.counters import BOUNDS_MS, Reports, bucket
from app.store.functions import Functions
from app.store.job_reader import read_time
from app.store.statistics import Statistics
from tests.store.driver import Driver
from tests.support.model_server import Answer, ModelServer
from tests.support.pace import within
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore


class Metrics:
    """A scrape. `metrics("name", label="value")` is the sum of all samples with these labels."""

    def __init__(self, text: str):
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __call__(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scrape(service: Service) -> Metrics:
    """By a new connection, so that any of the web processes may answer."""
    answer = requests.get(f"{service.url}/metrics", timeout=30)
    assert answer.status_code == 200
    return Metrics(answer.text)


def until(service: Service, holds: Callable[[Metrics], bool], seconds: float = 60) -> Metrics:
    deadline = time.monotonic() + seconds
    while not holds(metrics := scrape(service)):
        assert time.monotonic() < deadline, metrics.samples
        time.sleep(0.1)
    return metrics


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


def test_metrics_are_exact_after_every_kind_of_ending_on_three_workers_and_two_web_processes(
    make_service: Callable[..., Service], model: ModelServer
) -> None:
    service = make_service(
        workers=3,
        WEB_CONCURRENCY=2,
        WORKER_PROCESSES=2,
        LEASE=3,
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="x",
    )
    ready = until(
        service, lambda shown: shown("execution_worker_slots") == 3 * (100 + 2)
    )  # as children become ready
    assert (ready("execution_workers"), ready("execution_worker_slots", queue="threads")) == (
        6,
        300,
    )
    retry = {"retries": {"max": 1, "backoff_seconds": [0.1]}}
    ids = [service.start("behaves", {"do": "echo", "text": str(number)}) for number in range(40)]
    ids += [service.start("relay", {"first": {}, "second": {}}, type="pipeline") for _ in range(3)]
    ids += [service.start("behaves", {"do": "fail"}) for _ in range(5)]
    ids += [
        service.start("behaves", {"do": "fail_until", "attempt": 2}, config=retry) for _ in range(4)
    ]
    ids += [service.start("behaves", {"do": "kill", "until_attempt": 2}) for _ in range(3)]
    ids += [service.start("behaves", {"do": "kill"}, config={"max_attempts": 1}) for _ in range(2)]
    stopped = [
        service.start("behaves", {"do": "listen", "seconds": 60}, config={"flow_id": "thread"})
        for _ in "123"
    ]
    for id in stopped:
        service.until(id, "running")
        assert service.cancel(id).status_code == 200
    for id in ids:
        service.ended(id, seconds=60)
    assert (
        requests.get(
            f"{service.url}/api/v1/executions/exec_nothinglikethis", timeout=30
        ).status_code
        == 404
    )
    assert requests.put(f"{service.url}/nowhere/at/all", timeout=30).status_code == 404

    def everything_is_told(metrics: Metrics) -> bool:
        posts = metrics("http_requests_total", route="/api/v1/executions", method="POST")
        return (posts, metrics("http_requests_total", method="PUT")) == (60, 1)

    metrics = until(service, everything_is_told)
    assert metrics("executions_created_total", type="agent", target="behaves") == 57
    assert metrics("executions_created_total", type="pipeline", target="relay") == 3
    assert metrics("executions_ended_total", target="behaves", status="completed") == 40 + 4 + 3
    assert metrics("executions_ended_total", target="behaves", status="failed") == 5 + 2
    assert metrics("executions_ended_total", target="behaves", status="cancelled") == 3
    assert metrics("executions_ended_total", target="relay", status="completed") == 3
    assert metrics("executions_ended_total") == metrics("execution_run_seconds_count") == 60
    assert (
        metrics("execution_wait_seconds_count")
        == metrics("execution_wait_seconds_bucket", le="+Inf")
        == 60
    )
    assert metrics("execution_attempts_total", outcome="retried") == 4
    assert metrics("execution_attempts_total", outcome="lost") == 3 + 2
    assert metrics("execution_attempts_total", outcome="handed_back") == 0
    assert metrics("executions_running") == metrics("execution_queue_length") == 0
    assert metrics("http_requests_total", status="202") == 60
    assert metrics("http_requests_total", route="", method="PUT", status="404") == 1
    assert metrics("http_request_duration_seconds_count", route="/api/v1/executions") == 60
    assert metrics("execution_store_up") == 1
    names = {label for sample in metrics.samples for label in sample.labels}
    shared = {"type", "target", "status", "queue", "le", "outcome", "route", "method"}
    assert names == shared | {"worker"}


def test_model_calls_are_counted_by_model_with_tokens_errors_and_retries(
    make_service: Callable[..., Service], model: ModelServer
) -> None:
    service = make_service(
        OPENAI_BASE_URL=model.url,
        OPENAI_API_KEY="x",
        OPENAI_MODEL_NAME="tiny:8b",
        MODEL_MAX_RETRIES=1,
    )
    ask = {"do": "complete", "text": "?"}
    once = Answer("busy", 500, {"Retry-After-Ms": "10"})
    model.play("one", "two", once, "three", once, once, Answer("no", 400))
    assert [service.run("behaves", ask)["status"] for _ in range(5)] == [
        *["completed"] * 3,
        *["failed"] * 2,
    ]
    service.run("behaves", ask, config={"model_override": "somebody's own"})
    metrics = until(service, lambda metrics: metrics("model_calls_total") == 6)
    assert metrics("model_calls_total", model="tiny:8b") == 5
    assert metrics("model_calls_total", model="") == 1
    assert metrics("model_tokens_total", model="tiny:8b", direction="input") == 33
    assert metrics("model_tokens_total", model="tiny:8b", direction="output") == 15
    assert metrics("model_errors_total", model="tiny:8b", type="ModelUnavailable") == 1
    assert metrics("model_errors_total", model="tiny:8b", type="ModelRejected") == 1
    assert metrics("model_errors_total") == 2
    assert metrics("model_retries_total") == 2


def test_a_worker_and_a_web_process_that_stop_tell_what_they_counted_last(
    make_service: Callable[..., Service], model: ModelServer
) -> None:
    service = make_service(
        LEASE=600, OPENAI_BASE_URL=model.url, OPENAI_API_KEY="x"
    )  # nothing is told meanwhile
    service.run("behaves", {"do": "complete", "text": "?"})
    assert service.web is not None
    service.http.close()
    for process in (service.workers[0], service.web):
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    service.start_web()
    metrics = scrape(service)
    assert metrics("model_calls_total") == 1
    assert metrics("http_requests_total", method="POST", status="202") == 1
    assert metrics("execution_workers") == 0


def test_slots_are_shown_by_worker_as_long_as_it_lives(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=2, LEASE=3, WORKER_THREADS=7)
    shown = until(service, lambda shown: shown("execution_slots") == 2 * (7 + 2))
    assert names(shown) == names(shown, "execution_slots_used")
    assert len(names(shown)) == 4
    id = service.start("behaves", {"do": "listen", "seconds": 60}, config={"flow_id": "thread"})
    shown = until(service, lambda shown: shown("execution_slots_used") == 1)
    [attempt] = service.get(f"/executions/{id}").json()["attempts"]
    own = {"queue": "threads", "worker": attempt["worker"]}
    assert (shown("execution_slots", **own), shown("execution_slots_used", **own)) == (7, 1)
    service.cancel(id)
    service.ended(id)
    dying = service.workers[0]
    dying.kill()
    dying.wait()
    shown = until(service, lambda shown: len(names(shown)) == 2)
    assert shown("execution_slots") == shown("execution_worker_slots") == 7 + 2


def names(shown: Metrics, name: str = "execution_slots") -> set[str]:
    return {sample.labels["worker"] for sample in shown.samples if sample.name == name}


def test_foreign_names_of_workers_share_an_empty_label(redis_client: redis.Redis) -> None:
    for number in range(3):
        Driver(redis_client).note_worker("threads", f"odd name {number} {'x' * 100}", "1/2")
    Driver(redis_client).note_worker("threads", "w1", "3/4")
    state = Statistics(redis_client, Settings()).read().queues["threads"]
    assert (state.slots_of, state.used_of) == ({"": 6, "w1": 4}, {"": 3, "w1": 3})
    assert (state.workers, state.slots, state.used) == (4, 10, 6)


def test_a_store_that_is_away_leaves_one_gauge_and_is_not_forgotten_when_back(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url, workers=0)
    assert service.get("/executions").status_code == 200
    own_store.kill()
    metrics = scrape(service)
    assert {sample.name for sample in metrics.samples} == {"execution_store_up"}
    assert metrics("execution_store_up") == 0
    own_store.start()
    metrics = until(service, lambda metrics: metrics("execution_store_up") == 1)
    assert metrics("http_requests_total", route="/api/v1/executions", status="200") == 1
    assert metrics("http_requests_total", route="/metrics") >= 1


def test_a_frozen_store_delays_a_scrape_by_two_seconds_at_most(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url, workers=0)
    scrape(service)
    own_store.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert scrape(service)("execution_store_up") == 0
        assert time.monotonic() - began < within(2)
    finally:
        own_store.send_signal(signal.SIGCONT)


def test_a_report_whose_answer_was_lost_is_added_once(redis_client: redis.Redis) -> None:
    statistics, reports = Statistics(redis_client, Settings()), Reports()
    reports.add({"a:lost": 2})
    number, arguments = reports.next()
    Functions(redis_client)("count", arguments)  # nobody heard of it, so it comes again
    reports.add({"a:lost": 5})
    assert reports.next() == (number, arguments)
    statistics.add(reports)
    assert statistics.read().counts["a:lost"] == 7
    reports.add({"a:lost": 1})
    reports.next()
    reports.told(number)  # late, and no harm to the next one
    statistics.add(reports)
    assert statistics.read().counts["a:lost"] == 8
    assert redis_client.object("encoding", "exec:metrics") == b"hashtable"


def test_a_transition_that_is_repeated_counts_once(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    id = driver.submit()
    [(_, token)] = driver.claim()
    for _ in range(3):
        driver.finish(id, token)
        driver.release(id, token)
        driver.store.cancel(id, "default")
    counts = Statistics(redis_client, Settings()).read().counts
    assert counts["c:agent:echo"] == 1
    assert (
        sum(
            amount
            for field, amount in counts.items()
            if field.startswith("r:") and ":sum" not in field
        )
        == 1
    )
    assert not [field for field in counts if field.startswith(("a:", "x:"))]


def test_the_first_start_alone_is_a_wait_also_after_a_hand_back(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    id = driver.submit()
    for how in ("handed_back", "failed", "lost"):
        [(_, token)] = driver.claim()
        driver.release(id, token, how)
        driver.let_delays_be_over()
    counts = Statistics(redis_client, Settings()).read().counts
    assert (
        sum(
            amount
            for field, amount in counts.items()
            if field.startswith("w:") and ":sum" not in field
        )
        == 1
    )
    assert [counts[f"a:{how}"] for how in ("handed_back", "retried", "lost")] == [1, 1, 1]


def test_what_ends_while_it_waits_is_counted_without_a_run(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    driver.store.cancel(driver.submit(), "default")
    driver.submit(expires_in_seconds=0.000001)
    time.sleep(0.001)
    driver.claim()
    metrics = observed(redis_client)
    assert metrics("executions_ended_total", status="cancelled") == 1
    assert metrics("executions_ended_total", status="failed") == 1
    assert metrics("execution_run_seconds_count") == metrics("execution_wait_seconds_count") == 0


def test_the_oldest_of_a_queue_is_seen_behind_what_was_moved_up(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    handed_back = driver.submit()
    [(_, token)] = driver.claim()
    time.sleep(0.2)
    driver.submit()
    time.sleep(0.1)
    driver.release(handed_back, token)
    state = Statistics(redis_client, Settings()).read().queues["processes"]
    assert state.length == 2
    assert (
        0.1 <= state.oldest_seconds < 0.2
    )  # the second one's: the first has waited only since it is back


def test_what_somebody_else_wrote_among_the_counters_is_passed_over(
    redis_client: redis.Redis,
) -> None:
    driver = Driver(redis_client)
    driver.submit()
    driver.note_worker("processes", "w1", "1/2")
    driver.note_worker("processes", "w2", "many")
    redis_client.hset("exec:metrics", mapping={"c:agent:x": "many", b"\xff": "1", "a:lost": "2"})
    found = Statistics(redis_client, Settings()).read()
    assert found.counts["a:lost"] == 2
    assert "c:agent:x" not in found.counts
    assert (found.queues["processes"].workers, found.queues["processes"].slots) == (1, 2)


def test_a_killed_counter_key_stops_no_transition(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    redis_client.set("exec:metrics", "garbage")
    id = driver.submit()
    [(_, token)] = driver.claim()
    assert driver.finish(id, token) == "completed"
    assert Statistics(redis_client, Settings()).read().counts == {}


def test_python_and_the_scripts_have_the_same_buckets() -> None:
    [written] = re.findall(r"^local BOUNDS = \{(.*)\}$", scripts.text(), re.MULTILINE)
    assert tuple(map(int, written.split(","))) == BOUNDS_MS


@pytest.mark.parametrize("took_ms", [600, 6000, BOUNDS_MS[-1] + 1])
def test_a_duration_falls_into_the_same_bucket_in_both(
    redis_client: redis.Redis, took_ms: int
) -> None:
    driver = Driver(redis_client)
    id = driver.submit()
    created_at = read_time(redis_client.hget(f"rq:job:{id}", "created_at") or b"") - timedelta(
        milliseconds=took_ms
    )
    times = dict.fromkeys(("created_at", "enqueued_at"), utcformat(created_at))
    redis_client.hset(f"rq:job:{id}", mapping=times)
    driver.claim()
    counts = Statistics(redis_client, Settings()).read().counts
    assert counts[f"w:processes:{bucket(took_ms / 1000)}"] == 1


def test_unknown_targets_and_models_are_added_up_without_a_name(redis_client: redis.Redis) -> None:
    driver = Driver(redis_client)
    for target in ("known", "gone1", "gone2"):
        driver.submit(target_id=target)
    metrics = observed(redis_client)
    assert metrics("executions_created_total", target="known") == 1
    assert metrics("executions_created_total", target="") == 2


def observed(client: redis.Redis) -> Metrics:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(StoreCollector(Statistics(client, Settings()).read, {"known"}, set()))
    return Metrics(generate_latest(registry).decode())


def test_without_a_store_nothing_is_raised() -> None:
    def away() -> None:
        raise StoreUnavailable

    [gauge] = StoreCollector(away, (), ()).collect()  # type: ignore[arg-type]
    assert gauge.samples[0].value == 0
