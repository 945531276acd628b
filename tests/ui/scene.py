"""One service with an execution in each state, for the tests that look at every page."""

from __future__ import annotations

from pathlib import Path

from tests.support.service import Service
from tests.ui.run_targets import write_targets

PAGES = [
    *("/", "/?status=failed", "/?status=cancelled", "/?page=7", "/ui/nothing"),
    *("/ui/targets", "/ui/targets/pipeline/customer_service_flow", "/ui/targets/agent/behaves"),
    *("/ui/targets/pipeline/review", "/ui/targets/agent/doer?from={completed}", "/ui/workers"),
    *("/ui/executions/{running}", "/ui/executions/{failed}", "/ui/executions/{completed}"),
    *("/ui/executions/{waiting}", "/ui/executions/{pipeline}", "/ui/executions/{running_pipeline}"),
    "/ui/executions/{silent}",
]
"""Every page that a person can see, with something on it. `fill` has the names in braces."""

Filled = tuple[Service, list[str]]
"""The service, and the addresses of all pages."""

LONG = {"timeout": 3600}
"""What runs must not end while the tests of a file look at it."""


def options(folder: Path) -> dict[str, object]:
    """The options of the service."""
    agents, pipelines = write_targets(folder)
    return {"agents": agents, "pipelines": pipelines}


def fill(service: Service) -> list[str]:
    """Starts the executions. Returns the addresses of all pages, once they are as they stay."""
    does = {"flow_id": "does", **LONG}
    endless = {"until": "/no/such/file", "lines": ["A line of the log."]}
    failing = {"fails_until": "/no/such/file", "message": "It cannot be read."}
    steps = {"first": {"lines": ["A line."]}, "second": failing, "last": {}}
    ids = {
        "completed": service.run(
            "doer", {"returns": {"a": [1, "two\nlines", {}]}}, config=does, tags=["eu"]
        ),
        "failed": service.run("doer", failing, config={**does, "retries": {"max": 1}}),
        "pipeline": service.run("review", steps, type="pipeline"),
        "running": service.start("doer", endless, config=does),
        "silent": service.start("behaves", {"do": "listen", "seconds": 3600}, config=LONG),
        "running_pipeline": service.start(
            "review",
            {**steps, "second": {"until": "/no/such/file"}},
            type="pipeline",
            config=LONG,
        ),
        "waiting": service.start(
            "doer", failing, config={**does, "retries": {"max": 1, "backoff_seconds": [600]}}
        ),
    }
    found = {name: id if isinstance(id, str) else id["execution_id"] for name, id in ids.items()}
    for name in ("running", "silent", "running_pipeline"):
        service.until(found[name], "running")
    return [service.url + path.format(**found) for path in PAGES]
