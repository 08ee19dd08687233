"""AlexNet with one tower and with two, and the nets after it: VGG-F, VGG-M and VGG-S.

Papers:
    Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997.
    Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep Convolutional Neural Networks, reprinted as
    doi:10.1145/3065386.
    Chatfield, Simonyan, Vedaldi, Zisserman 2014, Return of the Devil in the Details, arXiv:1405.3531, Table 1.

Resolutions (the number in brackets is the total stride of a tap)::

    alexnet        image 224 --stem 11x11/4--> 55 [4]
                   stage2: 3x3 max-pool/2 -> 27, 5x5 convolution [8]
                   stage3: 3x3 max-pool/2 -> 13, three 3x3 convolutions [16]
                   pool3:  3x3 max-pool/2 -> 6 [32]
                   wide 6x6 window -> 1, 1x1 -> 1
    alexnet_2012   image 227 -> 55 [4] -> 27 [8] -> 13 [16] -> 6 [32]; local norms after stem and stage2
    vgg_f          image 224 -> 54 [4] -> 27 [8] -> 13 [16] -> 6 [32]; local norms after stem and stage2
    vgg_m          image 224 --stem 7x7/2--> 109 [2] --pool1--> 54 [4] --stage2 5x5/2--> 26 [8] --stage3--> 13 [16]
                   --pool3--> 6 [32]; local norms after stem and stage2
    vgg_s          image 224 --stem 7x7/2--> 109 [2] --pool/3, stage2 5x5--> 33 [6] --2x2 pool/2, stage3--> 17 [12]
                   --pool3/3--> 6 [36]; a local norm after the stem

The poolings do not pad, so that maps are smaller than size / stride. A local norm opens what follows its convolution; a
tap is the map before it.

Two towers (Krizhevsky et al. 2012, figure 2) are convolutions in two groups: that of stage2, and those of stage3 but
the first, in which the towers meet; they meet in the wide layers, too. With 96, 256, 384, 384 and 256 kernels there are
60,965,224 parameters (60 million in the paper). The paper counts 253,440, 186,624, 64,896, 64,896 and 43,264 neurons in
these layers. All but the first are the numbers of this net; 55 x 55 x 96 is 290,400, and 253,440 is 55 x 48 x 96.

What differs from the papers, and why:
    * ``alexnet`` is torchvision's, whose weights fit: 64, 192, 384, 256 and 256 kernels, no local norms, and an image
      that is padded by 2 pixels, so that 224 pixels give the 55 of the paper.
    * ``alexnet_2012`` takes 227 pixels without padding, as BVLC's Caffe replication does: from the paper's 224 no
      symmetric padding of whole pixels gives its 55. The order is the paper's (activation, norm, pooling).
    * The local norm of two towers runs over all kernels of a layer, by the paper's formula and as in Caffe. Whether the
      authors' two devices normalised across each other is not written down.
    * VGG-F, M and S follow Table 1 and copies of the released Caffe nets (Detectron's VGG_CNN_M_1024 at its padding of
      stage2, Lasagne's vgg_cnn_s), with poolings that round up as Caffe's. Norms are those of Krizhevsky et al. 2012
      (k = 2, alpha = 1e-4), which the copies have. Parameters are 60,834,536, 102,908,520 and 102,908,520 (232, 393 and
      393 MB in albanie/convnet-burden). M-2048, M-1024 and M-128 are ``wide=(4096, 2048)`` and so on.
    * The fully connected layers are convolutions, so that any size works; they exist while there are classes.
    * Dropout is off by default. ``drop_rate=0.5`` acts after each wide layer, as in the papers; torchvision's acts
      before each of them, which is the same net in evaluation.
    * Held at output stride 16, pool3 and the first wide layer are dilated; at 8 the pooling before stage3 as well, and
      so on. A dilated window reads what the strided one reads, so every map of the native net is part of the finer one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk
from zoo.entry import Entry, Spec
from zoo.layers import Conv, Kit, Stage, Wide, local_norm, sequence
from zoo.layouts.alexnet import LAYOUTS
from zoo.strides import Level, Window, smallest_before


@dataclass(frozen=True, kw_only=True)
class AlexNetSpec(Spec):
    """Five convolutions and three fully connected layers.

    Attributes:
        stem: Channels of the first convolution.
        stem_kernel: Its window.
        stem_stride: Its stride.
        stem_padding: Its padding.
        stage2: Channels of each convolution of the second stage.
        stage2_kernel: Their window.
        stage2_stride: Stride of the first of them.
        stage2_padding: Their padding.
        stage3: Channels of each 3x3 convolution.
        pools: Windows of the three poolings.
        pool_strides: Strides of the three poolings.
        ceil: The last window of a pooling may reach over the border.
        local_norms: Number of stages, from the stem on, whose last map is normalised locally.
        towers: Groups of the convolutions of stage2, and of those of stage3 but the first.
        wide: Channels of the wide layers between the features and the classifier.
        window: Kernel size of the first wide layer: the size of the deepest map at the published input size.
    """

    stem: int = 64
    stem_kernel: int = 11
    stem_stride: int = 4
    stem_padding: int = 0
    stage2: tuple[int, ...] = (192,)
    stage2_kernel: int = 5
    stage2_stride: int = 1
    stage2_padding: int = 2
    stage3: tuple[int, ...] = (384, 256, 256)
    pools: tuple[int, ...] = (3, 3, 3)
    pool_strides: tuple[int, ...] = (2, 2, 2)
    ceil: bool = False
    local_norms: int = 0
    towers: int = 1
    wide: tuple[int, ...] = (4096, 4096)
    window: int = 6

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("stem", "stem_kernel", "stem_stride", "stage2", "stage2_kernel", "stage2_stride")
        self.require_positive("stage3", "pools", "pool_strides", "towers", "wide", "window")
        for name, kernel in (("stem_padding", self.stem_kernel), ("stage2_padding", self.stage2_kernel)):
            value = getattr(self, name)
            self.require(0 <= value <= (kernel - 1) // 2, name, f"be one of 0 to {(kernel - 1) // 2}, half its window")
        for name in ("pools", "pool_strides"):
            self.require(len(getattr(self, name)) == 3, name, "have three numbers, one a pooling")
        self.require(min(self.pool_strides) > 1, "pool_strides", "be at least 2")
        reach = all(stride <= kernel for kernel, stride in zip(self.pools, self.pool_strides, strict=True))
        self.require(reach, "pool_strides", f"not exceed the windows, pools {self.pools}")
        self.require(0 <= self.local_norms <= 2, "local_norms", "be one of 0 to 2")
        grouped = (self.stem, *self.stage2, *self.stage3)
        self.require(not any(n % self.towers for n in grouped), "towers", f"divide the channels of the maps, {grouped}")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of the stem, of the first pooling if stage2 has a stride, of the stages, and at the end."""
        first, *others = self.pool_strides
        steps = (self.stem_stride, first, *((self.stage2_stride,) if self.stage2_stride > 1 else ()), *others)
        totals = [1]
        for step in steps:
            totals.append(totals[-1] * step)
        return tuple(totals[1:])

    def pool_window(self, index: int, level: Level) -> Window:
        """Return the window of a pooling at some output stride, without what may stand outside of the map."""
        outside = self.pool_strides[index] - 1 if self.ceil else 0
        return Window(kernel=self.pools[index] - outside, stride=level.step, dilation=level.before)

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest image sizes, as in `Spec.smallest`. Convolutions and poolings read whole windows."""
        _, *levels = self.hold(output_stride)
        windows = [Window(kernel=self.stem_kernel, stride=self.stem_stride, padding=self.stem_padding)]
        sizes = [smallest_before(windows)]
        windows.append(self.pool_window(0, levels[0]))
        if self.stage2_stride > 1:
            sizes.append(smallest_before(windows))
            levels.pop(0)
        for conv in self.stage2_convs(levels[0]):
            padding = self.stage2_padding * conv.dilation
            windows.append(Window(kernel=conv.kernel, stride=conv.stride, dilation=conv.dilation, padding=padding))
        sizes.append(smallest_before(windows))
        for index in (1, 2):
            windows.append(self.pool_window(index, levels[index]))
            sizes.append(smallest_before(windows))
        return (*sizes, sizes[-1])

    def stage2_convs(self, level: Level) -> list[Conv]:
        """Return the convolutions of stage2. The first leads to the level if it has a stride."""
        convs = []
        for i, width in enumerate(self.stage2):
            strided = i == 0 and self.stage2_stride > 1
            dilation = level.before if strided else level.dilation
            convs.append(
                Conv(
                    out_chs=width,
                    kernel=self.stage2_kernel,
                    stride=level.step if strided else 1,
                    dilation=dilation,
                    groups=self.towers,
                    bias=True,
                    padding=self.stage2_padding * dilation,
                )
            )
        return convs

    def head_size(self, size: int) -> int:
        """Return the size of the head's map, after windows that do not all fit the map."""
        size = (size + 2 * self.stem_padding - self.stem_kernel) // self.stem_stride + 1
        for index, (kernel, stride) in enumerate(zip(self.pools, self.pool_strides, strict=True)):
            size = (size - kernel + (stride - 1 if self.ceil else 0)) // stride + 1
            for i in range(0 if index else len(self.stage2)):
                size = (size + 2 * self.stage2_padding - self.stage2_kernel) // (1 if i else self.stage2_stride) + 1
        return size

    @property
    def lacks(self) -> dict[str, str]:
        """Unsupported arguments: there are no residual branches, no norms, no common strides, and no padding."""
        reasons = dict.fromkeys(("drop_path_rate", "zero_init_last"), "a plain stack has no residual branches")
        reasons |= {"norm_layer": "it has no norm to replace", "padding": "its poolings do not pad"}
        strides = self.level_strides
        if strides != (2, 4, 8, 16, 32):
            reasons["out_indices"] = f"its maps have strides {', '.join(map(str, strides))}"
        if not {8, 16} <= set(strides):
            reasons["output_stride"] = f"its maps have strides {', '.join(map(str, strides))}"
        return reasons


class HeldPool(nn.Module):
    """Dilated form of a pooling whose last window may stand partly outside of the map.

    Args:
        kernel: Size of the window.
        outside: Positions of it that may stand outside: its stride less one.
        dilation: Distance between positions.
    """

    def __init__(self, kernel: int, outside: int, dilation: int) -> None:
        super().__init__()
        self.outside = outside * dilation
        self.pool = nn.MaxPool2d(kernel, stride=1, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map: (N, C, H, W) -> (N, C, H', W'), every n-th position of which the native pooling gives."""
        return self.pool(F.pad(x, (0, self.outside, 0, self.outside), value=float("-inf")))


class AlexNet(Backbone):
    """AlexNet: a stem, two stages that begin with a max pooling, a last max pooling, wide layers."""

    layouts = LAYOUTS

    def build(
        self, spec: AlexNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        levels = iter(spec.hold(output_stride))
        kind: dict[str, Any] = dict(kernel=spec.stem_kernel, stride=spec.stem_stride, padding=spec.stem_padding)
        self.stem = sequence(kit, in_chans, "ca", [Conv(out_chs=spec.stem, **kind, bias=True)])
        taps, chs = [("stem", spec.stem, next(levels).stride)], spec.stem

        level = next(levels)
        opening = list(self._opening(spec, 0, level))
        if spec.stage2_stride > 1:
            self.pool1, opening = Stage(*opening), []
            taps.append(("pool1", chs, level.stride))
            level = next(levels)
        self.stage2 = self._stage(kit, chs, opening, spec.stage2_convs(level))
        taps.append(("stage2", spec.stage2[-1], level.stride))

        level = next(levels)
        convs = [
            Conv(out_chs=width, kernel=3, dilation=level.dilation, groups=spec.towers if i else 1, bias=True)
            for i, width in enumerate(spec.stage3)
        ]
        self.stage3 = self._stage(kit, spec.stage2[-1], list(self._opening(spec, 1, level)), convs)
        chs = spec.stage3[-1]
        taps.append(("stage3", chs, level.stride))
        level = next(levels)
        [self.pool3] = self._opening(spec, 2, level)
        taps.append(("pool3", chs, level.stride))
        return Trunk(
            taps=taps,
            final=sequence(kit, chs, ""),
            num_features=chs,
            wide=Wide(widths=spec.wide, kernel=spec.window, dilation=level.dilation),
        )

    @staticmethod
    def _opening(spec: AlexNetSpec, index: int, level: Level) -> Iterator[nn.Module]:
        """Make what opens a level: the local norm of the map before it, if it has one, and the pooling."""
        if index < spec.local_norms:
            yield local_norm(2.0)
        kernel, stride = spec.pools[index], spec.pool_strides[index]
        if spec.ceil and level.step == 1:
            yield HeldPool(kernel, stride - 1, level.before)
        else:
            yield nn.MaxPool2d(kernel, stride=level.step, dilation=level.before, ceil_mode=spec.ceil)

    @staticmethod
    def _stage(kit: Kit, chs: int, opening: Sequence[nn.Module], convs: Sequence[Conv]) -> Stage:
        """Make a stage: what opens it, and convolutions with activations."""
        units = list(opening)
        for conv in convs:
            units.append(sequence(kit, chs, "ca", [conv]))
            chs = conv.out_chs
        return Stage(*units)


KRIZHEVSKY = "Krizhevsky 2014, arXiv:1404.5997"
FIRST = "Krizhevsky et al. 2012, doi:10.1145/3065386"
CHATFIELD = "Chatfield et al. 2014, arXiv:1405.3531"
NO_TWIN = "No installable implementation: its count is held against albanie/convnet-burden's megabytes."
OURS = "A net of our own, by the paper's rules; no published numbers."


def _vgg(params: int, **spec: Any) -> Entry:
    """Return the row of a net of Chatfield et al."""
    return Entry(AlexNet, AlexNetSpec(ceil=True, **spec), paper=CHATFIELD, params=params, notes=NO_TWIN)


MODELS = {
    "alexnet": Entry(
        AlexNet, AlexNetSpec(stem_padding=2), paper=KRIZHEVSKY, params=61_100_840, reference="torchvision:alexnet"
    ),
    "alexnet_2012": Entry(
        AlexNet,
        AlexNetSpec(stem=96, stage2=(256,), stage3=(384, 384, 256), local_norms=2, towers=2),
        paper=FIRST,
        params=60_965_224,
        input_size=(3, 227, 227),
        notes=f"Two towers and local norms. {NO_TWIN}",
    ),
    "vgg_f": _vgg(60_834_536, stage2=(256,), stage3=(256, 256, 256), local_norms=2),
    "vgg_m": _vgg(
        102_908_520,
        stem=96,
        stem_kernel=7,
        stem_stride=2,
        stage2=(256,),
        stage2_stride=2,
        stage2_padding=1,
        stage3=(512, 512, 512),
        local_norms=2,
    ),
    "vgg_s": _vgg(
        102_908_520,
        stem=96,
        stem_kernel=7,
        stem_stride=2,
        stage2=(256,),
        stage2_padding=0,
        stage3=(512, 512, 512),
        pools=(3, 2, 3),
        pool_strides=(3, 2, 3),
        local_norms=1,
    ),
    "alexnet_test": Entry(
        AlexNet,
        AlexNetSpec(stem=12, stem_padding=2, stage2=(32, 32, 32), stage3=(24, 24), wide=(20, 16), window=2),
        paper=KRIZHEVSKY,
        params=79_854,
        input_size=(3, 96, 96),
        num_classes=10,
        notes=OURS,
    ),
}
