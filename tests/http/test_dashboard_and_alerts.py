"""The dashboard and the alerts in deploy/ use only metrics that /metrics has, and the docs explain
every alert and every metric.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import Service

ROOT = Path(__file__).resolve().parent.parent.parent
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DOCS = (ROOT / "docs" / "operations.md").read_text()
METRICS_DOCS = DOCS.split("## Metrics")[1].split("## ")[0]

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
LABELS = {
    "executions_created": {"type", "target"},
    "executions_ended": {"type", "target", "status"},
    "execution_wait_seconds": {"queue", "le"},
    "execution_run_seconds": {"type", "target", "status", "le"},
    "execution_attempts": {"outcome"},
    "executions_unreadable": set(),
    "execution_queue_length": {"queue"},
    "execution_queue_oldest_seconds": {"queue"},
    "execution_workers": {"queue"},
    "execution_worker_slots": {"queue"},
    "execution_worker_slots_used": {"queue"},
    "execution_slots": {"queue", "worker"},
    "execution_slots_used": {"queue", "worker"},
    "executions_running": set(),
    "executions_delayed": set(),
    "execution_store_up": set(),
    "model_calls": {"model"},
    "model_tokens": {"model", "direction"},
    "model_errors": {"model", "type"},
    "model_retries": {"model"},
    "webhook_deliveries": {"outcome"},
    "webhook_tries": {"answer"},
    "webhook_deliveries_undelivered": set(),
    "webhook_delivery_oldest_seconds": set(),
    "webhook_queue_length": set(),
    "webhook_queue_oldest_seconds": set(),
    "http_requests": {"route", "method", "status"},
    "http_request_duration_seconds": {"route", "method", "le"},
}


def expressions() -> dict[str, str]:
    panels = {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }
    return {**panels, **{rule["alert"]: rule["expr"] for rule in RULES}}


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return found


@pytest.fixture(scope="module")
def families(service: Service) -> dict[str, str]:
    """Each metric that the service has now, with its type."""
    service.run("behaves", {"do": "echo"})
    text = requests.get(f"{service.url}/metrics", timeout=10).text
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def test_the_service_has_the_metrics_that_are_documented_and_no_others(
    families: dict[str, str],
) -> None:
    assert set(families) == set(LABELS)
    documented = set(re.findall(r"^\| `(\w+)`", METRICS_DOCS, re.MULTILINE))
    assert documented == {
        name + ("_total" if type == "counter" else "") for name, type in families.items()
    }


def test_the_labels_are_these(service: Service, families: dict[str, str]) -> None:
    for family in text_string_to_metric_families(
        requests.get(f"{service.url}/metrics", timeout=10).text
    ):
        for sample in family.samples:
            assert set(sample.labels) <= LABELS[family.name]


@pytest.mark.parametrize("name", sorted(expressions()))
def test_every_expression_is_promql_and_asks_for_series_that_exist(
    name: str, families: dict[str, str]
) -> None:
    series = {
        family + suffix: family for family, type in families.items() for suffix in SUFFIXES[type]
    }
    asked, used = set(), set()
    for node in nodes(expressions()[name]):
        if isinstance(node, promql_parser.VectorSelector):
            asked.add(node.name)
            used |= {matcher.name for matcher in node.matchers.matchers}
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            used |= set(node.modifier.labels)
    assert asked
    assert asked <= set(series)
    for name in asked:
        assert used <= LABELS[series[name]]


def test_every_alert_and_panel_is_named_once_and_every_alert_is_explained() -> None:
    alerts = [rule["alert"] for rule in RULES]
    explained = re.findall(r"^\*\*(\w+)\.\*\* (.+)\n\*Do:\* (.+)\n(?:\n|\Z)", DOCS, re.MULTILINE)
    assert [alert for alert, _, _ in explained] == alerts
    assert len(set(alerts)) == len(alerts)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
