"""Draws the graph of a pipeline: `draw` computes all that the template `graph.svg` writes.

Steps are boxes. Steps of one column can run side by side; an arrow leads from a step to one that
waits for it. What is special about a step (a condition, a batch, retries) is written in its box,
and also shown by the box's form, so that nothing depends on colours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.catalog.model import Pipeline, Step
from app.pages.graph_layers import Layered, Node, layer_numbers, layered, line_count
from app.pages.graph_places import centres

MOST_STEPS = 150
MOST_LINES = 1000
"""A larger graph is not drawn: nobody could read it, and each visitor would have to load it."""

BOX_WIDTH = 224.0
COLUMN_GAP = 56.0
MARGIN = 8.0
PADDING = 12.0
NAME_HEIGHT, LINE_HEIGHT = 20.0, 17.0
BEND_HEIGHT = 10.0
STACK = 4.0
"""How far the sheets behind the box of a batch stand out."""

NAME_CHARACTERS, LINE_CHARACTERS = 24, 32
"""What fits into a box. A wide character, such as a Chinese one, counts as two."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text in a box. `kind` is a class for the style sheet; `full` is the uncut text."""

    text: str
    full: str
    kind: str
    y: float


@dataclass(frozen=True, slots=True)
class Box:
    """A step in the drawing. `arrow` says whether arrows end at its left side."""

    id: str
    x: float
    y: float
    height: float
    lines: tuple[Line, ...]
    is_batch: bool
    is_conditional: bool
    arrow: bool
    title: str
    width: float = BOX_WIDTH

    @property
    def centre(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True, slots=True)
class Drawing:
    """`paths` are the arrows' lines, in the form of SVG. `text` says the same for who cannot see
    the picture.
    """

    width: float
    height: float
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]
    text: str


def draw(pipeline: Pipeline) -> Drawing | None:
    """The drawing of a pipeline; None if it is too large to be drawn."""
    depends_on = {step.id: step.depends_on for step in pipeline.steps}
    if len(depends_on) > MOST_STEPS or line_count(depends_on) > MOST_LINES:
        return None
    graph = layered(depends_on)
    notes = {step.id: tuple(_notes(step, pipeline)) for step in pipeline.steps}
    heights = {
        node: BEND_HEIGHT if node.is_bend else _height(notes[node.id])
        for layer in graph.layers
        for node in layer
    }
    at = centres(graph, heights)
    boxes = tuple(
        _box(step, notes[step.id], node, at[node], heights[node])
        for step, node in _nodes(pipeline, graph)
    )
    return Drawing(
        width=_left(len(graph.layers)) - COLUMN_GAP + MARGIN + STACK,
        height=max(box.y + box.height for box in boxes) + MARGIN + STACK,
        boxes=boxes,
        paths=tuple(_path(start, end, at) for start, end in graph.edges) + tuple(_bends(at)),
        text=in_words(pipeline),
    )


def in_words(pipeline: Pipeline) -> str:
    """The order of the steps, as sentences."""
    numbers = layer_numbers({step.id: step.depends_on for step in pipeline.steps})
    sentences = []
    for layer in range(max(numbers.values()) + 1):
        steps = [step for step in pipeline.steps if numbers[step.id] == layer]
        names = "; ".join(_in_words(step) for step in steps)
        side_by_side = " side by side" if len(steps) > 1 else ""
        sentences.append(f"{'First' if layer == 0 else 'Then'}{side_by_side}: {names}.")
    return " ".join(sentences)


def _in_words(step: Step) -> str:
    after = f" after {' and '.join(sorted(step.depends_on))}" if step.depends_on else ""
    notes = "".join(f", {text}" for kind, text in marks(step) if kind != "result")
    return f"{step.id}{after}{notes}"


def marks(step: Step) -> Iterator[tuple[str, str]]:
    """What is special about a step: a kind and a few words for each."""
    if step.batch_mode:
        yield "batch", f"batch{_batch_source(step)}, {_at_once(step)}"
    if step.when:
        yield "when", f"only if {step.when}"
    if step.retries:
        yield "retries", f"{step.retries} {'retry' if step.retries == 1 else 'retries'}"
    if not step.required:
        yield "optional", "optional: may fail"


def _batch_source(step: Step) -> str:
    """The list that a batch runs over, if the file names it or the step has no other input."""
    names = [step.batch_over] if step.batch_over else list(step.input_mapping)
    return f" over {step.input_mapping[names[0]]}" if len(names) == 1 else ""


def _at_once(step: Step) -> str:
    return "one by one" if step.items_at_once == 1 else f"{step.items_at_once} at once"


def work(step: Step) -> str:
    """The agent of a step, with its flow if the step names one; or what it makes of a list."""
    if step.agent is None:
        return f"combines a list: {step.aggregation['strategy']}"
    return f"{step.agent}, {step.flow}" if step.flow else step.agent


def _notes(step: Step, pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    yield "work", work(step)
    yield from marks(step)
    labels = {output.key: output.label for output in pipeline.outputs}
    if step.output_key in labels:
        yield "result", f"result: {labels[step.output_key] or step.output_key}"


def _height(notes: tuple[tuple[str, str], ...]) -> float:
    return 2 * PADDING + NAME_HEIGHT + len(notes) * LINE_HEIGHT - 4


def _nodes(pipeline: Pipeline, graph: Layered) -> Iterator[tuple[Step, Node]]:
    """The steps column by column, from top to bottom: the order in which people read them."""
    steps = {step.id: step for step in pipeline.steps}
    for layer in graph.layers:
        yield from ((steps[node.id], node) for node in layer if not node.is_bend)


def _box(
    step: Step, notes: tuple[tuple[str, str], ...], node: Node, centre: float, height: float
) -> Box:
    top = MARGIN + centre - height / 2
    first = top + PADDING + 11
    lines = [Line(cut(step.id, NAME_CHARACTERS), step.id, "name", first)]
    for number, (kind, text) in enumerate(notes):
        y = first + NAME_HEIGHT + number * LINE_HEIGHT
        lines.append(Line(cut(text, LINE_CHARACTERS), text, kind, y))
    return Box(
        id=step.id,
        x=_left(node.layer),
        y=top,
        height=height,
        lines=tuple(lines),
        is_batch=step.batch_mode,
        is_conditional=step.when is not None,
        arrow=bool(step.depends_on),
        title="\n".join(line.full for line in lines),
    )


def _left(layer: int) -> float:
    return MARGIN + layer * (BOX_WIDTH + COLUMN_GAP)


def _path(start: Node, end: Node, at: Mapping[Node, float]) -> str:
    """A curve through the gap between two columns."""
    left, right = _left(start.layer) + BOX_WIDTH, _left(end.layer)
    if not end.is_bend:
        right -= 7  # the head of the arrow
    middle = (left + right) / 2
    from_y, to_y = MARGIN + at[start], MARGIN + at[end]
    return (
        f"M{left:g} {from_y:.1f}C{middle:g} {from_y:.1f} {middle:g} {to_y:.1f} {right:g} {to_y:.1f}"
    )


def _bends(at: Mapping[Node, float]) -> Iterator[str]:
    """A straight line through the column, for each bend."""
    for node, centre in at.items():
        if node.is_bend:
            yield f"M{_left(node.layer):g} {MARGIN + centre:.1f}h{BOX_WIDTH:g}"


def cut(text: str, characters: int) -> str:
    """The beginning of a text that is too wide, with `…`."""
    wide = 0
    for position, sign in enumerate(text):
        wide += 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        if wide > characters:
            return f"{text[: max(position - 1, 0)].rstrip()}…"
    return text
