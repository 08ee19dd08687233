"""Gradients along paths of a residual net, by the number of branches on the path.

Veit et al. 2016 (arXiv:1605.06431, section 5): most paths have about half as many branches as the net has units. But
the gradient along a path shrinks with each branch. The product of the number of paths and the gradient says which
lengths matter in training: short ones.
"""

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean, quantiles
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.analysis.branches import Unit, gradient_path, units_of
from zoo.analysis.nets import (
    Options,
    check_classes,
    expand,
    fresh_note,
    open_images,
    open_net,
    sample,
    untouched,
)
from zoo.analysis.outcome import Outcome, finish, plain, rounded, styles
from zoo.analysis.paths import PathLengths, path_lengths
from zoo.analysis.progress import told
from zoo.evaluation import pooled

BATCH = 16
"""Number of images; the gradient of each is measured by itself."""


@dataclass(frozen=True, kw_only=True)
class PathGradient:
    """Gradients along the paths of one length.

    Attributes:
        length: Number of branches on the path.
        paths: Number of such paths.
        norm: Mean norm of the gradient at the image that one path brings.
        quartiles: First and third quartile of the norm over draws and images.
        contribution: Share of ``paths * norm`` in the sum over all lengths.
    """

    length: int
    paths: int
    norm: float
    quartiles: tuple[float, float]
    contribution: float


def path_gradients(
    net: nn.Module, images: Tensor, labels: Tensor, *, draws: int = 5, seed: int = 0
) -> list[PathGradient]:
    """Measure the gradient of the loss at the image along single paths of each length.

    The forward pass is that of the whole net. In the backward pass the gradient takes the branch of some units, which
    are drawn, and the shortcut of all others. What stands on every path (a projection, an activation after the sum)
    acts in each. A copy of the net runs, in evaluation and in float64: along long paths the gradient is smaller than
    float32 can tell from zero.

    Args:
        net: A chain of residual units.
        images: Images (N, C, H, W), normalised as the net needs them.
        labels: Classes (N,).
        draws: Number of drawn paths of each length.
        seed: Seed of the draws.

    Returns:
        A row for each length from 0 to the number of units.

    Raises:
        ValueError: If the net is no chain of residual units, or ``draws`` is below 1.
    """
    if draws < 1:
        raise ValueError(f"draws ({draws}) must be at least 1")
    net, images = copy.deepcopy(net).double(), images.double()
    units = _chain(net, images.shape[1:])
    chance = random.Random(seed)
    norms: dict[int, list[float]] = {}
    with untouched(net):
        for length in told(range(len(units) + 1), "paths of each length"):
            for _ in range(draws if 0 < length < len(units) else 1):
                with gradient_path(units, chance.sample(units, length)):
                    norms.setdefault(length, []).extend(_norms(net, images, labels))
    products = {length: comb(len(units), length) * fmean(found) for length, found in norms.items()}
    total = sum(products.values()) or 1.0
    return [
        PathGradient(
            length=length,
            paths=comb(len(units), length),
            norm=fmean(found),
            quartiles=_quartiles(found),
            contribution=products[length] / total,
        )
        for length, found in norms.items()
    ]


def _chain(net: nn.Module, input_size: Sequence[int]) -> list[Unit]:
    units = units_of(net, input_size)
    found = path_lengths(net, input_size=input_size)
    if any(unit.branch is None for unit in units) or found.counts != {
        length: comb(len(units), length) for length in range(len(units) + 1)
    }:
        raise ValueError("the net is no chain of residual units: a path is a choice of branch or shortcut in each")
    return units


def _norms(net: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Return the norm of the gradient at each image."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        loss = F.cross_entropy(pooled(net(x)), labels, reduction="sum")
        [gradient] = torch.autograd.grad(loss, x)
    return gradient.flatten(1).double().norm(dim=1).tolist()


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (*values, *values, *values)
    return first, third


def effective_range(found: Sequence[PathGradient], share: float = 0.95) -> tuple[int, int]:
    """Return the narrowest range of lengths that holds a share of the contributions."""
    contributions = {row.length: row.contribution for row in found}
    return PathLengths(cast("Mapping[int, int]", contributions), "units").range(share)  # sums of shares, not of counts


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Measure gradients along the paths of nets, by length.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``dataset``, ``data_dir``, ``images`` (at most ``BATCH``), ``draws`` and ``seed``.
    """
    found = {}
    for name, title in expand(names).items():
        images, net = open_images(name, options), open_net(name, seed=options.seed)
        check_classes(name, net, images)
        few = sample(images, "test", min(options.images, BATCH))
        found[title] = path_gradients(net, *few, draws=options.draws, seed=options.seed)
    rows = [
        {
            "net": name,
            "length": row.length,
            "share_of_paths": rounded(row.paths / sum(r.paths for r in measured)),
            "gradient": rounded(row.norm),
            "first_quartile": rounded(row.quartiles[0]),
            "third_quartile": rounded(row.quartiles[1]),
            "contribution": rounded(row.contribution),
        }
        for name, measured in found.items()
        for row in measured
    ]
    return Outcome(
        what="path-gradients",
        rows=rows,
        shown=[_summary(name, measured) for name, measured in found.items()],
        draw=lambda figure: _draw(figure, found),
        notes=fresh_note(names),
        size=(11.0, 3.4),
    )


def _summary(name: str, measured: Sequence[PathGradient]) -> dict[str, Any]:
    first, last = effective_range(measured)
    lengths = PathLengths({row.length: row.paths for row in measured}, "units")
    mean = sum(row.length * row.contribution for row in measured)
    steps = max(len(measured) - 1, 1)
    ratio = (measured[-1].norm / measured[0].norm) ** (1 / steps) if measured[0].norm else float("nan")
    return {
        "net": name,
        "units": len(measured) - 1,
        "mean length": f"{lengths.mean:g}",
        "weighted by gradients": f"{mean:.1f}",
        "95 % of the gradient": f"{first} to {last}",
        "share of paths": f"{100 * lengths.share(first, last):.3g} %",
        "factor a branch": f"{ratio:.3g}",
    }


def _draw(figure: Any, found: Mapping[str, Sequence[PathGradient]]) -> None:
    number, size, product = figure.subplots(1, 3)
    for name, looks in styles(list(found)):
        measured = found[name]
        lengths, paths = [row.length for row in measured], sum(row.paths for row in measured)
        number.plot(lengths, [100 * row.paths / paths for row in measured], **looks)
        norms = [row.norm for row in measured]
        size.plot(lengths, norms, **looks)
        bounds = zip(*(row.quartiles for row in measured), strict=True)
        size.fill_between(lengths, *bounds, color=looks["color"], alpha=0.15, linewidth=0)
        product.plot(lengths, [100 * row.contribution for row in measured], **looks)
    size.set_yscale("log")
    plain(size.yaxis)
    finish(number, "branches on the path", "share of all paths [%]", legend=False)
    finish(size, "branches on the path", "gradient at the image, one path", legend=False)
    finish(product, "branches on the path", "share of the gradient [%]")
