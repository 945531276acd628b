"""Parsing a model's answers: what is taken, and what is refused so that the flow can ask again."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from app.catalog import json_schema
from app.catalog.model import OutputParser
from app.runtime.errors import InvalidOutput
from app.runtime.parsers import parse
from tests.support.cpu_time import cpu_seconds

FENCE = "`" * 3

LIST, JSON = OutputParser("list"), OutputParser("json")


@pytest.mark.parametrize(
    ("answer", "items"),
    [
        ("-5\n-3\n4", ["-5", "-3", "4"]),
        ("10.5 kg\n3.2 kg", ["10.5 kg", "3.2 kg"]),
        ("42", ["42"]),
        ('"quoted"', ['"quoted"']),
        ("true\nnull", ["true", "null"]),
        ("- a\n* b\n• c\n•d\n-", ["a", "b", "c", "d"]),
        ("*bold*\n**bolder** x\n--flag\n+ plus", ["*bold*", "**bolder** x", "--flag", "+ plus"]),
        ("1. a\n2. b\n10) c", ["1. a", "2. b", "10) c"]),
        ("1. a\n2. b\n\n3) c", ["a", "b", "c"]),
        ("1. 加快发货\n2.换包装\n3、回访\n- 道歉", ["加快发货", "换包装", "回访", "道歉"]),
        ("1. a\n  1. b\n  2. c\n2. d", ["a", "b", "c", "d"]),
        ("1. a\n1. b", ["a", "b"]),
        ("9. i\n10. j", ["i", "j"]),
        ("3. Platz", ["3. Platz"]),
        ("2024. A year\n1999. Another", ["2024. A year", "1999. Another"]),
        ("3.14 is pi\n1.5 is not", ["3.14 is pi", "1.5 is not"]),
        ("1. x", ["x"]),
        ("- -5\n- 5", ["-5", "5"]),
        ('["a", 1, {"b": null}]', ["a", 1, {"b": None}]),
        ('Here it is:\n["a",\n "b"]\nBye', ["a", "b"]),
        ("- see [1]\n- and [2, 3]", ["see [1]", "and [2, 3]"]),
        ("[1] first\n[2] second", ["[1] first", "[2] second"]),
        ("[ ] todo\n[x] done", ["[ ] todo", "[x] done"]),
        ("a\u2028b\r\nc\rd", ["a\u2028b", "c", "d"]),
        ("<think>1. draft</think>\n- a", ["a"]),
        ("", []),
    ],
)
def test_a_list_is_json_or_the_lines_without_their_bullets(answer: str, items: list[Any]) -> None:
    assert parse(LIST, answer) == items


FENCED = [
    "{fence}\n{content}\n{fence}",
    "{fence}json\r\n{content}\r\n{fence}\r\n",
    "~~~json\n{content}\n~~~",
    "{fence}c++\n{content}\n{fence}",
    "{fence}application/json\n{content}\n{fence}",
    "{fence}{{.json title='x.y'}}\n{content}\n{fence}",
    "Here you are:\n\n{fence}json\n{content}\n{fence}\nAnything else?",
    "   {fence}json\n   {content}\n   {fence}",
    "{fence}json\n{content}",
    "{fence}json\n{content}{fence}",
    "{fence}json {content} {fence}",
    "````markdown\n{content}\n````",
    "{fence}\n{fence}\n{fence}json\n{content}\n{fence}",
    "\ufeff{fence}json\n{content}\n{fence}",
]


@pytest.mark.parametrize("form", FENCED)
def test_a_fence_is_taken_off_in_all_its_forms(form: str) -> None:
    answer = form.format(fence=FENCE, content='["a", "b"]')
    assert parse(JSON, answer) == parse(LIST, answer) == ["a", "b"]


def test_a_fence_within_a_longer_one_or_within_a_text_is_content() -> None:
    inner = f"{FENCE}\nx\n{FENCE}"
    assert parse(LIST, f"````md\n{inner}\n````") == [FENCE, "x", FENCE]
    assert parse(JSON, f'{FENCE}json\n{{"code": "{FENCE}x{FENCE}"}}\n{FENCE}') == {
        "code": f"{FENCE}x{FENCE}"
    }


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("42", 42),
        ("null", None),
        ('<think>{"draft": 1}</think>{"a": 1}', {"a": 1}),
        ('I think [1] is {right}</think>\n\n{"a": 1}', {"a": 1}),
        ('<THINKING>x</THINKING>Sure: {"a": 1}.', {"a": 1}),
        ('Sure! {"a": "a } and a ["} Bye.', {"a": "a } and a ["}),
        ("The answer is [1, 2].", [1, 2]),
        ('Use {name}, as in {"a": 1}', {"a": 1}),
        ('{ is a brace. {"a": 1}', {"a": 1}),
        ('{"a": "</think>"}', {"a": "</think>"}),
    ],
)
def test_json_is_found_where_it_is_the_only_one(answer: str, value: Any) -> None:
    assert parse(JSON, answer) == value


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("no json", "it contains no JSON object or array"),
        ("", "it contains no JSON object or array"),
        ('{"a": 1} or {"a": 2}', "more than one"),
        (f"{FENCE}\n[1]\n{FENCE}\n{FENCE}\n[2]\n{FENCE}", "more than one"),
        ('{"a": [1, 2],}', "Expecting property name"),
        ('Here: {"a": [1, 2],}', "it contains no JSON object or array"),
        ('{"a": [1, 2], "b": "cut', "Unterminated string"),
        ('Here: {"a": [1, 2], "b": "cut', "it is cut off"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('Here: {"a": -Infinity}', "-Infinity is not a JSON value"),
        ('{"a": 1e400}', "too large"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ('{"a": "\\ud800"}', "lone surrogate"),
        ('{"\\udfff": 1}', "lone surrogate"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("<think>I have", "contains only reasoning"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_what_is_not_json_is_refused_with_the_reason(answer: str, reason: str) -> None:
    with pytest.raises(InvalidOutput, match=reason):
        parse(JSON, answer)


@pytest.mark.parametrize(
    "answer", ['["a", NaN]', '["a", "b', '["\\ud800"]', '{"a": 1}', "<think>x", "a\n\udc00"]
)
def test_what_is_meant_as_a_json_list_and_is_none_is_no_list_of_lines(answer: str) -> None:
    with pytest.raises(InvalidOutput):
        parse(LIST, answer)


def test_text_stays_as_it_is_and_must_be_unicode() -> None:
    answer = f"<think>x</think>\n{FENCE}json\r\n{{}}\r\n{FENCE}"
    assert parse(OutputParser(), answer) == answer
    with pytest.raises(InvalidOutput, match="surrogate"):
        parse(OutputParser(), "a\ud800")


def test_a_complaint_about_a_long_answer_is_short() -> None:
    parser = OutputParser("json", {"type": "object"})
    with pytest.raises(InvalidOutput) as raised:
        parse(parser, "[" + "1," * 100_000 + "1]")
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "part",
    ["[", "x[", "{ ", '{"', "[1,", "` ", FENCE + " ", "<think>", "\n- ", ' ,"', "[]\n", "1. "],
)
@pytest.mark.parametrize("parser", [JSON, LIST], ids=["json", "list"])
def test_the_time_to_parse_grows_with_the_length_of_the_answer_alone(
    parser: OutputParser, part: str
) -> None:
    def run(times: int) -> None:
        with contextlib.suppress(InvalidOutput):
            parse(parser, part * times)

    assert cpu_seconds(lambda: run(100_000), calls=1) < 100 * (
        cpu_seconds(lambda: run(5_000)) + 0.001
    )


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(.*a){20}$", "^([a-zA-Z]+)*$", "(x+x+)+y"]
)
@pytest.mark.parametrize("keyword", ["pattern", "patternProperties", "additionalProperties"])
def test_no_pattern_of_a_schema_takes_more_than_linear_time(pattern: str, keyword: str) -> None:
    schema: dict[str, Any] = {"pattern": pattern}
    if keyword != "pattern":
        schema = {"patternProperties": {pattern: {}}, "additionalProperties": False}

    def run(length: int) -> None:
        text = "a" * length + "!"
        json_schema.complaint(schema, text if keyword == "pattern" else {text: 1})

    assert cpu_seconds(lambda: run(100_000), calls=1) < 100 * (
        cpu_seconds(lambda: run(5_000)) + 0.001
    )


def test_references_that_fork_and_items_that_are_compared_are_bounded() -> None:
    forks = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    schema = {"$defs": forks | {"d40": {"type": "integer"}}, "$ref": "#/$defs/d0"}
    assert "references" in (json_schema.complaint(schema, 1) or "")
    assert "RecursionError" in (json_schema.complaint({"$ref": "#"}, 1) or "")
    unique = {"uniqueItems": True}
    items = [{"a": n} for n in range(20_000)]
    assert cpu_seconds(lambda: json_schema.complaint(unique, items), calls=1) < 100 * (
        cpu_seconds(lambda: json_schema.complaint(unique, items[:1000])) + 0.001
    )
    assert json_schema.complaint(unique, items) is None
    assert json_schema.complaint(unique, [1, True, "1", [1]]) is None
    assert json_schema.complaint(unique, [{"a": 1}, {"a": 1.0}])


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"pattern": "^\\d{4}-\\d{2}$"}, "2024-01", "2024"),
        ({"pattern": "^[\\u4e00-\\u9fa5]+$"}, "中文", "text"),
        ({"pattern": "\\p{L}"}, "é", "1"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^a"}, "a", "b"),
        (
            {
                "properties": {"a": {}},
                "patternProperties": {"^x": {"type": "integer"}},
                "additionalProperties": False,
            },
            {"a": 1, "x1": 2},
            {"x1": "2"},
        ),
        (
            {"properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
            {"a": "", "b": 1},
            {"b": ""},
        ),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, 1, "1"),
    ],
)
def test_schemas_mean_what_they_meant(schema: dict[str, Any], right: Any, wrong: Any) -> None:
    assert list(json_schema.problems(schema)) == []
    assert json_schema.complaint(schema, right) is None
    assert json_schema.complaint(schema, wrong) is not None
