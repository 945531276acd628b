"""The form of a target: what it reads from texts, and what it shows again if some are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.catalog.model import Agent, InputField, Output, Pipeline, PythonFlow, Step
from app.domain.errors import FieldError, InvalidRequest
from app.pages.target_form import Form, form
from app.pages.target_values import entered, read

MAX_TEXT = 1000


def target(*inputs: InputField, variants: tuple[str, ...] = ()) -> Pipeline:
    return Pipeline(
        "p",
        (Step("a", "a", agent="a"),),
        (Output("a"),),
        "thread",
        inputs=inputs,
        variants={name: {} for name in variants},
    )


ANYTHING = Pipeline("p", (Step("a", "a", agent="a"),), (Output("a"),), "thread")


def agent(*flows: str) -> Agent:
    return Agent(
        "a", {name: PythonFlow(name, "f.py:run", Path()) for name in flows}, flows[0], inputs=()
    )


def inputs_read(what: Any, **texts: str) -> Any:
    return read(
        what, "pipeline", {f"inputs.{name}": text for name, text in texts.items()}, MAX_TEXT
    )["inputs"]


def errors_of(what: Any, texts: dict[str, str]) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidRequest) as refused:
        read(what, "pipeline", texts, MAX_TEXT)
    return [(error.field, error.code, error.message) for error in refused.value.errors]


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        ("string", "plain", "plain"),
        ("string", "5", "5"),
        ("string", " kept as it is \n", " kept as it is \n"),
        ("string", "one\r\ntwo", "one\ntwo"),
        ("string", "<script>", "<script>"),
        ("integer", " 42 ", 42),
        ("integer", "-7", -7),
        ("number", "4.5", 4.5),
        ("number", "5", 5),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("array", '[1, "a"]', [1, "a"]),
        ("object", '{\r\n"a": {"b": null}}', {"a": {"b": None}}),
        ("any", "5", "5"),
        ("any", "[1", "[1"),
    ],
)
def test_a_text_is_read_by_the_type_of_its_input(type: Any, text: str, value: Any) -> None:
    found = inputs_read(target(InputField("x", type)), x=text)["x"]
    assert found == value
    assert isinstance(found, bool) is isinstance(value, bool)


@pytest.mark.parametrize(
    ("type", "text", "message"),
    [
        ("integer", "five", "Write a whole number, such as 42."),
        ("integer", "5.0", "Write a whole number, such as 42."),
        ("integer", "+5", "Write a whole number, such as 42."),
        ("integer", "true", "Write a whole number, such as 42."),
        ("integer", "9" * 5000, "Write a whole number, such as 42."),
        ("number", "1,5", "Write a number, such as 4.5."),
        ("number", "NaN", "Write a number, such as 4.5."),
        ("number", "1e999", "Write a number, such as 4.5."),
        ("boolean", "yes", "Choose true or false."),
        ("array", '{"a": 1}', 'Write a JSON list, such as ["a", "b"].'),
        ("object", "[]", 'Write a JSON object, such as {"a": 1}.'),
        ("object", '{"a": 1, "a": 2}', "Duplicate key 'a' in an object."),
        (
            "object",
            "{a: 1}",
            "This text is not JSON: Expecting property name enclosed in double quotes "
            "at line 1, column 2.",
        ),
        ("array", "[" * 80, "This text is nested deeper than 64 levels."),
        (
            "array",
            '["\\ud800"]',
            "This text contains text that is not valid Unicode (a lone surrogate).",
        ),
    ],
)
def test_a_wrong_text_is_refused_with_what_to_write(type: Any, text: str, message: str) -> None:
    [(field, _, said)] = errors_of(target(InputField("x", type)), {"inputs.x": text})
    assert (field, said) == ("inputs.x", message)


def test_an_empty_field_is_left_out() -> None:
    types = ("string", "integer", "number", "boolean", "array", "object", "any")
    optional = target(*(InputField(f"x_{name}", name) for name in types))  # type: ignore[arg-type]
    assert inputs_read(optional, **{f"x_{name}": "" for name in types}) == {}
    assert inputs_read(target(InputField("x", "integer")), x="  ") == {}


def test_an_empty_field_is_refused_if_its_input_is_required_and_has_no_default() -> None:
    what = target(InputField("x", required=True), InputField("y", required=True, default=1))
    assert errors_of(what, {}) == [("inputs.x", "required", "This input is required.")]


def test_all_errors_are_found_at_once() -> None:
    what = target(
        InputField("x", "integer"), InputField("y", "array"), InputField("z", required=True)
    )
    found = errors_of(what, {"inputs.x": "a", "inputs.y": "b", "config": "c"})
    assert [field for field, _, _ in found] == ["inputs.x", "inputs.y", "inputs.z", "config"]


def test_an_input_without_a_type_is_a_text_or_json() -> None:
    what = target(InputField("x"))
    assert inputs_read(what, x="[1]") == {"x": "[1]"}
    texts = {"inputs.x": "[1]", "kind.x": "json"}
    assert read(what, "pipeline", texts, MAX_TEXT)["inputs"] == {"x": [1]}
    [(field, code, _)] = errors_of(what, {"inputs.x": "[1", "kind.x": "json"})
    assert (field, code) == ("inputs.x", "invalid_json")


def test_a_target_without_declared_inputs_takes_one_json_object() -> None:
    shown = form(ANYTHING, entered(ANYTHING))
    assert [field.name for field in shown.inputs] == ["inputs"]
    assert read(ANYTHING, "pipeline", {"inputs": '{"a": 1}'}, MAX_TEXT)["inputs"] == {"a": 1}
    assert read(ANYTHING, "pipeline", {"inputs": ""}, MAX_TEXT)["inputs"] == {}
    [(field, code, _)] = errors_of(ANYTHING, {"inputs": "[1]"})
    assert (field, code) == ("inputs", "invalid_type")


def test_a_body_is_checked_like_one_of_the_api() -> None:
    long = errors_of(target(InputField("x")), {"inputs.x": "a" * (MAX_TEXT + 1)})
    assert long == [("inputs.x", "too_long", f"Must have at most {MAX_TEXT} characters.")]
    wrong = errors_of(target(), {"config": '{"timeout": -1, "retires": {}}'})
    assert {field for field, _, _ in wrong} == {"config.timeout", "config.retires"}


def test_flows_and_variants_are_choices() -> None:
    flows = agent("rules", "llm", "both")
    [flow] = form(flows, entered(flows)).choices
    assert flow.choices == (("", "rules (default)"), ("both", "both"), ("llm", "llm"))
    assert read(flows, "agent", {"config.flow_id": "llm"}, MAX_TEXT)["config"] == {"flow_id": "llm"}
    assert read(flows, "agent", {"config.flow_id": ""}, MAX_TEXT)["config"] == {}
    assert form(agent("rules"), {}).choices == ()
    [variant] = form(target(variants=("b", "a")), {}).choices
    assert [value for value, _ in variant.choices] == ["", "a", "b"]


def test_settings_and_choices_make_one_config() -> None:
    what = target(variants=("fast",))
    texts = {"config.variant": "fast", "config": '{"timeout": 5}'}
    assert read(what, "pipeline", texts, MAX_TEXT)["config"] == {"variant": "fast", "timeout": 5}
    [(field, _, message)] = errors_of(
        what, {"config.variant": "fast", "config": '{"variant": "x"}'}
    )
    assert field == "config.variant"
    assert message == "The settings below have a 'variant' too. Remove one of them."


def test_a_new_form_shows_the_defaults() -> None:
    what = target(
        InputField("text", "string", required=True),
        InputField("tone", "string", default="formal"),
        InputField("count", "integer", default=5),
        InputField("deep", "boolean", default=False),
        InputField("more", "object", default={"a": 1}),
        InputField("free", default=[1]),
        InputField("none", "string", default=None),
    )
    shown = form(what, entered(what))
    values = {field.label: field.value for field in shown.inputs}
    assert values == {
        "text": "",
        "tone": "formal",
        "count": "5",
        "deep": "false",
        "more": '{"a": 1}',
        "free": "[1]",
        "none": "",
    }
    assert [field.label for field in shown.inputs if field.required] == ["text"]
    assert {field.label for field in shown.inputs if field.is_json} == {"free"}
    texts = {**entered(what), "inputs.text": "x"}
    assert read(what, "pipeline", texts, MAX_TEXT)["inputs"] == {
        "text": "x",
        "tone": "formal",
        "count": 5,
        "deep": False,
        "more": {"a": 1},
        "free": [1],
    }


def test_a_form_begins_with_the_inputs_of_another_execution() -> None:
    what = target(InputField("x", "string"), InputField("y", "integer", default=1), variants=("v",))
    texts = entered(what, {"x": "a\nb", "y": 7}, {"variant": "v", "timeout": 9})
    body = read(what, "pipeline", texts, MAX_TEXT)
    assert body["inputs"] == {"x": "a\nb", "y": 7}
    assert body["config"] == {"variant": "v", "timeout": 9}


def test_inputs_that_have_no_field_are_not_lost() -> None:
    what = target(InputField("x", "string"))
    texts = entered(what, {"x": "a", "gone": [1]}, {"variant": "gone"})
    assert form(what, texts).as_json
    body = read(what, "pipeline", texts, MAX_TEXT)
    assert body["inputs"] == {"x": "a", "gone": [1]}
    assert body["config"] == {"variant": "gone"}


@pytest.mark.parametrize("text", ["a\x00b", "a\r\nb", "a\rb", "half a pair: \ud83d"])
@pytest.mark.parametrize("type", ["string", "any"])
def test_a_text_that_a_browser_would_change_is_written_as_json(type: Any, text: str) -> None:
    texts = entered(target(InputField("x", type=type), InputField("y")), {"x": text})
    assert json.loads(texts["inputs"]) == {"x": text}


def test_every_form_can_be_filled_in_as_json() -> None:
    what = target(InputField("x", "string", default="a"))
    texts = entered(what, as_json=True)
    assert form(what, texts).as_json
    assert read(what, "pipeline", texts, MAX_TEXT)["inputs"] == {"x": "a"}


def shown_again(what: Any, texts: dict[str, str]) -> Form:
    with pytest.raises(InvalidRequest) as refused:
        read(what, "pipeline", texts, MAX_TEXT)
    return form(what, texts, refused.value.errors)


def test_what_was_entered_is_kept_beside_its_errors() -> None:
    what = target(InputField("x", "integer"), InputField("y"), InputField("z", "boolean"))
    texts = {
        "inputs.x": "five",
        "inputs.y": "<b>",
        "kind.y": "json",
        "inputs.z": "true",
        "config": "{",
    }
    shown = shown_again(what, texts)
    x, y, z = shown.inputs
    assert (x.value, y.value, z.value, shown.settings.value) == ("five", "<b>", "true", "{")
    assert y.is_json
    assert x.errors == ("Write a whole number, such as 42.",)
    assert z.errors == ()
    assert [field.name for field in shown.wrong] == ["inputs.x", "inputs.y", "config"]
    assert shown.errors == ()


def test_an_error_in_a_part_of_a_value_names_the_part() -> None:
    what = target(InputField("x", "object"))
    shown = shown_again(what, {"inputs.x": '{"a": ["%s"]}' % ("a" * (MAX_TEXT + 1))})
    assert shown.inputs[0].errors == (f"a.0: Must have at most {MAX_TEXT} characters.",)
    shown = shown_again(what, {"config": '{"timeout": -1}'})
    assert shown.settings.errors[0].startswith("timeout: ")


def test_inputs_with_similar_names_keep_their_errors_apart() -> None:
    what = target(InputField("a"), InputField("a.b"), InputField("ab"))
    errors = [FieldError("inputs.ab", "Wrong.", "x"), FieldError("inputs.a.b.0", "Long.", "x")]
    shown = form(what, {}, errors)
    assert [field.errors for field in shown.inputs] == [(), ("0: Long.",), ("Wrong.",)]


def test_an_error_without_a_field_is_shown_above_the_form() -> None:
    shown = form(target(InputField("x")), {}, [FieldError("target_id", "Gone.", "x")])
    assert shown.errors == ("target_id: Gone.",)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=3
            )
        ),
        max_leaves=10,
    )
)
def test_any_value_survives_the_form(value: Any) -> None:
    """As a browser sends it: with `\\r\\n` at the ends of lines."""
    what = target(InputField("x"))
    texts = {
        name: text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
        for name, text in entered(what, {"x": value}).items()
    }
    found = read(what, "pipeline", texts, MAX_TEXT)["inputs"]
    assert found == ({} if value in (None, "") else {"x": value})


def test_tags_are_written_one_in_each_line() -> None:
    texts = entered(target(), tags=("nightly import", "eu"))
    assert form(target(), texts).tags.value == "nightly import\neu"
    sent = {**texts, "tags": "nightly import\r\n\r\neu\r\n"}
    assert read(target(), "pipeline", sent, MAX_TEXT)["tags"] == ["nightly import", "eu"]


def test_a_wrong_tag_is_named_beside_the_tags() -> None:
    texts = {"tags": "good\n" + "x" * 65}
    with pytest.raises(InvalidRequest) as refused:
        read(target(), "pipeline", texts, MAX_TEXT)
    [field] = form(target(), texts, refused.value.errors).wrong
    assert field.label == "Tags"
    assert field.errors[0].startswith("1: ")


def test_an_explicit_default_flow_is_chosen_and_not_in_the_settings() -> None:
    """Or the settings would contradict whoever chooses another flow."""
    texts = entered(agent("quick", "slow"), config={"flow_id": "quick", "timeout": 5})
    shown = form(agent("quick", "slow"), texts)
    assert [field.value for field in shown.choices] == [""]
    assert shown.settings.value == '{"timeout": 5}'
