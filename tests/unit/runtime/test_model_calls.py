"""Model calls of flows: the messages they take, the metadata they give, and the budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import catalog
from app.catalog.model import Catalog
from app.providers.base import Completion, ModelRejected
from app.runtime.errors import RunFailed
from app.runtime.messages import as_messages, texts_of
from tests.support.runtime import Recorder, Shown

FLOW = """
def ask(inputs, context):
    return context.complete(inputs.get("messages", "Hello"), **inputs.get("options", {})).text

def ask_often(inputs, context):
    return [context.complete("x" * 400).text for _ in range(inputs["times"])]

def tools(inputs, context):
    completion = context.complete("Weather?", tools=[{"type": "function"}])
    return [completion.tool_calls, completion.finish_reason, completion.refusal, completion.text]

def says_itself(inputs, context):
    context.complete("Hello")
    return {"output": 1, "metadata": {"finish_reason": "mine"}}

def of_its_own(inputs):
    return {"output": 1, "metadata": {"model_used": "own", "tokens_used": inputs["tokens"]}}
"""

AGENT = "flows:\n" + "".join(
    f"- {{name: {name}, entrypoint: 'flow.py:{name}', isolation: thread}}\n"
    for name in ("ask", "ask_often", "tools", "says_itself", "of_its_own")
)

PROMPT = """
user_template: Hello
stop: [END, "."]
seed: 7
top_p: 0.5
max_completion_tokens: 50
reasoning_effort: low
response_format: {type: json_object}
extra_body: {thinking: {type: disabled}}
"""

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


class Model:
    """Gives the answers of a list, the last one for ever, and keeps the messages it was sent."""

    def __init__(self, *completions: Completion):
        self.completions = list(completions) or [
            Completion("Hi!", "m-1", 11, 5, 16, finish_reason="stop")
        ]
        self.asked: list[tuple[Any, dict[str, Any]]] = []

    def complete(self, messages: Any, **options: Any) -> Completion:
        self.asked.append((messages, options))
        return self.completions.pop(0) if len(self.completions) > 1 else self.completions[0]


@pytest.fixture
def known(tmp_path: Path) -> Catalog:
    folder = tmp_path / "agents/a"
    (folder / "prompts").mkdir(parents=True)
    (folder / "flow.py").write_text(FLOW)
    prompts = {
        "prompt": PROMPT,
        "json": "user_template: Hello\noutput_parser: {type: json, retry_on_error: true}\n",
    }
    for name, text in prompts.items():
        (folder / "prompts" / f"{name}.yaml").write_text(text)
    (folder / "agent.yaml").write_text(
        AGENT + "".join(f"- {{name: {name}, file: {name}.yaml}}\n" for name in prompts)
    )
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/p.yaml").write_text(
        "inputs: []\nsteps: [{id: one, agent: a, flow: ask}, {id: two, agent: a, flow: ask}]\n"
    )
    return catalog.load([tmp_path / "agents"], [tmp_path / "pipelines"])


Run = Callable[..., Any]


@pytest.fixture
def run(known: Catalog) -> Run:
    def run(flow: str, model: Model, inputs: dict[str, Any] | None = None, **config: Any) -> Any:
        return Recorder().run(known, "a", inputs or {}, models=model, flow_id=flow, **config)

    return run


USER = {"role": "user", "content": "Hi"}


class Dumps:
    """Has `model_dump`, like a message of the `openai` package."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Hi", [USER]),
        ("", [{"role": "user", "content": ""}]),
        (USER, [USER]),
        ([USER], [USER]),
        ((USER, USER), [USER, USER]),
        (iter([USER]), [USER]),
        ([{**USER, "name": "ann"}], [{**USER, "name": "ann"}]),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],) * 2,
        ([{"role": "assistant", "content": None, "tool_calls": [CALL]}],) * 2,
        ([{"role": "assistant", "tool_calls": [CALL]}],) * 2,
        ([USER, Dumps()], [USER, Dumps().model_dump()]),
    ],
)
def test_messages_are_taken_in_every_form_that_is_clear(given: Any, sent: list[Any]) -> None:
    assert as_messages(given) == sent


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "text or a list of messages, not None"),
        (5, "not a int"),
        (b"Hi", "not a bytes"),
        ([], "messages is empty"),
        ((), "messages is empty"),
        (["Hi"], r"messages\[0\] must be a mapping such as .* not a str"),
        ([USER, None], r"messages\[1\] must be a mapping .* not None"),
        ([("user", "Hi")], r"messages\[0\] must be a mapping .* not a tuple"),
        ({"content": "Hi"}, r"messages\[0\] has no role"),
        ([{"role": None, "content": "Hi"}], r"messages\[0\] has no role"),
        ([{"role": 5, "content": "Hi"}], r"messages\[0\] has no role"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        (
            [{"role": "user", "content": 5}],
            r"messages\[0\].content must be text or a list of parts, not a int",
        ),
        ([{"role": "user", "content": {"type": "text"}}], r"messages\[0\].content .* not a dict"),
    ],
    ids=str,
)
def test_other_messages_are_rejected_with_their_place(given: Any, said: str) -> None:
    with pytest.raises(ModelRejected, match=said):
        as_messages(given)


def test_a_text_is_one_message_of_the_users(run: Run) -> None:
    model = Model()
    assert run("ask", model, {"messages": "Hi"})["output"] == "Hi!"
    assert model.asked[0][0] == [USER]


def test_wrong_messages_fail_the_run_before_the_model_is_called(run: Run) -> None:
    model = Model()
    for inputs in ({"messages": [5]}, {"options": {"model": 5}}):
        with pytest.raises(RunFailed, match="The model was not called") as failed:
            run("ask", model, inputs)
        assert (failed.value.failure.type, failed.value.retryable) == ("ModelRejected", False)
    assert model.asked == []


def test_the_options_of_a_prompt_file_go_to_the_model(run: Run) -> None:
    model = Model()
    run("prompt", model)
    options = model.asked[0][1]
    assert {
        name: value for name, value in options.items() if name not in ("model", "stop_signal")
    } == {
        "stop": ["END", "."],
        "seed": 7,
        "top_p": 0.5,
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "extra_body": {"thinking": {"type": "disabled"}},
    }


def test_a_flow_may_name_texts_at_which_the_model_stops(run: Run) -> None:
    model = Model()
    run("ask", model, {"options": {"stop": ["END"]}})
    assert model.asked[0][1]["stop"] == ["END"]


@pytest.mark.parametrize("flow", ["ask", "prompt"])
@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter", None])
def test_metadata_says_how_the_answer_ended(run: Run, flow: str, finish_reason: str | None) -> None:
    outputs = run(flow, Model(Completion("cut o", "m-1", finish_reason=finish_reason)))
    assert outputs["output"] == "cut o"
    assert outputs["metadata"]["finish_reason"] == finish_reason
    assert "refusal" not in outputs["metadata"]


@pytest.mark.parametrize("flow", ["ask", "prompt"])
def test_metadata_has_a_refusal(run: Run, flow: str) -> None:
    outputs = run(
        flow, Model(Completion("I cannot.", "m-1", finish_reason="stop", refusal="I cannot."))
    )
    assert (outputs["output"], outputs["metadata"]["refusal"]) == ("I cannot.", "I cannot.")


def test_metadata_of_a_flow_without_model_calls_has_nothing_about_answers(run: Run) -> None:
    assert run("of_its_own", Model(), {"tokens": 7})["metadata"] == {
        "model_used": "own",
        "tokens_used": 7,
    }


def test_metadata_that_a_flow_sets_itself_is_kept(run: Run) -> None:
    assert run("says_itself", Model())["metadata"]["finish_reason"] == "mine"


def test_tool_calls_are_handed_to_python_flows_as_they_came(run: Run) -> None:
    model = Model(Completion("", "m-1", finish_reason="tool_calls", tool_calls=[CALL]))
    outputs = run("tools", model)
    assert outputs["output"] == [[CALL], "tool_calls", None, ""]
    assert model.asked[0][1]["tools"] == [{"type": "function"}]
    assert "tool_calls" not in outputs["metadata"]


def test_tool_calls_of_a_prompt_are_shown_in_its_metadata(run: Run) -> None:
    outputs = run(
        "prompt", Model(Completion("", "m-1", finish_reason="tool_calls", tool_calls=[CALL]))
    )
    assert (outputs["output"], outputs["metadata"]["tool_calls"]) == ("", [CALL])


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        (
            Completion('{"a": 1', "m-1", finish_reason="length"),
            r"stopped before the end of its answer \(finish_reason: length\)",
        ),
        (Completion("No.", "m-1", finish_reason="stop", refusal="No."), "The model refused: No."),
    ],
)
def test_an_answer_that_does_not_parse_because_of_its_end_says_so(
    run: Run, completion: Completion, said: str
) -> None:
    with pytest.raises(RunFailed, match=said) as failed:
        run("json", Model(completion))
    assert failed.value.failure.type == "InvalidOutput"


def test_an_answer_with_a_lone_surrogate_can_be_asked_about_again(run: Run) -> None:
    model = Model(Completion("no \ud800 json", "m-1"), Completion("[1]", "m-1"))
    assert run("json", model)["output"] == [1]
    assert str(model.asked[1][0]).encode()


def test_tokens_that_were_not_reported_are_null_and_not_zero(run: Run, known: Catalog) -> None:
    silent = Model(Completion("Hi!", "m-1", finish_reason="stop"))
    metadata = run("ask", silent)["metadata"]
    assert (metadata["tokens_used"], metadata["input_tokens"], metadata["output_tokens"]) == (
        None,
        None,
        None,
    )
    assert metadata["estimated_tokens"] == 2 + 1
    assert Recorder().run(known, "p", {}, models=silent)["metadata"]["tokens_used"] is None


def test_tokens_that_were_reported_once_are_a_number(run: Run, known: Catalog) -> None:
    models = Model(Completion("Hi!", "m-1"), Completion("Hi!", "m-1", 11, 5, 16))
    store = Recorder()
    assert store.run(known, "p", {}, models=models, max_workers=1)["metadata"]["tokens_used"] == 16
    totals = [record.usage["m-1"].total_tokens for record in store.records.values()]
    assert sorted(totals, key=str) == [16, None]


def test_a_budget_also_limits_calls_to_a_server_that_reports_no_tokens(run: Run) -> None:
    model = Model(Completion("y" * 400, "m-1"))
    with pytest.raises(RunFailed, match=r"used 400 tokens \(400 of them estimated") as failed:
        run("ask_often", model, {"times": 100}, budget={"max_tokens": 350})
    assert failed.value.failure.type == "BudgetExceeded"
    assert len(model.asked) == 2


def test_a_budget_counts_reported_and_estimated_tokens_together(run: Run) -> None:
    model = Model(Completion("y", "m-1", 11, 5, 16), Completion("y" * 400, "m-1"))
    with pytest.raises(RunFailed, match=r"used 216 tokens \(200 of them estimated"):
        run("ask_often", model, {"times": 100}, budget={"max_tokens": 200})
    assert len(model.asked) == 2


def test_an_estimate_counts_texts_alone() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:" + "x" * 1000}}
    content = [{"type": "text", "text": "Hi"}, picture, "there", {"type": "text", "text": 5}]
    assert (
        "".join(texts_of([USER, {"role": "user", "content": content}, {"role": "assistant"}]))
        == "HiHithere"
    )


@pytest.mark.parametrize("tokens", [-1, 1.5, "7", 10**400, True])
def test_tokens_of_a_flows_own_are_checked(run: Run, tokens: Any) -> None:
    with pytest.raises(RunFailed, match="tokens_used must be an integer"):
        run("of_its_own", Model(), {"tokens": tokens})


@pytest.mark.parametrize("listened", [False, True])
@pytest.mark.parametrize("stream", [None, False, True])
def test_an_answer_is_shown_if_the_flow_says_so_or_somebody_listens(
    run: Run, stream: bool | None, listened: bool
) -> None:
    model = Model()
    run("ask", model, {"options": {"stream": stream}}, live=Shown(listened=listened))
    [(_, options)] = model.asked
    is_shown = stream or (stream is None and listened)
    assert options.keys() - {"model", "stop_signal"} == ({"on_text"} if is_shown else set())


def test_answers_side_by_side_are_numbered_and_have_their_places(known: Catalog) -> None:
    class Shows(Model):
        def complete(self, messages: Any, **options: Any) -> Completion:
            for retry in (0, 1):
                options["on_text"]("Hi", retry)
                options["on_text"]("!", retry)
            return super().complete(messages, **options)

    shown = Shown(listened=True)
    Recorder().run(known, "p", {}, models=Shows(), live=shown)
    assert sorted(call for _, call, _ in shown.texts) == [1, 1, 2, 2, 3, 3, 4, 4]
    places = {call: place.step for place, call, _ in shown.texts}
    assert sorted(places.values()) == ["one", "one", "two", "two"]
    for call, step in places.items():
        texts = [text for place, number, text in shown.texts if number == call]
        assert texts == ["Hi", "!"], step


@pytest.mark.parametrize("stream", ["yes", 1, 0])
def test_a_wish_for_a_stream_is_true_or_false(run: Run, stream: Any) -> None:
    with pytest.raises(RunFailed, match="stream must be true, false or None"):
        run("ask", Model(), {"options": {"stream": stream}})
