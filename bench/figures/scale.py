"""How much a figure measures: little (`make bench`) or much (`make bench-full`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scale:
    full: bool

    def pick(self, quick: T, full: T) -> T:
        return full if self.full else quick

    @property
    def rounds(self) -> int:
        return self.pick(3, 5)
