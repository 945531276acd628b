"""`tools.words`, a part of `make lint`: finds bad habits of words, and accepts correct ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.words import figures, mistakes


@pytest.mark.parametrize(
    "text",
    [
        '"""It can not be."""',
        "# Can not be.",
        "for each in range(3): pass",
        "found = [each for each in range(3)]",
        "def show(each): pass",
        "for number, each in enumerate('ab'): pass",
    ],
)
def test_a_bad_habit_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"\n{text}\n")
    assert [line.split(": ")[0] for line in mistakes(path)] == [f"{path}:2"]


@pytest.mark.parametrize(
    "text", ["# It cannot be; it can not only be.", "for item in 'ab': pass  # each item"]
)
def test_what_is_right_passes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert list(mistakes(path)) == []


@pytest.mark.parametrize(
    "text", ['key = f"rq:job:{id}"', 'client.get("exec:leases")', '"""Reads `exec:leases`."""']
)
def test_only_the_store_names_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("tools.words.ROOT", tmp_path)
    for folder, count in (("worker", 1), ("store", 0)):
        path = tmp_path / "app" / folder / "module.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        assert len(list(mistakes(path))) == count


def test_prose_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("This can not be, and each is a word here.\n")
    assert len(list(mistakes(path))) == 1


def test_figures_count_comments_but_not_markers(tmp_path: Path) -> None:
    path = Path(__file__)
    module = tmp_path / "module.py"
    module.write_text("# A reason.\nimport os  # noqa: F401\n" + "x = 1\n" * 3)
    assert "comment lines for each code line: 0.250" in list(figures([module]))
    assert any(line.startswith("functions, median / p90 / max lines:") for line in figures([path]))
