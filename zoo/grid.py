"""A net on the graph of a fabric: every edge is a layer, every node the sum of the edges that end in it.

`zoo.topology` defines the edges. The family defines the layer of an edge and the layers after a sum.
`GridBackbone` is the forward pass that such families share.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from zoo import topology
from zoo.backbone import Backbone
from zoo.layers import Chain, Sum, concatenate, run_checkpointed

Node = tuple[Tensor, Tensor]
"""A finished map and the map that skips read: the sum before a shared norm and activation, or else the same map."""
Nodes = dict[int, Node]
"""Nodes of a column by scale."""
UNTRAINED = (
    "the head of this net does not read all of these taps, so some of their layers have no gradients: use "
    "features_only=True or prune_intermediate_layers to train them"
)


class Cell(nn.Module):
    """A node: the sum of the edges that end in it, and the layers after the sum.

    Children are named after their edges: ``fwd``, ``down``, ``up``, ``zip``, ``column_skip``. A node has at most one of
    each. ``finish`` follows the sum; its output is the map of the node.

    Args:
        node: Column and scale.
        edges: Layer of each edge that ends here, by the kind of the edge. A layer takes the map of the edge's source,
            the map that skips read there, and the height and width of the target; that of ``column_skip`` the map
            alone.
        finish: Layers after the sum.
        shared: Skips read the sum instead of the finished map.
    """

    def __init__(self, node: topology.Node, edges: Mapping[str, nn.Module], finish: nn.Module, *, shared: bool) -> None:
        super().__init__()
        column, self.scale = node
        self.first = node == (0, 0)
        self.sized_as = self.scale if column else 0
        self.zips_from = self.scale + (1 if "zip_up" in edges else -1)
        self.shared = shared
        self.fwd = self.down = self.up = self.zip = self.column_skip = None
        for kind, edge in edges.items():
            setattr(self, kind.removesuffix("_down").removesuffix("_up"), edge)
        self.sums = nn.ModuleList(Sum() for _ in range(len(edges) - (not self.first)))
        self.finish = finish

    def forward(self, before: Nodes, here: Nodes, earlier: Nodes) -> Node:
        """Compute the node from the previous column, the nodes of this column that are done, and an earlier column."""
        like = before[self.sized_as][0]
        size = (like.shape[2], like.shape[3])
        parts: list[Tensor] = []
        if self.first:
            parts.append(like)
        if self.fwd is not None:
            x, raw = before[self.scale]
            parts.append(self.fwd(x, raw, size))
        if self.down is not None:
            x, raw = before[self.scale - 1]
            parts.append(self.down(x, raw, size))
        if self.up is not None:
            x, raw = before[self.scale + 1]
            parts.append(self.up(x, raw, size))
        if self.zip is not None:
            x, raw = here[self.zips_from]
            parts.append(self.zip(x, raw, size))
        if self.column_skip is not None:
            parts.append(self.column_skip(earlier[self.scale][0]))
        total = parts[0]
        for number, add in enumerate(self.sums):
            total = add(total, parts[number + 1])
        x = self.finish(total)
        if self.shared:
            return x, total
        return x, x


class Column(Chain):
    """Nodes of a column in order of evaluation, named after their scales.

    Attributes:
        reach: The outputs of the grid that need a node, by the scale of the node.
        one_column: A hint for `zoo.draw`: the nodes stand above each other.
    """

    one_column: ClassVar[bool] = True
    reach: dict[int, list[int]]

    def __init__(self) -> None:
        super().__init__({})
        self.reach = {}

    def forward(self, before: Nodes, wanted: list[int], earlier: Nodes) -> Nodes:
        """Compute the column from the previous one, without the nodes that no wanted output needs.

        Args:
            before: The previous column.
            wanted: Numbers of the wanted outputs.
            earlier: The column that column skips come from; empty if there is none.
        """
        here: dict[int, tuple[Tensor, Tensor]] = {}
        for name, cell in self.named_children():
            if self.needs(int(name), wanted):
                here[int(name)] = cell(before, here, earlier)
        return here

    def needs(self, scale: int, wanted: list[int]) -> bool:
        """Return True if one of the wanted outputs needs the node at ``scale``."""
        for output in self.reach[scale]:  # noqa: SIM110 - TorchScript has no generators
            if output in wanted:
                return True
        return False

    @torch.jit.ignore
    def keep(self, outputs: Collection[int]) -> None:
        """Remove the nodes that none of the outputs needs."""
        reach = {scale: [output for output in reached if output in outputs] for scale, reached in self.reach.items()}
        self.reach = {scale: reached for scale, reached in reach.items() if reached}
        for scale in reach.keys() - self.reach.keys():
            del self._modules[str(scale)]


class Grid(nn.Sequential):
    """All columns of a fabric. Outputs are the nodes of the last column, and all nodes of one scale concatenated.

    Args:
        graph: Type (a key of ``zoo.topology.TYPES``), number of columns, number of scales.
        make_edge: Makes the layer of an edge.
        make_finish: Makes the layers after the sum of a node.
        shared: Skips read sums instead of finished maps.
        across: Scale whose nodes are concatenated over the columns; -1 for none.
        column_skip: Number of columns that the edges of kind ``column_skip`` span; 0 if there are none.

    Attributes:
        outputs: Outputs that can be computed: scales of the last column, and the number ``scales`` for the
            concatenation.
        trained: Outputs whose nodes have gradients; see `train_for`.
    """

    grad_checkpointing: bool

    def __init__(
        self,
        graph: tuple[str, int, int],
        make_edge: Callable[[topology.Edge], nn.Module],
        make_finish: Callable[[topology.Node], nn.Module],
        *,
        shared: bool = False,
        across: int = -1,
        column_skip: int = 0,
    ) -> None:
        _, columns, scales = graph
        grid = [Column() for _ in range(columns)]
        super().__init__(*grid)
        self.grad_checkpointing = False
        self.scales, self.across, self.column_skip = scales, across, column_skip
        edges = topology.fabric_edges(*graph, column_skip)
        for node in topology.node_order(*graph):
            into = {edge.kind: make_edge(edge) for edge in edges if edge.target == node}
            grid[node[0]].add_module(str(node[1]), Cell(node, into, make_finish(node), shared=shared))
        read = {scale: [(columns - 1, scale)] for scale in range(scales)}
        if across >= 0:
            read[scales] = [(column, across) for column in range(columns)]
        self.outputs, self.trained = list(read), list(read)
        for output, nodes in read.items():
            for column, scale in topology.live_nodes(edges, nodes):
                grid[column].reach.setdefault(scale, []).append(output)

    def forward(self, x: Tensor, wanted: list[int]) -> dict[int, Tensor]:
        """Compute some outputs.

        Args:
            x: Input of node (0, 0), added to its sum, (N, C, H, W).
            wanted: Numbers of the outputs.

        Returns:
            The outputs by number, and the nodes of the last column that were computed on the way.

        Raises:
            ValueError: If a wanted output has been removed.
        """
        for output in wanted:
            if output not in self.outputs:
                raise ValueError(f"scale {output} was removed by prune_intermediate_layers; ask for another")
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # noqa: SIM102 - for TorchScript
            if self.training and torch.is_grad_enabled() and not set(wanted).issubset(self.trained):
                warnings.warn(UNTRAINED, stacklevel=2)
        nodes = {0: (x, x)}
        stacked: list[Tensor] = []
        done: list[dict[int, tuple[Tensor, Tensor]]] = []  # columns from which a skip is still to come
        none: dict[int, tuple[Tensor, Tensor]] = {}
        for column in self:
            earlier = none
            if self.column_skip > 0 and len(done) == self.column_skip:
                earlier = done.pop(0)
            if self.grad_checkpointing and not torch.jit.is_scripting():
                nodes = run_checkpointed(column, nodes, wanted, earlier)
            else:
                nodes = column(nodes, wanted, earlier)
            if self.column_skip > 0:
                done.append(nodes)
            if self.scales in wanted:
                stacked.append(nodes[self.across][0])
        results = {scale: node[0] for scale, node in nodes.items()}
        if self.scales in wanted:
            results[self.scales] = concatenate(stacked)
        return results

    @torch.jit.ignore
    def train_for(self, outputs: Collection[int]) -> None:
        """Turn off gradients of the nodes that none of the outputs needs.

        These nodes get no gradient in any case, but training on several devices waits for the gradient of every
        parameter that requires one. `keep` turns the gradients on again.
        """
        self.trained = list(outputs)
        for cell in self._untrained():
            cell.requires_grad_(False)

    @torch.jit.ignore
    def keep(self, outputs: Collection[int]) -> None:
        """Remove the nodes that none of the outputs needs; the remaining nodes have gradients."""
        for cell in self._untrained():
            cell.requires_grad_()
        for column in self:
            cast(Column, column).keep(outputs)
        self.outputs = [output for output in self.outputs if output in outputs]
        self.trained = list(self.outputs)

    def _untrained(self) -> Iterator[nn.Module]:
        """Return the nodes that lead to no trained output."""
        for column in self:
            for scale, reached in cast(Column, column).reach.items():
                if set(reached).isdisjoint(self.trained):
                    yield column.get_submodule(str(scale))


class GridBackbone(Backbone):
    """Base of families on a grid: a stem, what enters the grid, the columns. Taps are the nodes of the last column.

    Attributes:
        column_tap: Number of taps before those of the last column: 0, or 1 for the stem.
        head_output: Output of the grid that the head reads.
        always: Outputs that are computed in every pass.
    """

    chain = False
    always: list[int]
    if TYPE_CHECKING:  # TorchScript would take annotations of children for types of its own
        stem: nn.Module
        enter: nn.Module
        columns: Grid
        column_tap: int
        head_output: int

    def forward_trunk(self, x: Tensor, keep: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """See `Backbone.forward_trunk`.

        Raises:
            ValueError: If a tap has been removed.
        """
        taps: list[Tensor] = []
        x = self.stem(x)
        if self.column_tap == 1 and 0 in keep:
            taps.append(x)
        if self.columns is None or stop < self.column_tap:
            return x, taps
        output = self.head_output if stop == self.last_tap else stop - self.column_tap
        scales: list[int] = []
        for tap in keep:
            if tap >= self.column_tap:
                scales.append(tap - self.column_tap)
        x = self.enter(x)
        nodes = self.columns(x, [output] + scales + self.always)  # noqa: RUF005 - TorchScript has no star
        for scale in scales:
            taps.append(nodes[scale])
        return nodes[output], taps

    @torch.jit.ignore
    def prune_trunk(self, take: list[int]) -> None:
        """Remove the nodes that neither a tap of ``take`` nor the end of the trunk needs."""
        if self.columns is None:
            return
        if self.head_tap >= 0:
            self.head_output = self.head_tap - self.column_tap
        # What is left is computed in every pass, so that hooks and traces see all taps that were asked for.
        self.always = [tap - self.column_tap for tap in take if tap >= self.column_tap]
        self.columns.keep({self.head_output, *self.always})

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return layer groups in order of depth. Fine groups are the columns."""
        columns = r"^columns\." if coarse else r"^columns\.(\d+)\."
        return {"stem": r"^(?:stem|enter)\.", "columns": columns, "final": r"^final\."}
