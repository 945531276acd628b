"""`docs/security.md` names existing tests for each threat."""

from __future__ import annotations

import re

from tests.support.service import ROOT


def test_each_defence_names_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    table = page.partition("## What is defended against")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][
        1:
    ]
    assert len(rows) > 20
    for row in rows:
        defended, *_, held_by = row
        names = re.findall(r"`([\w/.]+)`", held_by)
        assert names, defended
        assert [name for name in names if not (ROOT / "tests" / name).exists()] == [], defended
