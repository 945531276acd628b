"""The order of a pipeline's steps: which are ready, which run, how many have finished.

`pipeline.py` makes one `Schedule` for a run and starts its steps; `outcomes.py` takes out those
that end. Only the loop's thread changes it.
"""

from __future__ import annotations

import graphlib
import math
import time
from collections.abc import Iterable
from operator import attrgetter

from app.domain.execution import Progress
from app.runtime.steps import StepState


class Schedule:
    """The steps of one run. A step moves from `ready` to `running` to finished, in this order.

    Steps that earlier attempts finished count as finished from the beginning.
    """

    def __init__(self, steps: Iterable[StepState]):
        self.steps = {state.step.id: state for state in steps}
        self.ready: list[StepState] = []
        self.running: dict[str, StepState] = {}
        """In the order in which they were started."""
        self._finished = 0
        graph = {id: state.step.depends_on for id, state in self.steps.items()}
        self._order = graphlib.TopologicalSorter(graph)
        self._order.prepare()
        self._find_ready()

    @property
    def progress(self) -> Progress:
        """The name is that of the running step that was started first. Batches count by items."""
        unfinished = (state for state in self.steps.values() if not state.record.done)
        partial = sum(state.share_done for state in unfinished)
        return Progress(self._finished, len(self.steps), next(iter(self.running), None), partial)

    def next_due(self) -> StepState | None:
        """The first ready step that may start now; steps that wait for a retry are due later."""
        now = time.monotonic()
        return next((state for state in self.ready if now >= state.due_at), None)

    def start(self, state: StepState) -> None:
        """Begins a new try of a ready step."""
        self.ready.remove(state)
        state.begin()
        self.running[state.step.id] = state

    def remove(self, state: StepState) -> None:
        """Takes out a ready or running step. Its successors never become ready."""
        if self.running.pop(state.step.id, None) is None:
            self.ready.remove(state)

    def retry(self, state: StepState) -> None:
        """Makes a running step ready again. Its `due_at` says when it may start."""
        self.remove(state)
        self.ready.append(state)

    def finish(self, state: StepState) -> None:
        """Takes out a ready or running step. Its successors may be ready now."""
        self.remove(state)
        self._finished += 1
        self._order.done(state.step.id)
        self._find_ready()

    def _find_ready(self) -> None:
        # A loop, because steps that an earlier attempt finished make further steps ready.
        while ids := self._order.get_ready():
            # In the order of the file, as users expect; the sorter gives them in no certain order.
            states = [self.steps[id] for id in ids]
            for state in sorted(states, key=attrgetter("record.position")):
                if state.record.done:
                    self._finished += 1
                    self._order.done(state.step.id)
                else:
                    self.ready.append(state)

    def next_moment(self, may_start: bool) -> float:
        """When there is something to do even if no call ends: a timeout, or a retry that may start.

        On the clock of `time.monotonic`; `inf` if there is no such moment.
        """
        moments = [state.give_up_at for state in self.running.values()]
        if may_start:
            moments += [state.due_at for state in self.ready]
        return min(moments, default=math.inf)
