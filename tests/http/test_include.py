"""`GET /executions/{id}?include=...` adds the steps, and the inputs and the config of the request."""

from __future__ import annotations

import pytest

from tests.support.service import Service


@pytest.mark.parametrize("size", [10, 20_000, 150_000])
def test_the_inputs_and_the_config_are_shown_as_they_were_sent(service: Service, size: int) -> None:
    inputs = {"do": "echo", "text": "é" * size, "config": {"config": [1, None, True]}}
    config = {"timeout": 60}
    id = service.start("behaves", inputs, config=config)
    ended = service.ended(id)
    assert not ended.keys() & {"inputs", "config"}
    both = service.get(f"/executions/{id}?include=inputs,config").json()
    assert (both["inputs"], both["config"]) == (inputs, config)
    assert both.items() >= ended.items()
    only = service.get(f"/executions/{id}?include=config").json()
    assert only == {**ended, "config": config}
    every = service.get(f"/executions/{id}?include=steps,config,inputs").json()
    assert every["steps"][0]["agent"] == "behaves"
    assert every["inputs"] == inputs


@pytest.mark.parametrize("include", ["", "outputs", "inputs,", "inputs,secrets", "Inputs"])
def test_an_unknown_part_is_refused_with_the_names_of_the_known_ones(
    service: Service, include: str
) -> None:
    id = service.start("behaves", {"do": "echo"})
    answer = service.get("/executions/" + id, params={"include": include})
    assert answer.status_code == 400
    [error] = answer.json()["errors"]
    assert (error["field"], error["code"]) == ("include", "invalid_choice")
    assert "steps, inputs, config" in error["message"]


def test_the_request_of_an_execution_that_is_not_ones_own_is_not_found(service: Service) -> None:
    answer = service.get("/executions/exec_00000000000000000000?include=inputs")
    assert answer.status_code == 404


def test_a_request_that_another_program_has_overwritten_is_told(service: Service) -> None:
    import redis

    id = service.start("behaves", {"do": "echo"})
    service.ended(id)
    with redis.Redis.from_url(service.env["REDIS_URL"]) as client:
        client.set(f"rq:job:{id}:data", b"x damaged")
    answer = service.get(f"/executions/{id}?include=inputs")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "record_unreadable"
    assert service.status(id)["status"] == "completed"
