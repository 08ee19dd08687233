"""The graph of a fabric: what holds for every type and size."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo import topology
from zoo.topology import COLUMN_SKIP, KINDS, TYPES, Edge, Node, fabric_edges, node_order

pytestmark = pytest.mark.quick

GRIDS = st.tuples(st.sampled_from(sorted(TYPES)), st.integers(2, 9), st.integers(2, 7))


@given(GRIDS)
def test_edges_run_forwards(grid: tuple[str, int, int]) -> None:
    """The order of evaluation is a topological one, so the graph has no cycle."""
    place = {node: i for i, node in enumerate(node_order(*grid))}
    edges = fabric_edges(*grid)
    assert len(place) == grid[1] * grid[2]
    assert all(place[edge.source] < place[edge.target] for edge in edges)
    assert [place[edge.target] for edge in edges] == sorted(place[edge.target] for edge in edges)
    assert len(set(edges)) == len(edges)


@given(GRIDS)
def test_an_edge_is_a_step_of_its_kind(grid: tuple[str, int, int]) -> None:
    for edge in fabric_edges(*grid):
        right, coarser = KINDS[edge.kind]
        assert (edge.source[0] + right, edge.source[1] + coarser) == edge.target


@given(GRIDS)
def test_every_node_is_reached_and_counts_its_sources(grid: tuple[str, int, int]) -> None:
    edges = fabric_edges(*grid)
    incoming = Counter(edge.target for edge in edges)
    for node in node_order(*grid):
        assert (incoming[node] == 0) == (node == (0, 0))
        assert incoming[node] <= 4
        assert topology.count_paths(edges, node) >= 1


@given(GRIDS, st.data())
def test_live_nodes_lie_on_ways_to_an_output(grid: tuple[str, int, int], data: st.DataObject) -> None:
    nodes = node_order(*grid)
    edges = fabric_edges(*grid)
    output = data.draw(st.sampled_from(nodes))
    live = topology.live_nodes(edges, [output])
    for node in nodes:
        assert (node in live) == (topology.count_paths(edges, output, source=node) > 0)
    kept = topology.live_edges(edges, [output])
    assert all(edge.source in live and edge.target in live for edge in kept)
    assert topology.count_paths(kept, output) == topology.count_paths(edges, output)


@given(GRIDS)
def test_paths_by_recursion(grid: tuple[str, int, int]) -> None:
    edges = fabric_edges(*grid)
    sources: dict[Node, list[Node]] = {}
    for edge in edges:
        sources.setdefault(edge.target, []).append(edge.source)
    known: dict[Node, int] = {(0, 0): 1}

    def ways(node: Node) -> int:
        if node not in known:
            known[node] = sum(map(ways, sources[node]))
        return known[node]

    assert all(topology.count_paths(edges, node) == ways(node) for node in node_order(*grid))


@given(GRIDS, st.integers(1, 9))
def test_column_skips_stay_in_their_scale(grid: tuple[str, int, int], span: int) -> None:
    edges, others = fabric_edges(*grid, span), fabric_edges(*grid)
    skips = [edge for edge in edges if edge.kind == COLUMN_SKIP]
    assert tuple(edge for edge in edges if edge.kind != COLUMN_SKIP) == others
    assert {edge.target for edge in skips} == {node for node in node_order(*grid) if node[0] >= span}
    assert all((edge.source[0] + span, edge.source[1]) == edge.target for edge in skips)
    place = {node: i for i, node in enumerate(node_order(*grid))}
    assert [place[edge.target] for edge in edges] == sorted(place[edge.target] for edge in edges)


def test_paths_with_column_skips() -> None:
    """Along a row of six columns there is one path, and one more from each node to the fourth behind it."""
    edges = fabric_edges("b", 6, 2, 4)
    assert topology.count_paths(edges, (3, 0)) == 1
    assert topology.count_paths(edges, (4, 0)) == 2
    assert topology.count_paths(edges, (5, 0)) == 3


@given(st.integers(2, 9), st.integers(2, 7))
def test_type_a_conserves_what_scaled_skips_carry(columns: int, scales: int) -> None:
    edges = fabric_edges("a", columns, scales)
    sink = (columns - 1, scales - 1)
    assert topology.skip_flow(edges, sink) == 1
    assert topology.live_edges(edges, [sink]) == edges, "nothing is dead"
    assert len(edges) == (3 * scales - 2) * (columns - 1) + 2 * (scales - 1)


@pytest.mark.parametrize(
    ("type", "columns", "edges", "live", "paths"),
    [("a", 3, 42, 42, 44), ("a", 8, 122, 122, 7442), ("a", 9, 138, 138, 20844), ("d", 8, 152, 133, 4_273_180)],
)
def test_six_scales_read_at_the_coarsest(type: str, columns: int, edges: int, live: int, paths: int) -> None:
    graph, sink = fabric_edges(type, columns, 6), (columns - 1, 5)
    assert len(graph) == edges
    assert len(topology.live_edges(graph, [sink])) == live
    assert topology.count_paths(graph, sink) == paths


def test_type_d() -> None:
    graph = fabric_edges("d", 8, 6)
    assert Counter(edge.kind for edge in graph) == {"fwd": 42, "down": 35, "up": 35, "zip_down": 20, "zip_up": 20}
    assert len(topology.live_nodes(graph, [(7, 5)])) == 43
    assert topology.live_edges(graph, [(7, 0)]) == graph
    assert [node for node in node_order("d", 2, 3)] == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]


def test_types_b_and_bd_have_no_diagonals() -> None:
    for type in ("b", "bd"):
        assert {edge.kind for edge in fabric_edges(type, 6, 5)} <= {"fwd", "zip_down", "zip_up"}
    ups = {edge.target[0] for edge in fabric_edges("bd", 6, 5) if edge.kind == "zip_up"}
    assert ups == {3, 4, 5}, "the second half"


def test_out_degrees_of_the_report() -> None:
    degrees = topology.out_degrees(fabric_edges("a", 3, 6))
    assert [[degrees[column, scale] for scale in range(6)] for column in range(3)] == [
        [3, 4, 4, 4, 4, 2],
        [2, 3, 3, 3, 3, 2],
        [1, 1, 1, 1, 1, 0],
    ]


def test_a_chain_by_hand() -> None:
    edges = (Edge("fwd", (0, 0), (1, 0)), Edge("zip_down", (0, 0), (0, 1)), Edge("fwd", (1, 0), (2, 0)))
    assert topology.count_paths(edges, (2, 0)) == 1
    assert topology.live_nodes(edges, [(2, 0)]) == {(0, 0), (1, 0), (2, 0)}
    assert topology.skip_flow(edges, (2, 0)) == topology.skip_flow(edges, (0, 1)) == 0.5


@pytest.mark.parametrize("arguments", [("c", 3, 3), ("a", 1, 3), ("a", 3, 1)])
def test_errors_name_the_value(arguments: tuple[str, int, int]) -> None:
    wrong = next(value for value in arguments if value in ("c", 1))
    with pytest.raises(ValueError, match=rf"\w+ \({wrong!r}\) must be"):
        fabric_edges(*arguments)
