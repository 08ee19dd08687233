"""Residual networks: ResNet, the orderings of its unit, pre-activation, Wide ResNet and ResNeXt.

Papers:
    He, Zhang, Ren, Sun 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385.
    He, Zhang, Ren, Sun 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027.
    Zagoruyko, Komodakis 2016, Wide Residual Networks, arXiv:1605.07146.
    Xie, Girshick, Dollar, Tu, He 2017, Aggregated Residual Transformations, arXiv:1611.05431.
    Hu, Shen, Albanie, Sun, Wu 2018, Squeeze-and-Excitation Networks, arXiv:1709.01507.
    Dai, Qi, Xiong, Li, Zhang, Hu, Wei 2017, Deformable Convolutional Networks, arXiv:1703.06211.

Resolutions (the number in brackets is the total stride of a tap)::

    224 px                                               32 px
    image 224 --stem 7x7/2--> 112 [2] --max-pool/2-->    image 32 --stem 3x3--> 32
    stage1 56 [4] -> stage2 28 [8] ->                    stage1 32 [1] -> stage2 16 [2] -> stage3 8 [4]
    stage3 14 [16] -> stage4 7 [32]

What differs from the papers, and why:
    * ``resnet50`` and its kin stride on the 3x3 convolution, as everybody's do today; ``resnet50_v1`` strides on the
      first 1x1, as the 2015 paper does. The same holds for ``preresnet50`` (``stride_first=True`` gives the 2016 code).
    * 2015, section 4.2: the CIFAR nets double their width with shortcut A (zeros, no parameters). So do ours without a
      word in the name; ``*_projection_cifar`` have shortcut B instead, which is what pytorchcv calls
      ``resnet20_cifar10``. Shortcut B adds 2,752 parameters: 269,722 against 272,474 for 20 layers. The paper gives
      0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 M for 20, 32, 44, 56, 110 and 1202 layers; 32 layers count 0.464 M and 44
      0.658 M, and 56 layers count 0.853 M.
    * 164 and 1001 layers are bottlenecks, whose first unit widens 16 to 64 channels: shortcut B, as in the authors'
      code.
    * 2016, section 3.1: in the first pre-activation unit the shortcut leaves after the first activation. pytorchcv and
      the authors' released code do so only where the unit projects; so do ours, and ``activate_first=True`` does it
      always.
    * A projection ends as the branch of its ordering does: normalised for ``post``, ``act_before_add`` and
      ``act_only_pre``, bare for ``norm_after_add`` and ``pre``. The papers do not say (our reading; for ``post`` and
      ``pre`` it is what every implementation does). The stem and the closing layers complete each ordering so that
      every convolution sees exactly one norm and one activation before the next.
    * 2016, section 3.1, scales the shortcuts by a constant. ``shortcut_scale=0.5`` does it, and ``branch_scale=0.5``
      scales the branches as well: projections and padding, too, of which the paper does not speak. The gradient over n
      identity shortcuts is multiplied by the n-th power (``zoo analyse gradients``); a norm behind a sum undoes that.
    * ``plain*`` are the papers' nets without shortcuts (2015, figure 3 and section 4), for the degradation experiment.
    * The gate of ``seresnet*`` acts on the branch before the sum. ``deform_stages=(4,)`` makes the 3x3 convolutions of
      that stage deformable, all of them; 2017, section 4.2, does so in the last three bottlenecks of ResNet-101. At
      its start a deformable net equals the plain one with the same weights.
    * ResNeXt 2x64d for 101 layers is the paper's Table 4 net. ``wide_resnet16_2_cifar``, ``resnext20_4x8d_cifar`` and
      the ``*_test`` nets are small nets of our own by the papers' rules, for the benchmark and for tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, StemSpec, cifar_task
from zoo.layers import (
    ORDERS,
    Conv,
    Kit,
    PadShortcut,
    Residual,
    Skippable,
    SqueezeGate,
    Stage,
    basic,
    bottleneck,
    sequence,
)
from zoo.layouts.resnet import LAYOUTS
from zoo.strides import STEMS, Level, halvings

SHORTCUTS = ("pad", "project", "project_all", "none")


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(StemSpec):
    """Specification of a residual network.

    Attributes:
        depths: Units in each stage.
        widths: Channels that each stage returns.
        mid_widths: Channels around the 3x3 of a bottleneck; empty for basic units of two 3x3.
        groups: Groups of the 3x3 (cardinality).
        order: Positions of norms and activations, a key of ``ORDERS``.
        shortcut: Shortcut of a unit that changes the shape: ``pad`` (A) fills with zeros, ``project`` (B) convolves.
            ``project_all`` (C) convolves in every unit. ``none`` makes a plain net, without any shortcut.
        stem: ``imagenet`` (7x7 stride 2 and max-pooling) or ``cifar`` (3x3).
        stem_width: Channels of the stem.
        stride_first: Bottlenecks stride on the first 1x1 instead of the 3x3.
        activate_first: The first unit's shortcut starts after the first activation; only for pre-activation orders.
        squeeze: Factor by which squeeze-and-excitation on each branch reduces the channels; 0 for none.
        deform_stages: Stages, counted from 1, whose 3x3 convolutions are deformable.
        norm_shortcut: Projections end with a norm even if the ordering has none there.
        close: Norm and activation follow the last unit if the ordering leaves them to the next one.
        shortcut_scale: Factor on each shortcut (2016, equation 6, lambda).
        branch_scale: Factor on each branch, with which the paper compares it.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    mid_widths: tuple[int, ...] = ()
    groups: int = 1
    order: str = "post"
    shortcut: str = "project"
    stem_width: int = 64
    stride_first: bool = False
    activate_first: bool = False
    squeeze: int = 0
    deform_stages: tuple[int, ...] = ()
    norm_shortcut: bool = False
    close: bool = True
    shortcut_scale: float = 1.0
    branch_scale: float = 1.0

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", "widths", "groups", "stem_width")
        self.require_choice("order", ORDERS)
        self.require_choice("shortcut", SHORTCUTS)
        self.require_choice("stem", STEMS)
        self.require(
            len(self.widths) == len(self.depths), "widths", f"have one number a stage, as depths {self.depths}"
        )
        if self.mid_widths:
            self.require_positive("mid_widths")
            self.require(len(self.mid_widths) == len(self.depths), "mid_widths", "have one number a stage, or none")
        for width in self.mid_widths or self.widths:
            self.require(width % self.groups == 0, "groups", f"divide the 3x3's {width} channels")
        rising = all(a <= b for a, b in zip((self.stem_width, *self.widths), self.widths, strict=False))
        self.require(
            self.shortcut != "pad" or rising,
            "widths",
            f"not fall, from stem_width {self.stem_width} on, for shortcut 'pad', which takes no channels away",
        )
        self.require(self.squeeze >= 0, "squeeze", "be 0 for none, or the reduction of the channels")
        for width in self.widths:
            self.require(self.squeeze <= width, "squeeze", f"leave a channel of the {width} of a stage")
        stages = range(1, len(self.depths) + 1)
        self.require(set(self.deform_stages) <= set(stages), "deform_stages", f"name stages 1 to {len(self.depths)}")
        if not self.mid_widths:
            self.require(not self.stride_first, "stride_first", "be False for basic units, which have no 1x1")
        if not ORDERS[self.order].before:
            self.require(not self.activate_first, "activate_first", f"be False for order {self.order!r}")
            self.require(self.close, "close", f"be True for order {self.order!r}, which closes each unit")
        for name in ("shortcut_scale", "branch_scale"):
            self.require(getattr(self, name) > 0, name, "be above 0")
            self.require(
                self.shortcut != "none" or getattr(self, name) == 1, name, "be 1 in a plain net, which has no shortcut"
            )
        if self.shortcut == "none":
            for name in ("squeeze", "activate_first", "norm_shortcut"):
                self.require(
                    not getattr(self, name), name, "be off in a plain net, which has no branch and no shortcut"
                )

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total stride of each stage."""
        return halvings(self.finest, len(self.depths))

    @property
    def lacks(self) -> Mapping[str, str]:
        """Unsupported arguments: a plain net has no branch that could start at zero."""
        return {"zero_init_last": "a plain net has no residual branch"} if self.shortcut == "none" else {}


class ResNet(Backbone):
    """ResNet: a stem and stages of residual units; each stage after the first has half the resolution."""

    layouts = LAYOUTS

    def build(
        self, spec: ResNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        order = ORDERS[spec.order]
        conv_stride, _ = STEMS[spec.stem]
        stem = Conv(out_chs=spec.stem_width, kernel=7 if spec.stem == "imagenet" else 3, stride=conv_stride)
        # Before the pooling the stem is complete; without one, what the first unit brings is left out of the stem.
        ops = "cna" if spec.stem == "imagenet" else "cna".removesuffix(order.before)
        self.stem = sequence(kit, in_chans, ops, [stem])
        taps = []
        if spec.stem == "imagenet":
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)
            taps.append(("stem", spec.stem_width, conv_stride))

        rates = iter(drop_path_rates(drop_path_rate, sum(spec.depths)))
        chs = spec.stem_width
        stages = zip(spec.depths, spec.widths, spec.hold(output_stride), strict=True)
        for index, (depth, width, level) in enumerate(stages):
            units = []
            for i in range(depth):
                at = level if index > 0 and i == 0 else level.within
                units.append(self._unit(spec, kit, index, chs, at, next(rates), first=index == i == 0))
                chs = width
            name = f"stage{index + 1}"
            self.add_module(name, Stage(*units))
            taps.append((name, width, level.stride))

        return Trunk(
            taps=taps,
            final=sequence(kit, chs, order.before if spec.close else ""),
            num_features=chs,
        )

    @staticmethod
    def _unit(
        spec: ResNetSpec, kit: Kit, stage: int, in_chs: int, level: Level, drop_path: float, *, first: bool
    ) -> nn.Module:
        """Make one unit. A stride that was traded for dilation still separates the two dilations."""
        order, out_chs, stride = ORDERS[spec.order], spec.widths[stage], level.step
        dilation = (level.before, level.dilation)
        if spec.mid_widths:
            convs: tuple[Conv, ...] = bottleneck(
                spec.mid_widths[stage],
                out_chs,
                stride=stride,
                dilation=dilation[spec.stride_first],
                groups=spec.groups,
                stride_first=spec.stride_first,
            )
        else:
            convs = basic(out_chs, stride=stride, dilation=dilation, groups=spec.groups)
        if stage + 1 in spec.deform_stages:
            convs = tuple(replace(conv, deform=conv.kernel == 3) for conv in convs)
        # Asked of the native net, not of this one: trading a stride for dilation must not change the state dict.
        reshapes = in_chs != out_chs or level != level.within
        if spec.shortcut == "none":
            unit = sequence(kit, in_chs, order.before + order.branch(len(convs)) + order.after, convs)
            return Skippable(unit, drop_path) if drop_path and not reshapes else unit
        projects = spec.shortcut == "project_all" or (spec.shortcut == "project" and reshapes)
        shortcut: nn.Module | None = None
        if projects:
            ops = "cn" if spec.norm_shortcut else order.projection
            shortcut = sequence(kit, in_chs, ops, [Conv(out_chs=out_chs, kernel=1, stride=stride)])
        elif reshapes:
            shortcut = PadShortcut(in_chs, out_chs, stride)
        gate = SqueezeGate(kit, out_chs, out_chs // spec.squeeze, out_chs) if spec.squeeze else None
        shared = bool(order.before) and (projects or (first and spec.activate_first))
        return Residual(
            kit,
            in_chs,
            convs,
            order,
            shortcut=shortcut,
            gate=gate,
            shared=shared,
            drop_path=drop_path,
            scales=(spec.shortcut_scale, spec.branch_scale),
        )


HE2015 = "He et al. 2015, arXiv:1512.03385"
HE2016 = "He et al. 2016, arXiv:1603.05027"
WIDE = "Zagoruyko & Komodakis 2016, arXiv:1605.07146"
XIE = "Xie et al. 2017, arXiv:1611.05431"
HU = "Hu et al. 2018, arXiv:1709.01507"
NO_TWIN = "No installable implementation of this net; the unit is held against the figure, the count against the paper."

IMAGENET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Units per stage, by depth (He et al. 2015, Table 1; 200: He et al. 2016, section 4)."""


def _imagenet(depth: int, params: int, paper: str, *, mid: int = 64, reference: str = "", **spec: Any) -> Entry:
    """Return the row of a 224 px net; from 50 layers on with bottlenecks of ``mid`` 3x3 channels in the first stage."""
    wide = depth >= 50
    return Entry(
        ResNet,
        ResNetSpec(
            depths=IMAGENET[depth],
            widths=(256, 512, 1024, 2048) if wide else (64, 128, 256, 512),
            mid_widths=(mid, 2 * mid, 4 * mid, 8 * mid) if wide else (),
            **spec,
        ),
        paper=paper,
        params=params,
        reference=reference,
        notes="" if reference else NO_TWIN,
    )


def _cifar(
    depth: int,
    params: int,
    paper: str,
    *,
    widths: tuple[int, int, int] = (16, 32, 64),
    mid_widths: tuple[int, ...] = (),
    per_unit: int = 2,
    outside: int = 2,
    reference: str = "",
    lineups: tuple[str, ...] = (),
    notes: str = "",
    stem_width: int = 16,
    **spec: Any,
) -> Entry:
    """Return the row of a 32 px net of three stages: ``depth`` layers, all but ``outside`` in units of ``per_unit``."""
    units, rest = divmod(depth - outside, 3 * per_unit)
    assert not rest, f"{depth} layers do not make three equal stages"
    return Entry(
        ResNet,
        ResNetSpec(
            depths=(units,) * 3, widths=widths, mid_widths=mid_widths, stem="cifar", stem_width=stem_width, **spec
        ),
        paper=paper,
        params=params,
        reference=reference,
        lineups=lineups,
        notes=notes or ("" if reference else NO_TWIN),
        **cifar_task(),
    )


def _narrow(depth: int, params: int, paper: str, **kwargs: Any) -> Entry:
    """Return the row of the bottleneck form of a CIFAR net: three layers per unit."""
    return _cifar(depth, params, paper, widths=(64, 128, 256), mid_widths=(16, 32, 64), per_unit=3, **kwargs)


def _wide(depth: int, factor: int, params: int, **kwargs: Any) -> Entry:
    """Return the row of a Wide ResNet. Its projections count as layers, hence 6 n + 4."""
    widths = (16 * factor, 32 * factor, 64 * factor)
    return _cifar(depth, params, WIDE, widths=widths, outside=4, order="pre", **kwargs)


def _aggregated(depth: int, groups: int, group_width: int, params: int, **kwargs: Any) -> Entry:
    """Return the row of a ResNeXt for CIFAR (Xie et al. 2017, section 5.2)."""
    mid = groups * group_width
    return _cifar(
        depth,
        params,
        XIE,
        widths=(256, 512, 1024),
        mid_widths=(mid, 2 * mid, 4 * mid),
        per_unit=3,
        groups=groups,
        stem_width=64,
        **kwargs,
    )


PORT = (
    "The residual net that a review of FishNet compares it with on CIFAR-10: bottlenecks, the ImageNet stem on 32 px, "
    "so that the last map is 1x1, projections that end with a norm, nothing after the last unit. The review's list of "
    "layers and its count fix this reading; no code is public."
)
OURS = "A net of our own, by the paper's rules; no published numbers."


def _test(spec: ResNetSpec, params: int) -> Entry:
    """Return the row of a net that is small enough for every test."""
    return Entry(ResNet, spec, paper=HE2015, params=params, input_size=(3, 64, 64), num_classes=10, notes=OURS)


MODELS = {
    # ImageNet scale
    "resnet18": _imagenet(18, 11_689_512, HE2015, reference="timm"),
    "resnet34": _imagenet(34, 21_797_672, HE2015, reference="timm"),
    "resnet50": _imagenet(50, 25_557_032, HE2015, reference="timm"),
    "resnet101": _imagenet(101, 44_549_160, HE2015, reference="timm"),
    "resnet152": _imagenet(152, 60_192_808, HE2015, reference="timm"),
    "resnet200": _imagenet(200, 64_673_832, HE2016, reference="timm"),
    "resnet50_v1": _imagenet(50, 25_557_032, HE2015, stride_first=True, reference="pytorchcv:resnet50"),
    "resnet101_v1": _imagenet(101, 44_549_160, HE2015, stride_first=True, reference="pytorchcv:resnet101"),
    "resnet152_v1": _imagenet(152, 60_192_808, HE2015, stride_first=True, reference="pytorchcv:resnet152"),
    "preresnet18": _imagenet(18, 11_687_848, HE2016, order="pre", reference="pytorchcv:preresnet18"),
    "preresnet34": _imagenet(34, 21_796_008, HE2016, order="pre", reference="pytorchcv:preresnet34"),
    "preresnet50": _imagenet(50, 25_549_480, HE2016, order="pre", reference="pytorchcv:preresnet50b"),
    "preresnet101": _imagenet(101, 44_541_608, HE2016, order="pre", reference="pytorchcv:preresnet101b"),
    "preresnet152": _imagenet(152, 60_185_256, HE2016, order="pre", reference="pytorchcv:preresnet152b"),
    "preresnet200": _imagenet(200, 64_666_280, HE2016, order="pre", reference="pytorchcv:preresnet200b"),
    "resnext50_32x4d": _imagenet(50, 25_028_904, XIE, mid=128, groups=32, reference="timm"),
    "resnext101_32x4d": _imagenet(101, 44_177_704, XIE, mid=128, groups=32, reference="timm"),
    "resnext101_64x4d": _imagenet(101, 83_455_272, XIE, mid=256, groups=64, reference="timm"),
    "resnext101_32x8d": _imagenet(101, 88_791_336, XIE, mid=256, groups=32, reference="timm"),
    "resnext101_2x64d": _imagenet(101, 84_198_184, XIE, mid=128, groups=2),
    "wide_resnet50_2": _imagenet(50, 68_883_240, WIDE, mid=128, reference="timm"),
    "wide_resnet101_2": _imagenet(101, 126_886_696, WIDE, mid=128, reference="timm"),
    "seresnet50": _imagenet(50, 28_088_024, HU, squeeze=16, reference="timm"),
    "seresnet101": _imagenet(101, 49_326_872, HU, squeeze=16, reference="timm"),
    "seresnet152": _imagenet(152, 66_821_848, HU, squeeze=16, reference="timm"),
    "plain18": _imagenet(18, 11_515_688, HE2015, shortcut="none"),
    "plain34": _imagenet(34, 21_623_848, HE2015, shortcut="none"),
    # CIFAR scale, shortcut A as published
    "resnet20_cifar": _cifar(20, 269_722, HE2015, shortcut="pad", lineups=("default",)),
    "resnet32_cifar": _cifar(32, 464_154, HE2015, shortcut="pad"),
    "resnet44_cifar": _cifar(44, 658_586, HE2015, shortcut="pad"),
    "resnet56_cifar": _cifar(56, 853_018, HE2015, shortcut="pad", lineups=("all",)),
    "resnet110_cifar": _cifar(110, 1_727_962, HE2015, shortcut="pad"),
    "resnet1202_cifar": _cifar(1202, 19_421_274, HE2015, shortcut="pad"),
    "plain20_cifar": _cifar(20, 269_722, HE2015, shortcut="none"),
    "plain56_cifar": _cifar(56, 853_018, HE2015, shortcut="none", lineups=("all",)),
    # CIFAR scale, shortcut B
    "resnet20_projection_cifar": _cifar(20, 272_474, HE2015, reference="pytorchcv:resnet20_cifar10"),
    "resnet32_projection_cifar": _cifar(32, 466_906, HE2015, reference="pytorchcv:get_resnet_cifar"),
    "resnet44_projection_cifar": _cifar(44, 661_338, HE2015, reference="pytorchcv:get_resnet_cifar"),
    "resnet56_projection_cifar": _cifar(56, 855_770, HE2015, reference="pytorchcv:resnet56_cifar10"),
    "resnet110_projection_cifar": _cifar(110, 1_730_714, HE2015, reference="pytorchcv:resnet110_cifar10"),
    "resnet1202_projection_cifar": _cifar(1202, 19_424_026, HE2015, reference="pytorchcv:resnet1202_cifar10"),
    "resnet164_cifar": _narrow(164, 1_704_154, HE2016, reference="pytorchcv:resnet164bn_cifar10"),
    "seresnet20_projection_cifar": _cifar(20, 274_847, HU, squeeze=16, reference="pytorchcv:seresnet20_cifar10"),
    "seresnet56_projection_cifar": _cifar(56, 862_889, HU, squeeze=16, reference="pytorchcv:seresnet56_cifar10"),
    "seresnet110_projection_cifar": _cifar(110, 1_744_952, HU, squeeze=16, reference="pytorchcv:seresnet110_cifar10"),
    # The orderings of the unit (He et al. 2016, figure 4 and Table 2)
    "resnet110_norm_after_add_cifar": _cifar(110, 1_727_962, HE2016, shortcut="pad", order="norm_after_add"),
    "resnet110_act_before_add_cifar": _cifar(110, 1_727_962, HE2016, shortcut="pad", order="act_before_add"),
    "resnet110_act_only_pre_cifar": _cifar(110, 1_727_962, HE2016, shortcut="pad", order="act_only_pre"),
    "resnet164_norm_after_add_cifar": _narrow(164, 1_703_258, HE2016, order="norm_after_add"),
    "resnet164_act_before_add_cifar": _narrow(164, 1_704_154, HE2016, order="act_before_add"),
    "resnet164_act_only_pre_cifar": _narrow(164, 1_704_154, HE2016, order="act_only_pre"),
    "preresnet20_cifar": _cifar(
        20, 272_282, HE2016, order="pre", reference="pytorchcv:preresnet20_cifar10", lineups=("default",)
    ),
    "preresnet56_cifar": _cifar(56, 855_578, HE2016, order="pre", reference="pytorchcv:preresnet56_cifar10"),
    "preresnet110_cifar": _cifar(110, 1_730_522, HE2016, order="pre", reference="pytorchcv:preresnet110_cifar10"),
    "preresnet164_cifar": _narrow(164, 1_703_258, HE2016, order="pre", reference="pytorchcv:preresnet164bn_cifar10"),
    "preresnet1001_cifar": _narrow(1001, 10_327_706, HE2016, order="pre", reference="pytorchcv:preresnet1001_cifar10"),
    "preresnet26_port_cifar": Entry(
        ResNet,
        ResNetSpec(
            depths=(2, 2, 2, 2),
            widths=(256, 512, 1024, 2048),
            mid_widths=(64, 128, 256, 512),
            order="pre",
            norm_shortcut=True,
            close=False,
        ),
        paper=HE2016,
        params=13_962_698,
        notes=PORT,
        **cifar_task(),
    ),
    # Wide ResNet and ResNeXt at CIFAR scale
    "wide_resnet28_10_cifar": _wide(28, 10, 36_479_194, reference="pytorchcv:wrn28_10_cifar10"),
    "wide_resnet16_8_cifar": _wide(16, 8, 10_961_370, reference="pytorchcv:get_wrn_cifar"),
    "wide_resnet40_4_cifar": _wide(40, 4, 8_949_210, reference="pytorchcv:get_wrn_cifar"),
    "wide_resnet16_2_cifar": _wide(16, 2, 691_674, reference="pytorchcv:get_wrn_cifar", lineups=("default",)),
    "resnext29_8x64d_cifar": _aggregated(29, 8, 64, 34_426_698, reference="pytorchcv:get_resnext_cifar"),
    "resnext29_16x64d_cifar": _aggregated(29, 16, 64, 68_155_210, reference="pytorchcv:resnext29_16x64d_cifar10"),
    "resnext29_32x4d_cifar": _aggregated(29, 32, 4, 4_775_754, reference="pytorchcv:resnext29_32x4d_cifar10"),
    "resnext20_4x8d_cifar": _cifar(
        20,
        296_282,
        XIE,
        widths=(64, 128, 256),
        mid_widths=(32, 64, 128),
        per_unit=3,
        groups=4,
        notes=OURS,
        lineups=("default",),
    ),
    # Tiny nets for tests
    "resnet_test": _test(
        ResNetSpec(depths=(2, 1, 1, 1), widths=(32, 48, 64, 96), mid_widths=(8, 12, 16, 24), stem_width=16), 33_338
    ),
    "preresnet_test": _test(
        ResNetSpec(depths=(2, 1, 1, 1), widths=(16, 24, 32, 40), stem_width=16, order="pre"), 65_674
    ),
}
