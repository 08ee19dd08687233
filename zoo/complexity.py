"""Cost of a net for one image: parameters, multiply-adds, activations, and uncounted operators.

fvcore counts. It traces the net and calls a *handle* for the cost of every operator in the trace. Tracing takes most of
the time, so this module adds the activation count to the handles of the flop count and traces once.

Three facts to know before quoting a figure (docs/counting.md has details):

* ``macs`` are the multiply-adds of convolutions, linear layers and matrix products only. Most papers call this number
  FLOPs. Biases are not included.
* ``fvcore_flops`` is the sum over every operator that fvcore knows: ``macs`` plus batch norm (2 per element in eval
  mode), adaptive average pooling and interpolation.
* fvcore silently skips operators that it considers free (relu, concatenation, flatten, padding with a constant, ...).
  Operators that it does not know are in ``uncounted``. Publish them beside every figure.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

with warnings.catch_warnings():
    # fvcore compiles a loss function on import; users can do nothing about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import (
        addmm_flop_jit,
        bmm_flop_jit,
        conv_flop_count,
        conv_flop_jit,
        einsum_flop_jit,
        generic_activation_jit,
        get_shape,
        linear_flop_jit,
        matmul_flop_jit,
    )

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


def _deform_conv_flops(inputs: list[Any], outputs: list[Any]) -> Any:
    """Return the products of a deformable convolution, without its interpolation, which is never counted."""
    x, weight, out = (get_shape(value) or [] for value in (*inputs[:2], outputs[0]))
    return conv_flop_count(x, weight, out)


# fvcore's own handles for the operators whose products are counted as `macs`.
PRODUCTS = {
    "aten::_convolution": conv_flop_jit,
    "aten::addmm": addmm_flop_jit,
    "aten::bmm": bmm_flop_jit,
    "aten::einsum": einsum_flop_jit,
    "aten::linear": linear_flop_jit,
    "aten::matmul": matmul_flop_jit,
    "aten::mm": matmul_flop_jit,
    "torchvision::deform_conv2d": _deform_conv_flops,
}
MACS, ACTIVATIONS = "macs", "activations"  # the keys under which the handles below report
LARGEST_IMAGE = 2**27
"""Largest number of elements in a counted image; 7680x4320 pixels have fewer. The net computes its maps for real."""


@dataclass(frozen=True, kw_only=True)
class StageComplexity:
    """Share of one top-level child in the cost; ``(root)`` is the work that the net does outside its children.

    A parameter or module that several children share counts for the first of them.
    """

    name: str
    params: int
    macs: int
    activations: int


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """Cost of one forward pass of one image in eval mode.

    Attributes:
        params: Trainable and frozen parameters. A shared one counts once; buffers are not included.
        macs: Multiply-adds of convolution, linear and matrix products.
        fvcore_flops: fvcore's total; see the top of this file.
        activations: Elements that the operators of ``macs`` write.
        uncounted: Operators that fvcore does not know, with their number of calls. They add nothing to the figures.
        input_size: (C, H, W) of the image.
        stages: Cost of each child, in the order of the children. Each column sums to the total.
    """

    params: int
    macs: int
    fvcore_flops: int
    activations: int
    uncounted: dict[str, int]
    input_size: tuple[int, int, int]
    stages: tuple[StageComplexity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts, ready for JSON."""
        return {**asdict(self), "input_size": list(self.input_size), "stages": [asdict(s) for s in self.stages]}


def count(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> Complexity:
    """Count one net at batch 1, in eval mode, on its own device. The net is left unchanged.

    The type of the output does not matter: tensors are found in lists, tuples, dictionaries and dataclasses, also
    beside numbers and strings. A net on the meta device is counted on the CPU with zeros as weights, which is the
    fastest way to count a net that is not used otherwise. A net whose computation depends on values is counted for a
    black image. A compiled net is counted as the original net. A scripted or traced net is counted by the operators
    that it runs: only as a whole, and operators that fvcore knows by other names are in ``uncounted``.

    Args:
        model: Any net that takes (N, C, H, W).
        input_size: (C, H, W). Default: the size in ``model.pretrained_cfg``, with the channels of ``model.in_chans``.

    Raises:
        ValueError: If the size is not three positive integers, cannot be read from the model, has another number of
            channels than the model, is too large to try, or does not run through the model; or if the net returns no
            tensor.
        TypeError: If ``model`` is not an ``nn.Module``.
    """
    model = _uncompiled(model)
    size = _check_size(model, input_size)
    with _one_thread(), torch.no_grad(), _prepared(model):
        first = next(model.parameters(), None)
        image = torch.zeros(1, *size) if first is None else first.new_zeros((1, *size))
        try:
            net = make_fx(model)(image) if _is_scripted(model) else model
            net.register_forward_hook(_only_tensors)
            analysis = FlopCountAnalysis(net, image)
            analysis.set_op_handle(**{name: _with_activations(handle) for name, handle in PRODUCTS.items()})
            # Both are about to be reported, by `uncounted` and by zeros in the stages.
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            by_module = analysis.by_module_and_operator()
        except (RuntimeError, AssertionError) as error:  # some nets of timm assert the size that they were made for
            reason = _in_own_words(model, image) or error
            raise ValueError(f"input_size {size} does not run through {type(model).__name__}: {reason}") from error
        except (TypeError, AttributeError, IndexError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"model ({type(model).__name__}) does not take an image of {size}: {reason}") from error
    total = by_module[""]
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        macs=int(total[MACS]),
        fvcore_flops=int(sum(total.values()) - total[ACTIVATIONS]),
        activations=int(total[ACTIVATIONS]),
        uncounted=dict(sorted(analysis.unsupported_ops().items())),
        input_size=size,
        stages=tuple(_stages(net, analysis)),
    )


def _with_activations(flops: Callable[..., Any]) -> Callable[..., Counter[str]]:
    """Return a handle that counts the products of an operator and the size of its output."""
    outputs = generic_activation_jit()

    def handle(args: list[Any], results: list[Any]) -> Counter[str]:
        products = flops(args, results)  # a number, or a counter with one key
        macs = sum(products.values()) if isinstance(products, Counter) else products
        return Counter({MACS: macs, ACTIVATIONS: outputs(args, results)})

    return handle


@contextmanager
def _one_thread() -> Generator[None]:
    """Limit torch to one CPU thread during the trace.

    More threads save nothing at batch 1. On a busy machine they wait for each other in every layer: with twice as many
    runnable threads as cores, a catalogue took four times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _uncompiled(model: nn.Module) -> nn.Module:
    """Return the original net of a compiled net; any other net is returned as it is.

    Raises:
        TypeError: If ``model`` is not an ``nn.Module``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model ({type(model).__name__}) must be a net")
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


def _is_scripted(model: nn.Module) -> bool:
    """Return True if a part of the net is scripted or traced. Such parts accept no counting hooks."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())


def _in_own_words(model: nn.Module, image: torch.Tensor) -> str:
    """Return the net's own error message for an image that it rejects. It gives none for sizes while it is traced."""
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):  # the tracer's hooks are of no use any more
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
    try:
        model(image)
    except ValueError as error:
        return str(error)
    except (RuntimeError, AssertionError):
        pass
    return ""


def _only_tensors(module: nn.Module, args: Any, out: Any) -> tuple[torch.Tensor, ...]:
    """Return the tensors in an output, for the tracer. This is a forward hook."""
    found: list[torch.Tensor] = []

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            for part in value.values():
                visit(part)
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part)
        elif is_dataclass(value) and not isinstance(value, type):
            for part in fields(value):
                visit(getattr(value, part.name))

    visit(out)
    if not found:
        raise ValueError(f"model ({type(module).__name__}) returns no tensor but a {type(out).__name__}")
    return tuple(found)


@contextmanager
def _prepared(model: nn.Module) -> Generator[None]:
    """Put a net in eval mode, uncompiled, with zeros on the CPU for meta tensors; restore it afterwards.

    Hooks are restored as well, because fvcore leaves its own in the net when the trace fails. A copy of the net would
    take a quarter of the total time.
    """
    modules = list(model.modules())
    flags = [module.training for module in modules]
    hooks = [(kind, kind.copy()) for m in modules for kind in (m._forward_hooks, m._forward_pre_hooks)]
    zeros: dict[int, torch.Tensor] = {}
    swapped: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    compiled = [(m, call) for m in modules if (call := getattr(m, "_compiled_call_impl", None)) is not None]
    parts: list[tuple[dict[str, Any], str, nn.Module]] = []
    for module in modules:
        for name, child in module.named_children():
            if (plain := _uncompiled(child)) is not child:
                parts.append((module._modules, name, child))
                module._modules[name] = plain
        for tensors in (module._parameters, module._buffers):
            swapped += [(tensors, name, t) for name, t in tensors.items() if t is not None and t.is_meta]
    try:
        model.eval()
        for module, _ in compiled:
            module._compiled_call_impl = None
        for tensors, name, tensor in swapped:
            # A shared tensor stays shared. Zeros, for memory as found may hold denormals, which are slow, or nan.
            if id(tensor) not in zeros:
                own = torch.zeros(tensor.shape, dtype=tensor.dtype)
                zeros[id(tensor)] = nn.Parameter(own, False) if isinstance(tensor, nn.Parameter) else own
            tensors[name] = zeros[id(tensor)]
        yield
    finally:
        for tensors, name, tensor in swapped:
            tensors[name] = tensor
        for children, name, child in parts:
            children[name] = child
        for module, call in compiled:
            module._compiled_call_impl = call
        for kind, before in hooks:
            kind.clear()
            kind.update(before)
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def _stages(model: nn.Module, analysis: FlopCountAnalysis) -> Iterator[StageComplexity]:
    by_module = analysis.by_module_and_operator()
    seen: set[nn.Parameter] = set()
    rest = Counter(by_module[""])
    for name, child in model.named_children():
        own = set(child.parameters()) - seen
        seen |= own
        # A child that also lives inside an earlier one is reported there.
        costs = by_module[name] if analysis.canonical_module_name(name) == name else Counter()
        rest.subtract(costs)
        yield _stage(name, own, costs)
    left = _stage("(root)", set(model.parameters()) - seen, rest)
    if left.params or left.macs or left.activations:
        yield left


def _stage(name: str, params: set[nn.Parameter], costs: Counter[str]) -> StageComplexity:
    return StageComplexity(
        name=name,
        params=sum(p.numel() for p in params),
        macs=int(costs[MACS]),
        activations=int(costs[ACTIVATIONS]),
    )


def _check_size(model: nn.Module, size: tuple[int, int, int] | None) -> tuple[int, int, int]:
    channels = getattr(model, "in_chans", None)
    if size is None:
        config = getattr(model, "pretrained_cfg", None) or {}
        if "input_size" not in config:
            raise ValueError(f"input_size is None and {type(model).__name__} states none; pass (C, H, W)")
        default = tuple(config["input_size"])
        size = (channels or default[0], *default[1:])
    size = tuple(size) if isinstance(size, list | tuple) else size
    whole = isinstance(size, tuple) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    if not whole or len(size) != 3:
        raise ValueError(f"input_size {size!r} must be three positive integers (C, H, W)")
    if size[0] * size[1] * size[2] > LARGEST_IMAGE:
        raise ValueError(
            f"input_size {size} must have at most {LARGEST_IMAGE:,} numbers, for the maps of a larger image are "
            "computed for minutes and fill the memory"
        )
    if channels is not None and size[0] != channels:
        raise ValueError(f"input_size {size} has {size[0]} channels, the model takes {channels}; see in_chans")
    return size


def taps(model: nn.Module) -> list[dict[str, Any]]:
    """Return module, channels and stride of each feature tap; an empty list for a model without ``feature_info``."""
    info: Any = getattr(model, "feature_info", ())
    return [{"module": t["module"], "channels": t["num_chs"], "stride": t["reduction"]} for t in info]
