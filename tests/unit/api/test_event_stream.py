"""Server-Sent Events: whatever a value holds, a parser gets the events that were sent."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import event_stream
from tests.support.sse import parse


def by_standard(text: bytes) -> list[tuple[str, str, str]]:
    return [(event.type, event.data, event.id) for event in parse([text])]


def by_unicode_lines(text: bytes) -> list[str]:
    """The data of a parser that takes all line ends of Unicode for line ends, as many do."""
    lines = text.decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


@given(st.text())
def test_no_text_breaks_out_of_its_event(text: str) -> None:
    for ascii_only in (True, False):
        data = json.dumps({"text": text}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        if b"\xed" in data and not ascii_only:
            continue  # a surrogate, which is in no UTF-8
        sent = event_stream.block(data, "execution.log", 7)
        [(type, got, id)] = by_standard(sent)
        assert (type, json.loads(got), id) == ("execution.log", {"text": text}, "7")
        [line] = by_unicode_lines(sent)
        assert json.loads(line) == {"text": text}


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\r\n", "\n\nevent: forged\ndata: 1\n\n"])
def test_json_with_line_ends_between_its_values_stays_one_event(end: str) -> None:
    data = f'{{"a": 1,{end}"b": 2}}'.encode()
    [(type, got, _)] = by_standard(event_stream.block(data, "snapshot", 1))
    assert type == "snapshot"
    assert got == re.sub("\r\n|\r", "\n", data.decode())


def test_a_name_or_id_cannot_hold_a_line_end() -> None:
    sent = event_stream.block(b"{}", "a\nevent: b\r\n\r\n", "1\n\n2\x002")
    assert by_standard(sent) == [("aevent: b", "{}", "122")]


def test_a_position_moves_the_id_without_an_event() -> None:
    events = parse([event_stream.position("5-1"), event_stream.block(b"{}", "x")])
    assert [(event.type, event.id) for event in events] == [("x", "5-1")]


def test_pieces_hold_many_blocks_and_lose_none() -> None:
    blocks = [b"%d" % number * 1000 for number in range(300)]
    pieces = list(event_stream.pieces(iter(blocks)))
    assert b"".join(pieces) == b"".join(blocks)
    assert len(pieces) < 15
    assert list(event_stream.pieces([])) == []
