"""Effective receptive field: the part of the field whose pixels matter.

Luo, Li, Urtasun, Zemel 2016 (arXiv:1701.04128): the gradient of a map's centre at the image. For stacked convolutions
with random weights it tends to a Gaussian whose width grows with the root of the depth, while the field grows with the
depth. Training widens it, and so do strides and dilation; shortcuts make it narrower.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.analysis.field import FEATURES, Field, receptive_fields
from zoo.analysis.nets import Options, expand, is_fresh, open_images, own_size, sample, twins, untouched
from zoo.analysis.outcome import Outcome, tiles
from zoo.analysis.progress import told
from zoo.escape import for_picture

THRESHOLD = 1 - 0.9545
"""Share of the largest value that a pixel of the effective field has at least (the paper's two deviations)."""
BATCH = 10
MOST = 50
"""Largest number of images that the map is averaged over; more change little."""


def effective_field(
    net: nn.Module,
    images: Tensor,
    module: str = FEATURES,
) -> tuple[Tensor, float]:
    """Return the mean absolute gradient of a map's centre, and the side of the effective receptive field.

    The procedure of the paper's section 2: one at the centre of the map in all channels, zero elsewhere, propagated
    back to the image, averaged over images. The side is the square root of the number of pixels with at least 4.55 %
    (1 - 95.45 %) of the largest value.

    Args:
        net: The net. It runs in evaluation and stays as it is.
        images: Images as the net expects them, (N, C, H, W).
        module: Module whose map it is, or ``features``.

    Returns:
        Map (H, W) of mean absolute gradients, and the side in pixels.

    Raises:
        ValueError: If the module gives no map.
    """
    seen = torch.zeros(images.shape[2:])
    for batch in told(images.split(BATCH), "gradients of images"):
        x = batch.detach().clone().requires_grad_(True)
        with torch.enable_grad(), untouched(net):
            found = map_of(net, x, module)
            centre = found[:, :, found.shape[2] // 2, found.shape[3] // 2].sum()
            [gradient] = torch.autograd.grad(centre, x)
        seen = seen + gradient.abs().sum((0, 1)).float() / len(images)
    counted = (seen >= THRESHOLD * seen.max()).sum() if seen.max() > 0 else torch.tensor(0)
    return seen, float(counted) ** 0.5


def map_of(net: Any, x: Tensor, module: str) -> Tensor:
    """Return the map of a module in a pass, or with ``features`` that in front of pooling and classifier.

    Raises:
        ValueError: If there is no such module, or it gives no map (N, C, H, W).
    """
    found = output_of(net, x, module)
    if not isinstance(found, Tensor):
        raise ValueError(f"module ({module!r}) gives no map in the forward pass")
    if found.dim() != 4:
        raise ValueError(f"module ({module!r}) gives shape {tuple(found.shape)}; a field belongs to a map (N, C, H, W)")
    return found


def output_of(net: Any, x: Tensor, module: str) -> Any:
    """Return what a module gives in the last call of a pass, or with ``features`` the map in front of the pooling.

    Raises:
        ValueError: If there is no such module.
    """
    if module == FEATURES:
        return net.forward_features(x) if hasattr(net, "forward_features") else net(x)
    kept: list[Any] = [None]
    named = dict(net.named_modules())
    if module not in named:
        raise ValueError(f"module ({module!r}) is not a module of the net; named_modules() lists them")
    hook = named[module].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        net(x)
    finally:
        hook.remove()
    return kept[-1]


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Compare the effective fields of nets with their fields; a trained net stands beside its fresh twin.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``module``, ``input_size``, ``dataset``, ``data_dir``, ``images`` and ``seed``. Trained nets look at
            the test images of their set; with ``input_size`` at noise of that size, as fresh nets do without a set.
    """
    module = options.module or FEATURES
    seen: dict[str, tuple[Tensor, float, Field]] = {}
    for name, title in expand(names).items():
        for weights, net in twins(name, options):
            images = _images(name, net, options)
            pixels, side = effective_field(net, images, module)
            size = (images.shape[1], images.shape[2], images.shape[3])
            [field] = receptive_fields(net, [module], input_size=size)
            seen[f"{title}, {weights}"] = pixels, side, field
    rows = [
        {
            "net": name,
            "module": module,
            "image": f"{pixels.shape[0]}x{pixels.shape[1]}",
            "field": f"{field.size[0]}x{field.size[1]}",
            "effective": round(side, 2),
            "share": round(side / max(field.size), 4),
        }
        for name, (pixels, side, field) in seen.items()
    ]
    labels = [f"{for_picture(name)}\n{side:.1f} of {max(field.size)} px" for name, (_, side, field) in seen.items()]
    return Outcome(
        what="effective-field",
        rows=rows,
        draw=lambda figure: _draw(figure, [pixels for pixels, _, _ in seen.values()], labels),
        notes=(
            "effective: root of the number of pixels with at least 4.55 % of the largest gradient. "
            "share: of the field's side.",
        ),
        size=(2.2 * min(len(seen), 4), 2.4 * -(-len(seen) // 4)),
    )


def _images(name: str, net: Any, options: Options) -> Tensor:
    count = min(options.images, MOST)
    if options.input_size is None and (options.dataset or not is_fresh(name)):
        return sample(open_images(name, options), "test", count)[0]
    generator = torch.Generator().manual_seed(options.seed)
    return torch.randn(count, *(options.input_size or own_size(net)), generator=generator)


def _draw(figure: Any, maps: Sequence[Tensor], labels: Sequence[str]) -> None:
    for axes, pixels, label in zip(tiles(figure, len(maps), 4), maps, labels, strict=True):
        share = pixels / pixels.max().clamp(min=1e-30)
        axes.imshow(share.sqrt(), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        if 0 < (share >= THRESHOLD).sum() < share.numel():
            axes.contour(share, levels=[THRESHOLD], colors="white", linewidths=0.8)
        axes.set_title(label, fontsize=7)
