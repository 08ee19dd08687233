"""Steps of `zoo.fuse`. Each reads all graphs of a net, and changes layers."""

import operator
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd

from zoo.fusing.arithmetic import (
    IDLE,
    Bound,
    affine_of,
    is_bare,
    is_linear,
    is_norm,
    make_bound,
    scale_inputs,
    scale_outputs,
)
from zoo.fusing.views import View, tap_names, views_of
from zoo.layers import Sum, write_behind

AVERAGES = (nn.Upsample, nn.AdaptiveAvgPool2d)
"""Layers whose pixels are averages of pixels."""
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
SUMS = (operator.add, torch.add)
FRESH = (
    operator.add,
    operator.sub,
    operator.mul,
    torch.add,
    torch.mul,
    torch.cat,
    torch.sigmoid,
    F.interpolate,
    write_behind,
)
"""Functions whose result has its own memory."""


@dataclass(kw_only=True)
class Report:
    """Changes that `fuse` has made; a call returns them as text.

    Attributes:
        folded: Norms that were multiplied into the convolutions before them.
        bounded: Norms that became a bound, and were multiplied into the convolutions after them.
        replaced: Layers that were replaced by simpler ones.
        buffers: Dense blocks whose maps are written into one buffer, instead of being concatenated for each layer.
        activations: Activations that now work in place.
        sums: Sums that now work in place.
        left: Norms that stay, by name, with the reason.
    """

    folded: list[str] = field(default_factory=list)
    bounded: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> str:
        """Return the changes in lines: counts of each kind, and of the norms that stay, by reason."""
        lines = [
            (len(self.folded), "norms multiplied into the convolutions before them"),
            (len(self.bounded), "norms and their activations made a bound, the rest multiplied into what follows"),
            (len(self.replaced), "layers exchanged for plainer ones"),
            (len(self.buffers), "dense blocks written into one buffer"),
            (len(self.activations), "activations in place"),
            (len(self.sums), "sums in place"),
        ]
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.left.items():
            reasons[reason].append(name)
        lines += [(len(names), f"norms left: {why} ({_some(names)})") for why, names in reasons.items()]
        return "\n".join(f"{times:>5}  {what}" for times, what in lines)


class Fusion:
    """The steps of `fuse`, in order. The net does not change before `apply`.

    Args:
        net: A copy that may be changed.

    Attributes:
        modules: Current or future module at each name.
        views: Graphs of the net. A change must hold in all of them.
        report: Changes that were made.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.report = Report()
        self.old = dict(net.named_modules())
        self.modules = dict(self.old)
        for name, module in self.old.items():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = False
            if not type(module).__module__.startswith("zoo."):
                continue
            if callable(make := getattr(module, "plain", None)):
                self.modules[name] = make()
                self.report.replaced.append(name)
            if callable(reserve := getattr(module, "reserve", None)) and reserve():
                self.report.buffers.append(name)
        self.apply()
        self.old = dict(net.named_modules())
        self.modules = dict(self.old)
        self.views = list(views_of(net, "", set(tap_names(net))))
        self.overwriting: set[str] = set()

    def apply(self) -> None:
        """Put the new modules where the old ones are, under every name that they have."""
        new = {id(module): self.modules[name] for name, module in self.old.items()}
        for parent in list(self.old.values()):
            for key, child in parent._modules.items():
                if child is not None and id(child) in new:
                    parent._modules[key] = new[id(child)]

    def fold_norms(self) -> None:
        """Multiply norms into the convolutions before them."""
        for name, norm in self.norms():
            affine = affine_of(norm)
            if isinstance(affine, str):
                self.report.left[name] = affine
                continue
            sources = self.agreed(name, self.sources_of)
            if isinstance(sources, str):
                self.report.left[name] = sources
                continue
            scale, shift, rest = affine
            for i, (conv, factor) in enumerate(sources):  # the first one of a sum has the whole shift
                scale_outputs(self.modules[conv], scale, None if i else shift / factor)
            self.modules[name] = rest
            self.report.folded.append(name)

    def bound_norms(self) -> None:
        """Replace norms before a ReLU and convolutions by bounds, and multiply the rest into the convolutions."""
        for name in list(self.report.left):
            affine = affine_of(self.modules[name])
            found = self.agreed(name, self.readers_of)
            if isinstance(affine, str) or isinstance(found, str):
                continue
            act, convs = found
            scale, shift, rest = affine
            if type(rest) is not (nn.Identity if act else nn.ReLU):
                continue
            bound, scale, shift = make_bound(scale, shift, next(self.modules[name].buffers()))
            for conv in convs:
                scale_inputs(self.modules[conv], scale, shift)
            self.modules[name] = bound
            if act:
                self.modules[act] = nn.Identity()
            del self.report.left[name]
            self.report.bounded.append(name)

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the norms that are called, in the order of the calls."""
        seen: dict[str, None] = {}
        for view in self.views:
            seen |= dict.fromkeys(name for name in view.calls if is_norm(self.modules[name]))
        for name in seen:
            yield name, self.modules[name]

    def agreed(self, norm: str, look: Any) -> Any:
        """Return the answer of all views for a norm if they agree; otherwise the reason to do nothing, as text."""
        answers = [look(view, norm) for view in self.views if norm in view.calls]
        if texts := [answer for answer in answers if isinstance(answer, str)]:
            return texts[0]
        if any(answer != answers[0] for answer in answers):
            return "it has other neighbours in other methods of the net"
        for view in self.views:
            if norm not in view.calls and any(name in view.calls for name in _names(answers[0])):
                return "its neighbours are called without it in another method of the net"
        return answers[0]

    def sources_of(self, view: View, norm: str) -> list[tuple[str, float]] | str:
        """Find the convolutions whose sum is the input of a norm, with their factors in the sum."""
        if len(view.calls[norm]) != 1:
            return "it is called more than once"
        sources: list[tuple[str, float]] = []
        if reason := self.walk(view, view.calls[norm][0].args[0], 1.0, sources):
            return reason
        if len({name for name, _ in sources}) != len(sources) or not all(factor for _, factor in sources):
            return "its input is no plain sum of convolutions"
        return sources

    def walk(self, view: View, node: Any, factor: float, sources: list[tuple[str, float]]) -> str:
        """Collect the convolutions before a norm; return the reason if there is anything else, or an empty text."""
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
            if not is_linear(module):
                return f"the convolution before it ({type(module).__name__}) computes its weight"
            sources.append((str(node.target), factor))
            return ""
        return "no convolution is before it"

    def readers_of(self, view: View, norm: str) -> tuple[str, list[str]] | str:
        """Find the ReLU after a norm (empty if it is part of the norm), and the convolutions after the ReLU."""
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
            if type(conv) is not nn.Conv2d or len(view.calls[str(reader.target)]) != 1 or not is_bare(conv):
                return "other layers than convolutions without padding are behind it"
            convs.append(str(reader.target))
        return (act, sorted(convs)) if convs else "nothing is behind it"

    def module_at(self, node: Any) -> nn.Module | None:
        """Return the layer that a node calls, if it calls one."""
        return self.modules[str(node.target)] if isinstance(node, Node) and node.op == "call_module" else None

    def is_idle(self, node: Node) -> bool:
        """Tell whether a node passes its input on."""
        return isinstance(self.module_at(node), IDLE)

    def work_in_place(self) -> None:
        """Let activations, bounds and sums overwrite their input, where it has no later reader."""
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

    def is_free(self, view: View, node: Any) -> bool:
        """Tell whether a map has its own memory and one reader."""
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
        return isinstance(module, (*POOLS, _ConvNd, nn.Linear)) or is_norm(module)


def _names(answer: Any) -> Iterator[str]:
    """Yield all names in an answer."""
    if isinstance(answer, str):
        yield answer
    elif isinstance(answer, tuple | list):
        for part in answer:
            yield from _names(part)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _can_overwrite(module: Any) -> bool:
    """Tell whether a layer can write its result over its (first) input."""
    home = type(module).__module__
    known = home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")
    return isinstance(module, Sum | Bound) or (known and hasattr(module, "inplace"))


def _averages(pool: nn.AvgPool2d) -> bool:
    padded = pool.padding not in (0, (0, 0)) and pool.count_include_pad
    return not padded and pool.divisor_override is None
