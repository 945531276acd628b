"""JSON for people: what is shown of a value, and how much of a large one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from app.pages import json_tree
from app.pages.json_tree import Node, shown, shown_value


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def tree(value: object) -> Node:
    node = shown(json.dumps(value).encode()).node
    assert node
    return node


def test_every_kind_of_value_has_its_own_look() -> None:
    value = {"a": "x", "b": 1.5, "c": None, "d": True, "e": [], "f": {}, "g": "two\nlines", "": 0}
    found = {child.name: (child.kind, child.text) for child in tree(value).children}
    assert found == {
        "a": ("string", '"x"'),
        "b": ("number", "1.5"),
        "c": ("word", "null"),
        "d": ("word", "true"),
        "e": ("array", ""),
        "f": ("object", ""),
        "g": ("text", "two\nlines"),
        "": ("number", "0"),
    }


def test_items_of_a_list_are_numbered() -> None:
    assert [child.name for child in tree(["a", "b"]).children] == ["0", "1"]


@pytest.mark.parametrize("value", ["text", 7, None, [], {}])
def test_the_whole_need_not_be_an_object(value: object) -> None:
    assert tree(value).name is None


def test_a_long_string_is_cut_and_says_by_how_much() -> None:
    found = shown(json.dumps("x" * 100_000).encode())
    assert found.node
    assert len(found.node.text) + found.node.left_out == 100_000
    assert len(found.node.text) == json_tree.MAX_STRING
    assert found.is_cut


@pytest.mark.parametrize(
    "value",
    [
        list(range(100_000)),
        {str(number): {"a": [1, 2]} for number in range(5000)},
        ["word " * 1000] * 100,
        [[[["x"] * 100] * 20] * 20],
    ],
)
def test_what_is_shown_is_bounded_and_the_rest_is_counted(value: object) -> None:
    found = shown_value(value)
    assert found.node
    every = list(nodes(found.node))
    assert len(every) <= json_tree.MAX_NODES + json_tree.MAX_DEPTH
    assert sum(len(node.text) for node in every) <= json_tree.MAX_CHARACTERS + 100
    assert found.is_cut
    assert any(node.left_out for node in every)
    for node in every:
        if node.kind in ("object", "array"):
            assert len(node.children) + node.left_out == node.count


def test_deep_nesting_is_cut() -> None:
    found = shown(b"[" * 200 + b"]" * 200)
    assert found.node
    assert len(list(nodes(found.node))) == json_tree.MAX_DEPTH + 1
    assert found.is_cut


@pytest.mark.parametrize("text", [b"[" * 200_000, b"{not json", b"\xff\xfe", b""])
def test_what_cannot_be_read_is_shown_as_it_is(text: bytes) -> None:
    found = shown(text)
    assert found.node is None
    assert found.raw == text[: json_tree.MAX_RAW_BYTES].decode(errors="ignore")


def test_a_large_text_is_not_parsed_and_only_its_beginning_is_read() -> None:
    class Large:
        size = 16 * 1024 * 1024
        asked = 0

        def pieces(self) -> Iterator[bytes]:
            while True:
                self.asked += 1
                yield b"x" * 64 * 1024

    large = Large()
    found = shown(large)
    assert (len(found.raw), found.size, found.is_cut) == (json_tree.MAX_RAW_BYTES, large.size, True)
    assert large.asked == 1
    assert shown(b'"' + b"x" * json_tree.MAX_PARSED_BYTES + b'"').node is None


def test_a_cut_does_not_break_a_character() -> None:
    found = shown(b'"' + "ü".encode() * json_tree.MAX_PARSED_BYTES)
    assert found.raw[1:] == "ü" * (len(found.raw) - 1)


def test_only_the_upper_levels_and_short_lists_are_open() -> None:
    top = tree({"a": {"b": {"c": 1}}, "long": list(range(60))})
    opened = {node.name: node.is_open for node in nodes(top) if node.count}
    assert opened == {None: True, "a": True, "b": False, "long": False}
