"""GoogLeNet: modules of four parallel branches, as published and with batch norm.

Papers:
    Szegedy, Liu, Jia et al. 2014, Going Deeper with Convolutions, arXiv:1409.4842.
    Ioffe, Szegedy 2015, Batch Normalization, arXiv:1502.03167.

Resolutions (the number in brackets is the total stride of a tap)::

    image 224 --stem 7x7/2--> 112 [2] --max-pool/2--> 56 --reduce 1x1, 3x3--> 56 [4] --max-pool/2-->
    stage3 28 [8] (3a, 3b) --max-pool/2--> stage4 14 [16] (4a to 4e) --max-pool/2--> stage5 7 [32] (5a, 5b)
                                           |-- aux_a after 4a, aux_b after 4d

    image 32 --stem 3x3--> stage3 32 [1] --max-pool/2--> stage4 16 [2] --max-pool/2--> stage5 8 [4]

    module:  one      1x1                     three    1x1 -> 3x3
             five     1x1 -> 5x5              project  max-pool 3x3 stride 1 -> 1x1
             all four are concatenated in this order

A stage begins with its pooling. ``output_stride`` turns the pooling into one of stride 1 and dilates what follows.

Auxiliary classifiers (section 5 of the paper) exist with ``create_model("googlenet", auxiliary=True)``. In training
mode the net then returns `AuxiliaryOutputs`: the logits and those of the two classifiers; the paper's loss adds 0.3
times the loss of each, and so does the benchmark. In evaluation mode it returns the logits alone. The presets have
none, so that a net gives one tensor in both modes. ``reset_classifier(0)`` removes them for good, any other number of
classes renews their last layer. TorchScript knows the logits alone, in either mode.

What differs from the paper, and why:
    * Table 1 counts neither biases nor in thousands: its K is 1024. Ours are 112.0, 159.5, 379.0, 366.75, 438.0, 497.5,
      590.5, 847, 1018, 1409 and 1000 K for the second layer, 3a to 5b and the linear layer, and 9.2 K for the first.
      The table prints 112, 159, 380, 364, 437, 463, 580, 840, 1072, 1388 and 1000 K, and 2.7 K. So the sizes printed
      beside them do not give 4a, 4c, 4d, 4e, 5a and 5b. Its multiply-adds do follow from them for all but the first
      layer (34 M printed, 118 M ours), 5a (54 and 51) and the rounding of 4a (73, 73.6): we go by the sizes. 2.7 K and
      34 M are those of a separable 7x7 with 8 maps an input channel (2,712 weights), which TF-Slim's later
      inception_v2 has; every implementation of this net has the plain convolution of the figure (our reading).
    * Figure 3 names local response normalisation without its numbers. They are those of BVLC's Caffe replication,
      which thanks the first author: size 5, alpha 1e-4, beta 0.75 and Caffe's default k = 1; after the first pooling
      and before the second. Caffe divides alpha by the size, as torch does.
    * Poolings round sizes up as Caffe's do, so that no pixel is lost at even sizes: 112, 56, 28, 14, 7.
    * The auxiliary average pooling (5x5, stride 3) gives 4x4 from 14x14. From another size its result is averaged to
      4x4, so that any image trains; where the map is smaller than 5 it is left out.
    * Dropout of the classifier is ``drop_rate``, 0.4 in the paper; 0.7 before the auxiliary ones is built in.
    * ``googlenet_bn`` is torchvision's net: batch norm of eps 1e-3 after each convolution instead of biases and local
      response normalisation, 3x3 where the paper has 5x5 (a slip that its weights were trained with), a last pooling of
      2x2, auxiliary classifiers on an adaptive 4x4 average. It is not the BN-Inception of Ioffe & Szegedy, which has
      other modules. Its weights expect torchvision's change of the input (``transform_input``), which is none of ours.
    * ``googlenet16_bn_cifar`` is a net of our own: seven of the nine modules (without 4b and 4d) at a quarter of their
      width, with the paper's 5x5. Its name counts layers as the paper does (22 for the published one).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk, check_images
from zoo.entry import Entry, StemSpec, cifar_task
from zoo.layers import (
    Conv,
    DilatedMaxPool,
    Kit,
    Stage,
    concatenate,
    local_norm,
    max_pool_halving,
    sequence,
)
from zoo.layouts.googlenet import LAYOUTS
from zoo.strides import STEMS, Window, halvings, smallest_before

NORMS = ("local", "layer")
COLUMNS = ("ones", "three_reduces", "threes", "five_reduces", "fives", "projections")
AUXILIARY_DROP = 0.7


class AuxiliaryOutputs(NamedTuple):
    """Outputs of a net with auxiliary classifiers in training mode, each (N, num_classes)."""

    logits: Tensor
    aux_a: Tensor
    aux_b: Tensor


@dataclass(frozen=True, kw_only=True)
class GoogLeNetSpec(StemSpec):
    """A stem and three stages of modules, whose widths are the columns of the paper's Table 1.

    Attributes:
        depths: Modules in each of the three stages.
        ones: Channels of each module's 1x1, in the order in which the modules run.
        three_reduces: Channels before each 3x3.
        threes: Channels of each 3x3.
        five_reduces: Channels before each 5x5.
        fives: Channels of each 5x5.
        projections: Channels after each module's pooling.
        stem: ``imagenet`` (7x7 stride 2, pooling, 1x1, 3x3) or ``cifar`` (3x3).
        stem_widths: Channels of the stem's convolutions.
        pools: Windows of the poolings of stride 2, in order.
        five_kernel: Window of the third branch.
        norm: ``local`` (local response normalisation in the stem, biases) or ``layer`` (a norm after each convolution).
        norm_eps: Epsilon of batch norms; other norms keep their own.
        auxiliary: Have two auxiliary classifiers, in stage4.
        auxiliary_widths: Channels of their 1x1 and of their hidden layer.
    """

    depths: tuple[int, ...] = (2, 5, 2)
    ones: tuple[int, ...]
    three_reduces: tuple[int, ...]
    threes: tuple[int, ...]
    five_reduces: tuple[int, ...]
    fives: tuple[int, ...]
    projections: tuple[int, ...]
    stem_widths: tuple[int, ...] = (64, 64, 192)
    pools: tuple[int, ...] = (3, 3, 3, 3)
    five_kernel: int = 5
    norm: str = "local"
    norm_eps: float = 1e-3
    auxiliary: bool = False
    auxiliary_widths: tuple[int, ...] = (128, 1024)

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", *COLUMNS, "stem_widths", "pools", "five_kernel", "auxiliary_widths")
        self.require_choice("stem", STEMS)
        self.require_choice("norm", NORMS)
        self.require(len(self.depths) == 3, "depths", "have three numbers, one a stage")
        for name in COLUMNS:
            self.require(
                len(getattr(self, name)) == sum(self.depths), name, f"have one number a module, {sum(self.depths)}"
            )
        convs, pools = (3, 4) if self.stem == "imagenet" else (1, 2)
        self.require(len(self.stem_widths) == convs, "stem_widths", f"have {convs} numbers for stem {self.stem!r}")
        self.require(len(self.pools) == pools, "pools", f"have {pools} numbers for stem {self.stem!r}")
        self.require(min(self.pools) > 1, "pools", "be at least 2: they halve")
        self.require(self.five_kernel % 2 == 1, "five_kernel", "be odd")
        self.require(self.norm_eps > 0, "norm_eps", "be positive")
        self.require(len(self.auxiliary_widths) == 2, "auxiliary_widths", "have two numbers")
        self.require(not self.auxiliary or self.depths[1] > 2, "auxiliary", "be False with under 3 modules in stage4")

    @property
    def modules(self) -> tuple[tuple[int, ...], ...]:
        """Widths of each module, one row of Table 1 per module."""
        return tuple(zip(*(getattr(self, name) for name in COLUMNS), strict=True))

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total strides of the second part of the stem (ImageNet scale) and of each stage."""
        return halvings(self.finest, 4 if self.stem == "imagenet" else 3)

    def head_size(self, size: int) -> int:
        """Return the size of the head's map. Windows of 3 halve odd sizes downwards (1 over the edge), of 2 upwards."""
        size = -(-size // 2) if self.stem == "imagenet" else size
        for kernel in self.pools:
            size = (size - kernel + 1) // 2 + 1
        return size

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest sizes. A window may reach over the border by a pixel; dilated windows are padded."""
        windows = [Window(kernel=1, stride=2)] if self.stem == "imagenet" else []
        sizes = [1]
        for level, kernel in zip(self.hold(output_stride)[-len(self.pools) :], self.pools, strict=True):
            if level.step > 1:
                windows.append(Window(kernel=kernel - 1, stride=2))
            sizes.append(smallest_before(windows))
        return (*sizes, sizes[-1])

    @property
    def lacks(self) -> dict[str, str]:
        """Unsupported arguments: there is no residual sum, and as published no norm layer."""
        lacks = {
            "drop_path_rate": "it has no residual branch to drop",
            "zero_init_last": "it has no residual unit that could start as the identity",
        }
        if self.norm == "local":
            lacks["norm_layer"] = "it has local response normalisation in its stem and no norm layer"
        return lacks


def _convs(spec: GoogLeNetSpec, kit: Kit, in_chs: int, *convs: Conv) -> nn.Module:
    """Make convolutions, each followed by norm and activation, or, as published, by a bias and an activation."""
    local = spec.norm == "local"
    return sequence(kit, in_chs, ("ca" if local else "cna") * len(convs), [replace(c, bias=local) for c in convs])


def _local_norm() -> nn.Module:
    """Make local response norm as in BVLC's copy: its alpha 1e-4 is divided by the size, that of `local_norm` not."""
    norm = local_norm(1.0)
    norm.alpha = 1e-4
    return norm


class Inception(nn.Module):
    """Module of figure 2 (b): four parallel branches over one map.

    Args:
        spec: Specification that gives the norm and the third window.
        kit: The shared layer types.
        in_chs: Channels of the input.
        widths: A row of Table 1.
        dilation: Dilation of all windows larger than 1x1.
    """

    def __init__(self, spec: GoogLeNetSpec, kit: Kit, in_chs: int, widths: tuple[int, ...], dilation: int) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, project = widths
        self.one = _convs(spec, kit, in_chs, Conv(out_chs=one, kernel=1))
        window = Conv(out_chs=three, kernel=3, dilation=dilation)
        self.three = _convs(spec, kit, in_chs, Conv(out_chs=three_reduce, kernel=1), window)
        window = Conv(out_chs=five, kernel=spec.five_kernel, dilation=dilation)
        self.five = _convs(spec, kit, in_chs, Conv(out_chs=five_reduce, kernel=1), window)
        dilated = dilation > 1
        self.pool = DilatedMaxPool(dilation, 3, centred=True) if dilated else nn.MaxPool2d(3, stride=1, padding=1)
        self.project = _convs(spec, kit, in_chs, Conv(out_chs=project, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches: (N, in_chs, H, W) -> (N, C, H, W)."""
        return concatenate([self.one(x), self.three(x), self.five(x), self.project(self.pool(x))])


@torch.fx.wrap
def _average(x: Tensor, strided: bool) -> Tensor:
    """Average a map to 4x4. It is one node of a traced graph, because it depends on the size."""
    if strided and min(x.shape[2], x.shape[3]) >= 5:
        x = F.avg_pool2d(x, 5, stride=3)
    return F.adaptive_avg_pool2d(x, (4, 4))


class Auxiliary(nn.Module):
    """Classifier on an inner map: average to 4x4, 1x1, a hidden layer, dropout, a linear layer.

    Args:
        spec: Specification that gives the widths, the norm and the averaging.
        kit: The shared layer types.
        in_chs: Channels of the map.
        num_classes: Width of the output.
    """

    def __init__(self, spec: GoogLeNetSpec, kit: Kit, in_chs: int, num_classes: int) -> None:
        super().__init__()
        width, hidden = spec.auxiliary_widths
        place: dict[str, Any] = dict(device=kit.device, dtype=kit.dtype)
        self.strided = spec.norm == "local"
        self.reduce = _convs(spec, kit, in_chs, Conv(out_chs=width, kernel=1))
        self.hidden = nn.Linear(16 * width, hidden, **place)
        self.act = kit.act()
        self.drop = nn.Dropout(AUXILIARY_DROP)
        self.fc = nn.Linear(hidden, num_classes, **place)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from (N, in_chs, H, W)."""
        x = self.reduce(_average(x, self.strided))
        return self.fc(self.drop(self.act(self.hidden(x.flatten(1)))))

    @torch.jit.ignore
    def reset(self, num_classes: int) -> None:
        """Replace the last layer by a new one."""
        weight = self.fc.weight
        self.fc = nn.Linear(self.fc.in_features, num_classes, device=weight.device, dtype=weight.dtype)


class GoogLeNet(Backbone):
    """GoogLeNet: a stem and three stages of modules; in training, with ``spec.auxiliary``, three classifiers."""

    layouts = LAYOUTS

    def build(
        self, spec: GoogLeNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        taps, chs = self._build_stem(spec, kit, in_chans), spec.stem_widths[-1]
        widths, aux_chs = iter(spec.modules), []
        levels = spec.hold(output_stride)[-len(spec.depths) :]
        pools = iter(spec.pools[1:] if spec.stem == "imagenet" else spec.pools)
        for index, (depth, level) in enumerate(zip(spec.depths, levels, strict=True)):
            units: list[nn.Module] = []
            if level.native > spec.finest:
                kernel = next(pools)
                units.append(max_pool_halving(stride=level.step, dilation=level.before, kernel=kernel, ceil=True))
            for i in range(depth):
                row = next(widths)
                units.append(Inception(spec, kit, chs, row, level.dilation))
                chs = row[0] + row[2] + row[4] + row[5]
                if index == 1 and i in (0, depth - 2):
                    aux_chs.append(chs)
            name = f"stage{index + 3}"
            self.add_module(name, Stage(*units))
            taps.append((name, chs, level.stride))
        self.auxiliary = spec.auxiliary and self.num_classes > 0
        if self.auxiliary:
            self.aux_a, self.aux_b = (Auxiliary(spec, kit, inner, self.num_classes) for inner in aux_chs)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = spec.norm_eps
        return Trunk(taps=taps, final=nn.Identity(), num_features=chs)

    def _build_stem(self, spec: GoogLeNetSpec, kit: Kit, in_chans: int) -> list[tuple[str, int, int]]:
        if spec.stem == "cifar":
            self.stem = _convs(spec, kit, in_chans, Conv(out_chs=spec.stem_widths[0], kernel=3))
            return []
        first, middle, last = spec.stem_widths
        self.stem = _convs(spec, kit, in_chans, Conv(out_chs=first, kernel=7, stride=2))
        self.pool1 = max_pool_halving(stride=2, dilation=1, kernel=spec.pools[0], ceil=True)
        if spec.norm == "local":
            self.norm1 = _local_norm()
        self.reduce = _convs(spec, kit, first, Conv(out_chs=middle, kernel=1), Conv(out_chs=last, kernel=3))
        if spec.norm == "local":
            self.norm2 = _local_norm()
        return [("stem", first, 2), ("reduce", last, 4)]

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, in_chans, H, W), or `AuxiliaryOutputs` (see the module)."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript drops a branch on this condition alone
            if self.training and self.auxiliary:
                return self.forward_auxiliary(x)
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_auxiliary(self, x: Tensor) -> AuxiliaryOutputs:
        """Compute logits of the classifier and of those after 4a and after 4d, from images (N, in_chans, H, W)."""
        x, _ = self.forward_trunk(check_images(x, self.smallest[-1]), [], self.last_tap - 2)
        inner: list[Tensor] = []
        x = cast(Stage, self.stage4)(x, inner)
        logits = self.forward_head(self.final(cast(Stage, self.stage5)(x)))
        # The first of the stage is its pooling.
        return AuxiliaryOutputs(logits, self.aux_a(inner[1]), self.aux_b(inner[-2]))

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier and the last layers of auxiliary ones; 0 classes remove those permanently."""
        super().reset_classifier(num_classes, global_pool)
        if self.auxiliary and num_classes:
            self.aux_a.reset(num_classes)
            self.aux_b.reset(num_classes)
        elif self.auxiliary:
            self.auxiliary = False
            del self.aux_a, self.aux_b


SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842"
IOFFE = "Ioffe & Szegedy 2015, arXiv:1502.03167; " + SZEGEDY
NO_TWIN = "No installable implementation of this net: sizes are held against the paper's Table 1 and its counts."
OURS = "A net of our own, by the paper's rules; no published numbers."

TABLE_1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Widths of each module in the order of `COLUMNS`."""


def _net(params: int, paper: str, *, without: tuple[str, ...] = (), divisor: int = 1, **kwargs: Any) -> Entry:
    """Return a row with the table's modules, without some of them, and with their channels divided."""
    rows = [row for name, row in TABLE_1.items() if name not in without]
    columns: dict[str, Any] = {
        name: tuple(n // divisor for n in column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    spec = {key: kwargs.pop(key) for key in tuple(kwargs) if key in GoogLeNetSpec.field_names()}
    return Entry(GoogLeNet, GoogLeNetSpec(**columns, **spec), paper=paper, params=params, **kwargs)


def _test(params: int, paper: str, **spec: Any) -> Entry:
    """Return the row of a net that is small enough for every test."""
    return _net(
        params,
        paper,
        without=("4b", "4d"),
        divisor=8,
        depths=(2, 3, 2),
        stem_widths=(8, 8, 24),
        auxiliary_widths=(8, 16),
        input_size=(3, 64, 64),
        num_classes=10,
        notes=OURS,
        **spec,
    )


BATCH_NORM: dict[str, Any] = dict(norm="layer", five_kernel=3, pools=(3, 3, 3, 2))

MODELS = {
    "googlenet": _net(6_998_552, SZEGEDY, notes=NO_TWIN),
    "googlenet_bn": _net(
        6_624_904,
        IOFFE,
        reference="torchvision:googlenet",
        notes="3x3 where the paper has 5x5. torchvision's weights expect a mean and deviation of 0.5.",
        **BATCH_NORM,
    ),
    "googlenet16_bn_cifar": _net(
        304_206,
        IOFFE,
        without=("4b", "4d"),
        divisor=4,
        depths=(2, 3, 2),
        stem="cifar",
        stem_widths=(32,),
        pools=(3, 3),
        norm="layer",
        lineups=("all",),
        auxiliary_widths=(32, 128),
        notes=OURS,
        **cifar_task(),
    ),
    "googlenet_test": _test(79_683, SZEGEDY),
    "googlenet_bn_test": _test(75_368, IOFFE, **BATCH_NORM),
}
