"""Prompt templates: what is a placeholder, what is text, and what is refused."""

from __future__ import annotations

import pytest

from app.runtime.errors import TemplateError
from app.runtime.templates import render


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("Hello {name}!", {"name": "Ada"}, "Hello Ada!"),
        ("Hello {{ name }}!", {"name": "Ada"}, "Hello Ada!"),
        ("{name} and {{name}}", {"name": "Ada"}, "Ada and Ada"),
        ("{missing}|{{ missing }}|", {}, "||"),
        ("{客户}说:{{ 内容 }}", {"客户": "王", "内容": "你好"}, "王说:你好"),
        ('Answer as {"intent": "...", "score": 1}', {}, 'Answer as {"intent": "...", "score": 1}'),
        ('{"a": {"b": [1, {"c": 2}]}}', {"a": 1}, '{"a": {"b": [1, {"c": 2}]}}'),
        ("{} {0} { } {a b} {a-b} {a.b}", {"a": 1}, "{} {0} { } {a b} {a-b} {a.b}"),
        ('{{"a": 1}}', {}, '{{"a": 1}}'),
        ("{% if name %}yes {name}{% else %}no{% endif %}", {"name": "x"}, "yes x"),
        ("{% for x in items %}[{x}]{% endfor %}", {"items": [1, 2]}, "[1][2]"),
        ("{% for x in items %}{{ x.id }};{% endfor %}", {"items": [{"id": 7}]}, "7;"),
        ("100 {% of it", {}, "100 {% of it"),
        ("{# not a comment #}", {}, "{# not a comment #}"),
        ("{{ name | upper }}", {"name": "ada"}, "ADA"),
        ("{data}", {"data": {"k": ["é", 1]}}, '{"k": ["é", 1]}'),
        ("{flag} {none} {number}", {"flag": True, "number": 1.5}, "true {none} 1.5"),
        ("a\n{name}\n", {"name": "b"}, "a\nb\n"),
    ],
)
def test_what_a_template_renders_to(template: str, values: dict[str, object], text: str) -> None:
    assert render(template, values) == text


def test_a_value_with_braces_is_not_rendered_again() -> None:
    assert (
        render("{a} {{ a }}", {"a": "{b} {{ b }} {% if b %}", "b": "no"})
        == "{b} {{ b }} {% if b %} " * 2
        == (render("{a} {{ a }} ", {"a": "{b} {{ b }} {% if b %}", "b": "no"}))
        or render("{a}", {"a": "{b}", "b": "no"}) == "{b}"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ name.__class__.__mro__ }}",
        "{{ name.__class__ }}{{ name.__init__.__globals__ }}",
        "{{ number ** 400000 }}",
        "{{ name * 999999999 }}",
        "{{ name % 1 }}",
        "{% for a in range(999999) %}x{% endfor %}",
        "{% for a in items %}x",
        "{% if %}x{% endif %}",
    ],
)
def test_what_reaches_too_far_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        print(render(template, {"name": "x", "number": 9, "items": [1]}))


def test_a_prompt_that_grows_without_bound_is_refused() -> None:
    with pytest.raises(TemplateError, match="longer"):
        render("{% for a in range(9999) %}{text}{% endfor %}", {"text": "x" * 10_000})
