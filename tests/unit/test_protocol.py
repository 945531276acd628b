"""`app.worker.protocol`: messages arrive complete, wherever the socket splits them."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.worker.protocol import ChildSocket, Head, Messages, encode, join, split

heads = st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4)
messages = st.lists(st.tuples(heads, st.binary(max_size=300)), max_size=8)


@given(messages, st.data())
def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    sent: list[tuple[Head, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(encode(*message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    arrived, received = Messages(), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        arrived.feed(wire[start:end])
        while message := arrived.take():
            received.append(message)
    assert received == sent


@given(st.lists(st.binary(max_size=20)))
def test_the_parts_of_a_body_come_apart_again(parts: list[bytes]) -> None:
    assert split(*join(parts)) == parts


def test_a_child_hears_what_was_said_last_then_that_its_worker_is_gone() -> None:
    ours, theirs = socket.socketpair()
    child = ChildSocket(theirs)
    ours.sendall(encode({"kind": "stop"}) + encode({"kind": "start"}, b"x" * 100_000))
    ours.close()
    assert child.receive(5) == ({"kind": "stop"}, b"")
    assert child.receive(5) == ({"kind": "start"}, b"x" * 100_000)
    with pytest.raises(EOFError):
        child.receive(5)
    theirs.close()


def test_a_worker_that_is_silent_counts_as_gone() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(encode({"kind": "start"}, b"half")[:-1])
    with pytest.raises(EOFError):
        ChildSocket(theirs).receive(0.05)
    ours.close()
    theirs.close()
