"""Gates of a trained fabric: which skips and edges it needs, and the smaller fabric without the others.

Singh 2018 (Residual Neural Fabrics, part 2) proposes to read from the weights of the 1x1 gates which skips a fabric
needs. The weights alone mean nothing, because a norm follows: what is read is the folded kernel, the gate's weight
times gamma / sqrt(var + eps) of its norm. Edges are also removed one by one, which no weight can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.analysis.branches import hooked
from zoo.analysis.nets import (
    Options,
    accuracy,
    check_classes,
    expand,
    fresh_note,
    open_images,
    open_net,
    sample,
    untouched,
)
from zoo.analysis.outcome import Outcome, finish, styles
from zoo.analysis.progress import told
from zoo.analysis.prune import child_of, prune, read_edges
from zoo.complexity import count
from zoo.escape import for_picture
from zoo.topology import COLUMN_SKIP, Edge

BATCH = 100


@dataclass(frozen=True)
class EdgeFacts:
    """An edge of a fabric, its gate, and the accuracy without it.

    Attributes:
        edge: The edge.
        norm: Frobenius norm of the folded kernel by the root of its output channels; None without a gate, as are the
            next two.
        largest: Largest singular value of the folded kernel.
        identity: Share of the kernel that is a scaled identity, tr(K)^2 / (C |K|^2): 1 for a plain skip. None if the
            channels change, too.
        ratio: Root mean square of the skip over that of the branch, on images; None without a skip.
        without_skip: Drop in accuracy without the skip, in points; None without a skip.
        without_edge: Drop in accuracy without skip and branch, in points.
    """

    edge: Edge
    norm: float | None
    largest: float | None
    identity: float | None
    ratio: float | None
    without_skip: float | None
    without_edge: float


def folded(gate: Any) -> Tensor:
    """Return the kernel (C_out, C_in) of a 1x1 convolution and the norm behind it."""
    norm = gate.norm
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (factor[:, None] * gate.conv.weight[:, :, 0, 0]).detach()


def _silent(_inputs: Any, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def edge_facts(net: Any, images: Tensor, labels: Tensor) -> list[EdgeFacts]:
    """Return the facts of the edges that lead to the head of a fabric.

    Args:
        net: A fabric. It runs in evaluation and stays as it is.
        images: Images (N, C, H, W).
        labels: Their classes.

    Raises:
        ValueError: If the net is no fabric.
    """
    edges = read_edges(net)
    intact = accuracy(net, images, labels)
    found = []
    for edge in told(edges, "without one edge"):
        layer = net.get_submodule(child_of(edge))
        kernel = folded(layer.project) if hasattr(getattr(layer, "project", None), "norm") else None
        skips = getattr(layer, "skips", False)
        ratio = without_skip = None
        if skips:
            ratio = _ratio(net, layer.sum, images)
            with hooked({layer.project: _silent}):
                without_skip = intact - accuracy(net, images, labels)
        with hooked({layer: _silent}):
            without_edge = intact - accuracy(net, images, labels)
        found.append(EdgeFacts(edge, *_sizes(kernel), ratio, without_skip, without_edge))
    return found


def _sizes(kernel: Tensor | None) -> tuple[float | None, float | None, float | None]:
    if kernel is None:
        return None, None, None
    outs, ins = kernel.shape
    total = float(kernel.square().sum())
    identity = float(kernel.trace()) ** 2 / (outs * total) if outs == ins and total else None
    return (total / outs) ** 0.5, float(torch.linalg.matrix_norm(kernel, 2)), identity


def _ratio(net: nn.Module, joint: nn.Module, images: Tensor) -> float:
    """Return the root mean square of the skip over that of the branch; a sum gets both, the branch first."""
    sums: list[Tensor] = []

    def read(inputs: tuple[Tensor, Tensor], _output: Tensor) -> None:
        sums.append(torch.stack([part.double().square().sum() for part in inputs]))

    with torch.inference_mode(), untouched(net), hooked({joint: read}):
        for batch in images.split(BATCH):
            net(batch)
    branch, skip = torch.stack(sums).sum(0).sqrt().tolist()  # of maps of one shape, so their numbers cancel
    return skip / branch if branch else float("inf")


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Read the edges of fabrics and prune those whose removal costs less than ``threshold``.

    Edges are judged on training images; the accuracy of the pruned fabric is taken on test images.

    Args:
        names: Folders of trained fabrics, or models.
        options: ``threshold``, ``dataset``, ``data_dir``, ``images`` and ``seed``.

    Raises:
        ValueError: If a net is no fabric.
    """
    rows: list[dict[str, Any]] = []
    notes, curves = [], {}
    pictures: list[tuple[str, Any, list[EdgeFacts]]] = []
    for name, title in expand(names).items():
        net = open_net(name, seed=options.seed)
        images = open_images(name, options)
        check_classes(name, net, images)
        judged, tested = (sample(images, half, options.images) for half in ("train", "test"))
        found = edge_facts(net, *judged)
        rows += [{"net": title, **_row(facts)} for facts in found]
        fabrics = _prunings(net, found, tested)
        curves[title] = [(len(fabric.gone) + len(fabric.led_nowhere), fabric.accuracy) for fabric in fabrics]
        notes.append(f"{title}: {_pruned(net, found, fabrics, options.threshold, tested[0].shape[1:])}")
        pictures.append((title, net.spec, found))
    return Outcome(
        what="gates",
        rows=rows,
        shown=[{column: "-" if cell is None else cell for column, cell in row.items()} for row in rows],
        draw=lambda figure: _draw(figure, pictures, curves),
        notes=(
            "norm, largest, identity: of the gate's folded kernel. ratio: skip over branch, root mean square. "
            "skip, edge: accuracy that is lost without it, in points, on training images.",
            *notes,
            *fresh_note(names),
        ),
        size=(4.0 * (len(pictures) + 1), 3.6),
    )


def _row(facts: EdgeFacts) -> dict[str, Any]:
    (column, scale), target = facts.edge.source, facts.edge.target
    numbers = {
        "norm": facts.norm,
        "largest": facts.largest,
        "identity": facts.identity,
        "ratio": facts.ratio,
        "skip": facts.without_skip,
        "edge": facts.without_edge,
    }
    return {
        "kind": facts.edge.kind,
        "from": f"{column} {scale}",
        "to": f"{target[0]} {target[1]}",
        **{key: None if value is None else round(value, 4) for key, value in numbers.items()},
    }


@dataclass(frozen=True)
class _Pruned:
    """A fabric without its least needed edges.

    Attributes:
        gone: Edges that were left out.
        led_nowhere: Edges that are gone with them, because they then lead nowhere or come from nowhere.
        accuracy: Accuracy on test images.
    """

    gone: tuple[Edge, ...]
    led_nowhere: tuple[Edge, ...]
    accuracy: float


def _prunings(net: Any, found: Sequence[EdgeFacts], tested: tuple[Tensor, Tensor]) -> list[_Pruned]:
    """Return the fabric without the n least needed edges for each n from 0 on, as long as a path is left."""
    order = [facts.edge for facts in sorted(found, key=lambda facts: facts.without_edge)]
    fabrics: list[_Pruned] = []
    kept: tuple[Edge, ...] | None = None
    for number in told(range(len(order)), "pruning edges"):
        gone = tuple(order[:number])
        try:
            small = prune(net, gone)
        except ValueError:
            break
        former, kept = kept, read_edges(small)
        score = fabrics[-1].accuracy if kept == former else accuracy(small, *tested)  # the next edge was gone already
        fabrics.append(_Pruned(gone, tuple(edge for edge in order if edge not in {*kept, *gone}), score))
    return fabrics


def _pruned(
    net: Any, found: Sequence[EdgeFacts], fabrics: Sequence[_Pruned], threshold: float, size: Sequence[int]
) -> str:
    number = sum(facts.without_edge < threshold for facts in found)
    if number >= len(fabrics):
        return f"not pruned at {threshold:g} points: without these {number} edges no path is left to the head"
    fabric = fabrics[number]
    chs, height, width = size
    before, after = (count(prune(net, gone), (chs, height, width)) for gone in ((), fabric.gone))
    left = len(found) - number - len(fabric.led_nowhere)
    nowhere = ", ".join(child_of(edge) for edge in fabric.led_nowhere)
    return (
        f"pruned of edges below {threshold:g} points: {len(found)} edges -> {left}"
        f"{f' ({nowhere} led nowhere then)' if nowhere else ''}, "
        f"{before.params:,} parameters -> {after.params:,}, {before.macs / 1e6:.1f} M multiply-adds -> "
        f"{after.macs / 1e6:.1f} M, test accuracy {fabrics[0].accuracy:.2f} % -> {fabric.accuracy:.2f} %"
    )


def _draw(figure: Any, pictures: Sequence[tuple[str, Any, list[EdgeFacts]]], curves: Any) -> None:
    panels = figure.subplots(1, len(pictures) + 1, squeeze=False)[0]
    for axes, (name, spec, found) in zip(panels, pictures, strict=False):
        _draw_grid(axes, spec, found)
        axes.set_title(for_picture(name), fontsize=7)
    for name, looks in styles(list(curves)):
        numbers, scores = zip(*curves[name], strict=True)
        panels[-1].plot(numbers, scores, **looks)
    finish(panels[-1], "edges that are gone, the least needed first", "test accuracy [%]", legend=len(curves) > 1)


def _draw_grid(axes: Any, spec: Any, found: Sequence[EdgeFacts]) -> None:
    """Draw the grid: width of a line by the gate, colour by the accuracy that is lost without the edge."""
    alive = {facts.edge for facts in found}
    widest = max((facts.norm or 0 for facts in found), default=0) or 1
    dearest = max([facts.without_edge for facts in found] + [1e-9])
    for edge in spec.edges:
        if edge not in alive:
            _line(axes, edge, color="0.7", linestyle=":", linewidth=0.8)
    for facts in found:
        lost = max(facts.without_edge, 0) / dearest
        width = 6 * facts.norm / widest if facts.norm is not None else 1.5
        _line(axes, facts.edge, color=(0.15 + 0.7 * lost, 0.35 - 0.1 * lost, 0.75 - 0.7 * lost), linewidth=width)
    nodes = sorted({node for edge in spec.edges for node in (edge.source, edge.target)})
    axes.scatter(*zip(*nodes, strict=True), s=70, color="white", edgecolor="black", zorder=3)
    axes.invert_yaxis()
    axes.set_xlabel("column   (wide: large gate; red: dear to lose)")
    axes.set_ylabel("scale")
    axes.set_xticks(range(spec.columns))
    axes.set_yticks(range(spec.scales))


def _line(axes: Any, edge: Edge, **looks: Any) -> None:
    (x, y), (to_x, to_y) = edge.source, edge.target
    bend, pieces = (1.4, 16) if edge.kind == COLUMN_SKIP else (0.0, 1)  # past the nodes in between
    ways = [i / pieces for i in range(pieces + 1)]
    places = [(x + t * (to_x - x), y + t * (to_y - y) - bend * t * (1 - t)) for t in ways]
    axes.plot(*zip(*places, strict=True), solid_capstyle="butt", zorder=1, **looks)
