"""Renders the table of the benchmarks; `write` puts it into docs/performance.md.

`bench.figures` makes the rows. `bench.__main__` prints them, and calls `write` after the full run
(`make bench-full`). A row is a figure with its spread, its ratio to a baseline of the same run, and
its goal.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PERFORMANCE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- begin: make bench-full -->", "<!-- end -->"

HEAD = (
    "| figure | median | min to max | ratio | to reach | reached |",
    "|---|---|---|---|---|---|",
)

Values = Sequence[float]


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit for the figure itself or, with `of_ratio`, for its ratio to the baseline."""

    limit: float
    of_ratio: bool = False
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def at_least(limit: float) -> Goal:
    return Goal(limit, at_least=True)


def at_most(limit: float) -> Goal:
    return Goal(limit)


def ratio_at_least(limit: float) -> Goal:
    return Goal(limit, of_ratio=True, at_least=True)


def ratio_at_most(limit: float) -> Goal:
    return Goal(limit, of_ratio=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `values` has one value for each round.

    `against` has the values of `baseline` in the same rounds. `form` formats a value.
    """

    figure: str
    values: Values
    form: str = "{:.0f}"
    baseline: str = ""
    against: Values = ()
    goal: Goal | None = None

    def __str__(self) -> str:
        ends = [self._show(end(self.values)).split()[0] for end in (min, max)]
        spread = " to ".join(ends) if len(self.values) > 1 else ""
        ratio = f"{_short(self.ratio)} x {self.baseline}" if self.ratio is not None else ""
        cells = (
            self.figure,
            self._show(statistics.median(self.values)),
            spread,
            ratio,
            self._aim(),
            self._reached(),
        )
        return f"| {' | '.join(cells)} |"

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of all rounds.

        Both sides of a round suffer from the same disturbance, so a ratio is steadier than a rate.
        """
        if not self.against:
            return None
        return statistics.median(
            mine / other for mine, other in zip(self.values, self.against, strict=True)
        )

    def _show(self, value: float) -> str:
        return self.form.format(value)

    def _aim(self) -> str:
        if self.goal is None:
            return ""
        limit = (
            f"{_short(self.goal.limit)} x" if self.goal.of_ratio else self._show(self.goal.limit)
        )
        return f"{'at least' if self.goal.at_least else 'at most'} {limit}"

    def _reached(self) -> str:
        if self.goal is None:
            return ""
        value = self.ratio if self.goal.of_ratio else statistics.median(self.values)
        assert value is not None
        return "yes" if self.goal.met(value) else "**no**"


def write(lines: Sequence[str]) -> None:
    """Replaces the table in docs/performance.md, between its markers."""
    text = PERFORMANCE.read_text()
    table = "\n".join((BEGIN, *lines, END))
    PERFORMANCE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, text, flags=re.DOTALL))


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 20 else f"{number:.3g}"
