"""Steps of a net in order of computation, with the sizes of their maps, read from the net itself by ``torch.fx``.

The net is traced and then run without data, on the meta device, twice: at its own size, for the sizes that a reader
expects, and on a large image. There borders and rounding no longer matter, so the size of a map tells its total stride.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.backbone import Backbone

LARGE = 2**14
"""Height and width of the image that strides are measured on."""


@dataclass(eq=False, kw_only=True)
class Step:
    """A layer, or a function of maps, and the map that it computes.

    Attributes:
        name: Name of the layer in the net, or of the function.
        calls: Calls of modules that the step is part of, the outermost first, and the layer itself.
        module: The layer; None for a function.
        inputs: Steps whose maps it takes.
        shape: Shape of the map for one image of the net's own size.
        level: Total stride.
        alive: True if the net's output needs the map; False if only taps do.
        taps: Numbers of the taps that are this map.
    """

    name: str
    calls: tuple[str, ...]
    module: nn.Module | None
    inputs: list["Step"]
    shape: tuple[int, ...]
    level: int
    alive: bool = False
    taps: list[int] = field(default_factory=list)


class _Whole(nn.Module):
    """A net that returns its output and, if it can, all its taps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        net = self.net
        if isinstance(net, Backbone) and not net.gives_taps:
            features, taps = net.forward_intermediates(x)
            return net.forward_head(features), taps
        return net(x), None


class _Tracer(torch.fx.Tracer):
    """Tracer that keeps layers as single nodes: what has weights of its own, and what maps one map to another."""

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        maps = [arg for arg in args if isinstance(arg, torch.fx.Proxy)]
        parts = list(m.children())
        deep = any(True for part in parts for _ in part.children())
        self.whole = (bool(m._parameters) and not deep) or (not parts and len(maps) == 1)
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.whole or super().is_leaf_module(m, module_qualified_name)


class _SizesAlone(TorchFunctionMode):
    """Mode in which functions that torch spells out in Python compute only the size of their map."""

    SAME = (F.batch_norm, F.group_norm, F.layer_norm, F.relu)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.SAME:
            return args[0]
        size = (kwargs or {}).get("size")
        if func is F.interpolate and size is not None and args[0].dim() == 4:
            return args[0].new_empty((*args[0].shape[:2], *size))
        return func(*args, **(kwargs or {}))


class _Shapes(torch.fx.Interpreter):
    """Runs a graph on the meta device and keeps the shape of every map."""

    def measure(self, size: tuple[int, ...]) -> dict[torch.fx.Node, tuple[int, ...]]:
        self.shapes: dict[torch.fx.Node, tuple[int, ...]] = {}
        with torch.no_grad(), _SizesAlone():
            self.run(torch.empty(1, *size, device="meta"))
        return self.shapes

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.dim() > 1:
            self.shapes[n] = tuple(result.shape)
        return result


def steps_of(net: nn.Module, input_size: tuple[int, int, int]) -> list[Step]:
    """Return the steps of a net in order of computation.

    Args:
        net: A net that ``torch.fx`` can trace. It loses its weights: it goes to the meta device, in evaluation mode.
        input_size: (C, H, W) of the image.

    Raises:
        ValueError: If the net cannot be traced, or does not take the size.
    """
    whole = _Whole(_evaluated(net))
    try:
        graph = _Tracer().trace(whole)
    except Exception as error:  # whatever a forward does that has no graph
        raise ValueError(f"net ({type(net).__name__}) cannot be drawn: torch.fx cannot follow it ({error})") from error
    runner = _Shapes(torch.fx.GraphModule(whole, graph))
    try:
        shapes, large = runner.measure(input_size), runner.measure((input_size[0], LARGE, LARGE))
    except (RuntimeError, AssertionError, ValueError) as error:  # torch.fx adds lines of its own to the net's words
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"net ({type(net).__name__}) cannot be drawn: it takes no image of {input_size}, or none of another size "
            f"({reason})"
        ) from error
    steps = _steps(graph, dict(whole.named_modules()), shapes, large)
    _mark(graph, steps, list(_tap_modules(net)))
    return list(steps.values())


def _evaluated(net: nn.Module) -> nn.Module:
    """Move a net to the meta device, in evaluation mode and without layers for training only."""
    net = net.to(device="meta").eval()
    for name, module in list(net.named_modules()):
        plain: Any = getattr(module, "plain", None)
        if callable(plain):
            net.set_submodule(name, plain())
    return net


def _steps(
    graph: torch.fx.Graph,
    modules: dict[str, nn.Module],
    shapes: dict[torch.fx.Node, tuple[int, ...]],
    large: dict[torch.fx.Node, tuple[int, ...]],
) -> dict[torch.fx.Node, Step]:
    steps: dict[torch.fx.Node, Step] = {}
    for node in graph.nodes:
        if node not in shapes or node.op in ("placeholder", "get_attr"):
            continue
        inputs = [steps[source] for source in node.all_input_nodes if source in steps]
        stack = [(key, name) for key, (name, _) in (node.meta.get("nn_module_stack") or {}).items()]
        calls = tuple(key.removeprefix("net.") for key, name in stack if name not in ("", "net"))
        module = modules[str(node.target)] if node.op == "call_module" else None
        shape = large[node]
        if len(shape) == 4 and shape[2] > 1:
            level = _stride(LARGE / shape[2], inputs)
        else:  # a vector stands beside the map that it sums up
            level = max((step.level for step in inputs), default=1)
        name = str(node.target).removeprefix("net.") if module else getattr(node.target, "__name__", str(node.target))
        steps[node] = Step(name=name, calls=calls, module=module, inputs=inputs, shape=shapes[node], level=level)
    return steps


def _stride(measured: float, inputs: list[Step]) -> int:
    """Return the total stride of a map. A layer without padding loses a few positions, which make no new stride."""
    same = [step.level for step in inputs if abs(measured / step.level - 1) < 0.1]
    return same[0] if same else max(round(measured), 1)


def _tap_modules(net: nn.Module) -> Iterator[str]:
    info: Any = getattr(net, "feature_info", None) or []
    for tap in info if isinstance(info, list) else getattr(info, "info", []):
        yield str(tap.get("module", ""))


def _mark(graph: torch.fx.Graph, steps: dict[torch.fx.Node, Step], taps: list[str]) -> None:
    """Mark what the output needs, and the maps of the taps: the last map that a module computes."""
    for number, name in enumerate(taps):
        inside = [step for step in steps.values() if name in step.calls]
        if inside:
            inside[-1].taps.append(number)
    (output,) = next(node for node in graph.nodes if node.op == "output").args
    found: list[torch.fx.Node] = []
    torch.fx.map_arg(output[0], found.append)
    needed = [steps[node] for node in found if node in steps]
    while needed:
        step = needed.pop()
        if not step.alive:
            step.alive = True
            needed += step.inputs
