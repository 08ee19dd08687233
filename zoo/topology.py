"""The graph of a neural fabric as data: a grid of columns and scales, and the edges between its nodes.

A node is ``(column, scale)``; scale 0 is the finest, each further scale has half its resolution. A graph is a tuple of
`Edge`. The functions here are pure: they know neither channels nor operators, so that what they say (what is dead, how
many ways there are) holds for every net that is built on the graph.

Sources: the grid and its diagonals are those of Saxena & Verbeek 2016 (Convolutional Neural Fabrics, arXiv:1606.02492);
the types a and d, the zippers and the order of evaluation those of Singh's Residual Neural Fabrics and its released
code, which names type b only in passing: "GridNet is a type b encoder with a type b decoder".
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fractions import Fraction

Node = tuple[int, int]
Zipper = Callable[[int, int], str]

KINDS = {"fwd": (1, 0), "down": (1, 1), "up": (1, -1), "zip_down": (0, 1), "zip_up": (0, -1)}
"""Kind of an edge and the step (columns, scales) that it takes."""


@dataclass(frozen=True)
class Type:
    """A pattern of edges.

    Attributes:
        diagonals: Whether scales exchange maps between columns.
        zipper: Which edges run inside a column: from (column, columns) to ``zip_down``, ``zip_up`` or nothing.
        meaning: For a reader.
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
    """One operator of the fabric: a kind of `KINDS`, from node to node."""

    kind: str
    source: Node
    target: Node


def fabric_edges(type: str, columns: int, scales: int) -> tuple[Edge, ...]:
    """All edges of a fabric, ordered by target (in the order of evaluation) and, at one target, by kind.

    Raises:
        ValueError: If there is no such type, or fewer than two columns or scales.
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
    return tuple(edges)


def node_order(type: str, columns: int, scales: int) -> tuple[Node, ...]:
    """Nodes in an order in which every edge runs forwards: columns from left to right, scales along the zipper.

    Raises:
        ValueError: If there is no such type, or fewer than two columns or scales.
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
    """Nodes that a way leads from to one of the outputs, the outputs among them; the others need no computing."""
    live = set(outputs)
    for edge in reversed(tuple(edges)):
        if edge.target in live:
            live.add(edge.source)
    return frozenset(live)


def live_edges(edges: Iterable[Edge], outputs: Collection[Node]) -> tuple[Edge, ...]:
    """Edges on a way to one of the outputs."""
    edges = tuple(edges)
    live = live_nodes(edges, outputs)
    return tuple(edge for edge in edges if edge.target in live)


def out_degrees(edges: Iterable[Edge]) -> Counter[Node]:
    """Number of edges that leave each node; reading it as an output does not count."""
    return Counter(edge.source for edge in edges)


def count_paths(edges: Iterable[Edge], target: Node, source: Node = (0, 0)) -> int:
    """Number of ways from one node to another: one net in the ensemble that a fabric is."""
    ways: Counter[Node] = Counter({source: 1})
    for edge in edges:
        ways[edge.target] += ways[edge.source]
    return ways[target]


def facts(type: str, columns: int, scales: int, outputs: Collection[Node]) -> dict[str, str]:
    """Describe a graph that is read at some nodes, in words and numbers."""
    edges = fabric_edges(type, columns, scales)
    live = live_edges(edges, outputs)
    kinds = {kind: sum(edge.kind == kind for edge in edges) for kind in KINDS}
    return {
        "grid": f"{columns} columns x {scales} scales, type {type}: {TYPES[type].meaning}",
        "edges": f"{len(edges)}: " + ", ".join(f"{kind} {n}" for kind, n in kinds.items() if n),
        "live nodes": f"{len(live_nodes(edges, outputs))} of {columns * scales}",
        "live edges": f"{len(live)} of {len(edges)}, {len(edges) - len(live)} dead",
        "paths": f"{sum(count_paths(edges, node) for node in outputs):,} from the stem to the head",
    }


def skip_flow(edges: Iterable[Edge], target: Node, source: Node = (0, 0)) -> Fraction:
    """Copies of the source's map that reach a node by skips alone, where each skip carries 1 / out-degree."""
    edges = tuple(edges)
    degrees = out_degrees(edges)
    flow: dict[Node, Fraction] = {source: Fraction(1)}
    for edge in edges:
        share = flow.get(edge.source, Fraction(0)) / degrees[edge.source]
        flow[edge.target] = flow.get(edge.target, Fraction(0)) + share
    return flow.get(target, Fraction(0))
