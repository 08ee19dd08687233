"""Responses of layers: the standard deviation of what each 3x3 convolution brings.

He et al. 2015 (arXiv:1512.03385, section 4.2 and figure 7) measure each 3x3 convolution behind its norm and in front of
any other non-linearity (activation or sum). Residual nets respond less than plain ones, and deep residual nets less
than shallow ones: each layer changes the signal less.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from zoo.analysis.branches import hooked
from zoo.analysis.flow import Constant, Flow, Op, record
from zoo.analysis.nets import (
    Options,
    expand,
    fresh_note,
    is_fresh,
    open_images,
    open_net,
    sample,
    settled,
    untouched,
)
from zoo.analysis.outcome import Outcome, finish, rounded, styles

NORM, CONVOLUTION = "norm", "convolution"
NORMS = "batch_norm", "group_norm", "layer_norm"
"""Parts of the names of norms among operators."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """Response of a layer.

    Attributes:
        name: Dotted name of the convolution.
        behind: ``NORM`` if it was measured behind the norm that alone reads the convolution, and in front of any
            activation; else ``CONVOLUTION``.
        std: Standard deviation over images, positions and channels.
    """

    name: str
    behind: str
    std: float


def responses(net: nn.Module, images: Tensor, *, batch_size: int = 100) -> list[Response]:
    """Measure the responses of the 3x3 convolutions of a net, in the order of the pass.

    Args:
        net: A net. It runs in evaluation and stays as it is.
        images: Images (N, C, H, W), normalised as the net needs them.
        batch_size: Images per batch.

    Raises:
        ValueError: If the net has no 3x3 convolution.
    """
    layers = _layers(net, images.shape[1:])
    modules = dict(net.named_modules())
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in layers}

    def adder(name: str) -> Any:
        def add(_: Any, output: Tensor) -> None:
            x = output.double()
            sums[name] += torch.stack([x.new_tensor(x.numel()), x.sum(), x.square().sum()]).cpu()

        return add

    hooks = {modules[module]: adder(name) for name, (module, _) in layers.items()}
    with untouched(net), torch.no_grad(), hooked(hooks):
        for x in images.split(batch_size):
            net(x)
    found = []
    for name, (_, behind) in layers.items():
        count, total, squares = sums[name].tolist()
        std = max(squares / count - (total / count) ** 2, 0) ** 0.5
        found.append(Response(name=name, behind=behind, std=std))
    return found


def _layers(net: nn.Module, input_size: Sequence[int]) -> dict[str, tuple[str, str]]:
    """Return each 3x3 convolution by name, with the module whose output is its response, and what that is."""
    flow = record(net, input_size, features=True)
    found: dict[str, tuple[str, str]] = {}
    for op in flow.ops:
        weight = op.arguments.get("weight")
        if op.name != "convolution" or not isinstance(weight, Constant) or weight.shape[2:] != (3, 3):
            continue
        readers = [reader for reader in flow.ops if op.outputs[0] in reader.inputs]
        giver = _giver(flow, readers[0]) if len(readers) == 1 and any(n in readers[0].name for n in NORMS) else ""
        found[op.module] = (giver, NORM) if giver else (op.module, CONVOLUTION)
    if not found:
        raise ValueError("the net has no 3x3 convolution: responses are measured behind these")
    return found


def _giver(flow: Flow, norm: Op) -> str:
    """Return the first module that hands on what a norm gives, unchanged; nothing if an activation acts before.

    A module of timm that ends in an activation of its own gives another map than its norm, but a part of it may not.
    """
    called = Counter(call.module for call in flow.calls)
    givers = [call.module for call in flow.calls if call.outputs == norm.outputs[:1] and called[call.module] == 1]
    return givers[0] if givers else ""


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Measure responses of layers of nets.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``dataset``, ``data_dir``, ``images`` and ``seed``.
    """
    found = {}
    for name, title in expand(names).items():
        images, _ = sample(open_images(name, options), "test", options.images)
        net = open_net(name, seed=options.seed)
        found[title] = responses(settled(net, images) if is_fresh(name) else net, images)
    rows = [
        {"net": name, "layer": i, "name": layer.name, "behind": layer.behind, "std": rounded(layer.std)}
        for name, layers in found.items()
        for i, layer in enumerate(layers, 1)
    ]
    shown = []
    for name, layers in found.items():
        values = sorted(layer.std for layer in layers)
        shown.append(
            {
                "net": name,
                "3x3s": len(values),
                "behind a norm": sum(layer.behind == NORM for layer in layers),
                "mean": f"{fmean(values):.3f}",
                "median": f"{median(values):.3f}",
                "smallest": f"{values[0]:.3f}",
                "largest": f"{values[-1]:.3f}",
            }
        )
    return Outcome(
        what="responses",
        rows=rows,
        shown=shown,
        draw=lambda figure: _draw(figure, found),
        notes=fresh_note(names),
        size=(9.0, 3.6),
    )


def _draw(figure: Any, found: Mapping[str, Sequence[Response]]) -> None:
    order, magnitude = figure.subplots(1, 2, sharey=True)
    for name, looks in styles(list(found)):
        values = [layer.std for layer in found[name]]
        order.plot(range(1, len(values) + 1), values, **looks)
        magnitude.plot(range(1, len(values) + 1), sorted(values, reverse=True), **looks)
    order.set_ylim(bottom=0)
    finish(order, "3x3 convolution, in order", "standard deviation of the response", legend=False)
    finish(magnitude, "3x3 convolution, by magnitude", "")
