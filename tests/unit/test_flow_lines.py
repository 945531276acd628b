"""`app.worker.flow_lines`: what several threads of a run print at once stays in whole lines."""

from __future__ import annotations

import threading

import pytest

from app.telemetry import logs
from app.worker.flow_lines import FlowLines

THREADS = 4
LINES_OF_EACH = 100


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(logs, "write_print", lambda stream, text: lines.append(text))
    return lines


def test_lines_that_threads_of_one_run_print_at_once_are_not_mixed(logged: list[str]) -> None:
    lines, together = FlowLines("stdout"), threading.Barrier(THREADS)

    def prints(number: int) -> None:
        for line in range(LINES_OF_EACH):
            lines.add(f"{number} {line}".encode(), "exec_1")
            together.wait(30)  # everybody has begun a line, and nobody has ended it
            lines.add(b"\n", "exec_1")

    threads = [threading.Thread(target=prints, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {f"{number} {line}" for number in range(THREADS) for line in range(LINES_OF_EACH)}
    assert sorted(logged) == sorted(wanted)


def test_the_end_of_a_run_logs_the_unfinished_lines_of_all_its_threads(logged: list[str]) -> None:
    lines, begun, over = FlowLines("stdout"), threading.Barrier(4), threading.Event()

    def begins(text: str, run: str) -> None:
        lines.add(text.encode(), run)
        begun.wait(30)
        over.wait(30)

    texts = {"one": "exec_1", "two": "exec_1", "other": "exec_2"}
    threads = [threading.Thread(target=begins, args=pair) for pair in texts.items()]
    for thread in threads:
        thread.start()
    begun.wait(30)
    lines.end("exec_1")
    assert sorted(logged) == ["one", "two"]
    over.set()
    for thread in threads:
        thread.join()
