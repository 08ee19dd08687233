"""VGG: plain stacks of 3x3 convolutions, halved by max-pooling.

Paper:
    Simonyan, Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition, arXiv:1409.1556.

Resolutions (the number in brackets is the total stride of a tap)::

    224 px                                               32 px
    image 224 --stem 3x3--> 224, stage1 224              image 32 --stem 3x3--> 32, stage1 32 [1]
    stage2 112 [2] -> stage3 56 [4] -> stage4 28 [8]     stage2 16 [2] -> stage3 8 [4] -> stage4 4 [8]
    stage5 14 [16] -> pool5 7 [32]                       stage5 2 [16] -> pool5 1 [32]
    wide 7x7 window -> 1, 1x1 -> 1

The stem is the first convolution, and stage1 what else the first stage has: nothing in configuration A, where the stem
is the tap [1] of a small net; the local response normalisation in A-LRN. Every later stage begins with a 2x2
max-pooling of stride 2. A tap has the same stride as in the other families, so the map before the first pooling is no
tap of a 224 px net.

Names by the columns of the paper's Table 1: A ``vgg11``, A-LRN ``vgg11_lrn``, B ``vgg13``, C ``vgg16_c``, D ``vgg16``,
E ``vgg19``. Table 2 gives 133, 133, 134, 138 and 144 M parameters for A, B, C, D and E (A-LRN has those of A).

What differs from the paper, and why:
    * The fully connected layers are convolutions (the paper's section 3.2 does this for testing), so that any size
      works. They exist while there are classes; without, the net returns its 512 features.
    * ``*_bn`` have a batch norm after every convolution, which the paper predates. The convolutions keep their biases
      there, as in torchvision and timm.
    * Weights are drawn as in the other families. The paper starts deep nets from a trained shallow one.
    * Dropout is off by default, as in timm; ``drop_rate=0.5`` gives the paper's, after each of the two wide layers.
    * Drop path, which the paper does not have, leaves out a convolution that keeps the width of its input.
    * A-LRN normalises after the first activation. The paper names the layer and refers to Krizhevsky et al. 2012 for
      its constants; that it follows the activation is so there, and our reading here.
    * Held at output stride 16, pool5 keeps the size and its window is dilated, and so is the first wide layer; at 8
      pool4, which opens stage5, as well. Every map of the native net then is part of the finer one.
    * ``*_cifar`` are not in the paper: the common form for 32x32 images, without wide layers.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, Spec, cifar_task
from zoo.layers import Conv, Kit, Skippable, Stage, Wide, local_norm, max_pool_halving, sequence
from zoo.layouts.vgg import layouts
from zoo.strides import halvings, hold

DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions per stage, by depth (Table 1; the depth includes three fully connected layers)."""


@dataclass(frozen=True, kw_only=True)
class VGGSpec(Spec):
    """A plain stack of convolutions.

    Attributes:
        depths: Convolutions in each stage; the stem is the first.
        widths: Channels of each stage.
        norm: A norm follows every convolution.
        local_norm: Local response normalisation follows the stem's activation (configuration A-LRN).
        third_kernel: Window of the third convolution of a stage: 1 in configuration C.
        wide: Channels of the wide layers between the features and the classifier; empty for none.
        window: Kernel size of the first wide layer: the size of the deepest map at the published input size.
        tap_full: The map before the first pooling is a tap as well; for small images.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    norm: bool = False
    local_norm: bool = False
    third_kernel: int = 3
    wide: tuple[int, ...] = (4096, 4096)
    window: int = 7
    tap_full: bool = False

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", "widths", "window", *(("wide",) if self.wide else ()))
        self.require(
            len(self.widths) == len(self.depths), "widths", f"have one number a stage, as depths {self.depths}"
        )
        self.require(self.third_kernel in (1, 3), "third_kernel", "be 1 or 3")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of each stage except the first (which ``tap_full`` includes), and after the last pooling."""
        return halvings(1, len(self.depths) + 1)[not self.tap_full :]

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest sizes. Pooling halves odd sizes downwards: a tap needs a pixel per step of its stride."""
        held = self.held(output_stride)
        return (*held, held[-1])

    def head_size(self, size: int) -> int:
        """Return the size of the head's map. Pooling halves an odd size downwards."""
        return size // self.head_stride

    @property
    def lacks(self) -> dict[str, str]:
        """Unsupported arguments: there are no residual branches, and only some nets have a norm."""
        reasons = {"zero_init_last": "a plain stack has no residual branches"}
        if max(self.depths) == 1 and len(set(self.widths)) == len(self.widths):
            reasons["drop_path_rate"] = "no convolution keeps the width of its input, so that none can be left out"
        return reasons if self.norm else reasons | {"norm_layer": "it has no norm to replace (the *_bn nets have)"}


class VGG(Backbone):
    """VGG: a stem, stages that begin with a max pooling, a last max pooling, wide layers."""

    layouts = layouts(DEPTHS)

    def build(
        self, spec: VGGSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        word = "cna" if spec.norm else "ca"
        *levels, last = hold(halvings(1, len(spec.depths) + 1), output_stride)
        self.stem = sequence(kit, in_chans, word, [Conv(out_chs=spec.widths[0], kernel=3, bias=True)])

        rates = iter(drop_path_rates(drop_path_rate, sum(spec.depths) - 1))
        taps, chs = [], spec.widths[0]
        for index, (depth, width, level) in enumerate(zip(spec.depths, spec.widths, levels, strict=True)):
            units: list[nn.Module] = []
            if index:
                units.append(max_pool_halving(stride=level.step, dilation=level.before))
            elif spec.local_norm:
                units.append(local_norm(2.0))
            for i in range(depth) if index else range(1, depth):
                kernel = spec.third_kernel if i == 2 else 3
                conv = Conv(out_chs=width, kernel=kernel, dilation=level.dilation, bias=True)
                unit, rate = sequence(kit, chs, word, [conv]), next(rates)
                units.append(Skippable(unit, rate) if rate and chs == width else unit)
                chs = width
            name = f"stage{index + 1}" if units else "stem"
            if units:
                self.add_module(name, Stage(*units))
            taps.append((name, width, level.stride))
        name = f"pool{len(spec.depths)}"
        self.add_module(name, max_pool_halving(stride=last.step, dilation=last.before))
        taps.append((name, chs, last.stride))
        return Trunk(
            taps=taps if spec.tap_full else taps[1:],
            final=sequence(kit, chs, ""),
            num_features=chs,
            wide=Wide(widths=spec.wide, kernel=spec.window, dilation=last.dilation) if spec.wide else None,
        )


SIMONYAN = "Simonyan & Zisserman 2015, arXiv:1409.1556"
NO_TWIN = "No installable implementation of this net; its count is held against the paper's Table 2."
OURS = "A net of our own, by the paper's rules; no published numbers."
SMALL = "The common form for 32x32 images with one linear layer, which is not in the paper."


def _vgg(depth: int, params: int, *, reference: str = "", notes: str = "", **spec: Any) -> Entry:
    """Return the row of a 224 px net of Table 1."""
    return Entry(
        VGG,
        VGGSpec(depths=DEPTHS[depth], **spec),
        paper=SIMONYAN,
        params=params,
        reference=reference,
        notes=notes or ("" if reference else NO_TWIN),
    )


def _cifar(depth: int, params: int, *, notes: str = SMALL, lineups: tuple[str, ...] = (), **spec: Any) -> Entry:
    """Return the row of a 32 px net with batch norm and without wide layers."""
    return Entry(
        VGG,
        VGGSpec(depths=DEPTHS[depth], norm=True, wide=(), tap_full=True, **spec),
        paper=SIMONYAN,
        params=params,
        lineups=lineups,
        notes=notes,
        **cifar_task(),
    )


def _test(params: int, **spec: Any) -> Entry:
    """Return the row of a net that is small enough for every test."""
    return Entry(
        VGG,
        VGGSpec(widths=(8, 12, 16, 24, 24), wide=(40, 32), window=2, **spec),
        paper=SIMONYAN,
        params=params,
        input_size=(3, 64, 64),
        num_classes=10,
        notes=OURS,
    )


MODELS = {
    # The columns of Table 1
    "vgg11": _vgg(11, 132_863_336, reference="timm"),
    "vgg11_lrn": _vgg(11, 132_863_336, local_norm=True),
    "vgg13": _vgg(13, 133_047_848, reference="timm"),
    "vgg16_c": _vgg(16, 133_638_952, third_kernel=1),
    "vgg16": _vgg(16, 138_357_544, reference="timm"),
    "vgg19": _vgg(19, 143_667_240, reference="timm"),
    # With batch norm
    "vgg11_bn": _vgg(11, 132_868_840, norm=True, reference="timm"),
    "vgg13_bn": _vgg(13, 133_053_736, norm=True, reference="timm"),
    "vgg16_c_bn": _vgg(
        16, 133_647_400, norm=True, third_kernel=1, notes="Configuration C with batch norm; not in the paper."
    ),
    "vgg16_bn": _vgg(16, 138_365_992, norm=True, reference="timm"),
    "vgg19_bn": _vgg(19, 143_678_248, norm=True, reference="timm"),
    # CIFAR scale
    "vgg16_bn_cifar": _cifar(16, 14_728_266),
    "vgg11_c32_bn_cifar": _cifar(
        11, 2_311_562, widths=(32, 64, 128, 256, 256), notes=f"{SMALL} Half the channels.", lineups=("all",)
    ),
    # Tiny nets for tests
    "vgg_test": _test(21_810, depths=(2, 2, 3, 1, 1), norm=True, third_kernel=1),
    "vgg_lrn_test": _test(20_682, depths=(1, 2, 2, 1, 1), local_norm=True),
}
