"""Direct paths between maps: paths without layers that have weights, and without activations.

Sun et al. 2018 (FishNet, arXiv:1901.03495, section 2) call a convolution on the only path between two maps isolated: it
stands between the gradients of the two. A net without isolated convolutions propagates gradients directly to every
stage.
"""

import operator
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

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
