"""Fixtures that start a child process and take the place of its worker; a model server a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.child import Child


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`make_child(source, "flow", ..., isolation="process", slots=1)`: a child that knows these
    flows.
    """
    with ExitStack() as stack:
        made: list[Child] = []

        def make(source: str, *flows: str, isolation: str = "process", slots: int = 1) -> Child:
            lines = (
                f'  - {{name: {name}, entrypoint: "flow.py:{name}", isolation: {isolation}}}\n'
                for name in flows
            )
            folder = tmp_path / f"child{len(made)}"
            child = Child(folder, source, "flows:\n" + "".join(lines), slots=slots)
            made.append(child)
            return stack.enter_context(child)

        yield make
