"""Fabrics without some of their edges: smaller nets that compute the rest as before."""

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from zoo import topology
from zoo.grid import Node, Nodes
from zoo.topology import COLUMN_SKIP, Edge


class Hold(nn.Module):
    """A node without edges: it hands on the map of its scale, whose size a node of the next column takes."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, before: Nodes, here: Nodes, earlier: Nodes) -> Node:
        """Return the node of the previous column at this scale."""
        return before[self.scale]


def child_of(edge: Edge) -> str:
    """Return the name of an edge's layer: a dotted name from the net."""
    kind = edge.kind.removesuffix("_down").removesuffix("_up")
    return f"columns.{edge.target[0]}.{edge.target[1]}.{kind}"


def read_edges(net: Any) -> tuple[Edge, ...]:
    """Return the edges that lead to the head of a fabric and are still there, in order of evaluation.

    Raises:
        ValueError: If the net is no fabric.
    """
    spec = getattr(net, "spec", None)
    if not hasattr(spec, "head_nodes"):
        raise ValueError(f"net ({type(net).__name__}) must be a fabric: only fabrics have edges to read")
    modules = dict(net.named_modules())
    return topology.live_edges([e for e in spec.edges if child_of(e) in modules], spec.head_nodes)


def prune(net: Any, without: Iterable[Edge]) -> Any:
    """Return a copy of a fabric without some edges, and without what then leads nowhere or comes from nowhere.

    The copy computes the same as the fabric if all edges that it has lost give zeros. It has its head and no taps.

    Args:
        net: A fabric. It stays as it is.
        without: Edges to leave out.

    Raises:
        ValueError: If the net is no fabric, or no path is left from the image to each node that the head reads.
    """
    gone = set(without)
    reached = {(0, 0)}
    kept: list[Edge] = []
    for edge in read_edges(net):
        if edge not in gone and edge.source in reached:
            reached.add(edge.target)
            kept.append(edge)
    outputs = net.spec.head_nodes
    if not reached.issuperset(outputs):
        raise ValueError(f"without ({len(gone)} edges) leaves no path to the head: keep more of them")
    small = deepcopy(net)
    small.columns.keep([small.head_output])
    _cut(small, topology.live_edges(kept, outputs), outputs)
    return small


def _cut(net: Any, edges: Collection[Edge], outputs: Collection[topology.Node]) -> None:
    """Remove layers and nodes; see to it that every node that is left finds a map of its size."""
    into: dict[topology.Node, list[Edge]] = {node: [] for node in ((0, 0), *outputs)}
    for edge in edges:
        into.setdefault(edge.target, []).append(edge)
    held = _held(into)
    for column, nodes in enumerate(net.columns):
        before = {scale for number, scale in {*into, *held} if number == column - 1}
        for name, cell in list(nodes.named_children()):
            node = (column, int(name))
            if node not in into:
                del nodes._modules[name]
                nodes.reach.pop(int(name), None)
                continue
            kept = {child_of(edge) for edge in into[node]}
            for kind in ("fwd", "down", "up", "zip", COLUMN_SKIP):
                if f"columns.{column}.{name}.{kind}" not in kept:
                    setattr(cell, kind, None)
            cell.sums = cell.sums[: len(kept) - (not cell.first)]
            if column and cell.scale not in before:
                cell.sized_as = min(before)  # any map will do: no edge of this node enlarges
        for scale in sorted(scale for number, scale in held if number == column):
            nodes.add_module(str(scale), Hold(scale))
            nodes.reach[scale] = [net.head_output]


def _held(into: Mapping[topology.Node, Collection[Edge]]) -> set[topology.Node]:
    """Return the nodes that are gone but whose size a later node needs, because an edge enlarges a map to it.

    So do nodes at the end of a column skip: without them the columns in between could be empty.
    """
    held: set[topology.Node] = set()
    for (column, scale), edges in into.items():
        if any(edge.kind in ("up", "zip_up", COLUMN_SKIP) for edge in edges):
            # The path to the source came through this scale, so the search ends.
            column -= 1
            while (column, scale) not in into:
                held.add((column, scale))
                column -= 1
    return held
