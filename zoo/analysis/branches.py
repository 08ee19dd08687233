"""Units of a net and the two paths of each: the basis of lesions, path gradients, responses and gains.

A unit is what a net repeats. Two kinds are told apart. A *branch* stands beside another path: that of a residual or
highway unit, the new maps of a dense layer, an edge of a fabric. Without its branch the unit hands on its shortcut, or
nothing if it has none. A *layer* of a plain net has no other path: without it the next layer reads its input.

All changes are hooks, or units that change places for a while. Both end with the context, also after an error, so a net
stays as it is.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.analysis.flow import record
from zoo.layers import Residual, Stage


@dataclass(frozen=True, eq=False)
class Unit:
    """A unit.

    Attributes:
        name: Dotted name of its module.
        module: The module.
        branch: Module whose output is the branch, just before it meets the other path; None for a layer.
        shapes: Shapes of its inputs and its outputs.
        reshapes: True if its shortcut changes the shape of the map, so that it is no identity.
    """

    name: str
    module: nn.Module
    branch: nn.Module | None
    shapes: tuple[tuple[int, ...], ...]
    reshapes: bool

    @property
    def group(self) -> tuple[Any, ...]:
        """Key of the units that can take each other's places: those of one parent, with maps of the same shapes."""
        return self.name.rpartition(".")[0], self.shapes


def units_of(net: nn.Module, input_size: Sequence[int]) -> list[Unit]:
    """Return the units that run, in the order of the pass. Layers that change the shape of a map are none.

    Args:
        net: A net. Units are modules with a child ``drop_path``, and layers in a stage of the zoo.
        input_size: Channels, height and width of the image.

    Raises:
        ValueError: If the net has no units, or does not take images of this size.
    """
    flow = record(net, input_size, features=True)
    modules = dict(net.named_modules())
    ran = {call.module for call in flow.calls}
    found: dict[str, Unit] = {}
    for call in flow.calls:
        if not call.inputs or not call.outputs:
            continue
        module = modules[call.module]
        shapes = tuple(flow.shapes[number] for number in (*call.inputs, *call.outputs))
        same = shapes[0] == shapes[-1]
        if f"{call.module}.drop_path" in ran:
            reshapes = isinstance(module, Residual) and not same
            found[call.module] = Unit(call.module, module, module.get_submodule("drop_path"), shapes, reshapes)
        elif same and _is_layer(modules, call.module):
            found[call.module] = Unit(call.module, module, None, shapes, False)
    if not found:
        raise ValueError("the net has no units: no branches beside another path, and no layers that keep a map's shape")
    return list(found.values())


def _is_layer(modules: Mapping[str, nn.Module], name: str) -> bool:
    parent = modules.get(name.rpartition(".")[0])
    return isinstance(parent, Stage) and any(True for _ in modules[name].parameters())


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable[[Any, Any], Any]]) -> Generator[None]:
    """Call a function with the inputs and the output of a module whenever it runs.

    What the function returns takes the place of the output, unless it is None.
    """
    with ExitStack() as stack:
        for module, change in hooks.items():
            handle = module.register_forward_hook(lambda _, given, output, change=change: change(given, output))
            stack.callback(handle.remove)
        yield


@contextmanager
def without(units: Collection[Unit]) -> Generator[None]:
    """Delete units: branches give zeros, layers hand on their input."""

    def zero(_: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    def hand_on(given: Any, _: Tensor) -> Tensor:
        return given[0]

    with hooked({unit.branch or unit.module: zero if unit.branch is not None else hand_on for unit in units}):
        yield


@contextmanager
def reordered(net: nn.Module, order: Mapping[Unit, Unit]) -> Generator[None]:
    """Let units run in each other's places.

    Args:
        net: The net.
        order: Unit whose place is taken -> the unit that runs there.
    """
    places = [(place, *_place(net, place)) for place in order]
    try:
        for place, parent, child in places:
            parent._modules[child] = order[place].module
        yield
    finally:
        for place, parent, child in places:
            parent._modules[child] = place.module


def _place(net: nn.Module, unit: Unit) -> tuple[nn.Module, str]:
    parent, _, child = unit.name.rpartition(".")
    return net.get_submodule(parent), child


@contextmanager
def gradient_path(units: Collection[Unit], through: Collection[Unit]) -> Generator[None]:
    """Let gradients pass some units by the branch alone and the others by the shortcut alone; values stay the same.

    Args:
        units: Residual units.
        through: Those among them whose branch the gradient passes.

    Raises:
        ValueError: If a unit is not residual, so that its paths are no modules of their own.
    """
    hooks: dict[nn.Module, Callable[[Any, Any], Any]] = {}
    for unit in units:
        if not isinstance(unit.module, Residual) or unit.branch is None:
            raise ValueError(f"unit {unit.name} is not residual: its branch and its shortcut cannot be told apart")
        hooks[unit.module.shortcut if unit in through else unit.branch] = lambda _, output: output.detach()
    with hooked(hooks):
        yield
