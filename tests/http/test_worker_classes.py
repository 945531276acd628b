"""Another worker class of gunicorn serves the API too, with less than ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.service import Service


@pytest.mark.parametrize("options", ["sync", "gthread --threads 4", "gevent"])
def test_an_execution_is_started_and_waited_for(
    make_service: Callable[..., Service], options: str
) -> None:
    service = make_service(GUNICORN_CMD_ARGS=f"--worker-class {options}")
    id = service.start("behaves", {"do": "echo"}, config={"flow_id": "thread"})
    answer = service.http.get(f"{service.url}/api/v1/executions/{id}?wait=30")
    assert answer.json()["status"] == "completed", answer.text
    assert service.web is not None
    service.web.terminate()
    assert service.web.wait(60) == 0
