"""Sorts the nodes of a graph into layers, so that edges go from left to right and cross seldom.

Pure functions for `graph`, which gives the nodes their places. A node's layer is the earliest
moment at which its step can run. An edge that passes layers gets a bend in each of them. All edges
of one node share their bends, so they part as late as possible, and a large graph stays readable.
"""

from __future__ import annotations

import bisect
import graphlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SWEEPS = 8
"""How often all layers are sorted by their neighbours. More would change little."""


class Node(NamedTuple):
    """A step in its layer, or a bend of the edges that come from this step (`is_bend`)."""

    id: str
    layer: int
    is_bend: bool = False


Edge = tuple[Node, Node]
"""From one layer to the next."""

Neighbours = dict[Node, list[Node]]


@dataclass(frozen=True, slots=True)
class Layered:
    """The layers from left to right, each from top to bottom, and the edges between them."""

    layers: list[list[Node]]
    edges: list[Edge]


def layered(depends_on: Mapping[str, Collection[str]]) -> Layered:
    """Sorts a graph without cycles. Equal input gives an equal drawing."""
    layer_of = layer_numbers(depends_on)
    layers: list[list[Node]] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for id in depends_on:
        layers[layer_of[id]].append(Node(id, layer_of[id]))
    edges: dict[Edge, None] = {}  # a set that keeps its order
    for id, sources in depends_on.items():
        for source in sorted(sources):
            edges.update(dict.fromkeys(_chain(source, layer_of[source], Node(id, layer_of[id]))))
    for bend in dict.fromkeys(end for _, end in edges if end.is_bend):
        layers[bend.layer].append(bend)
    return Layered(_with_few_crossings(layers, list(edges)), list(edges))


def layer_numbers(depends_on: Mapping[str, Collection[str]]) -> dict[str, int]:
    """The layer of each node, from 0: one more than the last of those that it depends on."""
    numbers: dict[str, int] = {}
    for id in graphlib.TopologicalSorter(depends_on).static_order():
        numbers[id] = max((numbers[source] + 1 for source in depends_on[id]), default=0)
    return numbers


def line_count(depends_on: Mapping[str, Collection[str]]) -> int:
    """How many lines the drawing will have at most, found without computing it."""
    layer_of = layer_numbers(depends_on)
    farthest: dict[str, int] = {}
    for id, sources in depends_on.items():
        for source in sources:
            farthest[source] = max(farthest.get(source, 0), layer_of[id])
    bends = sum(layer - layer_of[source] - 1 for source, layer in farthest.items())
    return sum(map(len, depends_on.values())) + 2 * bends


def neighbours_of(edges: Sequence[Edge]) -> tuple[Neighbours, Neighbours]:
    """For each node, the nodes at the other ends of its edges: to the left, and to the right."""
    before: Neighbours = {}
    after: Neighbours = {}
    for start, end in edges:
        before.setdefault(end, []).append(start)
        after.setdefault(start, []).append(end)
    return before, after


def crossings(layers: Sequence[Sequence[Node]], edges: Sequence[Edge]) -> int:
    """How many pairs of edges cross."""
    place = _places(layers)
    by_layer: dict[int, list[tuple[int, int]]] = {}
    for start, end in edges:
        by_layer.setdefault(start.layer, []).append((place[start], place[end]))
    count = 0
    for pairs in by_layer.values():
        ends: list[int] = []
        for _, lower in sorted(pairs):
            count += len(ends) - bisect.bisect_right(ends, lower)
            bisect.insort(ends, lower)
    return count


def _chain(source: str, layer: int, target: Node) -> list[Edge]:
    """The edges from a step to a later one, by way of its bends."""
    bends = [Node(source, number, is_bend=True) for number in range(layer + 1, target.layer)]
    nodes = [Node(source, layer), *bends, target]
    return list(itertools.pairwise(nodes))


def _with_few_crossings(layers: list[list[Node]], edges: list[Edge]) -> list[list[Node]]:
    """Sorts each layer by the mean place of its neighbours, to and fro. Keeps the best order."""
    before, after = neighbours_of(edges)
    best, fewest = layers, crossings(layers, edges)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        neighbours = after if sweep % 2 else before
        layers = _sorted_layers(layers, neighbours, reverse=neighbours is after)
        found = crossings(layers, edges)
        if found < fewest:
            best, fewest = layers, found
    return best


def _sorted_layers(
    layers: list[list[Node]], neighbours: Neighbours, *, reverse: bool
) -> list[list[Node]]:
    place = _places(layers)

    def mean(node: Node) -> float:
        # A node without neighbours keeps its place.
        near = [place[other] for other in neighbours.get(node, [node])]
        return sum(near) / len(near)

    result = list(layers)
    for number in reversed(range(len(layers))) if reverse else range(len(layers)):
        result[number] = sorted(layers[number], key=mean)
        place.update({node: position for position, node in enumerate(result[number])})
    return result


def _places(layers: Sequence[Sequence[Node]]) -> dict[Node, int]:
    return {node: position for layer in layers for position, node in enumerate(layer)}
