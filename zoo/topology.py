"""The graph of a neural fabric as data: a grid of columns and scales, and the edges between its nodes.

A node is ``(column, scale)``. Scale 0 is the finest; each further scale has half the resolution. A graph is a tuple of
`Edge`. The functions here are pure and know neither channels nor operators. Their results (dead nodes, number of paths)
therefore hold for every net that is built on the graph.

Sources: the grid and its diagonals come from Saxena & Verbeek 2016 (Convolutional Neural Fabrics, arXiv:1606.02492).
The types a and d, the zippers and the order of evaluation come from Singh's Residual Neural Fabrics and its released
code, which names type b only in passing: "GridNet is a type b encoder with a type b decoder".
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fractions import Fraction

Node = tuple[int, int]
Zipper = Callable[[int, int], str]

KINDS = {"fwd": (1, 0), "down": (1, 1), "up": (1, -1), "zip_down": (0, 1), "zip_up": (0, -1)}
"""Kinds of edges, with their step (columns, scales)."""
COLUMN_SKIP = "column_skip"
"""Kind of the edges that pass columns by. They stay in their scale, and hand on the map as it is."""


@dataclass(frozen=True)
class Type:
    """Pattern of edges.

    Attributes:
        diagonals: True if scales exchange maps between columns.
        zipper: Edges inside a column: (column, columns) -> ``zip_down``, ``zip_up`` or an empty word for none.
        meaning: Description for a reader.
    """

    diagonals: bool
    zipper: Zipper
    meaning: str


def _ends(column: int, columns: int) -> str:
    return "zip_down" if column in (0, columns - 1) else ""


def _down(column: int, columns: int) -> str:
    return "zip_down"


def _half(column: int, columns: int) -> str:
    return "zip_down" if 2 * column < columns else "zip_up"


def _turns(column: int, columns: int) -> str:
    return "zip_up" if column % 2 else "zip_down"


TYPES = {
    "a": Type(True, _ends, "diagonals; the first and the last column are zipped downwards"),
    "b": Type(False, _down, "no diagonals; every column is zipped downwards (an encoder; our reading)"),
    "bd": Type(
        False, _half, "no diagonals; the first half is zipped downwards, the second upwards (the GridNet layout)"
    ),
    "d": Type(True, _turns, "diagonals; columns are zipped downwards and upwards in turn"),
}


@dataclass(frozen=True)
class Edge:
    """One operator of the fabric: an edge of some kind (a key of `KINDS`, or `COLUMN_SKIP`) between two nodes."""

    kind: str
    source: Node
    target: Node


def fabric_edges(type: str, columns: int, scales: int, column_skip: int = 0) -> tuple[Edge, ...]:
    """Return all edges of a fabric, ordered by target in the order of evaluation, and by kind for one target.

    Args:
        type: A key of ``TYPES``.
        columns: Number of columns.
        scales: Number of scales.
        column_skip: Number of columns that further edges span, one into each node that has a column so far before
            it; 0 for none.

    Raises:
        ValueError: If the type does not exist, or there are fewer than two columns or scales.
    """
    order = node_order(type, columns, scales)
    nodes = set(order)
    pattern = TYPES[type]
    edges = []
    for column, scale in order:
        for kind, (right, coarser) in KINDS.items():
            source = (column - right, scale - coarser)
            wanted = pattern.zipper(column, columns) == kind if right == 0 else pattern.diagonals or kind == "fwd"
            if wanted and source in nodes:
                edges.append(Edge(kind, source, (column, scale)))
        if 0 < column_skip <= column:
            edges.append(Edge(COLUMN_SKIP, (column - column_skip, scale), (column, scale)))
    return tuple(edges)


def node_order(type: str, columns: int, scales: int) -> tuple[Node, ...]:
    """Return nodes in order of evaluation: columns from left to right, scales along the zipper. Edges run forwards.

    Raises:
        ValueError: If the type does not exist, or there are fewer than two columns or scales.
    """
    if type not in TYPES:
        raise ValueError(f"type ({type!r}) must be one of {', '.join(TYPES)}")
    for name, value in (("columns", columns), ("scales", scales)):
        if value < 2:
            raise ValueError(f"{name} ({value}) must be at least 2: with one there is no grid, but a chain")
    order = []
    for column in range(columns):
        upwards = TYPES[type].zipper(column, columns) == "zip_up"
        order += [(column, s) for s in (reversed(range(scales)) if upwards else range(scales))]
    return tuple(order)


def live_nodes(edges: Iterable[Edge], outputs: Collection[Node]) -> frozenset[Node]:
    """Return the nodes with a path to one of the outputs, and the outputs. The other nodes need no computing."""
    live = set(outputs)
    for edge in reversed(tuple(edges)):
        if edge.target in live:
            live.add(edge.source)
    return frozenset(live)


def live_edges(edges: Iterable[Edge], outputs: Collection[Node]) -> tuple[Edge, ...]:
    """Return the edges on a path to one of the outputs."""
    edges = tuple(edges)
    live = live_nodes(edges, outputs)
    return tuple(edge for edge in edges if edge.target in live)


def out_degrees(edges: Iterable[Edge]) -> Counter[Node]:
    """Return the number of edges that leave each node. Reading a node as an output does not count."""
    return Counter(edge.source for edge in edges)


def count_paths(edges: Iterable[Edge], target: Node, source: Node = (0, 0)) -> int:
    """Return the number of paths from one node to another. Each path is one net of the fabric's ensemble."""
    ways: Counter[Node] = Counter({source: 1})
    for edge in edges:
        ways[edge.target] += ways[edge.source]
    return ways[target]


def facts(type: str, columns: int, scales: int, outputs: Collection[Node], column_skip: int = 0) -> dict[str, str]:
    """Describe, in words and numbers, a graph that is read at some nodes."""
    edges = fabric_edges(type, columns, scales, column_skip)
    live = live_edges(edges, outputs)
    kinds = {kind: sum(edge.kind == kind for edge in edges) for kind in (*KINDS, COLUMN_SKIP)}
    return {
        "grid": f"{columns} columns x {scales} scales, type {type}: {TYPES[type].meaning}",
        "edges": f"{len(edges)}: " + ", ".join(f"{kind} {n}" for kind, n in kinds.items() if n),
        "live nodes": f"{len(live_nodes(edges, outputs))} of {columns * scales}",
        "live edges": f"{len(live)} of {len(edges)}, {len(edges) - len(live)} dead",
        "paths": f"{sum(count_paths(edges, node) for node in outputs):,} from the stem to the head",
    }


def skip_flow(edges: Iterable[Edge], target: Node, source: Node = (0, 0)) -> Fraction:
    """Return how many copies of the source's map reach a node by skips alone; a skip carries 1 / out-degree."""
    edges = tuple(edges)
    degrees = out_degrees(edges)
    flow: dict[Node, Fraction] = {source: Fraction(1)}
    for edge in edges:
        share = flow.get(edge.source, Fraction(0)) / degrees[edge.source]
        flow[edge.target] = flow.get(edge.target, Fraction(0)) + share
    return flow.get(target, Fraction(0))
