"""A fabric as its equations say it, edge by edge, with the weights of one of ours and none of its shortcuts."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import topology
from zoo.models.fabric import Fabric, FabricSpec


class PlainFabric(nn.Module):
    """Every node of the grid in order: N = z(sum of all edges that end in it); nothing shared, nothing left out."""

    def __init__(self, net: Fabric) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.classifier(self.net.final(self.head(self.nodes(x))))

    def head(self, nodes: dict[topology.Node, Tensor]) -> Tensor:
        return torch.cat([nodes[node] for node in self.net.spec.head_nodes], dim=1)

    def nodes(self, x: Tensor) -> dict[topology.Node, Tensor]:
        net = self.net
        spec: FabricSpec = net.spec
        edges = topology.fabric_edges(spec.type, spec.columns, spec.scales)
        degrees = Counter(edge.source for edge in edges if skips(spec, edge.kind))
        act: dict[topology.Node, Tensor] = {}
        raw: dict[topology.Node, Tensor] = {}
        live = topology.live_nodes(spec.edges, spec.head_nodes)
        x = net.enter(net.stem(x))
        height, width = x.shape[2:]
        for node in topology.node_order(spec.type, spec.columns, spec.scales):
            column, scale = node
            size = (-(-height // 2**scale), -(-width // 2**scale))
            drawn = torch.get_rng_state()
            cell = net.columns[column].get_submodule(str(scale))
            total = x if node == (0, 0) else torch.zeros(())
            for edge in edges:
                if edge.target == node:
                    path = getattr(cell, edge.kind.split("_")[0])
                    unit = plain if spec.unit in ("conv", "sparse") else bottleneck
                    total = total + unit(
                        spec, edge.kind, path, act[edge.source], raw[edge.source], size, degrees[edge.source]
                    )
            if 0 < spec.column_skip <= column:
                total = total + act[column - spec.column_skip, scale]
            raw[node] = total  # what a skip takes: the sum where the norm is shared, else the finished node
            after = spec.unit not in ("pre", "pre_released")
            act[node] = F.relu(cell.finish.norm1(total)) if after else total
            if spec.unit != "preshared":
                raw[node] = act[node]
            if node not in live:  # what is dropped here is no business of the others
                torch.set_rng_state(drawn)
        return act


def enlarge(x: Tensor, size: tuple[int, int], up: str) -> Tensor:
    if up == "bilinear":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    if up == "nearest":
        return F.interpolate(x, size=size, mode="nearest")
    zeros = x.new_zeros(x.shape[0], x.shape[1], *size)
    zeros[:, :, ::2, ::2] = x
    return zeros


def skips(spec: FabricSpec, kind: str) -> bool:
    return {"all": True, "within": kind == "fwd", "across": kind != "fwd"}[spec.skips]


def plain(
    spec: FabricSpec, kind: str, path: nn.Module, act: Tensor, raw: Tensor, size: tuple[int, int], degree: int
) -> Tensor:
    """Enlarge, then a 3x3, strided on the way down."""
    x = enlarge(act, size, spec.up) if kind.endswith("up") else act
    stride = 2 if kind.endswith("down") else 1
    weight = path.conv.weight
    if spec.unit == "sparse":
        weight = masked(weight, spec.channels[0])
    return F.conv2d(x, weight, path.conv.bias, stride=stride, padding=1)


def masked(band: Tensor, chs: int) -> Tensor:
    """A dense weight in which output channel c sees the inputs c - 1, c and c + 1; for maps of one width."""
    c = torch.arange(chs)
    sees = (c[:, None] - c).abs() <= 1
    dense = band.new_zeros(chs, chs, 3, 3)
    dense[sees] = band
    return dense


def bottleneck(
    spec: FabricSpec, kind: str, path: nn.Module, act: Tensor, raw: Tensor, size: tuple[int, int], degree: int
) -> Tensor:
    """The units of figure 9 (b) to (d); enlarge first, then the whole unit at the resolution of the target."""
    up, down = kind.endswith("up"), kind.endswith("down")
    x = enlarge(act, size, spec.up) if up else act
    if spec.unit == "pre":
        x = F.relu(path.norm(x))
    x = F.relu(path.reduce.norm(path.reduce.conv(x)))
    x = F.conv2d(x, path.mix.conv.weight, stride=2 if down else 1, padding=1)
    x = F.relu(path.mix.norm(x))
    x = path.expand.norm(path.expand.conv(x)) if spec.unit == "post" else path.expand(x)
    if skips(spec, kind):
        skip = enlarge(raw, size, spec.up) if up else F.max_pool2d(raw, 2, 2, ceil_mode=True) if down else raw
        if spec.gate == "gated" or skip.shape[1] != x.shape[1]:
            skip = path.project.norm(path.project.conv(skip))
        if spec.gate == "scaled":
            skip = skip / degree
        if spec.gate == "dropout" and degree > 1:
            kept = torch.empty(1, 1, 1, 1).to(skip).bernoulli_(1 / degree) if path.training else 1 / degree
            skip = skip * kept
        x = x + skip
    return F.relu(x) if spec.unit == "post" else x
