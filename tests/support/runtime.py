"""Runs a target in this process and keeps in memory what a store would keep.

Tests in `tests/unit/runtime` and `tests/properties` use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.catalog.model import Catalog
from app.domain.execution import Progress, StepRecord
from app.domain.payload import pack
from app.providers.base import ModelProvider
from app.runtime.checkpoint import Checkpoint, SavedState
from app.runtime.live import Live, NotShown, Place
from app.runtime.run import Ports, Run, execute, usage_before
from app.runtime.stop import StopSignal


class NoModel(ModelProvider):
    def complete(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("The run called a model, but the test has none.")


@dataclass
class Shown:
    """A `Live` that keeps what it is given."""

    listened: bool = False
    lines: list[tuple[Place, str, dict[str, Any]]] = field(default_factory=list)
    texts: list[tuple[Place, int, str]] = field(default_factory=list)
    calls: int = 0

    def log(self, place: Place, message: str, fields: Mapping[str, Any]) -> None:
        self.lines.append((place, message, dict(fields)))

    def new_call(self) -> int:
        self.calls += 1
        return self.calls

    def text(self, place: Place, call: int, text: str) -> None:
        self.texts.append((place, call, text))


@dataclass
class Recorder:
    """Keeps what a run stores, and gives it to the next run, as the store does."""

    reports: list[Progress] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    records: dict[str, StepRecord] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    left_behind: int = 0

    def save(self, checkpoint: Checkpoint, wait: bool) -> None:
        self.checkpoints.append(checkpoint)
        self.reports.append(checkpoint.progress)
        self.records |= {record.id: record for record, _ in checkpoint.records}
        self.values |= {name: pack(value) for name, value in checkpoint.values.items()}
        for name in checkpoint.dropped:
            self.values.pop(name, None)

    def leave_behind(self, threads: int) -> None:
        self.left_behind = threads

    def run(
        self,
        catalog: Catalog,
        target_id: str,
        inputs: Mapping[str, Any],
        *,
        models: ModelProvider | None = None,
        stop: StopSignal | None = None,
        limit_bytes: int = 10_000_000,
        live: Live | None = None,
        **config: Any,
    ) -> Any:
        """Runs a target, continues from what is stored, and returns the outputs."""
        saved = SavedState(dict(self.records), dict(self.values))
        kind = "agent" if target_id in catalog.agents else "pipeline"
        ports = Ports(
            catalog=catalog,
            models=models or NoModel(),
            stop=stop or StopSignal(),
            usage=usage_before({}, saved),
            report=self.reports.append,
            save=self.save,
            leaked_threads=self.leave_behind,
            log=lambda *_, **__: None,
            live=live or NotShown(),
        )
        run = Run("exec_1", 1, kind, target_id, dict(inputs), config, saved)
        return json.loads(execute(run, ports, limit_bytes))
