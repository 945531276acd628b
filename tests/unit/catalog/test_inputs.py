"""The inputs of a run: checked against the declared ones, with defaults, and as a JSON Schema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from app.catalog.inputs import check_inputs, inputs_schema, with_defaults
from app.catalog.model import MISSING, InputField
from app.domain.errors import FieldError
from tests.support.cpu_time import cpu_seconds

DECLARED = (
    InputField("text", "string", required=True),
    InputField("size", "integer", default=3),
    InputField("any"),
)


def test_inputs_that_fit_have_no_errors() -> None:
    assert check_inputs(DECLARED, {"text": "", "size": 0, "any": None}) == []


def test_without_a_declaration_every_input_is_accepted() -> None:
    assert check_inputs(None, {"whatever": 1}) == []


def test_with_an_empty_declaration_none_is_accepted() -> None:
    assert [error.code for error in check_inputs((), {"whatever": 1})] == ["unknown_field"]


def test_each_wrong_input_has_one_error_of_its_own() -> None:
    assert check_inputs(DECLARED, {"txet": "a", "size": "3"}) == [
        FieldError("inputs.txet", "Unknown field. Did you mean 'text'?", "unknown_field"),
        FieldError("inputs.text", "This input is required.", "required"),
        FieldError("inputs.size", "Must be of type integer.", "invalid_type"),
    ]


def test_a_required_input_with_a_default_can_be_left_out() -> None:
    assert check_inputs((InputField("tone", required=True, default="kind"),), {}) == []


@pytest.mark.parametrize(
    ("type", "right", "wrong"),
    [
        ("string", ["", "x"], [1, None, ["x"], True]),
        ("integer", [0, -1, 10**30], [1.0, True, False, "1", None]),
        ("number", [0, 1.5], [True, "1", None]),
        ("boolean", [True, False], [0, 1, "true", None]),
        ("array", [[], [1]], [{}, "x", (1,), None]),
        ("object", [{}, {"a": 1}], [[], "x", None]),
        ("any", [None, 1, "x", [], {}, True], []),
    ],
)
def test_types_are_those_of_json(type: Any, right: list[Any], wrong: list[Any]) -> None:
    def codes(value: Any) -> list[str]:
        return [error.code for error in check_inputs((InputField("x", type),), {"x": value})]

    assert all(codes(value) == [] for value in right)
    assert all(codes(value) == ["invalid_type"] for value in wrong)


def test_a_default_fills_in_for_what_is_left_out_or_none() -> None:
    assert with_defaults(DECLARED, {"text": "a"}) == {"text": "a", "size": 3}
    assert with_defaults(DECLARED, {"text": "a", "size": None, "any": None}) == {
        "text": "a",
        "size": 3,
        "any": None,
    }
    assert with_defaults(DECLARED, {"size": 0}) == {"size": 0}
    assert with_defaults(None, {"x": None}) == {"x": None}


def test_a_hundred_thousand_unknown_names_are_refused_quickly() -> None:
    declared = tuple(InputField(f"input_{n}") for n in range(50))
    given = {f"inptu_{n}": 1 for n in range(100_000)}
    assert len(check_inputs(declared, given)) == 100_000
    assert cpu_seconds(lambda: check_inputs(declared, given)) < 2


VALUES = st.sampled_from([None, True, 0, 7, 0.5, "", "text", [], {}])
ANY_DECLARED = st.lists(
    st.builds(
        InputField,
        st.sampled_from("abc"),
        st.sampled_from(["any", "string", "integer", "number", "boolean", "array", "object"]),
        st.booleans(),
        st.sampled_from([MISSING, None]),
    ),
    unique_by=lambda field: field.name,
)


@given_any(st.none() | ANY_DECLARED.map(tuple), st.dictionaries(st.sampled_from("abcd"), VALUES))
def test_the_schema_of_the_inputs_accepts_what_the_check_accepts(
    declared: tuple[InputField, ...] | None, given: dict[str, Any]
) -> None:
    schema = inputs_schema(declared)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(given) == (
        check_inputs(declared, given) == []
    )
