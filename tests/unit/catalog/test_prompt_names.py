"""Names in prompts that look like those which the compiler uses for its own purposes."""

from __future__ import annotations

import pytest

from app.catalog.prompts.compiler import problems
from app.runtime.templates import render

LIKE_OURS = ["t·0", "t·1", "t·99", "p·0", "p·x", "t··0", "t·", "self·x"]


@pytest.mark.parametrize("name", LIKE_OURS)
def test_a_name_with_a_middle_dot_is_a_name_like_any_other(name: str) -> None:
    template = f"a {{{{ {name} }}}}{{% if {name} %}} b{{% endif %}} {{x}}"
    assert list(problems(template, None, False)) == []
    assert render(template, {"x": "y"}) == "a  y"
    assert render(template, {"x": "y", name: "value"}) == "a value b y"


@pytest.mark.parametrize("name", LIKE_OURS)
def test_it_is_reported_if_nobody_declares_it(name: str) -> None:
    [problem] = problems(f"a\n{{{{ {name} }}}}", frozenset(["x"]), False)
    assert problem.line == 2
    assert problem.reason.startswith(f"{name!r} is neither an input")
