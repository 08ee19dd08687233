"""Record of a forward pass: every operator that the image reaches, with its arguments, in the order of the run.

The pass runs on torch's meta device. It computes no numbers, so a large image costs no more than a small one, and the
net stays untouched: copies of its tensors without storage take the place of its own. Whatever a net does in Python is
in the record, because torch reports the operators and not the source. So any net can be read, of this package or not.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from zoo.arguments import image_size

FRESH = ("empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like")
"""Operators that read the shape of a map and nothing else."""


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image: its number in the record. The image is number 0."""

    number: int


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on the image, such as a weight: its shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """An operator of the pass.

    Attributes:
        name: Name in torch, without overload (``convolution``).
        arguments: Arguments by their names in torch's schema. `Value` and `Constant` stand for tensors.
        outputs: Numbers of the results, in torch's order.
        module: Dotted name of the innermost module that ran it; empty for the net itself.
        pointwise: True if an output element reads one element of each input, after broadcasting.
    """

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[int, ...]
    module: str
    pointwise: bool

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the values that the operator reads."""
        return tuple(leaf.number for leaf in tree_flatten(dict(self.arguments))[0] if isinstance(leaf, Value))


@dataclass(frozen=True)
class Call:
    """A call of a module: its name, the numbers of its inputs and outputs, and the positions of its operators."""

    module: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    first: int
    end: int


@dataclass
class Flow:
    """The record.

    Attributes:
        ops: Operators in the order of the run.
        shapes: Shape of each value, by number.
        calls: Calls of modules, in the order in which they ended.
        result: Number of the pass's (first) output.
    """

    ops: list[Op] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    result: int = 0

    def output_of(self, module: str) -> int:
        """Return the number of the (first) output of a module's last call.

        Raises:
            ValueError: If the pass did not run the module, or its output does not depend on the image.
        """
        found = [call.outputs[0] for call in self.calls if call.module == module and call.outputs]
        if not found:
            raise ValueError(f"module ({module!r}) gives no map in the forward pass; named_modules() lists all modules")
        return found[-1]


class _Recorder(TorchDispatchMode):
    """Follows the tensors that depend on the image."""

    def __init__(self, image: Tensor, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.flow = Flow()
        self.names = names
        self.stack: list[tuple[str, tuple[int, ...], int]] = []
        self.alive: list[Tensor] = []  # an identity is only unique while its tensor lives
        self.numbers: dict[int, int] = {}
        self.number(image)

    def number(self, tensor: Tensor) -> int:
        """Give a result its number."""
        self.numbers[id(tensor)] = len(self.flow.shapes)
        self.alive.append(tensor)
        self.flow.shapes.append(tuple(tensor.shape))
        return len(self.flow.shapes) - 1

    def known(self, tensors: Any) -> tuple[int, ...]:
        """Return the numbers of the tensors that depend on the image, in a nest of lists and dicts."""
        leaves = tree_flatten(tensors)[0]
        return tuple(self.numbers[id(leaf)] for leaf in leaves if isinstance(leaf, Tensor) and id(leaf) in self.numbers)

    def _stand_in(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        number = self.numbers.get(id(leaf))
        return Constant(tuple(leaf.shape)) if number is None else Value(number)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and keep a record of it if it reads what depends on the image."""
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        reads = self.known((args, kwargs))
        arguments = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()} if reads else {}
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs if reads else {}
        arguments |= tree_map(self._stand_in, given)  # before the call, which may change an input in place
        result = func(*args, **kwargs)
        if reads and name not in FRESH:
            outputs = tuple(self.number(leaf) for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor))
            module = self.stack[-1][0] if self.stack else ""
            self.flow.ops.append(Op(name, arguments, outputs, module, torch.Tag.pointwise in func.tags))
        return result

    @contextmanager
    def modules(self) -> Generator[None]:
        """Note which modules run. The hooks are torch's own for all modules, so the net's stay as they are."""

        def enter(module: nn.Module, inputs: Any) -> None:
            if module in self.names:
                self.stack.append((self.names[module], self.known(inputs), len(self.flow.ops)))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            if module in self.names:
                name, read, first = self.stack.pop()
                self.flow.calls.append(Call(name, read, self.known(output), first, len(self.flow.ops)))

        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _Features(nn.Module):
    """The features of a net as a forward pass of its own."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        """Compute the map in front of pooling and classifier."""
        return self.net.forward_features(x)


def record(net: nn.Module, input_size: Sequence[int] = (3, 224, 224), *, features: bool = False) -> Flow:
    """Record the forward pass of a net in evaluation.

    Args:
        net: Any module that takes one image. It stays as it is, its mode included.
        input_size: Channels, height and width of the image.
        features: Record ``forward_features`` instead of ``forward``, if the net has it.

    Raises:
        ValueError: If the net cannot run on an image of this size.
    """
    input_size = image_size("input_size", input_size)
    names = {module: name for name, module in net.named_modules()}
    whole = _Features(net) if features and hasattr(net, "forward_features") else net
    tensors = {name: t.to("meta") for name, t in (*whole.named_parameters(), *whole.named_buffers())}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    image = torch.empty(1, *input_size, device="meta", dtype=dtype)
    recorder = _Recorder(image, names)
    modes = {module: module.training for module in whole.modules()}
    try:
        whole.eval()
        with torch.no_grad(), recorder.modules(), recorder:
            result = torch.func.functional_call(whole, tensors, (image,))
    except (RuntimeError, AssertionError) as error:  # some nets of timm assert the size that they were made for
        raise ValueError(f"input_size {input_size} does not run through the net: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    found = recorder.known(result)
    if not found:
        raise ValueError("the net's output does not depend on its image")
    recorder.flow.result = found[0]
    return recorder.flow
