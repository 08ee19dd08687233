"""Gradients by depth: at maps and weights of each layer, and the gain of each unit.

The gradient at a map of layer l is that at the last map times the Jacobians of all layers in between. Where each
shrinks a vector, the gradient vanishes. An identity shortcut adds 1 to each Jacobian (He et al. 2016, arXiv:1603.05027,
equations 5 to 8); a norm rescales it, which is why plain nets with norms do not suffer from it (He et al. 2015,
arXiv:1512.03385, section 4.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from statistics import fmean, median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.analysis.branches import hooked
from zoo.analysis.flow import record
from zoo.analysis.nets import (
    Options,
    check_classes,
    expand,
    is_fresh,
    open_images,
    open_net,
    sample,
    settled,
    untouched,
)
from zoo.analysis.outcome import Outcome, finish, plain, rounded, styles
from zoo.analysis.progress import told
from zoo.evaluation import pooled
from zoo.layers import Residual, Stage

BATCH = 32
"""Largest number of images."""
NORMS = nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm
FRESH, TRAINED = "fresh", "trained"


@dataclass(frozen=True, kw_only=True)
class LayerGradient:
    """Gradients of the loss at a layer.

    Attributes:
        name: Dotted name of a convolution or linear layer.
        map: Root mean square of the gradient at the layer's output.
        weight: Norm of the gradient at its weight.
        relative: The same divided by the norm of the weight.
        dims: Number of dimensions of the output: 4 of a map, 2 of a vector, such as the logits.
    """

    name: str
    map: float
    weight: float
    relative: float
    dims: int


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Gain of a unit for gradients: the mean of |J^T v|^2 / |v|^2 over random v, with J the unit's Jacobian.

    Attributes:
        name: Dotted name of the unit.
        own: Gain of the unit.
        product: Product of the gains of this unit and all later ones.
        whole: Gain from the last unit's output to this unit's input. It is not the product: gains depend on v.
        shortcuts: The same along the shortcuts alone; None in a chain that has units of other kinds than residual. Over
            n identities that are scaled by lambda it is lambda^(2 n), the square of the factor on the gradient.
    """

    name: str
    own: float
    product: float
    whole: float
    shortcuts: float | None


def layer_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> list[LayerGradient]:
    """Measure the gradient of the mean loss at each convolution and linear layer, in the order of the pass.

    Args:
        net: A net. It runs in evaluation and stays as it is.
        images: Images (N, C, H, W), normalised as the net needs them.
        labels: Classes (N,).
    """
    layers = {
        module: name for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.Conv1d)
    }
    maps: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(_: Any, output: Tensor) -> Tensor:
            maps[name] = output
            # A view of its own: a later activation in place must not change what the gradient is taken of.
            return output.clone()

        return keep

    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    with untouched(net), torch.enable_grad(), hooked({module: keeper(name) for module, name in layers.items()}):
        logits = torch.func.functional_call(net, weights, (images.detach().clone().requires_grad_(),))
        loss = F.cross_entropy(pooled(logits), labels)
        chosen = [(name, maps[name], weights[f"{name}.weight"]) for name in maps]
        tensors = [tensor for _, *pair in chosen for tensor in pair]
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    found = []
    for i, (name, output, weight) in enumerate(chosen):
        at_map, at_weight = gradients[2 * i], gradients[2 * i + 1]
        if at_map is None or at_weight is None:  # of a layer that the head does not read
            continue
        norm = float(at_weight.double().norm())
        found.append(
            LayerGradient(
                name=name,
                map=float(at_map.double().square().mean().sqrt()),
                weight=norm,
                relative=norm / max(float(weight.detach().double().norm()), 1e-30),
                dims=output.ndim,
            )
        )
    return found


def gains(net: nn.Module, images: Tensor, *, draws: int = 5, seed: int = 0) -> list[Gain]:
    """Measure the gain of each unit of a chain, and of all units from each on.

    Args:
        net: A net. It runs in evaluation and stays as it is.
        images: Images (N, C, H, W), normalised as the net needs them.
        draws: Number of random vectors.
        seed: Seed of the vectors.

    Returns:
        The gains in the order of the pass; none if the units of the net are no chain.
    """
    if draws < 1:
        raise ValueError(f"draws ({draws}) must be at least 1")
    chain = chain_of(net, images.shape[1:])
    if not chain:
        return []
    units = [net.get_submodule(name) for name in chain]
    generator = torch.Generator().manual_seed(seed)
    ends = _run(net, images, units)
    own, whole = [0.0] * len(units), [0.0] * len(units)
    for _ in told(range(draws), "gains of units"):
        for i, (start, end) in enumerate(ends):
            own[i] += _gain(end, [start], generator)[0] / draws
        for i, gain in enumerate(_gains_to(ends, generator)):
            whole[i] += gain / draws
    shortcuts: list[float | None] = [None] * len(units)
    branches = [unit.drop_path for unit in units if isinstance(unit, Residual)]
    if len(branches) == len(units):
        ends = _run(net, images, units, cut=branches)
        drawn = [_gains_to(ends, generator) for _ in range(draws)]
        shortcuts = [fmean(values) for values in zip(*drawn, strict=True)]
    return [
        Gain(name=name, own=own[i], product=prod(own[i:]), whole=whole[i], shortcuts=shortcuts[i])
        for i, name in enumerate(chain)
    ]


def _run(
    net: nn.Module, images: Tensor, units: Sequence[nn.Module], cut: Sequence[nn.Module] = ()
) -> list[tuple[Tensor, Tensor]]:
    """Return input and output of each unit in a pass whose gradients stop behind the modules in ``cut``."""
    ends: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keeper(unit: nn.Module) -> Any:
        def keep(given: Any, output: Tensor) -> Tensor:
            ends[unit] = given[0], output
            return output.clone()

        return keep

    hooks: dict[nn.Module, Any] = {unit: keeper(unit) for unit in units}
    hooks |= dict.fromkeys(cut, lambda _, output: output.detach())
    with untouched(net), torch.enable_grad(), hooked(hooks):
        net(images.detach().clone().requires_grad_())
    return [ends[unit] for unit in units]


def _gains_to(ends: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> list[float]:
    """Return the gain from the last unit's output to the input of each unit, for one random vector."""
    return _gain(ends[-1][1], [start for start, _ in ends], generator)


def _gain(output: Tensor, inputs: list[Tensor], generator: torch.Generator) -> list[float]:
    v = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
    gradients = torch.autograd.grad(output, inputs, v, retain_graph=True)
    return [float(g.double().square().sum() / v.double().square().sum()) for g in gradients]


def chain_of(net: nn.Module, input_size: Sequence[int]) -> list[str]:
    """Return the units of all stages by name, if each reads what the one before it gives; else nothing."""
    flow = record(net, input_size, features=True)
    modules = dict(net.named_modules())
    chain = [call for call in flow.calls if isinstance(modules.get(call.module.rpartition(".")[0]), Stage)]
    linked = all(
        len(first.outputs) == len(second.inputs) == 1 and first.outputs == second.inputs
        for first, second in pairwise(chain)
    )
    return [call.module for call in chain] if linked and len({call.module for call in chain}) == len(chain) else []


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Measure gradients by depth, of nets with fresh weights and, for folders, with the trained ones as well.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``dataset``, ``data_dir``, ``images`` (at most ``BATCH``), ``draws`` and ``seed``.
    """
    layers: dict[tuple[str, str], list[LayerGradient]] = {}
    units: dict[tuple[str, str], list[Gain]] = {}
    norms = []
    for name, title in expand(names).items():
        opened = open_images(name, options)
        images, labels = sample(opened, "test", min(options.images, BATCH))
        for weights in (FRESH,) if is_fresh(name) else (FRESH, TRAINED):
            net = open_net(name, seed=options.seed, fresh=weights == FRESH)
            check_classes(name, net, opened)
            if weights == FRESH:
                norms.append(f"{title}: {sum(isinstance(m, NORMS) for m in net.modules())} norms")
                net = settled(net, images)
            layers[title, weights] = layer_gradients(net, images, labels)
            units[title, weights] = gains(net, images, draws=options.draws, seed=options.seed)
    rows: list[dict[str, Any]] = []
    for (name, weights), found in layers.items():
        for i, layer in enumerate(found, 1):
            values = {"map": layer.map, "weight": layer.weight, "relative": layer.relative}
            rows.append(_row(name, weights, "layer", i, layer.name, values))
        for i, unit in enumerate(units[name, weights], 1):
            values = {"gain": unit.own, "product": unit.product, "whole": unit.whole}
            values |= {} if unit.shortcuts is None else {"shortcuts": unit.shortcuts}
            rows.append(_row(name, weights, "unit", i, unit.name, values))
    return Outcome(
        what="gradients",
        rows=rows,
        shown=[_summary(*key, found, units[key]) for key, found in layers.items()],
        draw=lambda figure: _draw(figure, layers, units),
        notes=("; ".join(norms),),
        size=(11.0, 3.4 * len({weights for _, weights in layers})),
    )


def _row(net: str, weights: str, what: str, number: int, name: str, values: Mapping[str, float]) -> dict[str, Any]:
    measured: dict[str, Any] = {key: rounded(values[key]) if key in values else "" for key in COLUMNS}
    return {"net": net, "weights": weights, "what": what, "number": number, "name": name, **measured}


COLUMNS = ("map", "weight", "relative", "gain", "product", "whole", "shortcuts")


def _summary(name: str, weights: str, layers: Sequence[LayerGradient], units: Sequence[Gain]) -> dict[str, Any]:
    row: dict[str, Any] = {"net": name, "weights": weights, "layers": len(layers)}
    maps = _maps(layers)
    row["first / last map"] = f"{maps[0].map / maps[-1].map:.3g}" if maps and maps[-1].map else ""
    row["gain: median"] = f"{median(unit.own for unit in units):.3g}" if units else ""
    row["all units"] = f"{units[0].whole:.3g}" if units else ""
    row["product"] = f"{units[0].product:.3g}" if units else ""
    along = units[0].shortcuts if units else None
    row["shortcuts"] = "" if along is None else f"{along:.3g}"
    return row


def _maps(layers: Sequence[LayerGradient]) -> list[LayerGradient]:
    """Return the layers that give maps: a gradient at a vector, behind the average over a map, is on another scale."""
    return [layer for layer in layers if layer.dims == 4]


def _draw(figure: Any, layers: Mapping[tuple[str, str], Any], units: Mapping[tuple[str, str], Any]) -> None:
    kinds = list(dict.fromkeys(weights for _, weights in layers))
    names = list(dict.fromkeys(name for name, _ in layers))
    panels = figure.subplots(len(kinds), 3, squeeze=False)
    for weights, (maps, relative, gain) in zip(kinds, panels, strict=True):
        for name, looks in styles(names):
            if (name, weights) not in layers:
                continue
            found, chain = layers[name, weights], units[name, weights]
            depth = [i / max(len(found) - 1, 1) for i in range(len(found))]
            at_maps = [(where, layer.map) for where, layer in zip(depth, found, strict=True) if layer.dims == 4]
            maps.plot([where for where, _ in at_maps], [size for _, size in at_maps], **looks)
            relative.plot(depth, [layer.relative for layer in found], **looks)
            depth = [i / max(len(chain) - 1, 1) for i in range(len(chain))]
            gain.plot(depth, [unit.whole for unit in chain], **looks)
            faint = looks | {"linestyle": ":", "marker": "", "label": None}
            gain.plot(depth, [unit.product for unit in chain], **faint)
            if chain and chain[0].shortcuts is not None:
                gain.plot(depth, [unit.shortcuts for unit in chain], **faint | {"linestyle": "--"})
        for axes in (maps, relative, gain):
            axes.set_yscale("log")
            plain(axes.yaxis)
        finish(maps, f"depth of the layer ({weights} weights)", "gradient at the map, rms", legend=False)
        finish(relative, "depth of the layer", "gradient / weight, norms", legend=False)
        words = "gain to the end\n(dotted: product, dashed: shortcuts)"
        finish(gain, "depth of the unit", words, legend=weights == kinds[0])
