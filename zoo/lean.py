"""Training with less memory: maps are made again in the backward pass instead of kept.

`set_lean` puts hooks on layers of a net, and changes nothing else: layers, calls and state dict stay. While such a net
runs, ``torch.autograd.graph.saved_tensors_hooks`` decide what autograd keeps of each map.

* A batch norm keeps its input. Its output is the input times a factor plus a shift of each channel. It is made again
  from the input, and so is the activation behind it, for the convolutions, poolings and gates that read them.
* The sum of a residual unit is made again if the unit ends with a norm, from the norm and the shortcut. This is done in
  every second unit, so that no map needs more than one other sum.
* The concatenations of a dense block are made again from their maps, which are kept once instead of once a layer.
* A pooling needs only the size of its input.

No layer runs a second time: statistics move once, dropout draws once, and hooks are called once. In-Place ABN (Rota
Bulo et al. 2018, arXiv:1712.02616) and the memory-efficient DenseNet (Pleiss et al. 2017, arXiv:1707.06990) save these
maps by layers of their own.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks

from zoo.layers import Concat, Sum

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Norms whose output follows from what autograd keeps. A subclass may compute something else."""
BACKWARDS = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0")
ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations")
"""Modules whose layers are functions of a map, except those that draw numbers or have parameters."""
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""Poolings whose backward pass on CPUs and CUDA reads size and layout of the input, but no number."""

_autograd: Any = vars(torch._C)["_autograd"]
_MARK = "_lean"
"""Attribute of a map that holds what stands for it."""


def set_lean(net: nn.Module, enable: bool = True) -> nn.Module:
    """Let a net train with less memory: maps that follow from others are made again in the backward pass.

    Outputs, gradients and running statistics stay the same. A compiled net is not affected, because the compiler
    decides what is made again. Neither are units under gradient checkpointing, which keep nothing anyway, and nets
    where hooks for saved tensors are not allowed, as within ``torch.func.grad``.

    Args:
        net: A net, from the zoo or elsewhere; it is changed in place. Layers that are put in later are not affected.
        enable: False to undo it.

    Returns:
        The net.

    Raises:
        ValueError: If the argument is no module, is scripted, or torch is older than 2.8.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"net must be a module, not a {type(net).__name__}: create it, or load it, first")
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError(f"net ({type(net).__name__}) must not be scripted, as what is scripted takes no hooks")
    if enable and not hasattr(_autograd, "_top_saved_tensors_default_hooks"):
        raise ValueError(f"set_lean needs torch 2.8 or newer, not {torch.__version__}: use set_grad_checkpointing")
    outermost = {net, *net.children()}
    for module in net.modules():
        for hooks, ours in ((module._forward_pre_hooks, _enter), (module._forward_hooks, _leave)):
            for key in [key for key, hook in hooks.items() if hook is ours]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
        if enable and (module in outermost or module._modules or _has_role(module)):
            module.register_forward_pre_hook(_enter)
            # The first of all hooks, so that it sees what the layer itself has returned.
            module.register_forward_hook(_leave, prepend=True, always_call=True)
    return net


def _has_role(module: nn.Module) -> bool:
    kind = type(module)
    return kind in (*BATCH_NORMS, *POOLS, Concat, Sum) or kind.__module__ in ACTIVATIONS


# What autograd keeps --------------------------------------------------------------------------------------------------


def _nothing() -> None:
    """Stand for what `_known` finds on a map that comes from a file."""


class _Kept:
    """A map that is kept. Like autograd it notices when somebody has overwritten it."""

    __slots__ = ("value", "version")
    sums = 0

    def __init__(self, value: Tensor) -> None:
        self.value, self.version = value.detach(), value._version

    def expect(self) -> None:
        """Count a use in the backward pass to come."""

    def is_free(self) -> bool:
        """Tell whether what `take` has returned may be overwritten."""
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # A map that is saved to a file leaves this behind.

    def take(self) -> Tensor:
        """Return the map."""
        if self.value._version != self.version:
            raise RuntimeError(
                f"a map of shape {tuple(self.value.shape)} that the backward pass needs has been modified by an "
                "inplace operation: use an operation that makes a new map"
            )
        return self.value


class _Elsewhere(_Kept):
    """A map that other hooks keep, such as ``torch.autograd.graph.save_on_cpu``."""

    __slots__ = ("unpack",)

    def __init__(self, value: Tensor, hooks: Sequence[Callable[..., Any]]) -> None:
        pack, self.unpack = hooks
        self.value, self.version = pack(value), value._version

    def take(self) -> Tensor:
        return self.unpack(self.value)


class _Blank:
    """A map of which only size and layout are needed."""

    __slots__ = ("kind", "size", "strides")

    def __init__(self, value: Tensor) -> None:
        self.size, self.strides = value.shape, value.stride()
        self.kind: dict[str, Any] = dict(dtype=value.dtype, device=value.device)

    def take(self) -> Tensor:
        return torch.empty_strided(self.size, self.strides, **self.kind)


_Make = Callable[[list[Tensor], bool], Tensor]


class _Remade:
    """A map that is made again from others, and held from its first use in a backward pass to its last.

    Args:
        prepare: Called at the first use in the forward pass. Returns the function that computes the map from its parts;
            if its second argument is true, it may overwrite the first part.
        parts: The maps that it is made of.
        version: Version of the map that it equals.
        sums: Sums that have to be made for it.
    """

    __slots__ = ("left", "make", "parts", "prepare", "sums", "uses", "value", "version")

    def __init__(self, prepare: Callable[[], _Make], parts: Sequence[Any], version: int, sums: int = 0) -> None:
        self.prepare: Callable[[], _Make] | None = prepare
        self.parts, self.version, self.sums = parts, version, sums
        self.uses = self.left = 0
        self.value: Tensor | None = None

    def expect(self) -> None:
        if self.prepare is not None:
            self.make, self.prepare = self.prepare(), None
            for part in self.parts:
                part.expect()
        self.uses += 1

    def is_free(self) -> bool:
        return self.value is None

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()

    def take(self) -> Tensor:
        value = self.value
        if value is None:
            with torch.no_grad():
                maps = [part.take() for part in self.parts]
                value = self.make(maps, self.parts[0].is_free())
            self.left = self.uses
        self.left -= 1
        self.value = value if self.left > 0 else None
        return value


class _Slot:
    """Something that an activation has kept, before it is known what it is."""

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value: Any = value

    def take(self) -> Tensor:
        return self.value.take()


# A run of a net -------------------------------------------------------------------------------------------------------


class _Run:
    """A run of a module and of all within it.

    Attributes:
        owner: The module.
        outer: Hooks for saved tensors that were there before.
        parts: Input of the activation, or inputs of the sum, that is running, if they can be made again.
        slots: Values that the running activation has kept.
        pooled: Input of the running pooling.
    """

    def __init__(self, owner: nn.Module, outer: Any) -> None:
        self.owner, self.outer = owner, outer
        self.parts: list[Any] = []
        self.slots: list[_Slot] | None = None
        self.pooled: Tensor | None = None

    def pack(self, value: Tensor) -> Any:
        """Return what autograd keeps for a map."""
        if value is self.pooled:
            return _Blank(value)
        known = _known(value)
        if known is None:
            if self.slots is not None:
                slot = _Slot(value)
                self.slots.append(slot)
                return slot
            return self.keep(value)
        known.expect()
        return known

    def keep(self, value: Tensor) -> Any:
        """Return what stands for a map, the same each time."""
        known = _known(value)
        if known is None:
            known = _Kept(value) if self.outer is None else _Elsewhere(value, self.outer)
            if value.grad_fn is not None:
                setattr(value, _MARK, known)
        return known


class _Here(threading.local):
    run: _Run | None = None


_here = _Here()


def _known(value: Tensor) -> Any:
    """Return what stands for a map, if there is something and the map has not been overwritten since."""
    known = getattr(value, _MARK, None)
    return known if known is not None and known.version == value._version else None


def _unpack(kept: Any) -> Tensor:
    return kept.take()


def _enter(module: nn.Module, args: Any) -> None:
    if torch.compiler.is_compiling():
        return
    run = _here.run
    if run is None:
        if not torch.is_grad_enabled() or not _autograd._saved_tensors_hooks_is_enabled():
            return
        outer = _autograd._top_saved_tensors_default_hooks(True)
        if outer is not None and outer[0].__module__ == "torch.utils.checkpoint":
            return
        run = _here.run = _Run(module, outer)
        _autograd._push_saved_tensors_default_hooks(run.pack, _unpack)
    if module._modules or not args or not all(isinstance(value, Tensor) for value in args):
        return
    kind = type(module)
    if kind in POOLS:
        if args[0].device.type in ("cpu", "cuda"):
            run.pooled = args[0]
    elif kind is Sum:
        run.parts = [_known(value) for value in args]
    elif kind.__module__ in ACTIVATIONS:
        source = _known(args[0])
        if isinstance(source, _Remade) and not module._parameters and kind is not nn.RReLU:
            run.parts, run.slots = [source], []


def _leave(module: nn.Module, args: Any, out: Any) -> None:
    if torch.compiler.is_compiling() or (run := _here.run) is None:
        return
    if not module._modules:
        parts, slots = run.parts, run.slots
        run.parts, run.slots, run.pooled = [], None, None
        if args and isinstance(out, Tensor) and out.grad_fn is not None and _is_own_output(module):
            _remember(run, module, args, out, parts)
        for slot in slots or []:
            value = slot.value
            known = _known(out) if value is out else None
            slot.value = known or run.keep(value)
            slot.value.expect()
    if run.owner is module:
        _here.run = None
        _autograd._pop_saved_tensors_default_hooks()


LEAN_HOOKS = (_enter, _leave)


def _is_own_output(module: nn.Module) -> bool:
    """Tell whether a layer's output has been seen by no other hook, which may have changed it, and is its class's."""
    first = next(iter(module._forward_hooks.values()), None)
    return first is _leave and not _global_forward_hooks and "forward" not in vars(module)


# How maps follow from others ------------------------------------------------------------------------------------------


def _remember(run: _Run, module: nn.Module, args: Any, out: Any, parts: list[Any]) -> None:
    """Attach to the output of a layer how it can be made again."""
    kind = type(module)
    made: _Remade | None = None
    if kind in BATCH_NORMS:
        if (source := _known(args[0])) is not None and out.grad_fn.name() in BACKWARDS:
            made = _Remade(_prepare_norm(module, out.grad_fn), [source], out._version, source.sums)
    elif kind is Concat:
        if out is not args[0][0]:  # in copies for inference one map alone is itself
            kept = [run.keep(value) for value in args[0]]
            made = _Remade(lambda: _concatenate, kept, out._version, max(part.sums for part in kept))
    elif all(map(_is_input, parts, args, [out] * len(parts))):
        if kind is Sum:
            if isinstance(parts[0], _Remade) and not any(part.sums for part in parts):
                made = _Remade(lambda: _add, parts, out._version, 1)
        elif parts and out.dtype == args[0].dtype:
            made = _Remade(lambda: _activation(module), parts, out._version, parts[0].sums)
    if made is not None:
        setattr(out, _MARK, made)


def _is_input(part: Any, value: Tensor, out: Tensor) -> bool:
    """Tell whether something stands for the input of a layer, which the layer may have overwritten by its output."""
    return part is not None and getattr(value, _MARK, None) is part and value._version == part.version + (value is out)


def _prepare_norm(norm: Any, node: Any) -> Callable[[], _Make]:
    """Return a function that reads the statistics from the norm, or from its node in autograd's graph."""
    batch = norm.training or norm.running_mean is None

    def prepare() -> _Make:
        with torch.no_grad():
            if batch:
                mean, factor = node._saved_result1, node._saved_result2
            else:
                mean, factor = norm.running_mean.clone(), 1 / torch.sqrt(norm.running_var + norm.eps)
            if norm.weight is not None:
                factor = factor * norm.weight
            bias = None if norm.bias is None else norm.bias.to(factor.dtype, copy=True)

        def affine(maps: list[Tensor], own: bool) -> Tensor:
            # The norm's own kernel, with a variance of one: it computes the same to the last bit.
            one = torch.ones_like(mean)
            return torch.batch_norm(maps[0], factor, bias, mean, one, False, 0.0, 0.0, torch.backends.cudnn.enabled)

        return affine

    return prepare


def _activation(module: Any) -> _Make:
    def act(maps: list[Tensor], own: bool) -> Tensor:
        if type(module) is nn.ReLU:
            return maps[0].relu_() if own else maps[0].relu()
        x = maps[0].clone() if not own and getattr(module, "inplace", False) else maps[0]
        return type(module).forward(module, x)

    return act


def _add(maps: list[Tensor], own: bool) -> Tensor:
    return maps[0].add_(maps[1]) if own else maps[0] + maps[1]


def _concatenate(maps: list[Tensor], own: bool) -> Tensor:
    return torch.cat(maps, dim=1)
