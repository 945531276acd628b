"""What becomes of a batch's outputs."""

from __future__ import annotations

from app.runtime.aggregate import aggregate


def test_the_keys_of_groups_are_text_as_it_is_and_anything_else_as_json() -> None:
    items = [{"mood": mood} for mood in ("good", None, True, "good", 2, "好")]
    grouped = aggregate({"strategy": "group", "group_by": "mood"}, items)
    assert list(grouped) == ["good", "null", "true", "2", "好"]
    assert len(grouped["good"]) == 2
