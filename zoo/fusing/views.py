"""Graphs of a net: which layer reads the output of which other one, in each method that users call."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch.fx
from torch import nn
from torch.fx import Graph, Node
from torch.nn.modules.conv import _ConvNd

from zoo.fusing.arithmetic import is_norm

METHODS = ("forward", "forward_features", "forward_head", "forward_intermediates")
"""Methods that users call."""
FACTS = ("shape", "dtype", "device")
"""Attributes of a map that can be read without reading the map."""


class View:
    """One graph of a net, or of a part.

    Attributes:
        calls: The nodes at which each module is called, by the module's name in the net.
    """

    def __init__(self, graph: Graph, shown: set[Node]) -> None:
        self.shown = shown
        self.calls: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "call_module":
                self.calls[str(node.target)].append(node)

    def readers(self, node: Node) -> list[Node | None]:
        """Return the readers of the values of a map; None stands for users, who can see a tap."""
        readers: list[Node | None] = [user for user in node.users if not _asks_a_fact(user)]
        return [*readers, None] if node in self.shown else readers

    def only_reader(self, node: Node) -> Node | None:
        """Return the reader of a map, if there is exactly one."""
        readers = self.readers(node)
        return readers[0] if len(readers) == 1 else None

    def readers_behind(self, node: Node, passes: Any) -> Iterator[Any]:
        """Yield the readers of a map, directly or after layers that pass it on."""
        for reader in self.readers(node):
            if reader is not None and passes(reader):
                yield from self.readers_behind(reader, passes)
            else:
                yield reader


class _Tracer(torch.fx.Tracer):
    """Tracer that keeps layers known to `fuse` as single nodes, and records the maps of some modules.

    Args:
        method: Name of the traced method.
        prefix: Name of the traced part in the net, with a dot.
        taps: Names of the modules whose maps users can see.
    """

    def __init__(self, method: str, prefix: str, taps: set[str]) -> None:
        super().__init__()
        self.traced_func_name = method
        self.prefix, self.taps = prefix, taps
        self.shown: set[Node] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, _ConvNd) or is_norm(m) or (hasattr(m, "inplace") and not any(True for _ in m.children()))
        return known or super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        return self.prefix + super().path_of_module(mod)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        if self.path_of_module(m) in self.taps:
            parts = out if isinstance(out, tuple | list) else [out]
            self.shown |= {part.node for part in parts if isinstance(part, torch.fx.Proxy)}
        return out


def views_of(module: nn.Module, prefix: str, taps: set[str]) -> Iterator[View]:
    """Trace the methods of a module; if one cannot be traced, trace its children."""
    views = []
    try:
        for method in METHODS:
            if callable(getattr(module, method, None)):
                try:
                    views.append(_trace(module, method, prefix, taps))
                except ValueError as error:
                    # A net that refuses to be called in this way, such as for taps that have been removed, has no view.
                    if method == "forward" or isinstance(error, torch.fx.proxy.TraceError):
                        raise
    except Exception:  # whatever a forward does that has no graph
        for name, child in module.named_children():
            if any(True for _ in child.children()):
                yield from views_of(child, f"{prefix}{name}.", taps)
    else:
        yield from views


def _trace(module: nn.Module, method: str, prefix: str, taps: set[str]) -> View:
    parameters = inspect.signature(getattr(module, method)).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    tracer = _Tracer(method, prefix, taps)
    return View(tracer.trace(module, given), tracer.shown)


def tap_names(net: nn.Module) -> Iterator[str]:
    """Yield the names of the modules whose maps users can see: the taps of a net, and of nets inside it."""
    for name, module in net.named_modules():
        taps: Any = getattr(module, "feature_info", None) or []
        for tap in taps if isinstance(taps, list) else getattr(taps, "info", []):
            yield f"{name}.".removeprefix(".") + str(tap.get("module", ""))


def _asks_a_fact(node: Node) -> bool:
    if node.target is getattr:
        return node.args[1] in FACTS
    return node.op == "call_method" and node.target in ("size", "dim")
