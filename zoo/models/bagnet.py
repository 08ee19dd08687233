"""BagNets: residual networks in which a position sees only a small patch of the image.

Paper:
    Brendel, Bethge 2019, Approximating CNNs with Bag-of-local-Features Models Works Surprisingly Well on ImageNet,
    arXiv:1904.00760.

A ResNet-50 whose 3x3 convolutions are 1x1, except for one at the beginning of some stages; all without padding::

    224 px; sizes of bagnet33; the number in brackets is the total stride of a tap, in braces the patch that is seen
    image 224 --1x1, 3x3--> stem 222 [1] {3} --/2--> stage1 110 [2] {5} --/2--> stage2 54 [4] {9}
                                             --/2--> stage3 26 {17} -> stage4 24 [8] {33}

``bagnet17`` has no 3x3 in the last stage, ``bagnet9`` none in the last two. A position of the last map sees a square of
9, 17 or 33 pixels, which is the number in the name. Since the classifier is linear and the pooling a mean, the logits
are the mean of the logits of patches. ``global_pool=""`` returns those, one vector per position (the paper's heat
maps).

What follows from that, and what differs:
    * A shortcut passes the top left part of its map, as large as the output of the unpadded branch: its position i and
      the branch's position i begin at the same pixel. pytorchcv, which the parity test compares with, crops the output
      of a projection; ours crops its input, which gives the same result with less computation.
    * The deepest stride is 8, because the last stage does not halve: a further stride would make larger patches. There
      are therefore four taps. The ``output_stride`` of ImageNet nets, 16, does not exist; 1, 2, 4 and 8 do. Dilation is
      exact up to the border here, since nothing is padded.
    * Maps are smaller than size / stride, by the reach of the windows.
    * ``bagnet17_cifar`` and ``bagnet_test`` are ours: one stage less, a third of the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, Spec, cifar_task
from zoo.layers import ORDERS, Chain, Conv, Kit, Residual, Stage, sequence
from zoo.layouts.bagnet import LAYOUTS
from zoo.strides import Window, smallest_before


@dataclass(frozen=True, kw_only=True)
class BagNetSpec(Spec):
    """A stem with one 3x3, and stages of bottlenecks; the first few bottlenecks of a stage have a 3x3.

    Attributes:
        depths: Units in each stage.
        widths: Channels that each stage returns. The inner convolutions have a quarter of them.
        strides: Stride of the first unit of each stage, 1 or 2.
        windows: Number of units of each stage with a 3x3. They come first; the others are 1x1 throughout.
        stem_width: Channels of the stem.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...] = (2, 2, 2, 1)
    windows: tuple[int, ...]
    stem_width: int = 64

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", "widths", "strides", "stem_width")
        for name in ("widths", "strides", "windows"):
            self.require(len(getattr(self, name)) == len(self.depths), name, f"have {len(self.depths)} numbers")
        self.require(all(width % 4 == 0 for width in self.widths), "widths", "be multiples of 4: a unit has a quarter")
        self.require(set(self.strides) <= {1, 2}, "strides", "be 1 or 2")
        fits = all(type(n) is int and 0 <= n <= depth for n, depth in zip(self.windows, self.depths, strict=True))
        self.require(fits, "windows", f"be whole numbers from 0 to the units of the stage, {self.depths}")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total stride of the stem and of each stage."""
        total = [1]
        for stride in self.strides:
            total.append(total[-1] * stride)
        return tuple(total)

    @property
    def patch(self) -> int:
        """Height and width, in pixels, of the patch that one position of the last map sees."""
        strides = zip(self.windows, self.level_strides[:-1], self.level_strides[1:], strict=True)
        return 3 + sum(2 * (before if i == 0 else after) for windows, before, after in strides for i in range(windows))

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest image sizes (`Spec.smallest`). Without padding, every window must lie within its map."""
        windows, sizes = [Window(kernel=3)], {1: 3}
        _, *stages = self.hold(output_stride)
        for count, level in zip(self.windows, stages, strict=True):
            first = Window(kernel=3 if count else 1, stride=level.step, dilation=level.before)
            windows += [first, *[Window(kernel=3, dilation=level.dilation)] * (count - 1)]
            sizes[level.native] = smallest_before(windows)
        return (*sizes.values(), smallest_before(windows))

    def head_size(self, size: int) -> int:
        """Return the number of positions whose patch lies within the image, along one side."""
        return (size - self.patch) // self.head_stride + 1

    @property
    def lacks(self) -> Mapping[str, str]:
        """Unsupported arguments: large strides and padding, which would let a position see more."""
        last = self.head_stride
        return {
            "out_indices": f"the strides end at {last}, so that a position sees {self.patch} pixels and no more",
            "output_stride": f"the strides end at {last}, so that a position sees {self.patch} pixels and no more",
            "padding": "a padded patch would know where the border is",
        }

    def facts(self) -> dict[str, str]:
        """Return the size of the patch."""
        return {"patch": f"{self.patch} x {self.patch} pixels a position"}


class Crop(nn.Module):
    """Drop the last rows and columns, as many as an unpadded window loses."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost = lost

    def forward(self, x: Tensor) -> Tensor:
        """Crop (N, C, H, W) -> (N, C, H - lost, W - lost)."""
        return x[:, :, : -self.lost, : -self.lost]

    def extra_repr(self) -> str:
        """Return the number of lost rows, as text."""
        return f"{self.lost}"


class BagNet(Backbone):
    """BagNet: a stem and stages of residual units without padding."""

    layouts = LAYOUTS

    def build(
        self, spec: BagNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        convs = [Conv(out_chs=spec.stem_width, kernel=1), Conv(out_chs=spec.stem_width, kernel=3, padding=0)]
        self.stem = sequence(kit, in_chans, "ccna", convs)
        # By total stride, so that the last map of each resolution is its tap.
        taps = {1: ("stem", spec.stem_width, 1)}
        rates = iter(drop_path_rates(drop_path_rate, sum(spec.depths)))
        chs, levels = spec.stem_width, spec.hold(output_stride)[1:]
        for index, (depth, width, level) in enumerate(zip(spec.depths, spec.widths, levels, strict=True)):
            units = []
            for i in range(depth):
                at = level if i == 0 else level.within
                kernel = 3 if i < spec.windows[index] else 1
                window = Conv(out_chs=width // 4, kernel=kernel, stride=at.step, dilation=at.before, padding=0)
                projects = i == 0 and (chs != width or spec.strides[index] != 1)
                units.append(self._unit(kit, chs, width, window, projects=projects, drop_path=next(rates)))
                chs = width
            name = f"stage{index + 1}"
            self.add_module(name, Stage(*units))
            taps[level.native] = (name, width, level.stride)
        return Trunk(taps=tuple(taps.values()), final=nn.Identity(), num_features=chs)

    @staticmethod
    def _unit(kit: Kit, in_chs: int, out_chs: int, window: Conv, *, projects: bool, drop_path: float) -> Residual:
        """Make one bottleneck around its window. The shortcut is cropped to the output of the branch."""
        convs = (Conv(out_chs=window.out_chs, kernel=1), window, Conv(out_chs=out_chs, kernel=1))
        path: dict[str, nn.Module] = {}
        if projects:
            projection = sequence(kit, in_chs, "cn", [Conv(out_chs=out_chs, kernel=1, stride=window.stride)])
            path.update(projection.named_children())
        if window.kernel > 1:
            path["crop"] = Crop(window.dilation * (window.kernel - 1) // window.stride)
        shortcut = Chain(path) if path else None
        return Residual(kit, in_chs, convs, ORDERS["post"], shortcut=shortcut, drop_path=drop_path)


BRENDEL = "Brendel & Bethge 2019, arXiv:1904.00760"


def _imagenet(patch: int, params: int, windows: tuple[int, ...]) -> Entry:
    """Return the row of a published net."""
    spec = BagNetSpec(depths=(3, 4, 6, 3), widths=(256, 512, 1024, 2048), windows=windows)
    assert spec.patch == patch
    return Entry(BagNet, spec, paper=BRENDEL, params=params, reference=f"pytorchcv:bagnet{patch}")


def _ours(spec: BagNetSpec, params: int, **kwargs: Any) -> Entry:
    """Return the row of a small net of our own."""
    notes = "A net of our own, by the paper's rules; no published numbers."
    return Entry(BagNet, spec, paper=BRENDEL, params=params, notes=notes, **kwargs)


MODELS = {
    "bagnet9": _imagenet(9, 15_688_744, (1, 1, 0, 0)),
    "bagnet17": _imagenet(17, 16_213_032, (1, 1, 1, 0)),
    "bagnet33": _imagenet(33, 18_310_184, (1, 1, 1, 1)),
    "bagnet17_cifar": _ours(
        BagNetSpec(depths=(2, 2, 2), widths=(128, 256, 512), strides=(2, 2, 1), windows=(1, 1, 1), stem_width=32),
        704_682,
        lineups=("all",),
        **cifar_task(),
    ),
    "bagnet_test": _ours(
        BagNetSpec(depths=(3, 2, 2, 2), widths=(32, 48, 64, 96), windows=(2, 1, 0, 1), stem_width=8),
        39_282,
        input_size=(3, 64, 64),
        num_classes=10,
    ),
}
