"""`app.telemetry.logs` and `log_fields`: exceptions without messages, fields cut and masked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import redis
import structlog

from app.telemetry.log_fields import renamed
from app.telemetry.logs import describe_exception, fitting, masking
from app.telemetry.sink import MAX_LINE_BYTES
from tests.support.cpu_time import cpu_seconds
from tests.support.programs import run_program
from tests.support.service import ROOT


def described(error: Exception) -> list[dict[str, Any]]:
    """Returns the `errors` of a line that logs this exception."""
    try:
        raise error
    except Exception:
        return describe_exception(None, "error", {"event": "x", "exc_info": True})["errors"]


def test_the_message_of_a_flows_exception_is_not_logged() -> None:
    [line] = described(ValueError("mark3r"))
    assert line["type"] == "ValueError"
    assert "mark3r" not in str(line)


def test_the_message_of_a_store_error_is_logged_up_to_what_it_quotes() -> None:
    [line] = described(
        redis.ResponseError("unknown command 'EVALSHA', with args beginning with: 'mark3r'")
    )
    assert line["store_message"] == "unknown command 'EVALSHA'"
    [line] = described(redis.ConnectionError("Error 111 connecting to redis://:hunter22@host:6379"))
    assert line["store_message"] == "Error 111 connecting to redis://[masked]@host:6379"


def test_a_secret_is_masked_at_any_depth() -> None:
    fields = {"event": "x", "facts": {"list": ["sk-abcdefghijkl"]}, "number": 5}
    event = masking([])(None, "info", fields)
    assert event == {"event": "x", "facts": {"list": ["[masked]"]}, "number": 5}


class _Silent:
    def __repr__(self) -> str:
        raise SystemExit


class _Text(str):
    def __getitem__(self, _: Any) -> str:
        raise RuntimeError


LOOP: list[Any] = []
LOOP.append(LOOP)

ANYTHING = {
    "text": "x" * 50_000_000,
    "odd_text": _Text("sk-abcdefghijkl"),  # its own methods raise
    "bytes": b"x" * 50_000_000,
    "loop": LOOP,
    "silent": _Silent(),
    "number": 10**6000,  # more digits than Python converts to text
    "nan": float("nan"),
    "set": {1},
    "wide": list(range(1_000_000)),
    "keys": {1: 2, (1, 2): 3, "\ud800": 4},
    "control": "\x00" * 5000,  # six bytes each in JSON
    "wide_text": "😀" * 5000,
    "class": _Silent,
}


def line(**fields: Any) -> dict[str, Any]:
    """Renders a line with these fields, and returns it parsed."""
    event = masking([])(None, "info", {"event": "flow_log", "level": "info", **fields})
    text = fitting(structlog.processors.JSONRenderer(ensure_ascii=False))(None, "info", event)
    assert len(text.encode(errors="backslashreplace")) < MAX_LINE_BYTES
    return dict(json.loads(text, parse_constant=pytest.fail))


@pytest.mark.parametrize("name", ANYTHING)
def test_any_value_becomes_one_short_line(name: str) -> None:
    found = line(message="said", **{name: ANYTHING[name]})
    assert cpu_seconds(lambda: line(message="said", **{name: ANYTHING[name]})) < 1
    assert (found["event"], found["message"]) == ("flow_log", "said")
    assert "sk-abc" not in str(found)


def test_fields_that_do_not_fit_are_cut_and_the_line_says_so() -> None:
    found = line(
        **{f"name{number}": "\x00" * 500 for number in range(10_000)},
        **ANYTHING,
        execution_id="exec_1",
    )
    assert (found["event"], found["level"], found["execution_id"]) == ("flow_log", "info", "exec_1")
    assert found["…"] == "… [cut]"
    assert line(message="x" * 5000)["message"].endswith("xx… [cut]")


def test_what_fits_is_not_cut() -> None:
    fields = {"message": "x" * 2900, "list": [1, 2.5, None, True], "nested": {"a": {"b": ["c"]}}}
    assert line(**fields) == {"event": "flow_log", "level": "info", **fields}


def test_a_value_with_the_name_of_a_secret_is_masked_at_any_depth() -> None:
    found = line(
        password="hunter2",
        user={
            "db_password": "hunter2",
            "keys": [{"apiKey": "hunter2"}, {"X-Api-Key": ["hunter2"]}],
            "name": "me",
        },
        headers={"Authorization": "hunter2", b"cookie": "hunter2"},
        token=None,
        tokens_used=12,
        pair=("password", "shown"),
    )
    assert "hunter2" not in str(found)
    assert found["user"] == {
        "db_password": "[masked]",
        "keys": [{"apiKey": "[masked]"}, {"X-Api-Key": "[masked]"}],
        "name": "me",
    }
    assert (found["token"], found["tokens_used"]) == (None, 12)


def test_a_flows_field_with_a_name_of_the_line_itself_is_renamed() -> None:
    assert renamed({"event": 1, "field_event": 2, "_record": 3, "size": 4}) == {
        "field_event": 1,
        "field_field_event": 2,
        "field__record": 3,
        "size": 4,
    }


TALKS = """
import sys, time
from app.telemetry import logs
logs.configure("INFO", ["hunter2"])
import structlog
for number in range(3000):
    structlog.get_logger("talks").info("line", number=number, text="hunter2 " * 30)
print("said", file=sys.stderr, flush=True)
while True:
    time.sleep(0.05)
    logs.flush()
"""


def test_a_process_whose_log_is_not_read_goes_on_and_later_counts_what_is_missing() -> None:
    command = [sys.executable, "-c", TALKS]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        found: list[dict[str, Any]] = []
        try:
            assert process.stderr.readline() == "said\n"
            while sum(line["event"] == "line" for line in found) + _missing(found) < 3000:
                found.append(json.loads(process.stdout.readline()))
        finally:
            process.kill()
    assert [line["event"] for line in found].count("log_lines_dropped") == 1
    assert {line["level"] for line in found} == {"info", "warning"}
    numbers = [line["number"] for line in found if line["event"] == "line"]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) + _missing(found) == 3000


def _missing(found: list[dict[str, Any]]) -> int:
    return sum(line.get("count", 0) for line in found)


GREENLET_RAISES = """
from gevent import monkey; monkey.patch_all()
import gevent
from app.telemetry import logs
from app.web.worker import log_exception

logs.configure("INFO")
gevent.get_hub().print_exception = log_exception
gevent.spawn(divmod, 1, 0).join()
"""


def test_an_exception_in_a_greenlet_is_one_line() -> None:
    done = run_program(GREENLET_RAISES)
    [line] = map(json.loads, done.stdout.splitlines())
    assert (line["event"], line["errors"][0]["type"]) == ("crashed", "ZeroDivisionError")
    assert done.stderr == ""


LOGS_TWO_REQUESTS = """
import structlog
from app.telemetry import logs
logs.configure("INFO")
log = structlog.get_logger("x")
logs.begin_request(request_id="one")
logs.name_in_request(tenant="acme")
log.info("first")
logs.begin_request(request_id="two")
log.info("second", request_id="its own")
"""


def test_a_line_tells_what_is_known_of_its_own_request_and_nothing_of_the_one_before() -> None:
    done = run_program(LOGS_TWO_REQUESTS)
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["request_id"], first["tenant"]) == ("one", "acme")
    assert second["request_id"] == "its own"
    assert "tenant" not in second
