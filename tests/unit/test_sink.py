"""`app.telemetry.sink`: a write returns at once, even if nobody reads it, and lines stay whole."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import socket
import stat
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.telemetry.sink import MAX_LINE_BYTES, MAX_WAITING, PrintStream, Sink, write_now

SECONDS = 20.0  # a write that blocks would last for ever


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def numbered(number: int, size: int = 300) -> bytes:
    return (f"{number} " + "x" * size)[: size - 1].encode() + b"\n"


def read_all(descriptor: int, seconds: float = 0.2) -> bytes:
    """Reads until nothing has come for this time."""
    parts = []
    while select.select([descriptor], [], [], seconds)[0]:
        try:
            parts.append(os.read(descriptor, 65536))
        except OSError:
            break
        if not parts[-1]:
            break
    return b"".join(parts)


def in_time(act: Callable[[], None]) -> None:
    """Fails if `act` blocks; its thread is then left running."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_full_pipe_does_not_block_and_dropped_lines_are_reported_later(pipe) -> None:
    reported: list[int] = []
    sink = Sink(pipe[1], lambda count: reported.append(count) or f"dropped {count}\n".encode())
    in_time(lambda: [sink.write(numbered(number)) for number in range(5000)])
    assert sink.dropped > 2000
    dropped, text = sink.dropped, b""
    while not sink.flush():
        text += read_all(pipe[0], 0)
    sink.write(b"after\n")
    lines = (text + read_all(pipe[0])).splitlines(keepends=True)
    assert reported == [dropped]
    assert sink.dropped == 0
    whole = [line for line in lines if line not in (b"after\n", f"dropped {dropped}\n".encode())]
    assert whole == [numbered(number) for number in range(5000 - dropped)]
    assert len(lines) == len(whole) + 2


@pytest.mark.parametrize("size", [300, MAX_LINE_BYTES])
def test_lines_of_many_processes_in_one_pipe_are_whole(pipe, size: int) -> None:
    children = []
    for place in range(4):
        if not (child := os.fork()):
            sink = Sink(pipe[1])
            for number in range(300):
                sink.write(numbered(place * 1000 + number, size))
            os._exit(0)
        children.append(child)
    text = read_all(pipe[0], 3)
    for child in children:
        os.waitpid(child, 0)
    text += read_all(pipe[0])
    assert len(text) > 65536 or size == 300
    for line in text.splitlines(keepends=True):
        assert line == numbered(int(line.split()[0]), size)


def test_the_shared_descriptor_is_not_made_non_blocking(pipe) -> None:
    Sink(pipe[1]).write(b"line\n")
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_stopped_terminal_does_not_block_and_continues_where_it_stopped() -> None:
    ours, theirs = pty.openpty()
    assert stat.S_ISCHR(os.fstat(theirs).st_mode)
    termios.tcflow(theirs, termios.TCOOFF)  # what Ctrl-S does
    sink = Sink(theirs)
    in_time(lambda: [sink.write(numbered(number)) for number in range(MAX_WAITING + 50)])
    assert sink.dropped >= 40
    termios.tcflow(theirs, termios.TCOON)
    text, deadline = b"", time.monotonic() + SECONDS
    while not sink.flush():
        text += read_all(ours, 0.01)
        assert time.monotonic() < deadline
    lines = (text + read_all(ours)).replace(b"\r\n", b"\n").splitlines(keepends=True)
    assert lines == [numbered(number) for number in range(len(lines))]
    assert len(lines) >= MAX_WAITING
    os.close(ours)
    assert write_now(theirs, b"nobody is there\n") in (0, 16)  # it is gone: no error either
    os.close(theirs)


def test_a_terminal_that_nobody_reads_does_not_block() -> None:
    ours, theirs = pty.openpty()
    sink = Sink(theirs)
    in_time(lambda: [sink.write(numbered(number)) for number in range(3000)])
    assert sink.dropped > 1000
    os.close(ours)
    os.close(theirs)


def test_a_socket_that_nobody_reads_does_not_block() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = Sink(theirs.fileno())
        in_time(lambda: [sink.write(numbered(number)) for number in range(5000)])
        assert sink.dropped > 0
        while not sink.flush():
            for line in read_all(ours.fileno(), 0).splitlines(keepends=True):
                assert line.endswith(b"\n")


def test_several_sinks_append_to_one_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        for number in range(100):
            assert Sink(file.fileno()).write(numbered(number))
    assert (tmp_path / "log").read_bytes() == b"".join(map(numbered, range(100)))


def test_it_works_without_a_free_descriptor(pipe) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sink = Sink(pipe[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(pipe) + 1, hard))
    spare = []
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        in_time(lambda: [sink.write(numbered(number)) for number in range(2000)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)
    assert sink.dropped > 0
    assert read_all(pipe[0]).startswith(numbered(0) + numbered(1))


@pytest.mark.parametrize("how", ["closed", "unread", "full"])
def test_a_descriptor_that_fails_for_good_raises_nothing(how: str) -> None:
    if how == "full":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
        if how == "closed":
            os.close(descriptor)
    sink = Sink(descriptor)
    in_time(lambda: [sink.write(b"line\n") for _ in range(MAX_WAITING + 10)])
    assert sink.dropped == 10
    if how != "closed":
        os.close(descriptor)


def test_lines_that_wait_at_a_fork_are_written_once(pipe) -> None:
    sink = Sink(pipe[1])
    for number in range(400):
        sink.write(numbered(number))
    if not (child := os.fork()):
        sink.write(b"child\n")
        os._exit(0)
    os.waitpid(child, 0)
    text = read_all(pipe[0])
    while not sink.flush():
        text += read_all(pipe[0])
    text += read_all(pipe[0])
    of_the_parent = [line for line in text.splitlines(keepends=True) if line != b"child\n"]
    assert of_the_parent == list(map(numbered, range(400)))


def test_a_print_waits_for_a_slow_reader_but_not_for_a_missing_one(pipe) -> None:
    stream = PrintStream(pipe[1]).text()
    text = "".join(f"{number} {'y' * 90}\n" for number in range(5000))
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(read_all(pipe[0], 2)))
    reader.start()
    print(text, end="", file=stream)
    reader.join()
    assert read[0].decode() == text
    # 15 MB, of which a pipe holds 64 KiB
    in_time(lambda: [print(text, file=stream) for _ in range(30)])
    assert stream.fileno() == pipe[1]
    assert not stream.isatty()


def test_a_print_is_written_with_its_line_break(pipe) -> None:
    stream = PrintStream(pipe[1]).text()
    print("one", 2, "\ud800", file=stream)
    assert read_all(pipe[0]) == b"one 2 \\ud800\n"
    stream.buffer.write(b"bytes")
    stream.flush()
    assert read_all(pipe[0]) == b"bytes"
