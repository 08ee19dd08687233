"""Paths through a net: how many there are of each length, and which are direct, without weights and activations.

Veit et al. 2016 (arXiv:1605.06431, section 3) unravel a residual net: n units make 2^n paths, whose lengths are
binomial, C(n, k) paths through k branches. Here paths are counted in the record of a forward pass, for any graph: the
number of paths to a map, by length, is the sum over the maps that it is computed from, one longer behind a branch.

Sun et al. 2018 (FishNet, arXiv:1901.03495, section 2) call a convolution on the only path between two maps isolated: it
stands between the gradients of the two. A net without isolated convolutions propagates gradients directly to every
stage.
"""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from zoo.analysis.field import is_gate
from zoo.analysis.flow import Flow, Value, record
from zoo.analysis.nets import Options, expand, open_net, own_size
from zoo.analysis.outcome import Outcome, finish, styles
from zoo.layers import DropPath, KeepAll, Scale

PASSING_MODULES = (nn.Identity, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.Upsample, DropPath, KeepAll, Scale)
"""Layers that pass their input on: copied, pooled, up-sampled, scaled or, in training, dropped as a whole."""

PASSING_FUNCTIONS = (operator.add, operator.getitem, torch.add, torch.cat, F.interpolate, F.pad)
"""Functions that pass their input on: sums, concatenations, slices, up-sampling, padding."""


class _Tracer(torch.fx.Tracer):
    """Tracer that keeps the layers above as single nodes, whatever package they come from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PASSING_MODULES) or super().is_leaf_module(m, module_qualified_name)


def reached_directly(net: nn.Module, source: str) -> set[str]:
    """Return the modules that a module's output reaches by identity, sums, concatenation, pooling and up-sampling only.

    Args:
        net: A net that ``torch.fx`` can trace.
        source: Dotted name of a module of the net.

    Returns:
        Dotted names of all modules whose output a direct path reaches. The source is included, and its parents if they
        return the same map.

    Raises:
        ValueError: If the net has no such module, or does not run it.
    """
    names = dict(net.named_modules())
    if source not in names:
        raise ValueError(f"source ({source!r}) is not a module of the net; named_modules() lists them")
    graph = _Tracer().trace(net)
    ends = _last_nodes(graph)
    if source not in ends:
        raise ValueError(f"source ({source!r}) is not run by the net's forward pass")
    reached = {ends[source]}
    for node in graph.nodes:  # in topological order
        if _passes(node, names) and reached & _tensor_inputs(node):
            reached.add(node)
    return {name for name, node in ends.items() if node in reached}


def _last_nodes(graph: torch.fx.Graph) -> dict[str, torch.fx.Node]:
    """Return the node that computes the (first) output of each module, by the name of the module."""
    ends: dict[str, torch.fx.Node] = {}
    for node in graph.nodes:
        for name, _ in (node.meta.get("nn_module_stack") or {}).values():
            if name and node.op != "call_method" and node.target is not getattr:
                ends[name] = node
    return ends


def _passes(node: torch.fx.Node, names: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(names[str(node.target)], PASSING_MODULES)
    return node.op == "call_function" and node.target in PASSING_FUNCTIONS


def _tensor_inputs(node: torch.fx.Node) -> set[torch.fx.Node]:
    """Return the maps that a node takes: its first argument, or a list of them; a sum takes two. Sizes are no maps."""
    maps: list[Any] = []
    for argument in node.args[:2] if node.target in (operator.add, torch.add) else node.args[:1]:
        maps += argument if isinstance(argument, list | tuple) else [argument]
    return {m for m in maps if isinstance(m, torch.fx.Node)}


LENGTHS = ("units", "convolutions")
"""Steps that the length of a path counts: branches of units, or convolutions."""
CONVOLUTIONS = ("convolution", "deform_conv2d")


@dataclass(frozen=True)
class PathLengths:
    """Numbers of paths from the image to the last map.

    Attributes:
        counts: Number of paths by length.
        counted: One of ``LENGTHS``.
    """

    counts: Mapping[int, int]
    counted: str

    @property
    def total(self) -> int:
        """Number of paths."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Mean length."""
        return sum(length * count for length, count in self.counts.items()) / self.total

    def share(self, first: int, last: int) -> float:
        """Return the share of the paths with ``first`` to ``last`` steps, both included."""
        return sum(count for length, count in self.counts.items() if first <= length <= last) / self.total

    def range(self, share: float = 0.95) -> tuple[int, int]:
        """Return the narrowest range of lengths that holds a share of the paths; of equally narrow ones the fullest."""
        lengths = sorted(self.counts)
        ranges = ((a, b) for a in lengths for b in lengths if a <= b and self.share(a, b) >= share)
        return min(ranges, key=lambda r: (r[1] - r[0], -self.share(*r)))


def path_lengths(net: nn.Module, *, input_size: Sequence[int] = (3, 224, 224), counted: str = "units") -> PathLengths:
    """Count the paths of a net by length.

    A gate (one factor a channel) is no path, and a module without weights is one step, whatever it computes within.

    Args:
        net: Any net that takes an image.
        input_size: Channels, height and width of the image.
        counted: ``units`` counts branches: of residual and highway units, dense layers and edges of fabrics. A net
            that has none, or ``convolutions``, counts convolutions.

    Raises:
        ValueError: If the word is unknown, or the net does not take images of this size.
    """
    if counted not in LENGTHS:
        raise ValueError(f"counted ({counted!r}) must be one of {', '.join(LENGTHS)}")
    flow = record(net, input_size, features=True)
    steps, branches = _steps(net, flow)
    by_units = counted == "units" and bool(branches)
    counts: dict[int, Counter[int]] = {0: Counter({0: 1})}
    for op in flow.ops:
        longer = not by_units and op.name in CONVOLUTIONS
        given = op.arguments["input"] if op.name in CONVOLUTIONS else None
        read = (given.number,) if isinstance(given, Value) else op.inputs
        for output in op.outputs:
            if by_units and output in branches:
                counts[output] = _joined(counts, branches[output], 1)
            elif output in steps:
                counts[output] = counts[steps[output]]
            else:
                gates = op.pointwise and len(op.inputs) > 1
                maps = [n for n in read if not (gates and is_gate(flow.shapes[n], flow.shapes[output]))]
                counts[output] = _joined(counts, maps, int(longer))
    return PathLengths(dict(sorted(counts[flow.result].items())), LENGTHS[not by_units])


def _joined(counts: Mapping[int, Counter[int]], maps: Sequence[int], longer: int) -> Counter[int]:
    total: Counter[int] = Counter()
    for number in maps:
        for length, count in counts[number].items():
            total[length + longer] += count
    return total


def _steps(net: nn.Module, flow: Flow) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
    """Return maps that modules without weights give, with their only input, and maps of branches, with their inputs."""
    modules = dict(net.named_modules())
    inputs = {call.module: call.inputs for call in flow.calls}
    steps: dict[int, int] = {}
    branches: dict[int, tuple[int, ...]] = {}
    for call in flow.calls:
        if not call.outputs or not call.inputs:
            continue
        [output, *others] = call.outputs
        parent, _, child = call.module.rpartition(".")
        if child == "branch" and hasattr(modules[parent], "drop_path"):
            branches[output] = call.inputs
        elif child == "drop_path" and not hasattr(modules[parent], "branch"):
            branches[output] = inputs[parent][:1]
        elif len(set(call.inputs)) == 1 and not others and not any(True for _ in modules[call.module].parameters()):
            steps[output] = call.inputs[0]
    # An identity gives its input: no step of its own.
    return {output: source for output, source in steps.items() if output != source}, branches


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Count the paths of nets by length.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``input_size`` and ``counted``.
    """
    found = {}
    for name, title in expand(names).items():
        net = open_net(name, meta=True)
        size = options.input_size or own_size(net)
        found[title] = path_lengths(net, input_size=size, counted=options.counted)
    shown = [
        {
            "net": name,
            "counted": paths.counted,
            "paths": f"{paths.total:,}" if paths.total < 10**9 else f"{Decimal(paths.total):.3e}",
            "shortest": min(paths.counts),
            "mean": f"{paths.mean:.2f}",
            "longest": max(paths.counts),
            "95 % have": "{} to {}".format(*paths.range()),
        }
        for name, paths in found.items()
    ]
    rows = [
        {"net": name, "counted": paths.counted, "length": length, "paths": count, "share": paths.share(length, length)}
        for name, paths in found.items()
        for length, count in paths.counts.items()
    ]
    return Outcome(what="paths", rows=rows, shown=shown, draw=lambda figure: _draw(figure, found), size=(6.5, 3.6))


def _draw(figure: Any, found: Mapping[str, PathLengths]) -> None:
    axes = figure.subplots()
    for name, looks in styles(list(found)):
        paths = found[name]
        axes.plot(list(paths.counts), [100 * paths.share(n, n) for n in paths.counts], **looks)
    words = sorted({paths.counted for paths in found.values()}, reverse=True)
    finish(axes, f"length of a path [{' or '.join(words)}]", "share of all paths [%]")
