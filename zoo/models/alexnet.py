"""AlexNet in its form with one tower.

Papers:
    Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997.
    Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep Convolutional Neural Networks, reprinted as
    doi:10.1145/3065386.

Resolutions (the number in brackets is the total stride of a tap)::

    image 224 --stem 11x11/4--> 55 [4]
    stage2: 3x3 max-pool/2 -> 27, 5x5 convolution [8]
    stage3: 3x3 max-pool/2 -> 13, three 3x3 convolutions [16]
    pool3:  3x3 max-pool/2 -> 6 [32]
    wide 6x6 window -> 1, 1x1 -> 1

The poolings do not pad, so that maps are smaller than size / stride: 55, 27, 13 and 6 instead of 56, 28, 14 and 7.

What differs from the papers, and why:
    * The widths are torchvision's, whose weights fit: 64, 192, 384, 256 and 256. The 2012 net has two towers that meet
      in some layers, with 96, 256, 384, 384 and 256 kernels in all.
    * There is no local response normalisation. The 2012 net normalises after its first two convolutions; torchvision's
      leaves it out, and so do we.
    * The image is padded by 2 pixels, so that 224 pixels give the 55 of the paper.
    * The fully connected layers are convolutions, so that any size works; they exist while there are classes.
    * Dropout is off by default. ``drop_rate=0.5`` acts after each wide layer; torchvision's acts before each of them,
      which is the same net in evaluation.
    * Held at output stride 16, pool3 and the first wide layer are dilated; at 8 the pooling before stage3 as well, and
      at 4 all. A dilated window reads what the strided one reads, so the logits of a 224 px image do not change.
"""

from dataclasses import dataclass

from torch import nn

from zoo.backbone import Backbone, Trunk
from zoo.entry import Entry, Spec
from zoo.layers import Conv, Kit, Stage, Wide, sequence
from zoo.layouts.alexnet import LAYOUTS
from zoo.strides import Level, Window, halvings, smallest_before


@dataclass(frozen=True, kw_only=True)
class AlexNetSpec(Spec):
    """Five convolutions and three fully connected layers.

    Attributes:
        stem: Channels of the 11x11 convolution.
        stage2: Channels of each 5x5 convolution.
        stage3: Channels of each 3x3 convolution.
        wide: Channels of the wide layers between the features and the classifier.
        window: Kernel size of the first wide layer: the size of the deepest map at the published input size.
    """

    stem: int = 64
    stage2: tuple[int, ...] = (192,)
    stage3: tuple[int, ...] = (384, 256, 256)
    wide: tuple[int, ...] = (4096, 4096)
    window: int = 6

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("stem", "stage2", "stage3", "wide", "window")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of the stem, the two stages, and the last pooling."""
        return halvings(4, 4)

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest image sizes, as in `Spec.smallest`. The stem and the poolings read whole windows."""
        _, *pooled = self.hold(output_stride)
        windows = [Window(kernel=11, stride=4, padding=2)]
        windows += [Window(kernel=3, stride=level.step, dilation=level.before) for level in pooled]
        sizes = tuple(smallest_before(windows[:n]) for n in range(1, 5))
        return (*sizes, sizes[-1])

    def head_size(self, size: int) -> int:
        """Return the size of the head's map, after the stem and three poolings without padding."""
        size = (size + 2 * 2 - 11) // 4 + 1
        for _ in range(3):
            size = (size - 3) // 2 + 1
        return size

    @property
    def lacks(self) -> dict[str, str]:
        """Unsupported arguments: there are no residual branches, no norms, no map at stride 2, and no padding."""
        reasons = dict.fromkeys(("drop_path_rate", "zero_init_last"), "a plain stack has no residual branches")
        return reasons | {
            "norm_layer": "it has no norm to replace",
            "out_indices": "the first convolution has stride 4",
            "padding": "its poolings do not pad",
        }


class AlexNet(Backbone):
    """AlexNet: a stem, two stages that begin with a max pooling, a last max pooling, wide layers."""

    layouts = LAYOUTS

    def build(
        self, spec: AlexNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        levels = spec.hold(output_stride)
        self.stem = sequence(kit, in_chans, "ca", [Conv(out_chs=spec.stem, kernel=11, stride=4, padding=2, bias=True)])
        self.stage2 = self._stage(kit, spec.stem, levels[1], spec.stage2, kernel=5)
        self.stage3 = self._stage(kit, spec.stage2[-1], levels[2], spec.stage3, kernel=3)
        self.pool3 = self._pool(levels[3])
        chs = spec.stage3[-1]
        names, widths = ("stem", "stage2", "stage3", "pool3"), (spec.stem, spec.stage2[-1], chs, chs)
        return Trunk(
            taps=list(zip(names, widths, spec.held(output_stride), strict=True)),
            final=sequence(kit, chs, ""),
            num_features=chs,
            wide=Wide(widths=spec.wide, kernel=spec.window, dilation=levels[3].dilation),
        )

    @staticmethod
    def _pool(level: Level) -> nn.Module:
        return nn.MaxPool2d(3, stride=level.step, dilation=level.before)

    @classmethod
    def _stage(cls, kit: Kit, chs: int, level: Level, widths: tuple[int, ...], *, kernel: int) -> Stage:
        """Make a stage: the pooling that leads to the level, and one convolution per width."""
        units = [cls._pool(level)]
        for width in widths:
            conv = Conv(out_chs=width, kernel=kernel, dilation=level.dilation, bias=True)
            units.append(sequence(kit, chs, "ca", [conv]))
            chs = width
        return Stage(*units)


KRIZHEVSKY = "Krizhevsky 2014, arXiv:1404.5997"
OURS = "A net of our own, by the paper's rules; no published numbers."

MODELS = {
    "alexnet": Entry(AlexNet, AlexNetSpec(), paper=KRIZHEVSKY, params=61_100_840, reference="torchvision:alexnet"),
    "alexnet_test": Entry(
        AlexNet,
        AlexNetSpec(stem=12, stage2=(32, 32, 32), stage3=(24, 24), wide=(20, 16), window=2),
        paper=KRIZHEVSKY,
        params=79_854,
        input_size=(3, 96, 96),
        num_classes=10,
        notes=OURS,
    ),
}
