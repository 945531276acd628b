"""Gives the nodes of a layered graph their heights on the page: near their neighbours, never over
each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from app.pages.graph_layers import Layered, Node, neighbours_of

SWEEPS = 12
GAP = 22.0
"""Between two nodes of a layer, in pixels."""

STRAIGHTNESS = 4.0
"""How much more a bend counts than a box: a long edge should be a straight line."""


def centres(graph: Layered, heights: Mapping[Node, float]) -> dict[Node, float]:
    """The vertical centre of each node. The uppermost edge of all is at 0."""
    before, after = neighbours_of(graph.edges)
    at: dict[Node, float] = {}
    for layer in graph.layers:
        at.update(_placed(layer, [0.0] * len(layer), heights))
    for sweep in range(SWEEPS):
        neighbours = after if sweep % 2 else before
        for layer in reversed(graph.layers) if sweep % 2 else graph.layers:
            near = [[at[other] for other in neighbours.get(node, [node])] for node in layer]
            wanted = [sum(found) / len(found) for found in near]
            at.update(_placed(layer, wanted, heights))
    top = min((at[node] - heights[node] / 2 for node in at), default=0.0)
    return {node: centre - top for node, centre in at.items()}


def apart(
    wanted: Sequence[float], distances: Sequence[float], weights: Sequence[float]
) -> list[float]:
    """The positions nearest to the wanted ones (by weighted squares) that keep their order, with at
    least these distances from one to the next.
    """
    # Without the distances, the positions must only not fall. Neighbours that would fall are put
    # together at their mean, until none does ("pool adjacent violators").
    offsets = list(accumulate(distances, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # weight, weighted sum, number of positions
    for position, offset, weight in zip(wanted, offsets, weights, strict=True):
        pool = (weight, weight * (position - offset), 1)
        while pools and pools[-1][1] / pools[-1][0] > pool[1] / pool[0]:
            last = pools.pop()
            pool = (last[0] + pool[0], last[1] + pool[1], last[2] + pool[2])
        pools.append(pool)
    means = [total / weight for weight, total, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _placed(
    layer: Sequence[Node], wanted: Sequence[float], heights: Mapping[Node, float]
) -> dict[Node, float]:
    if not layer:
        return {}
    distances = [(heights[upper] + heights[lower]) / 2 + GAP for upper, lower in pairwise(layer)]
    weights = [STRAIGHTNESS if node.is_bend else 1.0 for node in layer]
    return dict(zip(layer, apart(wanted, distances, weights), strict=True))
