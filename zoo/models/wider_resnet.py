"""Wider ResNet-38: few residual units, very wide, on large maps.

Paper:
    Wu, Shen, van den Hengel 2016, Wider or Deeper: Revisiting the ResNet Model for Visual Recognition,
    arXiv:1611.10080. Channels and down-sampling follow the authors' code (itijyou/ademxapp), which the paper's figure
    leaves to it, and mapillary/inplace_abn, whose name ``wider_resnet38`` everybody uses.

Pre-activation units; the number in brackets is the total stride of a tap. Model A, with a 3x3/2 max-pooling before each
of the first five stages (the paper's B2 to B6)::

    224 px
    stem 3x3 64 224 -> stage1 112 [2] -> stage2 56 [4] -> stage3 28 [8] -> stage4 14 [16] -> stage5, stage6 7 [32]
    units                     3                 6...
    3x3, 3x3    128, 128 x3   256, 256 x3       512, 512 x6        512, 1024 x3
    1x1, 3x3, 1x1                                                  512, 1024, 2048 x1     1024, 2048, 4096 x1

Variants differ in how they halve, and in nothing else:
    * ``wider_resnet38`` (model A) always pools.
    * ``wider_resnet38_a1`` (model A1, which the authors tuned from A and used for segmentation) never pools: the first
      convolution of a stage's first unit has the stride, and so has its projection.
    * ``wider_resnet38_a2`` is inplace_abn's: two poolings, then strides; Dropout2d before the last convolution of the
      two bottlenecks, 0.3 and 0.5. (The authors' own model A2 is A tuned on Places; they publish no definition.)

``output_stride=8`` is the form that the paper uses for segmentation. With strides (A1, A2): the first convolution of B5
(stage4) loses its stride, the convolutions that follow have dilation 2; the first of B6 (stage5), a 1x1, loses its
stride, what follows has dilation 4. With poolings (A): they have the dilation of what precedes them, as in the authors'
code, and everything behind them has the doubled one. Both are exact: every n-th position is one of the native net.
inplace_abn also dilates the first convolution of stage4, which is not exact.

``wider_resnet38_a1_voc`` scores every position for segmentation (``fcrna_model_a1`` of the authors' code, "2 conv." in
its README): A1 held at stride 8, a 3x3 to 512 channels with dilation 12 and an activation, a 3x3 to the 21 classes with
dilation 12. Both have biases, neither has a norm; together 124,042,581 parameters. Its scores have stride 8; the code,
too, enlarges them outside of the net, by cubic interpolation in evaluation. The taps are those up to stride 8, and
``output_stride`` can be smaller still. 500 px is the size to which the code's evaluation pads images of VOC.

What else differs, and why:
    * A stride stands on the first 1x1 of the bottleneck, as in the authors' code and as the dilated form needs it;
      inplace_abn has it on the 3x3.
    * The projection reads what the first norm and activation return, in both sources.
    * inplace_abn's nets have leaky rectifiers of slope 0.01 by default, the paper's and ours rectifiers.
    * No source prints a number of parameters; ours follow from the channels. The paper counts 38 layers: the stem, two
      a basic unit, three a bottleneck, the classifier.
    * ``wider_resnet13_cifar`` and ``wider_resnet_test`` are ours.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, Spec, cifar_task
from zoo.layers import ORDERS, Chain, Conv, Kit, Residual, Scores, Stage, max_pool_halving, sequence
from zoo.strides import Level

HEADS = ("classify", "dense")
DENSE = 8
"""Total stride that a net with a dense head is held at by itself."""


@dataclass(frozen=True, kw_only=True)
class WiderResNetSpec(Spec):
    """Specification: stages of basic units, then stages of bottlenecks.

    Attributes:
        depths: Units in each stage.
        widths: Channels that each stage returns.
        mid_widths: Channels before the last convolution of a unit; a bottleneck's first 1x1 has half of them.
        strides: Stride of each stage, 1 or 2.
        bottlenecks: Number of the last stages that have bottlenecks.
        pools: Number of the first halving stages that use max pooling; the others use strided convolutions.
        dropouts: Dropout rate of each stage, before the last convolution of a unit; empty for none.
        stem_width: Channels of the stem.
        shortcut_scale: Factor on each shortcut (He et al. 2016, arXiv:1603.05027, equation 6); 1 in the paper.
        head: ``classify`` scores the pooled map, ``dense`` every position of the map at stride 8.
        head_width: Channels between the two convolutions of a dense head.
        head_dilation: Dilation of both.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    mid_widths: tuple[int, ...]
    strides: tuple[int, ...] = (2, 2, 2, 2, 2, 1)
    bottlenecks: int = 2
    pools: int
    dropouts: tuple[float, ...] = ()
    stem_width: int = 64
    shortcut_scale: float = 1.0
    head: str = "classify"
    head_width: int = 512
    head_dilation: int = 12

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", "widths", "mid_widths", "strides", "stem_width", "head_width", "head_dilation")
        self.require_choice("head", HEADS)
        stages = len(self.depths)
        for name in ("widths", "mid_widths", "strides"):
            self.require(len(getattr(self, name)) == stages, name, f"have {stages} numbers, one a stage, as depths")
        self.require(set(self.strides) <= {1, 2}, "strides", "be 1 or 2")
        self.require(0 <= self.bottlenecks <= stages, "bottlenecks", f"be one of 0 to {stages}")
        halved = self.mid_widths[stages - self.bottlenecks :]
        self.require(
            all(mid % 2 == 0 for mid in halved), "mid_widths", "be even in bottlenecks, whose first 1x1 has half"
        )
        self.require(0 <= self.pools <= self.strides.count(2), "pools", f"be one of 0 to {self.strides.count(2)}")
        self.require(len(self.dropouts) in (0, stages), "dropouts", f"have {stages} numbers, one a stage, or none")
        shares = all(isinstance(rate, int | float) and 0 <= rate < 1 for rate in self.dropouts)
        self.require(shares, "dropouts", "lie in [0, 1)")
        self.require(self.shortcut_scale > 0, "shortcut_scale", "be above 0")

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of the stages."""
        return tuple(2 ** self.strides[: i + 1].count(2) for i in range(len(self.strides)))

    @property
    def native_stride(self) -> int | None:
        """Output stride of the net with a dense head; without, it is that of the strides."""
        return DENSE if self.dense else None

    @property
    def dense(self) -> bool:
        """True if there is a score for every position."""
        return self.head == "dense"

    @property
    def layers(self) -> int:
        """Number of layers with weights as the paper counts them, without projections."""
        return 2 + sum(
            depth * (3 if i >= len(self.depths) - self.bottlenecks else 2) for i, depth in enumerate(self.depths)
        )


class WiderResNet(Backbone):
    """Wider ResNet: a stem, and poolings and stages of pre-activation units."""

    def build(
        self, spec: WiderResNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        self.stem = sequence(kit, in_chans, "c", [Conv(out_chs=spec.stem_width, kernel=3)])
        # By total stride, so that the last map of each resolution is its tap.
        taps: dict[int, tuple[str, int, int]] = {}
        strides = [level.stride for level in spec.hold(None)]
        rates = iter(drop_path_rates(drop_path_rate, sum(spec.depths)))
        chs = spec.stem_width
        for index, level in enumerate(spec.hold(output_stride)):
            at = level
            if spec.strides[index] == 2 and level.native <= 2**spec.pools:
                pool = max_pool_halving(stride=level.step, dilation=level.before, kernel=3, centred=True)
                self.add_module(f"pool{index + 1}", pool)
                at = level.within
            units = []
            for i in range(spec.depths[index]):
                units.append(self._unit(spec, kit, index, chs, at, next(rates), first=i == 0))
                chs, at = spec.widths[index], level.within
            name = f"stage{index + 1}"
            self.add_module(name, Stage(*units))
            taps[strides[index]] = (name, chs, level.stride)
        scores = Scores(hidden=spec.head_width, dilation=spec.head_dilation) if spec.dense else None
        return Trunk(taps=tuple(taps.values()), final=sequence(kit, chs, "na"), num_features=chs, scores=scores)

    @staticmethod
    def _unit(
        spec: WiderResNetSpec, kit: Kit, stage: int, in_chs: int, level: Level, drop_path: float, *, first: bool
    ) -> Residual:
        """Make one unit. Its first convolution leads to the level; the others stay on it."""
        mid, out_chs = spec.mid_widths[stage], spec.widths[stage]
        if stage >= len(spec.depths) - spec.bottlenecks:
            convs = (
                Conv(out_chs=mid // 2, kernel=1, stride=level.step),
                Conv(out_chs=mid, kernel=3, dilation=level.dilation),
                Conv(out_chs=out_chs, kernel=1),
            )
        else:
            convs = (
                Conv(out_chs=mid, kernel=3, stride=level.step, dilation=level.before),
                Conv(out_chs=out_chs, kernel=3, dilation=level.dilation),
            )
        # Asked of the native net, not of this one: trading a stride for dilation must not change the state dict.
        projects = first and (in_chs != out_chs or spec.strides[stage] == 2)
        projection = [Conv(out_chs=out_chs, kernel=1, stride=level.step)]
        shortcut = sequence(kit, in_chs, "c", projection) if projects else None
        paths: dict[str, Any] = dict(shortcut=shortcut, shared=projects, scales=(spec.shortcut_scale, 1.0))
        unit = Residual(kit, in_chs, convs, ORDERS["pre"], drop_path=drop_path, **paths)
        if spec.dropouts and spec.dropouts[stage]:
            *layers, last = unit.branch.named_children()
            unit.branch = Chain(dict([*layers, ("drop", nn.Dropout2d(spec.dropouts[stage])), last]))
        return unit


WU = "Wu et al. 2016, arXiv:1611.10080"


def _published(
    pools: int,
    notes: str,
    dropouts: tuple[float, ...] = (),
    params: int = 109_167_912,
    head: str = "classify",
    **row: Any,
) -> Entry:
    """Return the row of a variant of model A."""
    spec = WiderResNetSpec(
        depths=(3, 3, 6, 3, 1, 1),
        widths=(128, 256, 512, 1024, 2048, 4096),
        mid_widths=(128, 256, 512, 512, 1024, 2048),
        pools=pools,
        dropouts=dropouts,
        head=head,
    )
    notes = f"No installable implementation, and no published number of parameters. {notes}"
    return Entry(WiderResNet, spec, paper=WU, params=params, notes=notes, **row)


def _ours(spec: WiderResNetSpec, params: int, **kwargs: Any) -> Entry:
    """Return the row of a small net of our own."""
    notes = "A net of our own, by the paper's rules; no published numbers."
    return Entry(WiderResNet, spec, paper=WU, params=params, notes=notes, **kwargs)


MODELS = {
    "wider_resnet38": _published(5, "The authors report 19.20 / 4.73 % top-1 / top-5 error at 320 px."),
    "wider_resnet38_a1": _published(0, "The authors report 19.54 / 4.75 % top-1 / top-5 error at 320 px."),
    "wider_resnet38_a1_voc": _published(
        0,
        "The authors report 82.5 % mean IoU on the test set of PASCAL VOC.",
        params=124_042_581,
        head="dense",
        input_size=(3, 500, 500),
        num_classes=21,
    ),
    "wider_resnet38_a2": _published(2, "As mapillary/inplace_abn names it.", (0.0, 0.0, 0.0, 0.0, 0.3, 0.5)),
    "wider_resnet13_cifar": _ours(
        WiderResNetSpec(
            depths=(1, 1, 2, 1),
            widths=(32, 64, 128, 256),
            mid_widths=(32, 64, 64, 128),
            strides=(1, 2, 2, 1),
            bottlenecks=1,
            pools=1,
            stem_width=16,
        ),
        490_458,
        lineups=("all",),
        **cifar_task(),
    ),
    "wider_resnet_test": _ours(
        WiderResNetSpec(
            depths=(1, 2, 1, 1, 1, 1),
            widths=(8, 12, 16, 32, 48, 64),
            mid_widths=(8, 12, 16, 16, 24, 32),
            pools=2,
            dropouts=(0.0, 0.0, 0.0, 0.0, 0.3, 0.5),
            stem_width=8,
        ),
        35_434,
        input_size=(3, 64, 64),
        num_classes=10,
    ),
}
