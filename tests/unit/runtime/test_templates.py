"""Prompt templates: what is a placeholder, what is text, and what is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from app.catalog.prompts.compiler import problems
from app.runtime.errors import TemplateError
from app.runtime.templates import render
from tests.support.cpu_time import cpu_seconds


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
        ('{"user": {user}}', {"user": {"id": 1}}, '{"user": {"id": 1}}'),
        ("{} {0} { } {a b} {a-b} {a.b}", {"a": 1}, "{} {0} { } {a b} {a-b} {a.b}"),
        ('{{"a": 1}}', {}, '{{"a": 1}}'),
        ("{% if name %}yes {name}{% else %}no{% endif %}", {"name": "x"}, "yes x"),
        ("{% for x in items %}[{x}]{% endfor %}", {"items": [1, 2]}, "[1][2]"),
        ("{% for x in items %}{{ x.id }};{% endfor %}", {"items": [{"id": 7}]}, "7;"),
        ("{% set y = x + 1 %}{y} {{ y }}", {"x": 1}, "2 2"),
        ("{% with y = 1 %}{y}{% endwith %}", {}, "1"),
        ("100 {% of it", {}, "100 {% of it"),
        ("{% 50 %} {% of it %}", {}, "{% 50 %} {% of it %}"),
        ("## Title {#anchor}", {}, "## Title {#anchor}"),
        ("{{ name | upper }}", {"name": "ada"}, "ADA"),
        ("{{ 'yes' if name else 'no' }}", {"name": "ada"}, "yes"),
        ('{{ "}}" ~ name }}', {"name": "x"}, "}}x"),
        ("{data}", {"data": {"k": ["é", 1]}}, '{"k": ["é", 1]}'),
        ("{flag} {none} {number}", {"flag": True, "number": 1.5}, "true {none} 1.5"),
        ("a\n{name}\n", {"name": "b"}, "a\nb\n"),
        ("a\r\n{name}\rc\x01", {"name": "b"}, "a\r\nb\rc\x01"),
        (
            "{{ your name here }} {{ .GoStyle }} ${{ secrets }}",
            {},
            "{{ your name here }} {{ .GoStyle }} $",
        ),
        ("{{{name}}}", {"name": "Ada"}, "{Ada}"),
    ],
)
def test_what_a_template_renders_to(template: str, values: dict[str, object], text: str) -> None:
    assert render(template, values) == text


def test_a_value_with_braces_is_not_rendered_again() -> None:
    value = "{b} {{ b }} {% if b %}"
    assert render("{a} {{ a }}", {"a": value, "b": "no"}) == f"{value} {value}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Items:\n{%- for x in xs %}\n- {{ x }}\n{%- endfor %}\nDone", "Items:\n- 1\n- 2\nDone"),
        ("a {{- xs[0] -}} b", "a1b"),
        ("a {#- gone -#} b", "ab"),
        ("a {# gone\n over lines #}b", "a b"),
        ("{+}{%+ if xs +%} a {%+ endif +%}", "{+} a "),
        (
            "{% raw %}{{ xs }} {xs} {% if %}{# kept #}{% endraw %}",
            "{{ xs }} {xs} {% if %}{# kept #}",
        ),
        ("a {%- raw -%} {{ b }} {%- endraw -%} c", "a{{ b }}c"),
        ("{%for x in xs-%} {x} {%endfor%}", "1 2 "),
        (
            "{% for x in xs if x > 1 %}{{ loop.index }}{{ loop.last }}{% else %}none{% endfor %}",
            "1true",
        ),
    ],
)
def test_white_space_comments_and_raw_are_as_in_jinja(template: str, text: str) -> None:
    assert render(template, {"xs": [1, 2]}) == text


@pytest.mark.parametrize(
    "name", ["items", "keys", "values", "get", "update", "pop", "copy", "clear", "count", "index"]
)
def test_an_entry_of_the_data_goes_before_a_function_of_that_name(name: str) -> None:
    order = {"order": {name: ["apple"]}}
    assert render(f"{{{{ order.{name} }}}}", order) == '["apple"]'
    assert render(f"{{% for x in order.{name} %}}{{{{ x }}}}{{% endfor %}}", order) == "apple"
    assert (
        render(
            f"{{{{ orders|map(attribute='{name}')|first|first }}}}", {"orders": [order["order"]]}
        )
        == "apple"
    )
    assert render(f"{{% if order.{name} %}}yes{{% endif %}}", {"order": {"other": 1}}) == ""


def test_functions_are_called_beside_entries_of_the_same_name() -> None:
    template = (
        "{% for key, value in order.items() %}{{ key }}={{ value }};{% endfor %}"
        "{{ order.get('a') }}"
    )
    assert render(template, {"order": {"items": [1], "a": "b"}}) == "items=[1];a=b;b"
    assert (
        render("{{ name.strip().upper() }} {{ name.split(',')|join('-') }}", {"name": " a,b "})
        == "A,B  a-b "
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ name.upper }}",
        "{{ name.upper ~ '' }}",
        "{{ name.upper|string }}",
        "{{ [name.upper] }}",
        "{{ {'a': name.title}|tojson }}",
        "{{ '%s'|format(name.upper) }}",
        "{{ [name.upper]|join }}",
        "{{ order.items }}",
        "{{ order.update }}{{ [order.keys] }}",
        "{% for x in order %}{{ loop }}{% endfor %}",
        "{% for x in order %}{{ loop ~ 'x' }}{% endfor %}",
        "{% for x in order %}{{ loop.cycle }}{{ [loop.changed] }}{% endfor %}",
        "{{ [missing] }}",
        "{{ [missing] ~ 'x' }}",
        "{{ order|map(attribute='x')|list }}",
        "{{ number / 0 }}",
        "{{ number * 1e308 * 1e308 }}",
    ],
)
def test_what_is_no_data_is_an_error_that_names_the_placeholder(template: str) -> None:
    with pytest.raises(TemplateError) as raised:
        print(render(template, {"name": "x", "order": {"a": 1}, "number": 9}))
    assert "line 1" in str(raised.value)
    assert " at 0x" not in str(raised.value)


def test_the_error_for_a_function_that_is_not_called_says_how_to_call_it() -> None:
    with pytest.raises(
        TemplateError, match=r"\{\{ name\.upper \}\} cannot be written: .* upper\(\)"
    ):
        render("{{ name.upper }}", {"name": "x"})


@pytest.mark.parametrize("name", ["range", "dict", "lipsum", "cycler", "joiner", "namespace"])
def test_the_globals_of_jinja_are_not_available(name: str) -> None:
    assert render(f"[{{{name}}}{{{{ {name} }}}}]", {}) == "[]"
    assert render(f"[{{{name}}}{{{{ {name} }}}}]", {name: "mine"}) == "[minemine]"


@pytest.mark.parametrize(
    "name", ["dict", "lipsum", "cycler", "joiner", "namespace", "super", "self.x"]
)
def test_no_global_can_be_called_but_range(name: str) -> None:
    with pytest.raises(TemplateError, match="There is no function"):
        render(f"{{{{ {name}(1) }}}}", {})
    assert (
        render("{% for n in range(1, 3) %}{{ n }}{% endfor %}{{ range(2) }}", {"range": "mine"})
        == "12[0, 1]"
    )


@pytest.mark.parametrize(
    "name",
    [
        "self",
        "loop",
        "context",
        "caller",
        "varargs",
        "kwargs",
        "environment",
        "true",
        "false",
        "none",
        "True",
        "None",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "for",
        "class",
        "def",
        "import",
        "super",
        "block",
        "request",
        "config",
        "_x",
        "values",
        "items",
    ],
)
def test_an_input_may_have_any_name(name: str) -> None:
    template = f"{{name}}: {{{name}}} {{{{ {name} }}}}"
    assert render(template, {"name": "Ann", name: "v"}) == "Ann: v v"
    assert render(template, {"name": "Ann", name: "v"}, frozenset(["name", name])) == "Ann: v v"
    assert render("Hello {name}", {"name": "Ann", name: "v"}) == "Hello Ann"


def test_an_input_whose_name_has_spaces_or_hyphens_is_a_placeholder_where_it_is_known() -> None:
    values = {"customer name": "Ann", "order-id": 7}
    template = "{customer name} {{ customer name }} {order-id} {other name}"
    assert render(template, values, frozenset(values)) == "Ann Ann 7 {other name}"
    assert render(template, values) == "Ann Ann 7 {other name}"


LATEX = "Solve \\frac{a}{b} for {x}.\nx^{n} \\boxed{answer} {your result}{your_result}"


def test_single_braces_are_placeholders_only_for_names_that_are_declared() -> None:
    names = frozenset(["x"])
    template = LATEX + ' {答案} {"a": {y}} {txt} {range} {None}'
    assert render(template, {"x": 1}, names) == template.replace("{x}", "1")
    assert render("[{x}]", {}, names) == "[]"


def test_where_no_inputs_are_declared_the_text_around_them_says_that_braces_are_text() -> None:
    assert render(LATEX, {"x": 1}) == LATEX.replace("{x}", "1")
    assert render("\\sqrt{n}", {"n": 2}) == "\\sqrt2"
    assert render("C:\\{name} {left_out}", {"name": "x"}) == "C:\\x "


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{text} {{"name": "", "tags": []}}', 'T {"name": "", "tags": []}'),
        ('{text} {{\n  "a": {{"b": "{text}"}},\n  "c": [{{"d": {text}}}]\n}}', None),
        ("{text} {{'a': 1}} {{{{ \"s\": 5 }}}}", "T {'a': 1} {{ \"s\": 5 }}"),
        ('{text} {"a": {"b": {"c": 1}}}', 'T {"a": {"b": {"c": 1}}}'),
        ("{text} {{1, 2}, {3, 4}} style={{color: red}}", "T {{1, 2}, {3, 4}} style={{color: red}}"),
        ('{{ text }} {{"a": 1}}', 'T {{"a": 1}}'),
    ],
)
def test_braces_doubled_for_str_format_are_single_ones(template: str, text: str | None) -> None:
    text = text or 'T {\n  "a": {"b": "T"},\n  "c": [{"d": T}]\n}'
    assert render(template, {"text": "T"}) == text


def test_a_system_prompt_is_read_in_the_style_of_its_flow() -> None:
    assert render('Answer as {{"a": 1}}', {}, None, True) == 'Answer as {"a": 1}'


@pytest.mark.parametrize(
    ("template", "line", "reason"),
    [
        ("a\n{% if x %}", 2, "needs to be closed is 'if'"),
        ("a\n{% for a in x %}x", 2, "needs to be closed is 'for'"),
        ("{% if %}x{% endif %}", 1, "not well formed"),
        ("x\n\n{% endif %}", 3, "unknown tag 'endif'"),
        (
            "{# a\nb #}{% raw %}\n{% endraw %}\n{{ x|uper }}",
            4,
            "There is no filter 'uper'. Did you mean 'upper'?",
        ),
        (
            "{% if x is definde %}{% endif %}",
            1,
            "There is no test 'definde'. Did you mean 'defined'?",
        ),
        ("{{ x.strp() }}", 1, "There is no function 'strp'. Did you mean 'strip'?"),
        ("{{ x.append(1) }}", 1, "There is no function 'append'"),
        ("{{ x ** 2 }}", 1, "Powers"),
        ("{% if x", 1, "never closed"),
        ("{% raw %}", 1, "has no {% endraw %}"),
        ("{% elseif x %}", 1, "Did you mean 'else'?"),
        ("{% macro f() %}{% endmacro %}", 1, "{% macro %} cannot be used here"),
        ("{% include 'x' %}", 1, "{% include %} cannot be used here"),
        ("{% set a %}x{% endset %}", 1, "{% endset %} cannot be used here"),
        ("{% set ns.x = 1 %}", 1, "namespace"),
        ("{% for a in x recursive %}{% endfor %}", 1, "recursive"),
        ("{% for loop in x %}{% endfor %}", 1, "loop"),
        ("{{ x | }}", 1, "not well formed: {{ x | }}"),
        ("{{ x }", 1, "not well formed: {{ x }"),
        (
            "{{ txet }}",
            1,
            "'txet' is neither an input of the agent nor a default of this prompt. "
            "Did you mean 'text'?",
        ),
        ("a\n{% for y in text %}{{ z }}{{ y }}{% endfor %}", 2, "'z' is neither"),
        ("{% if texts %}{% endif %}", 1, "Did you mean 'text'?"),
        ("{% if x %}" * 200 + "{% endif %}" * 200, 1, "nested too deeply"),
        ("{x}" * 20_000, 1, "more than 10000 parts"),
    ],
)
def test_what_is_wrong_in_a_template_is_found_without_rendering_it(
    template: str, line: int, reason: str
) -> None:
    [problem] = problems(template, frozenset(["text", "x"]), False)
    assert (problem.line, reason in problem.reason) == (line, True), problem


def test_a_template_that_is_right_has_no_problems() -> None:
    template = (
        "{text} {{ text|upper }} {% for a in range(3) %}{a}{% endfor %}{% set b = 1 %}{b} {z}"
    )
    assert list(problems(template, frozenset(["text"]), False)) == []
    assert list(problems("{{ anything }}", None, False)) == []


@pytest.mark.parametrize(
    "template",
    [
        "{{ name.__class__.__mro__ }}",
        "{{ name.__class__ }}{{ name.__init__.__globals__ }}",
        "{{ name|attr('__class__')|attr('mro') }}",
        "{{ name['__class__']['mro'] }}",
        "{{ [name]|map(attribute='__class__.mro')|list }}",
        "{{ name.format(name) }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{% for x in [1] %}{{ loop._iterable }}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{{ self.__init__ }}{{ self._TemplateReference__context }}",
        "{{ name % 1 }}",
        "{% for a in range(999999) %}x{% endfor %}",
        "{{ '%r'|format(name) }}",
    ],
)
def test_a_template_cannot_reach_the_insides_of_python(template: str) -> None:
    try:
        text = render(template, {"name": "x"})
    except TemplateError:
        return
    assert text == ""


BIG = "a" * 1_000_000
DOUBLED = "{% set l = [1] %}" + "{% set l = [l, l] %}" * 40

GROWING: dict[str, tuple[str, dict[str, Any]]] = {
    "center": ("{{ x|center(n) }}", {"n": 10**9}),
    "center as a function": ("{{ x.center(n) }}", {"n": 10**9}),
    "ljust": ("{{ x.ljust(n) }}", {"n": 10**9}),
    "rjust": ("{{ x.rjust(n) }}", {"n": 10**9}),
    "zfill": ("{{ x.zfill(n) }}", {"n": 10**9}),
    "tojson": ("{{ [x]|tojson(indent=n) }}", {"n": 10**9}),
    "tojson of much": ("{{ xs|tojson(indent=30) }}", {"xs": [1] * 1_000_000}),
    "indent": ("{{ big|indent(1000) }}", {"big": "\n" * 1_000_000}),
    "a product of text": ("{{ x * n }}", {"n": 10**10}),
    "a product, the other way": ("{{ n * x }}", {"n": 10**10}),
    "a product of lists": ("{{ ([x] * n)|length }}", {"n": 10**9}),
    "products of numbers": (
        "{% set y = n * n %}" + "{% set y = y * y %}" * 40 + "{{ y }}",
        {"n": 10**300},
    ),
    "lists doubled": (
        "{% set l = [1] %}" + "{% set l = l + l %}" * 40 + "{{ l|length }}{{ x }}",
        {},
    ),
    "lists nested": (DOUBLED + "{{ l }}{{ x }}", {}),
    "lists nested and compared": (DOUBLED + "{{ l == l|list }}{{ x }}", {}),
    "lists nested and searched": (DOUBLED + "{{ x in [l] }}{{ [l].index(x) }}", {}),
    "lists nested and sorted": (DOUBLED + "{{ [l, l]|sort|length }}{{ x }}", {}),
    "text doubled": ("{% set s = x %}" + "{% set s = s ~ s %}" * 60 + "{{ s|length }}", {}),
    "text added": ("{% set s = x %}" + "{% set s = s + s %}" * 60 + "{{ s|length }}", {}),
    "loops in loops": (
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}{{ x }}",
        {},
    ),
    "a search in each step": (
        "{% for a in xs %}{% if big in more %}{% endif %}{% endfor %}",
        {"xs": [1] * 100_000},
    ),
    "a long text in each step": (
        "{% for a in xs %}{% set y = big|upper %}{% endfor %}",
        {"xs": [1] * 100_000},
    ),
    "a cut in each step": (
        "{% for a in xs %}{% set y = big[1:] %}{% endfor %}",
        {"xs": [1] * 100_000},
    ),
    "replace": ("{{ big|replace('a', big) }}", {}),
    "replace as a function": ("{{ big.replace('a', big) }}", {}),
    "replace nothing": ("{{ big|replace('', big) }}", {}),
    "wordwrap": ("{{ big|wordwrap(1) }}", {}),
    "wordwrap with much between": ("{{ big|wordwrap(79, wrapstring=big) }}", {}),
    "batch": ("{{ [x]|batch(n, 1)|list }}", {"n": 10**9}),
    "slice": ("{{ [x]|slice(n)|list }}", {"n": 10**9}),
    "format": ("{{ '%999999999d'|format(n) }}", {"n": 1}),
    "format with a star": ("{{ '%*d'|format(n, n) }}", {"n": 10**9}),
    "round": ("{{ n|round(n, 'ceil') }}", {"n": 10**9}),
    "map": ("{{ xs|map('center', 1000000)|list|length }}", {"xs": ["x"] * 100_000}),
    "join": ("{{ xs|join(big) }}", {"xs": [1] * 10_000}),
    "join as a function": ("{{ big.join(xs) }}", {"xs": ["1"] * 10_000}),
    "sum of lists": ("{{ xs|sum(start=[]) }}", {"xs": [[1]] * 100_000}),
}


def refused(template: str, values: dict[str, Any]) -> None:
    with pytest.raises(TemplateError):
        render(template, values)


@pytest.fixture(scope="module")
def allowed_seconds() -> float:
    """The cost of a loop that is allowed."""
    tracemalloc.start()  # which costs time itself
    try:
        return cpu_seconds(
            lambda: render("{% for a in range(100000) %}{{ x }}{{ x }}{% endfor %}", {"x": "x"})
        )
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("template", "more"), GROWING.values(), ids=GROWING)
def test_a_template_that_grows_is_refused_before_it_costs_time_or_memory(
    template: str, more: dict[str, Any], allowed_seconds: float
) -> None:
    values = {"x": "x", "big": BIG, "more": BIG + "b"} | more
    tracemalloc.start()
    try:
        assert cpu_seconds(lambda: refused(template, values), calls=1) < 20 * allowed_seconds
        assert tracemalloc.get_traced_memory()[1] < 150 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_large_prompt_of_many_values_is_rendered() -> None:
    rows = [{"name": f"row {n}", "tags": ["a", "b"]} for n in range(20_000)]
    line = "{{ loop.index }}. {{ row.name|title }}: {{ row.tags|join(', ') }}\n"
    template = f"{{% for row in rows %}}{line}{{% endfor %}}"
    text = render(template, {"rows": rows})
    assert text.startswith("1. Row 0: a, b\n")
    assert text.count("\n") == 20_000
    assert len(render("{text}", {"text": BIG * 3})) == 3_000_000


def test_a_prompt_that_grows_without_bound_is_refused() -> None:
    with pytest.raises(TemplateError, match="longer"):
        render("{% for a in range(9999) %}{text}{% endfor %}", {"text": "x" * 10_000})


def test_the_time_to_cut_a_prompt_grows_with_its_length_alone() -> None:
    for opening in (
        "{{ ",
        "{{'",
        "{%",
        "{#",
        "{",
        "}}",
        '{{"',
        "{{ a ",
        "{% if",
        "{{{",
        "\\frac{",
        "{a b",
    ):
        short, long = (
            cpu_seconds(lambda text=opening * times: list(problems(text, None, True)), calls=1)
            for times in (2_000, 40_000)
        )
        assert long < 100 * (short + 0.001), opening
