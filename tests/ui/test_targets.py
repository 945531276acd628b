"""The pages of targets, without a browser: what they show, and what their form starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.support.service import Service
from tests.ui.visitor import Visitor, text_of
from tools.embedded_store import EmbeddedStore

PIPELINE, AGENT = (
    "/ui/targets/pipeline/customer_service_flow",
    "/ui/targets/agent/mem_l1_summarizer",
)
BEHAVES = "/ui/targets/agent/behaves"
EVIL = '"><script>alert(1)</script>'
KEY, OTHER = "key-of-the-shop-0001", "key-of-the-bank-0002"


@pytest.fixture
def quiet(shared_service: Callable[..., Service]) -> Service:
    return shared_service(workers=0)


@pytest.fixture
def visitor(quiet: Service) -> Visitor:
    return Visitor(quiet)


def started(answer: requests.Response) -> str:
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"].removeprefix("/ui/executions/")


def test_the_list_links_to_a_page_for_each_target(quiet: Service, visitor: Visitor) -> None:
    listed = visitor.get("/ui/targets").text
    for type in ("agent", "pipeline"):
        for target in quiet.get(f"/{type}s").json()[f"{type}s"]:
            path = f"/ui/targets/{type}/{target['id']}"
            assert f'href="{path}"' in listed
            shown = visitor.get(path)
            assert shown.status_code == 200
            assert target["name"] in text_of(shown)
            for declared in target["inputs"].get("properties", {}):
                assert f'name="inputs.{declared}"' in shown.text


def test_a_form_starts_an_execution_and_goes_to_it(quiet: Service, visitor: Visitor) -> None:
    fields = {"inputs.text": "One.\r\nTwo.", "inputs.max_sentences": "2", "config.flow_id": "llm"}
    settings = {"config": '{"timeout": 30}'}
    id = started(visitor.send_form(AGENT, AGENT, **fields, **settings))
    found = quiet.get(f"/executions/{id}?include=inputs,config").json()
    assert found["inputs"] == {"text": "One.\nTwo.", "max_sentences": 2}
    assert found["config"] == {"flow_id": "llm", "timeout": 30}
    assert found["target_id"] == "mem_l1_summarizer"


def test_a_form_with_mistakes_starts_nothing_and_loses_nothing(
    quiet: Service, visitor: Visitor
) -> None:
    fields = {"inputs.text": EVIL, "inputs.max_sentences": "many", "config": '{"timeout": 0}'}
    answer = visitor.send_form(AGENT, AGENT, **fields)
    assert answer.status_code == 400
    assert "<script>alert" not in answer.text
    assert "&#34;&gt;&lt;script&gt;" in answer.text
    assert 'value="many"' in answer.text
    said = text_of(answer)
    assert "Nothing was started." in said
    assert "Write a whole number, such as 42." in said
    assert "timeout: Must be" in said
    assert said.startswith("Not started:")
    assert quiet.get("/executions").json()["pagination"]["total_items"] == 0


def test_an_error_that_only_the_catalog_finds_is_beside_its_field(visitor: Visitor) -> None:
    answer = visitor.send_form(AGENT, AGENT, **{"inputs.text": "a", "config": '{"flow_id": "llx"}'})
    assert answer.status_code == 400
    assert "mem_l1_summarizer has no flow 'llx'" in text_of(answer)
    assert re.search(r'<select[^>]*id="flow_id"[^>]*aria-invalid="true"', answer.text)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/ui/targets/agent/mem_l1_sumarizer", "Did you mean &#39;mem_l1_summarizer&#39;?"),
        ("/ui/targets/pipeline/mem_l1_summarizer", "There is no pipeline with this id."),
        ("/ui/targets/tool/x", "Not Found"),
        (f"{AGENT}?from=exec_00000000000000000000", "There is no execution with the id"),
        (f"{AGENT}?from=..%2F..", "There is no execution with this id."),
    ],
)
def test_what_does_not_exist_is_a_page_that_says_so(visitor: Visitor, path: str, said: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 404
    assert said in answer.text


def test_a_form_can_begin_with_the_inputs_of_an_execution(quiet: Service, visitor: Visitor) -> None:
    id = quiet.start(
        "mem_l1_summarizer", {"text": f"\n{EVIL}", "max_sentences": 7}, config={"timeout": 77}
    )
    shown = visitor.get(f"{AGENT}?from={id}")
    assert 'value="7"' in shown.text
    assert "\n\n&#34;&gt;&lt;script&gt;" in shown.text  # HTML drops the first line break
    assert "&#34;timeout&#34;: 77" in shown.text
    assert id in text_of(shown)


def test_any_input_can_be_written_as_json(quiet: Service, visitor: Visitor) -> None:
    id = started(visitor.send_form(BEHAVES, BEHAVES, inputs='{"do": "echo", "deep": [1, null]}'))
    assert quiet.get(f"/executions/{id}?include=inputs").json()["inputs"]["deep"] == [1, None]
    page = f"{AGENT}?as=json"
    id = started(visitor.send_form(page, AGENT, inputs='{"text": ""}'))
    assert quiet.get(f"/executions/{id}?include=inputs").json()["inputs"] == {"text": ""}


def test_a_form_that_was_not_made_here_starts_nothing(quiet: Service, visitor: Visitor) -> None:
    assert visitor.post(AGENT, data={"inputs.text": "a"}).status_code == 403
    assert quiet.get("/executions").json()["pagination"]["total_items"] == 0


def test_a_limit_keeps_what_was_entered(shared_service: Callable[..., Service]) -> None:
    full = shared_service(workers=0, MAX_UNFINISHED_PER_TENANT=1)
    full.start("behaves", {})
    answer = Visitor(full).send_form(AGENT, AGENT, **{"inputs.text": "kept & safe"})
    assert answer.status_code == 429
    assert "Retry-After" in answer.headers
    assert "The limit of 1 pending and running executions is reached." in text_of(answer)
    assert "kept &amp; safe" in answer.text


def test_without_its_store_a_page_keeps_what_was_entered(
    own_store: EmbeddedStore, tmp_path: Path
) -> None:
    with Service(own_store.url, tmp_path, workers=0) as service:
        visitor = Visitor(service)
        visitor.get(AGENT)
        own_store.kill()
        shown = visitor.get(AGENT)
        assert shown.status_code == 200
        assert "The store does not answer" in text_of(shown)
        answer = visitor.send_form(AGENT, AGENT, **{"inputs.text": "kept"})
        assert answer.status_code == 503
        assert ">\nkept</textarea>" in answer.text


def test_last_runs_have_a_success_rate_and_a_median(service: Service) -> None:
    for seconds in (0.2, 0.2, 0.2):
        service.until(service.start("relay_step", {"work": {"seconds": seconds}}), "completed")
    service.until(service.start("relay_step", {"work": {"fail": EVIL}}), "failed")
    shown = Visitor(service).get("/ui/targets/agent/relay_step")
    assert re.search(r"Success rate \d+ % \d+ of the last \d+ completed", text_of(shown))
    assert re.search(r"Median run time \d+\.\d+ s", text_of(shown))


def test_the_part_with_the_last_runs_can_be_asked_for_alone(visitor: Visitor) -> None:
    part = visitor.get(AGENT, headers={"HX-Request": "true"})
    assert part.text.lstrip().startswith('<section id="runs"')
    assert "<form" not in part.text


def test_a_tenant_sees_its_own_runs_and_starts_its_own(
    shared_service: Callable[..., Service],
) -> None:
    keyed = shared_service(workers=0, API_KEYS=f"shop:{KEY},bank:{OTHER}", AUTH="keys")
    shop, bank = Visitor(keyed), Visitor(keyed)
    shop.log_in(KEY)
    bank.log_in(OTHER)
    id = started(shop.send_form(AGENT, AGENT, **{"inputs.text": "ours"}))
    assert id in shop.get(AGENT).text
    assert "It has not run yet." in text_of(bank.get(AGENT))
    assert bank.get(f"{AGENT}?from={id}").status_code == 404


def test_a_key_without_the_scope_start_gets_no_form(shared_service: Callable[..., Service]) -> None:
    keyed = shared_service(workers=0, AUTH="keys")
    visitor = Visitor(keyed)
    visitor.log_in(keyed.add_key("reader", "read"))
    shown = visitor.get(AGENT)
    assert f'action="{AGENT}"' not in shown.text
    assert "does not have the scope start" in text_of(shown)
    token = re.search(r'name="csrf_token" value="([^"]+)"', shown.text)
    assert token
    answer = visitor.post(AGENT, data={"csrf_token": token[1], "inputs.text": "a"})
    assert answer.status_code == 403
