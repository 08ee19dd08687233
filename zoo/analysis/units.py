"""Units: the image that excites a unit most, found by gradient ascent, and the patches of images that do.

Simonyan, Vedaldi, Zisserman 2014 (arXiv:1312.6034, section 2): the image I with the largest S(I) - lambda |I|^2, where
S is the unit's value before any softmax; the search starts at the mean image. Olah et al. 2017 (doi:10.23915/distill.
00007) search among the image's frequencies instead of its pixels, so that fine patterns do not win at once, and move
the image about. Zeiler, Fergus 2014 (arXiv:1311.2901, section 4.1): the patches of real images that excite a unit
most, cut by its receptive field.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.analysis.effective import output_of
from zoo.analysis.field import FEATURES, region_of
from zoo.analysis.flow import record
from zoo.analysis.nets import Options, expand, fresh_note, open_images, open_net, sample, untouched
from zoo.analysis.outcome import Outcome, tiles
from zoo.analysis.progress import told
from zoo.escape import for_picture

LOGITS = "logits"
"""Name for the output of the net, whose units are classes."""
PATCHES = 9
BATCH = 100
STARTS = (0.01, 0.1, 1.0)
"""Deviations of the noise at which the search starts: the first at which the unit, perhaps behind ReLU, has a slope."""


@dataclass(frozen=True)
class Patch:
    """A patch of an image that excites a unit.

    Attributes:
        image: Number of the image.
        value: Value of the unit.
        position: Row and column of the unit in its map.
        rows: First and last row of the patch; it may reach over the image's edge.
        columns: First and last column.
    """

    image: int
    value: float
    position: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    def cut(self, images: Tensor) -> Tensor:
        """Return the patch of (N, C, H, W) images: (C, height, width), zero (the mean) outside of the image."""
        (top, bottom), (left, right) = self.rows, self.columns
        height, width = images.shape[2:]
        outside = (max(-left, 0), max(right - width + 1, 0), max(-top, 0), max(bottom - height + 1, 0))
        inside = images[self.image, :, max(top, 0) : bottom + 1, max(left, 0) : right + 1]
        return F.pad(inside, outside)


def top_patches(
    net: nn.Module, images: Tensor, module: str, channels: Sequence[int], count: int = PATCHES
) -> dict[int, list[Patch]]:
    """Return the patches that excite each channel of a module most, at most one an image.

    Args:
        net: The net. It runs in evaluation and stays as it is.
        images: Images (N, C, H, W).
        module: Module whose map it is, ``features``, or ``logits``.
        channels: Channels of the map.
        count: Patches of each.

    Raises:
        ValueError: If the module or a channel does not exist.
    """
    best: list[Tensor] = []
    places: list[Tensor] = []
    width = 1
    with torch.inference_mode(), untouched(net):
        for batch in images.split(BATCH):
            found = _unit_map(net, batch, module)
            _check_channels(channels, found.shape[1], module)
            width = found.shape[3]
            values, place = found[:, list(channels)].flatten(2).max(2)
            best.append(values)
            places.append(place)
    values, place = torch.cat(best), torch.cat(places)
    regions = _Regions(net, module, images.shape[1:])
    patches: dict[int, list[Patch]] = {}
    for i, channel in enumerate(channels):
        order = values[:, i].topk(min(count, len(values))).indices.tolist()
        positions = [divmod(int(place[image, i]), width) for image in order]
        patches[channel] = [
            Patch(image, float(values[image, i]), position, *regions(position))
            for image, position in zip(order, positions, strict=True)
        ]
    return patches


class _Regions:
    """Receptive fields of the positions of one map."""

    def __init__(self, net: nn.Module, module: str, size: Sequence[int]) -> None:
        self.whole = ((0, size[1] - 1), (0, size[2] - 1))
        self.known: dict[tuple[int, int], Any] = {}
        self.flow, self.value = None, 0
        if module != LOGITS:
            self.flow = record(net, tuple(size), features=module == FEATURES)
            self.value = self.flow.result if module == FEATURES else self.flow.output_of(module)

    def __call__(self, position: tuple[int, int]) -> Any:
        if self.flow is None or len(self.flow.shapes[self.value]) != 4:
            return self.whole
        if position not in self.known:
            self.known[position] = region_of(self.flow, self.value, position)
        return self.known[position]


def _unit_map(net: Any, x: Tensor, module: str) -> Tensor:
    """Return the map of a module (N, C, H, W); a vector is a map of one position."""
    found = net(x) if module == LOGITS else output_of(net, x, module)
    if not isinstance(found, Tensor) or found.dim() not in (2, 4):
        raise ValueError(f"module ({module!r}) gives neither a map (N, C, H, W) nor a vector (N, C)")
    return found if found.dim() == 4 else found[:, :, None, None]


def _check_channels(channels: Sequence[int], there: int, module: str) -> None:
    wrong = [channel for channel in channels if not 0 <= channel < there]
    if wrong:
        raise ValueError(f"channels ({wrong[0]}) must be from 0 to {there - 1}, the channels of module {module!r}")


def maximise(
    net: nn.Module,
    module: str,
    channels: Sequence[int],
    *,
    input_size: Sequence[int],
    steps: int = 128,
    rate: float = 0.1,
    penalty: float = 1e-3,
    smooth: bool = True,
    shift: int = 2,
    centre: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return images that excite channels of a module, and the values on the way there.

    Args:
        net: The net. It runs in evaluation and stays as it is.
        module: Module whose map it is, ``features``, or ``logits``.
        channels: Channels of the map, one image each.
        input_size: Channels, height and width of the images.
        steps: Steps of Adam; its rate falls to 0 along a half-cosine.
        rate: First learning rate.
        penalty: Factor lambda of the sum of squares.
        smooth: Search among frequencies with amplitudes of 1 / frequency, instead of pixels.
        shift: Move the image by up to so many pixels in each step, around its edges.
        centre: Excite the position in the centre of the map instead of the mean over positions.
        seed: Seed of the first image and of the shifts.

    Returns:
        Images (n, C, H, W) as the net sees them, and the units' values (steps + 1, n) without the penalty.

    Raises:
        ValueError: If the module or a channel does not exist.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(channels), *input_size, generator=generator)
    image = _Image(_alive(net, noise, module, channels), smooth)
    adam = torch.optim.Adam([image.free], lr=rate)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    values = []
    with torch.enable_grad(), untouched(net):
        for step in told(range(steps + 1), f"images for {module}"):
            x = image.pixels()
            moved = torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
            units = _units(net, x.roll(moved, (2, 3)), module, channels, centre)
            values.append(units.detach())
            if step < steps:
                [image.free.grad] = torch.autograd.grad(
                    penalty * x.square().sum() - units.sum(), [image.free]
                )  # the net's own gradients stay
                adam.step()
                slower.step()
    return image.pixels().detach(), torch.stack(values)


def _units(net: nn.Module, x: Tensor, module: str, channels: Sequence[int], centre: bool = False) -> Tensor:
    """Return the value of each channel on the image of its own: (n,)."""
    found = _unit_map(net, x, module)
    _check_channels(channels, found.shape[1], module)
    units = found[torch.arange(len(channels)), list(channels)]
    return units[:, units.shape[1] // 2, units.shape[2] // 2] if centre else units.mean((1, 2))


def _alive(net: nn.Module, noise: Tensor, module: str, channels: Sequence[int]) -> Tensor:
    """Return noise for each channel, as faint as its unit still has a slope there."""
    start = STARTS[0] * noise
    with torch.enable_grad(), untouched(net):
        for louder in STARTS[1:]:
            x = start.clone().requires_grad_(True)
            [slope] = torch.autograd.grad(_units(net, x, module, channels).sum(), [x])
            dead = slope.flatten(1).abs().amax(1) == 0
            start[dead] = louder * noise[dead]
    return start


class _Image:
    """Images by their pixels, or by their frequencies."""

    def __init__(self, noise: Tensor, smooth: bool) -> None:
        height, width = noise.shape[-2:]
        self.size, self.scale = (height, width), None
        if smooth:
            waves = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()).sqrt()
            self.scale = 1 / (waves.clamp(min=1 / max(height, width)) * max(height, width))
            spectrum = torch.fft.rfft2(noise, norm="ortho") / self.scale
            noise = torch.view_as_real(spectrum)
        self.free = noise.clone().requires_grad_(True)

    def pixels(self) -> Tensor:
        """Return the images (n, C, H, W)."""
        if self.scale is None:
            return self.free
        return torch.fft.irfft2(torch.view_as_complex(self.free) * self.scale, s=self.size, norm="ortho")


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Show, for units of each tap and for classes, the image found by ascent and the patches that excite them most.

    Args:
        names: Folders of trained nets, or models.
        options: ``module``, ``units``, ``dataset``, ``data_dir``, ``images`` and ``seed``.
    """
    rows: list[dict[str, Any]] = []
    strips: list[tuple[str, list[Tensor]]] = []
    for name, title in expand(names).items():
        net = open_net(name, seed=options.seed)
        images = open_images(name, options)
        prepared = images.prepared
        x, _ = sample(images, "test", options.images)
        for module in _modules(net, options):
            with torch.inference_mode(), untouched(net):
                there = _unit_map(net, x[:1], module).shape[1]
            channels = sorted({i * there // options.units for i in range(options.units)})
            patches = top_patches(net, x, module, channels)
            best, values = maximise(net, module, channels, input_size=x.shape[1:], seed=options.seed)
            for i, channel in enumerate(channels):
                about = {"net": title, "module": module, "channel": channel}
                reached = {"start": round(float(values[0, i]), 4), "reached": round(float(values[-1, i]), 4)}
                rows += [{**about, **reached, **row} for row in _patch_rows(patches[channel])]
                cuts = [_shown(patch.cut(x), prepared) for patch in patches[channel]]
                label = f"{module} {channel}" if len(names) == 1 else f"{title}\n{module} {channel}"
                strips.append((label, [_stretched(best[i]), *cuts]))
    return Outcome(
        what="units",
        rows=rows,
        shown=[row for row in rows if row["rank"] == 1],
        draw=lambda figure: _draw(figure, strips),
        notes=(
            "start, reached: mean of the unit over the positions of its map, at the beginning and the end of the "
            "ascent. value: on the best image of the set, at the position where it is largest, so it compares with "
            "the two for classes and vectors alone. The CSV has nine patches a unit.",
            *fresh_note(names),
        ),
        size=(8.0, 0.78 * len(strips) + 0.2),
    )


def _modules(net: Any, options: Options) -> list[str]:
    if options.units < 1:
        raise ValueError(f"units ({options.units}) must be at least 1")
    if options.module:
        return [options.module]
    return [*(tap["module"] for tap in getattr(net, "feature_info", None) or []), LOGITS]


def _patch_rows(patches: Sequence[Patch]) -> Iterator[dict[str, Any]]:
    for rank, patch in enumerate(patches, 1):
        yield {
            "rank": rank,
            "image": patch.image,
            "value": round(patch.value, 4),
            "row": patch.position[0],
            "column": patch.position[1],
            "rows": f"{patch.rows[0]} to {patch.rows[1]}",
            "columns": f"{patch.columns[0]} to {patch.columns[1]}",
        }


def _shown(picture: Tensor, prepared: Any) -> Tensor:
    """Return a normalised picture (C, H, W) as (H, W, 3) in [0, 1]."""
    mean, std = (torch.tensor(prepared[key])[:, None, None] for key in ("mean", "std"))
    return (picture.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3)


def _stretched(picture: Tensor) -> Tensor:
    """Return a picture (C, H, W) as (H, W, 3) in [0, 1], with the mean in the middle and all of its own range."""
    most = picture.abs().max().clamp(min=1e-6)
    return (0.5 + 0.5 * picture / most).permute(1, 2, 0).expand(-1, -1, 3)


def _draw(figure: Any, strips: Sequence[tuple[str, Sequence[Tensor]]]) -> None:
    across = PATCHES + 1
    places = iter(tiles(figure, across * len(strips), across))
    for label, pictures in strips:
        row = [next(places) for _ in range(across)]
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture.numpy(), interpolation="nearest")
        row[0].text(
            -0.15,
            0.5,
            "\n".join(map(for_picture, label.split("\n"))),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontsize=7,
        )
