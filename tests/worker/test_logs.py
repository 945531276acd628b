"""The log of real processes: one JSON object per line, with the ids, and without data of users."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.model_server import Answer, ModelServer
from tests.support.service import Service
from tools.embedded_store import EmbeddedStore

MARKER = "mark3r"

FLOW = """
import asyncio, logging, os, subprocess, threading, time, warnings

def _write_to_descriptors(text):
    os.write(1, b"written " + text.encode() + b"\\n")
    os.write(2, b"to stderr, token=abc123secret\\n")
    subprocess.run(["echo", "echoed", text], check=True)
    os.system("echo system >&2")
    os.write(1, b'\\xff {"event": "forged"}\\r\\n\\n')
    os.write(1, b"long" + b"y" * 100_000 + b"\\n")
    os.write(1, b"no end " + text.encode())

def run(inputs, context):
    do, text = inputs["do"], inputs["text"]
    context.log("seen", size=len(text), api_key=None, note="token=abc123secret")
    if do == "library":
        logging.getLogger("some.library").warning("called")
        warnings.warn("old way", DeprecationWarning)
    if do == "thread":
        thread = threading.Thread(target=_raise, args=(text,))
        thread.start()
        thread.join()
    if do == "chain":
        try:
            _raise(text)
        except ValueError as error:
            raise RuntimeError(text) from error
    if do == "surrogate":
        context.log("odd \\ud800 text")
    if do == "fields":
        own = ("event", "level", "timestamp", "logger", "message", "exc_info", "stack_info", "self", "_name", "_logger")
        own += ("_record", "_from_structlog", "execution_id", "tenant", "errors", "positional_args")
        own += ("args", "method_name")
        context.log("named", **{name: "theirs" for name in own})
        context.log("secret", password="hunter2", user={"api_key": "hunter2", "list": [{"token": "hunter2"}]})
        context.log("long" + "x" * 50_000_000, size=1)
        print("printed", flush=False)
    if do == "print":
        for number in range(30_000):
            print(number, text * 100)
            context.log("line", number=number)
    if do == "prints":
        import sys
        for number in range(3):
            print("line", number, text)
            threading.Event().wait(0.01)
        sys.stderr.write("to stderr, token=abc123secret\\n")
        sys.stdout.buffer.write(b"bytes \\xff\\n")
        print("long" + "y" * 100_000)
        print("no end", text, end="")
    if do == "descriptors":
        _write_to_descriptors(text)
    if do == "flood":
        os.write(2, b"before\\n")
        subprocess.run("yes " + "z" * 99 + " | head -c 100000000", shell=True, check=True)
        os.write(2, b"after\\n")
    if do == "close":
        os.write(1, text.encode())
        os.close(1)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        os.system("echo unheard >&2")
    if do == "leave":
        subprocess.Popen(["sh", "-c", "while true; do echo left behind; sleep 0.01; done"], start_new_session=True)
        os.write(1, b"has left\\n")
    if do == "hold":  # write more than a pipe takes, and let no other thread run meanwhile
        import ctypes
        line = b"w" * 99 + b"\\n"
        ctypes.PyDLL(None).write(1, line * 5000, 500_000)
    if do == "die":
        os.write(2, b"last words, no end " + text.encode())
        os.kill(os.getpid(), 11)
    if do == "hang":
        os.system("printf 'hangs %s' " + text)
        threading.Event().wait(60)
    if do == "forks":
        from multiprocessing import get_context
        for method in ("fork", "spawn"):
            process = get_context(method).Process(target=os.write, args=(1, method.encode() + b" wrote\\n"))
            process.start()
            process.join()
    if do == "stop_parent":
        os.kill(os.getppid(), 19)
        while ") T" not in open(f"/proc/{os.getppid()}/stat").read():
            time.sleep(0.001)
        os.write(1, b"nobody reads this\\n")
    if do == "progress":
        context.progress(3, 5, "reading")
        raise ValueError(text)
    if do == "exit":
        raise SystemExit(text)
    return context.complete([{"role": "user", "content": text}]).text if do == "complete" else text

async def forgotten(inputs):
    asyncio.ensure_future(_raise_later(inputs["text"]))
    await asyncio.sleep(0.01)
    import gc; gc.collect()
    return inputs["text"]

async def _raise_later(text):
    raise ValueError(text)

def _raise(text):
    raise ValueError(text)
"""

PIPELINE = """
inputs:
  - {name: do, required: true}
  - {name: texts, type: array, required: true}
steps:
  - {id: one, agent: logger, flow: run, input_mapping: {do: do, text: texts}, output_key: first}
  - {id: each, agent: logger, flow: run, input_mapping: {do: do, text: texts}, output_key: rest, batch_mode: true}
"""

AGENT = """
default_flow: run
flows:
  - {name: run, entrypoint: "flow.py:run"}
  - {name: thread, entrypoint: "flow.py:run", isolation: thread}
  - {name: fresh, entrypoint: "flow.py:run", isolation: fresh}
  - {name: forgotten, entrypoint: "flow.py:forgotten"}
  - {name: prompt, file: prompt.yaml}
"""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "agents" / "logger"
    (folder / "prompts").mkdir(parents=True)
    (folder / "agent.yaml").write_text(AGENT)
    (folder / "flow.py").write_text(FLOW)
    (folder / "prompts" / "prompt.yaml").write_text(
        "user_template: 'Say {text}'\noutput_parser: {type: json}\n"
    )
    return folder.parent


@pytest.fixture(scope="module")
def pipelines(agents: Path) -> Path:
    folder = agents.parent / "pipelines"
    folder.mkdir()
    (folder / "steps.yaml").write_text(PIPELINE)
    return folder


@pytest.fixture
def logging_service(
    shared_service: Callable[..., Service], agents: Path, pipelines: Path
) -> Service:
    """A service with the agent `logger` and the pipeline `steps`."""
    return shared_service(agents=agents, pipelines=pipelines)


def lines(service: Service, name: str) -> list[dict[str, Any]]:
    """Every line that a process printed; each must be a JSON object."""
    output = service.output(name)
    try:
        return [json.loads(line) for line in output.splitlines()]
    except json.JSONDecodeError:
        pytest.fail(f"A line of {name} is no JSON object:\n{output}")


def until(
    service: Service, name: str, event: str, seconds: float = 30, **fields: str
) -> list[dict[str, Any]]:
    """The lines of an event, with these fields if any are named, once there is one: lines may come
    after answers.
    """
    deadline = time.monotonic() + seconds
    wanted = {"event": event, **fields}
    while not (found := [line for line in lines(service, name) if wanted.items() <= line.items()]):
        assert time.monotonic() < deadline, service.output(name)
        time.sleep(0.05)
    return found


def test_nothing_that_users_send_or_get_is_logged_on_any_level(
    make_service: Callable[..., Service], agents: Path
) -> None:
    with ModelServer(default=Answer(f"{MARKER} answers")) as model:
        service = make_service(
            agents=agents,
            LOG_LEVEL="DEBUG",
            OPENAI_BASE_URL=model.url,
            OPENAI_API_KEY=f"sk-{MARKER}-key",
            MODEL_MAX_RETRIES=1,
        )
        actions = ("library", "thread", "chain", "surrogate", "exit", "complete", "return")
        for flow in ("run", "thread"):
            for do in actions:
                service.run("logger", {"do": do, "text": MARKER}, config={"flow_id": flow})
        ended = service.run("logger", {"do": "chain", "text": MARKER})
        assert MARKER in ended["error"]["message"]  # whoever asks for the execution is told
        service.run("logger", {"text": MARKER}, config={"flow_id": "forgotten"})
        model.play(Answer(MARKER, 429, {"Retry-After-Ms": "1"}), Answer(MARKER, 400))
        for _ in range(2):
            service.run("logger", {"text": MARKER}, config={"flow_id": "prompt"})
        service.run("behaves", {"do": "not_json", "what": "object", "text": MARKER})
        for body in (
            "{" + MARKER,
            json.dumps({"type": MARKER, "target_id": MARKER, "inputs": {MARKER: 1}}),
        ):
            service.post(
                "/executions",
                data=body,
                headers={"Content-Type": "application/json", "X-API-Key": MARKER},
            )
        for request in (
            f"GET /x?key={MARKER} HTTP/9.9\r\n\r\n",
            f"GET / HTTP/1.1\r\nX-API-Key : {MARKER}\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(request.encode())
                assert b" 400 " in connection.recv(1000)
    for name in ("web", "worker0"):
        found = lines(service, name)
        assert found
        # The messages of what a flow raised are logged for its author, masked, and in these only.
        others = [line for line in found if line["event"] not in ("run_failed", "run_traceback")]
        assert MARKER not in json.dumps(others)
    events = [line["event"] for line in lines(service, "worker0")]
    assert events.count("crashed") == 2  # each thread that a flow let die
    chatty = [
        line
        for line in lines(service, "worker0")
        if line["logger"].split(".")[0] in ("openai", "asyncio")
    ]
    assert {line["level"] for line in chatty} <= {"warning", "error"}
    assert "abc123secret" not in service.output("worker0")


@pytest.mark.parametrize("flow", ["run", "thread"])
def test_what_a_flow_logs_changes_nothing_of_the_lines_own_and_fails_no_run(
    logging_service: Service, flow: str
) -> None:
    service = logging_service
    ended = service.run("logger", {"do": "fields", "text": "x"}, config={"flow_id": flow})
    assert ended["status"] == "completed", ended
    own = {"execution_id": ended["execution_id"]}
    until(service, "worker0", "attempt_ended", **own)
    named, secret, long = [
        line for line in until(service, "worker0", "flow_log", **own) if line["message"] != "seen"
    ]
    assert named["message"] == "named"
    assert (named["level"], named["logger"], named["execution_id"]) == (
        "info",
        "app.worker.child_run",
        ended["execution_id"],
    )
    assert named["tenant"] == "default"
    for name in ("event", "level", "message", "exc_info", "_name", "_record", "tenant", "self"):
        assert named[f"field_{name}"] == "theirs"
    assert (secret["password"], secret["user"]) == (
        "[masked]",
        {"api_key": "[masked]", "list": [{"token": "[masked]"}]},
    )
    assert long["message"].startswith("longx")
    assert long["message"].endswith("x… [cut]")
    assert long["size"] == 1
    [printed] = until(service, "worker0", "flow_output", **own)  # though nothing flushed it
    assert (printed["stream"], printed["message"]) == ("stdout", "printed")


def test_lines_carry_the_ids_from_the_request_to_the_flow_and_its_libraries(
    logging_service: Service,
) -> None:
    service = logging_service
    body = {"type": "agent", "target_id": "logger", "inputs": {"do": "library", "text": "x"}}
    for flow in ("run", "thread"):
        headers = {"X-Request-ID": f"request-{flow}"}
        id = service.post(
            "/executions", json={**body, "config": {"flow_id": flow}}, headers=headers
        ).json()
        service.ended(id["execution_id"])
        names = {
            "execution_id": id["execution_id"],
            "attempt": 1,
            "tenant": "default",
            "request_id": headers["X-Request-ID"],
        }
        until(service, "worker0", "attempt_ended", execution_id=names["execution_id"])
        assert set(events_of(service, names["execution_id"])) == {
            "attempt_started",
            "flow_log",
            "library_message",
            "attempt_ended",
        }
        for line in lines(service, "worker0"):
            if line.get("execution_id") == names["execution_id"]:
                assert names.items() <= line.items()
    service.get(f"/executions/{names['execution_id']}x", headers={"X-Request-ID": "request-3"})
    [refused] = until(service, "web", "request_refused", request_id="request-3")
    assert (refused["event"], refused["execution_id"]) == (
        "request_refused",
        f"{names['execution_id']}x",
    )


def test_a_step_of_a_pipeline_logs_with_the_ids_too(logging_service: Service) -> None:
    service = logging_service
    inputs = {"do": "library", "texts": ["a", "b"]}
    ended = service.run("steps", inputs, type="pipeline")
    assert ended["status"] == "completed"
    until(service, "worker0", "attempt_ended", execution_id=ended["execution_id"])
    said = [line for line in lines(service, "worker0") if line.get("logger") == "some.library"]
    assert [line.get("execution_id") for line in said] == [ended["execution_id"]] * 3


def events_of(service: Service, execution_id: str) -> list[str]:
    return [
        line["event"]
        for line in lines(service, "worker0")
        if line.get("execution_id") == execution_id
    ]


def test_an_exception_is_logged_by_its_type_and_places_with_its_causes(
    logging_service: Service,
) -> None:
    service = logging_service
    service.run("logger", {"do": "thread", "text": MARKER})
    [line] = until(service, "worker0", "crashed")
    [error] = line["errors"]
    assert error["type"] == "ValueError"
    assert error["at"][-1].endswith("_raise")
    assert "flow.py:" in error["at"][-1]


@pytest.mark.parametrize("flow", ["run", "thread"])
def test_a_run_that_failed_has_one_line_with_what_was_raised_and_where(
    logging_service: Service, flow: str
) -> None:
    service = logging_service
    text = "no such customer, token=abc123secret"
    ended = service.run("logger", {"do": "chain", "text": text}, config={"flow_id": flow})
    details = ended["error"]["details"]
    assert details["location"]["file"] == "flow.py"
    assert details["location"]["function"] == "run"
    own = {"execution_id": ended["execution_id"]}
    until(service, "worker0", "attempt_ended", **own)
    [line] = until(service, "worker0", "run_failed", **own)
    assert (line["type"], line["level"]) == ("RuntimeError", "error")
    assert line["message"] == "no such customer, token=[masked]"
    assert line["at"][-1].endswith(f"flow.py:{details['location']['line']} run")
    [cause] = line["causes"]
    assert (cause["type"], cause["at"][-1].split()[-1]) == ("ValueError", "_raise")


@pytest.mark.parametrize("flow", ["run", "thread"])
def test_what_a_flow_prints_is_logged_by_lines_with_the_ids_of_its_run(
    logging_service: Service, flow: str
) -> None:
    service = logging_service
    texts = ["first", "second", "third"]
    config = {"flow_id": flow}
    ids = [service.start("logger", {"do": "prints", "text": text}, config=config) for text in texts]
    for id, text in zip(ids, texts, strict=True):
        assert service.ended(id)["status"] == "completed"
        until(service, "worker0", "attempt_ended", execution_id=id)
        found = until(service, "worker0", "flow_output", execution_id=id)
        shown = [(line["stream"], line["message"]) for line in found]
        assert [message for _, message in shown[:3]] == [f"line {n} {text}" for n in range(3)]
        assert shown[3] == ("stderr", "to stderr, token=[masked]")
        assert shown[4] == ("stdout", "bytes \ufffd")
        assert shown[5][1].startswith("longyyy")
        assert shown[-1] == ("stdout", f"no end {text}")
        assert all(line["tenant"] == "default" for line in found)


def written(service: Service, execution_id: str) -> dict[str, list[str]]:
    """What the run's `flow_output` lines say, by stream, once the attempt has ended."""
    until(service, "worker0", "attempt_ended", execution_id=execution_id)
    found: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for line in lines(service, "worker0"):
        if line["event"] == "flow_output" and line.get("execution_id") == execution_id:
            assert (line["tenant"], line["attempt"]) == ("default", 1)
            found[line["stream"]].append(line["message"])
    return found


@pytest.mark.parametrize("flow", ["run", "fresh"])
def test_what_is_written_to_the_descriptors_is_logged_with_the_ids_of_the_run(
    logging_service: Service, flow: str
) -> None:
    service = logging_service
    texts, config = ["first", "second", "third", "fourth"], {"flow_id": flow}
    ids = [
        service.start("logger", {"do": "descriptors", "text": text}, config=config)
        for text in texts
    ]
    for id, text in zip(ids, texts, strict=True):
        assert service.ended(id)["status"] == "completed"
        found = written(service, id)
        assert found["stderr"] == ["to stderr, token=[masked]", "system"]
        first, echoed, odd, *long, last = found["stdout"]
        assert (first, echoed) == (f"written {text}", f"echoed {text}")
        assert odd == '\ufffd {"event": "forged"}'
        assert long[0].startswith("longyyy")
        assert last == f"no end {text}"
    assert "abc123secret" not in service.output("worker0")


def test_in_a_process_of_threads_what_is_written_to_the_descriptors_has_no_ids(
    logging_service: Service,
) -> None:
    config, text = {"flow_id": "thread"}, "in threads"
    ended = logging_service.run("logger", {"do": "descriptors", "text": text}, config=config)
    assert ended["status"] == "completed"
    for message in (f"written {text}", f"echoed {text}", f"no end {text}"):
        [line] = until(logging_service, "worker0", "flow_output", message=message)
        assert "execution_id" not in line
    until(logging_service, "worker0", "flow_output", message="to stderr, token=[masked]")
    assert "abc123secret" not in logging_service.output("worker0")


def test_100_megabytes_are_logged_up_to_the_limit_and_the_others_are_counted(
    logging_service: Service,
) -> None:
    ended = logging_service.run("logger", {"do": "flood", "text": ""})
    assert ended["status"] == "completed"
    found = written(logging_service, ended["execution_id"])
    *shown, last = found["stdout"]
    assert len(shown) >= 1000
    assert set(shown) == {"z" * 99}
    assert last == f"[{1_000_000 - len(shown)} printed lines were left out]"
    assert found["stderr"] == ["before", "after"]


def test_a_run_that_writes_more_than_a_pipe_takes_and_holds_the_interpreter_goes_on(
    logging_service: Service,
) -> None:
    ended = logging_service.run("logger", {"do": "hold", "text": ""}, config={"timeout": 30})
    assert ended["status"] == "completed"
    found = written(logging_service, ended["execution_id"])["stdout"]
    assert "w" * 99 in found


def test_closed_and_replaced_descriptors_work_again_in_the_next_run(
    logging_service: Service,
) -> None:
    for _ in range(3):  # more runs than there are processes
        ended = logging_service.run("logger", {"do": "close", "text": "closes"})
        found = written(logging_service, ended["execution_id"])
        assert found == {"stdout": ["closes"], "stderr": []}
        ended = logging_service.run("logger", {"do": "descriptors", "text": "again"})
        found = written(logging_service, ended["execution_id"])
        assert found["stdout"][:2] == ["written again", "echoed again"]
        assert found["stderr"][1] == "system"


def test_a_program_that_a_run_leaves_behind_writes_into_no_other_run(
    logging_service: Service,
) -> None:
    for _ in range(3):
        ended = logging_service.run("logger", {"do": "leave", "text": ""})
        assert "has left" in written(logging_service, ended["execution_id"])["stdout"]
        ended = logging_service.run("logger", {"do": "descriptors", "text": "after"})
        found = written(logging_service, ended["execution_id"])
        assert "left behind" not in found["stdout"]
        assert found["stdout"][-1] == "no end after"


def test_what_processes_of_multiprocessing_write_belongs_to_their_run(
    logging_service: Service,
) -> None:
    ended = logging_service.run("logger", {"do": "forks", "text": ""})
    assert ended["status"] == "completed", ended
    found = written(logging_service, ended["execution_id"])
    assert found["stdout"] == ["fork wrote", "spawn wrote"]


def wake_ups(service: Service) -> int:
    """How often the parents of all processes that run flows were woken."""
    below = psutil.Process(service.workers[0].pid).children(recursive=True)
    keepers = {process.parent() for process in below if process.name() == "exec-flows"}
    return sum(keeper.num_ctx_switches().voluntary for keeper in keepers if keeper)


def test_a_run_that_writes_nothing_does_not_wake_the_parent_of_its_process(
    logging_service: Service,
) -> None:
    logging_service.run("logger", {"do": "nothing", "text": ""})
    before, began = wake_ups(logging_service), time.monotonic()
    for _ in range(40):
        logging_service.run("logger", {"do": "nothing", "text": ""})
    # They also look about once a second whether a line without an end is the last one.
    by_time = 10 * (time.monotonic() - began)
    assert wake_ups(logging_service) - before < 40 + by_time


def test_what_was_written_before_the_process_died_or_was_killed_is_logged(
    logging_service: Service,
) -> None:
    inputs = {"do": "die", "text": "of it"}
    ended = logging_service.run("logger", inputs, config={"max_attempts": 1})
    assert ended["status"] == "failed"
    found = written(logging_service, ended["execution_id"])
    assert "last words, no end of it" in found["stderr"]
    ended = logging_service.run("logger", {"do": "hang", "text": "on"}, config={"timeout": 3})
    assert ended["error"]["type"] == "Timeout"
    assert written(logging_service, ended["execution_id"])["stdout"] == ["hangs on"]


def test_a_run_that_stops_its_parent_ends_and_its_process_is_replaced(
    logging_service: Service,
) -> None:
    ended = logging_service.run("logger", {"do": "stop_parent", "text": "x"})
    assert ended["status"] == "completed"
    own = {"execution_id": ended["execution_id"]}
    [line] = until(logging_service, "worker0", "process_unfit", **own)
    assert "no longer reads" in line["reason"]


@pytest.mark.parametrize("flow", ["run", "thread"])
def test_a_run_that_failed_still_shows_how_far_it_came(logging_service: Service, flow: str) -> None:
    inputs = {"do": "progress", "text": "x"}
    ended = logging_service.run("logger", inputs, config={"flow_id": flow})
    assert ended["status"] == "failed"
    assert ended["progress"] == {
        "current_step": 3,
        "total_steps": 5,
        "percentage": 60.0,
        "current_step_name": "reading",
    }


def test_the_worker_of_an_attempt_has_the_same_name_in_the_answer_and_in_the_log(
    logging_service: Service,
) -> None:
    ended = logging_service.run("behaves", {"do": "echo"})
    own = {"execution_id": ended["execution_id"]}
    [line] = until(logging_service, "worker0", "attempt_ended", **own)
    assert line["worker"] == ended["attempts"][0]["worker"]


def test_a_run_that_the_service_ends_as_failed_has_one_line_too(logging_service: Service) -> None:
    ended = logging_service.run("behaves", {"do": "sleep", "seconds": 60}, config={"timeout": 1})
    assert ended["error"]["type"] == "Timeout"
    own = {"execution_id": ended["execution_id"]}
    [line] = until(logging_service, "worker0", "run_failed", **own)
    assert (line["type"], line["agent_id"]) == ("Timeout", "behaves")


def test_a_large_body_that_is_no_json_leaves_no_line_of_another_form(service: Service) -> None:
    answer = service.post(
        "/executions", data="{" * 100_000, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert (
        len(until(service, "web", "request_refused", request_id=answer.headers["X-Request-ID"]))
        == 1
    )


def test_the_lines_of_gunicorn_have_the_same_form(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=0)
    started = [line for line in lines(service, "web") if line["event"] == "library_message"]
    assert any(
        line["logger"] == "gunicorn.error" and "Listening" in line["message"] for line in started
    )
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in started)


def test_an_outage_is_said_at_its_beginning_and_at_its_end_with_how_long_it_was(
    make_service: Callable[..., Service], own_store: EmbeddedStore
) -> None:
    service = make_service(own_store.url)
    service.run("behaves", {"do": "echo"})
    began = time.monotonic()
    own_store.kill()
    time.sleep(3)
    own_store.start()
    for queue in ("threads", "processes"):
        deadline = time.monotonic() + 30
        while not (back := about(service, "store_back", queue)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(back) == len(about(service, "store_unavailable", queue)) == 1
        assert 2 < back[0]["seconds"] < time.monotonic() - began + 1  # rounded


def about(service: Service, event: str, queue: str) -> list[dict[str, Any]]:
    return [
        line
        for line in lines(service, "worker0")
        if (line["event"], line.get("queue")) == (event, queue)
    ]
