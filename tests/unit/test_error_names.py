"""`docs/errors.md` has every error code and error type that the code uses."""

from __future__ import annotations

import re
from pathlib import Path

from app.api import coded, examples, problems
from app.providers import base
from app.runtime import errors, usage

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTED = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "errors.md").read_text()))

_RAISED = re.compile(
    r"(?:Problem\(\s*\d+,|of_body\(|problem\(\s*\d+,|_Refused\(|FieldError\([^\n]*,)"
    r"\s*\"([a-z_]+)\""
)


def _raised() -> set[str]:
    """Finds the codes that are written in the source as string literals."""
    sources = "".join(path.read_text() for path in sorted((ROOT / "app").rglob("*.py")))
    return set(_RAISED.findall(sources))


def test_every_code_of_a_problem_is_documented() -> None:
    codes = _raised() | set(examples.PROBLEMS) | set(problems._CODES.values()) | set(coded.CODES)
    assert len(codes) > 30
    assert codes - DOCUMENTED == set()


def test_every_error_type_of_the_service_is_documented() -> None:
    own = (*errors.PERMANENT, errors.StepTimeout, usage.BudgetExceeded)
    raised = [error.__name__ for error in own]
    models = [error.__name__ for error in base.ModelError.__subclasses__()]
    in_scripts = re.findall(r"failure\(record, '(\w+)'", _scripts())
    assert {"Expired", "WorkerLost"} <= set(in_scripts)
    assert {*raised, *models, *in_scripts, "Timeout"} - DOCUMENTED == set()


def _scripts() -> str:
    return "".join(path.read_text() for path in (ROOT / "app" / "store" / "scripts").glob("*.lua"))
