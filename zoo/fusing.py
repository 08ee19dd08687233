"""A copy of a net for inference that computes the same, up to rounding, with less to do.

`fuse` looks at a net from outside, with ``torch.fx``: which layer reads what which other one returns. It knows layers
of torch and no family, and changes layers, never the code that calls them. So the copy has the class and the methods
of its net.

* A norm behind a convolution is multiplied into it; also behind a sum of convolutions, and where maps are enlarged or
  averaged in between, for both leave the weights of a pixel adding up to one.
* A norm before a ReLU before convolutions without padding: with factor s and shift t, relu(s x + t) is
  s max(x, -t / s) + t for a positive s, and s min(x, -t / s) + t for a negative one. The outer s and t are multiplied
  into the convolutions, and what is left of norm and activation is one bound a channel.
* Activations and sums overwrite a map that nobody reads again.
* What is there for training alone goes (drop path), and a sparse convolution becomes a dense one with zeros.
"""

import copy
import inspect
import operator
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from zoo.layers import Sum

IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Layers that return their input in evaluation."""
AVERAGES = (nn.Upsample, nn.AdaptiveAvgPool2d)
"""Layers whose pixels are averages of pixels."""
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Norms of which it is known that they scale and shift in evaluation; others have to show it."""
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
SUMS = (operator.add, torch.add)
FRESH = (operator.add, operator.sub, operator.mul, torch.add, torch.mul, torch.cat, torch.sigmoid, F.interpolate)
"""Functions whose result has memory of its own."""
FACTS = ("shape", "dtype", "device")
"""What a reader may ask of a map without reading it."""
METHODS = ("forward", "forward_features", "forward_head", "forward_intermediates")
"""What users call."""
FAR = 1e15
"""Bounds beyond this mean that a channel's factor is zero."""


@dataclass(kw_only=True)
class Report:
    """What `fuse` did; called, it says so.

    Attributes:
        folded: Norms that were multiplied into the convolutions before them.
        bounded: Norms that became a bound, and were multiplied into the convolutions behind them.
        replaced: Layers that were exchanged for plainer ones.
        activations: Activations that work in place now.
        sums: Sums that do.
        left: Norms that stay, by name, with the reason.
    """

    folded: list[str] = field(default_factory=list)
    bounded: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> str:
        """Say what was done in lines: how many times what, and how many norms stay for which reason."""
        lines = [
            (len(self.folded), "norms multiplied into the convolutions before them"),
            (len(self.bounded), "norms and their activations made a bound, the rest multiplied into what follows"),
            (len(self.replaced), "layers exchanged for plainer ones"),
            (len(self.activations), "activations in place"),
            (len(self.sums), "sums in place"),
        ]
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.left.items():
            reasons[reason].append(name)
        lines += [(len(names), f"norms left: {why} ({_some(names)})") for why, names in reasons.items()]
        return "\n".join(f"{times:>5}  {what}" for times, what in lines)


class Bound(nn.Module):
    """Keep each channel at or above a number of its own, or at or below one.

    Args:
        low: Smallest value of each channel, (1, C, 1, 1), or None.
        high: Largest value of each channel, or None.
    """

    def __init__(self, low: Tensor | None, high: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if self.inplace:
            return x.clamp_(self.low, self.high)  # ty: ignore[no-matching-overload]
        return torch.clamp(x, self.low, self.high)  # ty: ignore[no-matching-overload]


def fuse(net: nn.Module) -> Any:
    """Make a copy of a net that computes the same in inference with less to do.

    Outputs are equal up to rounding: about 1e-12 of their spread in float64 and 1e-5 in float32. The copy has the
    class, the methods and the feature taps of the net, and beside them ``report``: call it for what was done, or read
    its attributes (`Report`). It can be copied, pickled, compiled, exported and scripted as the net can. It is not for
    training: its parameters ask for no gradient, and what its inner layers return may be overwritten, so put no hooks
    on it that keep maps.

    Args:
        net: A net in evaluation mode, ours or any other; it stays as it is. Parts that ``torch.fx`` cannot trace are
            looked at child by child.

    Returns:
        The copy, in evaluation mode, on the same device.

    Raises:
        ValueError: If the argument is no plain net, has no weights yet, is in training mode, or has hooks.
    """
    _check(net)
    twin: Any = copy.deepcopy(net).requires_grad_(False)
    fusion = _Fusion(twin)
    fusion.fold_norms()
    fusion.bound_norms()
    fusion.work_in_place()
    fusion.apply()
    twin.report = fusion.report
    return twin.eval()


def _check(net: Any) -> None:
    if not isinstance(net, nn.Module):
        raise ValueError(f"net must be a module, not a {type(net).__name__}: create it, or load it, first")
    if isinstance(net, torch.jit.ScriptModule | torch._dynamo.OptimizedModule):
        raise ValueError(f"net ({type(net).__name__}) must not be compiled yet: fuse it first, and compile the copy")
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        raise ValueError("net must have its weights, and some are on the meta device: create it on another device")
    for name, module in net.named_modules():
        place = name or type(net).__name__
        if module.training:
            raise ValueError(f"net must be in evaluation mode, and {place} is in training mode: call net.eval() first")
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise ValueError(
                f"net must have no hooks and no patched forward, as {place} has: they would see other maps in the "
                "copy; take them off, and for taps use another feature_cls than 'hook'"
            )


class _Fusion:
    """The steps of `fuse`, in the order in which they are taken; nothing of the net changes before `apply`.

    Args:
        net: A copy that may be changed.

    Attributes:
        modules: What stands, or will stand, at each name.
        views: The graphs of the net. What is done must hold in all of them.
        report: What was done.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.report = Report()
        self.old = dict(net.named_modules())
        self.modules = dict(self.old)
        for name, module in self.old.items():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = False
            if callable(make := getattr(module, "plain", None)) and type(module).__module__.startswith("zoo."):
                self.modules[name] = make()
                self.report.replaced.append(name)
        self.apply()
        self.old = dict(net.named_modules())
        self.modules = dict(self.old)
        self.views = list(_views(net, "", set(_tap_names(net))))
        self.overwriting: set[str] = set()

    def apply(self) -> None:
        """Put the new modules where the old ones are, under every name that they have."""
        new = {id(module): self.modules[name] for name, module in self.old.items()}
        for parent in list(self.old.values()):
            for key, child in parent._modules.items():
                if child is not None and id(child) in new:
                    parent._modules[key] = new[id(child)]

    # Norms ------------------------------------------------------------------------------------------------------------

    def fold_norms(self) -> None:
        """Multiply norms into the convolutions before them."""
        for name, norm in self.norms():
            affine = _affine(norm)
            if isinstance(affine, str):
                self.report.left[name] = affine
                continue
            sources = self.agreed(name, self.sources_of)
            if isinstance(sources, str):
                self.report.left[name] = sources
                continue
            scale, shift, rest = affine
            for i, (conv, factor) in enumerate(sources):  # the first one of a sum has the whole shift
                _scale_outputs(self.modules[conv], scale, None if i else shift / factor)
            self.modules[name] = rest
            self.report.folded.append(name)

    def bound_norms(self) -> None:
        """Make bounds of norms that a ReLU and convolutions follow, and multiply the rest into these."""
        for name in list(self.report.left):
            affine = _affine(self.modules[name])
            found = self.agreed(name, self.readers_of)
            if isinstance(affine, str) or isinstance(found, str):
                continue
            act, convs = found
            scale, shift, rest = affine
            if type(rest) is not (nn.Identity if act else nn.ReLU):
                continue
            bound, scale, shift = _bound(scale, shift, next(self.modules[name].buffers()))
            for conv in convs:
                _scale_inputs(self.modules[conv], scale, shift)
            self.modules[name] = bound
            if act:
                self.modules[act] = nn.Identity()
            del self.report.left[name]
            self.report.bounded.append(name)

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        """Norms that are called, in the order of the calls."""
        seen: dict[str, None] = {}
        for view in self.views:
            seen |= dict.fromkeys(name for name in view.calls if _is_norm(self.modules[name]))
        for name in seen:
            yield name, self.modules[name]

    def agreed(self, norm: str, look: Any) -> Any:
        """What all views say of a norm, if they say the same; otherwise why nothing can be done, as text."""
        answers = [look(view, norm) for view in self.views if norm in view.calls]
        if texts := [answer for answer in answers if isinstance(answer, str)]:
            return texts[0]
        if any(answer != answers[0] for answer in answers):
            return "it has other neighbours in other methods of the net"
        for view in self.views:
            if norm not in view.calls and any(name in view.calls for name in _names(answers[0])):
                return "its neighbours are called without it in another method of the net"
        return answers[0]

    def sources_of(self, view: "_View", norm: str) -> list[tuple[str, float]] | str:
        """The convolutions that a norm's input is a sum of, with the factors that they have in it."""
        if len(view.calls[norm]) != 1:
            return "it is called more than once"
        sources: list[tuple[str, float]] = []
        if reason := self.walk(view, view.calls[norm][0].args[0], 1.0, sources):
            return reason
        if len({name for name, _ in sources}) != len(sources) or not all(factor for _, factor in sources):
            return "its input is no plain sum of convolutions"
        return sources

    def walk(self, view: "_View", node: Any, factor: float, sources: list[tuple[str, float]]) -> str:
        """Collect the convolutions before a norm; returns why there is something else, or nothing."""
        if not isinstance(node, Node):
            return "it reads no map"
        if len(view.readers(node)) != 1:
            return "others read the map before it too"
        module = self.module_at(node)
        if isinstance(module, IDLE + AVERAGES) or (isinstance(module, nn.AvgPool2d) and _averages(module)):
            return self.walk(view, node.args[0], factor, sources)
        if node.target is F.interpolate:
            return self.walk(view, node.args[0], factor, sources)
        if node.target in (operator.mul, torch.mul) and isinstance(node.args[1], int | float):
            return self.walk(view, node.args[0], factor * node.args[1], sources)
        if isinstance(module, Sum) or (node.target in SUMS and not node.kwargs):
            reasons = [self.walk(view, part, factor, sources) for part in node.args]
            return "a sum with something else than convolutions is before it" if any(reasons) else ""
        if isinstance(module, _ConvNd):
            if len(view.calls[str(node.target)]) != 1:
                return "the convolution before it is called more than once"
            if not _is_linear(module):
                return f"the convolution before it ({type(module).__name__}) computes its weight"
            sources.append((str(node.target), factor))
            return ""
        return "no convolution is before it"

    def readers_of(self, view: "_View", norm: str) -> tuple[str, list[str]] | str:
        """The ReLU behind a norm (empty if the norm brings it along), and the convolutions behind that."""
        if len(view.calls[norm]) != 1:
            return "it is called more than once"
        node, act = view.calls[norm][0], ""
        if not any(isinstance(child, nn.ReLU) for child in self.modules[norm].children()):
            reader = view.only_reader(node)
            if (
                reader is None
                or type(self.module_at(reader)) is not nn.ReLU
                or len(view.calls[str(reader.target)]) != 1
            ):
                return "no ReLU is behind it"
            node, act = reader, str(reader.target)
        convs = []
        for reader in view.readers_behind(node, self.is_idle):
            conv = self.module_at(reader)
            if type(conv) is not nn.Conv2d or len(view.calls[str(reader.target)]) != 1 or not _is_bare(conv):
                return "other layers than convolutions without padding are behind it"
            convs.append(str(reader.target))
        return (act, sorted(convs)) if convs else "nothing is behind it"

    def module_at(self, node: Any) -> nn.Module | None:
        """What a node calls."""
        return self.modules[str(node.target)] if isinstance(node, Node) and node.op == "call_module" else None

    def is_idle(self, node: Node) -> bool:
        return isinstance(self.module_at(node), IDLE)

    # Memory -----------------------------------------------------------------------------------------------------------

    def work_in_place(self) -> None:
        """Let activations, bounds and sums overwrite what they read, where nobody reads it afterwards."""
        calls: dict[str, list[bool]] = defaultdict(list)
        for view in self.views:
            for name, nodes in view.calls.items():
                if _can_overwrite(self.modules[name]):
                    calls[name] += [self.is_free(view, node.args[0]) for node in nodes]
        for name, free in calls.items():
            module: Any = self.modules[name]
            if all(free) and not module.inplace:
                self.overwriting.add(name)
                (self.report.sums if isinstance(module, Sum) else self.report.activations).append(name)
        for name in self.overwriting:
            module = self.modules[name]
            module.inplace = True

    def is_free(self, view: "_View", node: Any) -> bool:
        """Whether a map has memory of its own and one reader."""
        if not isinstance(node, Node) or len(view.readers(node)) != 1:
            return False
        module = self.module_at(node)
        if module is None:
            views_another = node.target is operator.getitem or (node.op == "call_method" and node.target == "narrow")
            return node.target in FRESH or (views_another and self.is_free(view, node.args[0]))
        if isinstance(module, IDLE):
            return self.is_free(view, node.args[0])
        if _can_overwrite(module):
            return not module.inplace or self.is_free(view, node.args[0])
        return isinstance(module, (*POOLS, _ConvNd, nn.Linear)) or _is_norm(module)


class _View:
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
        """Who reads the values of a map; None stands for users, to whom a tap is shown."""
        readers: list[Node | None] = [user for user in node.users if not _asks_a_fact(user)]
        return [*readers, None] if node in self.shown else readers

    def only_reader(self, node: Node) -> Node | None:
        """The one who reads a map."""
        readers = self.readers(node)
        return readers[0] if len(readers) == 1 else None

    def readers_behind(self, node: Node, passes: Any) -> Iterator[Any]:
        """Who reads a map, directly or behind layers that pass it on."""
        for reader in self.readers(node):
            if reader is not None and passes(reader):
                yield from self.readers_behind(reader, passes)
            else:
                yield reader


class _Tracer(torch.fx.Tracer):
    """Keeps layers that `fuse` knows as single nodes, and notes the maps of some modules.

    Args:
        method: What is traced.
        prefix: Of the part in the net.
        taps: Names of the modules whose maps are shown to users.
    """

    def __init__(self, method: str, prefix: str, taps: set[str]) -> None:
        super().__init__()
        self.traced_func_name = method
        self.prefix, self.taps = prefix, taps
        self.shown: set[Node] = set()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, _ConvNd) or _is_norm(m) or (hasattr(m, "inplace") and not any(True for _ in m.children()))
        return known or super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        return self.prefix + super().path_of_module(mod)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        if self.path_of_module(m) in self.taps:
            parts = out if isinstance(out, tuple | list) else [out]
            self.shown |= {part.node for part in parts if isinstance(part, torch.fx.Proxy)}
        return out


def _views(module: nn.Module, prefix: str, taps: set[str]) -> Iterator[_View]:
    """Graphs of the methods of a module; where one cannot be traced, those of its children."""
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
                yield from _views(child, f"{prefix}{name}.", taps)
    else:
        yield from views


def _trace(module: nn.Module, method: str, prefix: str, taps: set[str]) -> _View:
    parameters = inspect.signature(getattr(module, method)).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    tracer = _Tracer(method, prefix, taps)
    return _View(tracer.trace(module, given), tracer.shown)


def _tap_names(net: nn.Module) -> Iterator[str]:
    """Modules whose maps are shown to users: the taps of a net, and of nets in it."""
    for name, module in net.named_modules():
        taps: Any = getattr(module, "feature_info", None) or []
        for tap in taps if isinstance(taps, list) else getattr(taps, "info", []):
            yield f"{name}.".removeprefix(".") + str(tap.get("module", ""))


def _asks_a_fact(node: Node) -> bool:
    if node.target is getattr:
        return node.args[1] in FACTS
    return node.op == "call_method" and node.target in ("size", "dim")


def _names(answer: Any) -> Iterator[str]:
    """All names in an answer."""
    if isinstance(answer, str):
        yield answer
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from _names(part)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# Arithmetic -----------------------------------------------------------------------------------------------------------


def _is_norm(module: nn.Module) -> bool:
    """Whether a layer is a norm: one of torch's, or any that keeps statistics."""
    return isinstance(module, NORMS) or all(hasattr(module, name) for name in ("running_mean", "running_var"))


def _can_overwrite(module: Any) -> bool:
    """Whether a layer writes its result over its (first) input when it is told so."""
    home = type(module).__module__
    known = home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")
    return isinstance(module, Sum | Bound) or (known and hasattr(module, "inplace"))


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor, nn.Module] | str:
    """Factor and shift of each channel in evaluation, in double precision, and what the norm does after them.

    Returns a reason where it is no such thing.
    """
    parts: Any = norm
    if getattr(parts, "running_mean", None) is None or getattr(parts, "running_var", None) is None:
        return "it takes its statistics from the images"
    scale = torch.rsqrt(_double(parts.running_var) + parts.eps)
    if parts.weight is not None:
        scale = scale * _double(parts.weight)
    shift = -_double(parts.running_mean) * scale
    if parts.bias is not None:
        shift = shift + _double(parts.bias)
    rest = [child for _, child in norm.named_children() if not isinstance(child, IDLE)]
    after = nn.Identity() if not rest else rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    if type(norm) not in PLAIN_NORMS:
        x = 3 * torch.randn(2, len(scale), 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = copy.deepcopy(after).cpu().double()(x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
        try:
            found = copy.deepcopy(norm).cpu().double()(x)
        except (RuntimeError, ValueError):
            return "it is no norm of maps"
        if not torch.allclose(found, expected, rtol=1e-9, atol=1e-9):
            return f"it ({type(norm).__name__}) does more than to scale and to shift"
    return scale, shift, after


def _is_linear(conv: Any) -> bool:
    """Whether a convolution is linear in its weight, which is a parameter."""
    if conv._parameters.get("weight") is None or conv.transposed:
        return False
    if type(conv) in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return True
    one, other = copy.deepcopy(conv).cpu().double(), copy.deepcopy(conv).cpu().double()
    generator = torch.Generator().manual_seed(0)
    size = [(k - 1) * d + 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    x = torch.randn(1, conv.in_channels, *size, dtype=torch.float64, generator=generator)
    scale = 1 + torch.rand(conv.out_channels, dtype=torch.float64, generator=generator)
    _scale_outputs(other, scale, scale)
    shape = (1, -1, *[1] * len(size))
    return torch.allclose(other(x), one(x) * scale.view(shape) + scale.view(shape), rtol=1e-9, atol=1e-9)


def _averages(pool: nn.AvgPool2d) -> bool:
    padded = pool.padding not in (0, (0, 0)) and pool.count_include_pad
    return not padded and pool.divisor_override is None


def _is_bare(conv: nn.Conv2d) -> bool:
    """Whether a convolution has no border."""
    padded = conv.padding != "valid" if isinstance(conv.padding, str) else any(conv.padding)
    return not padded and conv._parameters.get("weight") is not None


def _scale_outputs(conv: Any, scale: Tensor, shift: Tensor | None) -> None:
    """Multiply factors and a shift into the outputs of a convolution."""
    weight = _double(conv.weight) * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    bias = None if conv.bias is None else _double(conv.bias) * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    _set(conv, weight, bias)


def _scale_inputs(conv: Any, scale: Tensor, shift: Tensor) -> None:
    """Multiply factors and a shift of the inputs into a convolution without padding."""
    weight = _double(conv.weight)

    def spread(values: Tensor) -> Tensor:
        rows = values.view(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, dim=0)
        return rows[:, :, None, None]

    bias = (weight * spread(shift)).sum((1, 2, 3))
    _set(conv, weight * spread(scale), bias if conv.bias is None else bias + _double(conv.bias))


def _set(conv: Any, weight: Tensor, bias: Tensor | None) -> None:
    place = dict(device=conv.weight.device, dtype=conv.weight.dtype)
    conv.weight = nn.Parameter(weight.to(**place), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.to(**place), requires_grad=False)


def _bound(scale: Tensor, shift: Tensor, like: Tensor) -> tuple[Bound, Tensor, Tensor]:
    """The bound that stands for a norm and a ReLU, and the factor and shift that are left for what follows."""
    edge = -shift / scale
    constant = ~(edge.abs() < FAR)
    edge = torch.where(constant, 0.0, edge)
    infinity = torch.full_like(edge, torch.inf)
    falls = (scale < 0) & ~constant

    def shaped(values: Tensor) -> Tensor:
        return values.view(1, -1, 1, 1).to(device=like.device, dtype=like.dtype)

    low = None if falls.all() else shaped(torch.where(falls, -infinity, edge))
    high = shaped(torch.where(falls, edge, infinity)) if falls.any() else None
    bound = Bound(low, high)
    # A channel without a factor is a number, whatever stands in the map.
    scale = torch.where(constant, 0.0, scale)
    return bound, scale, torch.where(constant, shift.clamp(min=0), shift)
