"""DenseNet: every layer reads the maps of all earlier layers in its block, and adds a few of its own.

Papers:
    Huang, Liu, van der Maaten, Weinberger 2017, Densely Connected Convolutional Networks, CVPR, arXiv:1608.06993.
    Pleiss, Chen, Huang, Li, van der Maaten, Weinberger 2017, Memory-Efficient Implementation of DenseNets,
    arXiv:1707.06990.

Resolutions (the number in brackets is the total stride of a tap; t is a transition: a 1x1 convolution that keeps a
share of the channels, and 2x2 average pooling)::

    224 px                                               32 px
    image 224 --stem 7x7/2--> 112 [2] --max-pool/2-->    image 32 --stem 3x3--> 32
    stage1 56 [4] -t-> stage2 28 [8] -t->                stage1 32 [1] -t-> stage2 16 [2] -t-> stage3 8 [4]
    stage3 14 [16] -t-> stage4 7 [32]

A tap is the whole output of a block, before the transition takes from it. In a block of l layers with growth rate k
that meets c channels, layer i reads c + i k channels and returns k; the block returns c + l k. A layer is norm,
activation, 3x3 convolution; with a bottleneck (the B of DenseNet-BC) a 1x1 of 4 k channels precedes it. Compression
(the C) means that a transition keeps half of the channels.

What differs from the papers, and why:
    * Memory: `set_grad_checkpointing` recomputes whole layers in the backward pass, and stores only the k maps of each.
      The second paper recomputes concatenations, norms and activations, and keeps the results of all convolutions;
      recomputing these, too, costs more time and keeps k instead of 5 k maps a layer (our choice).
    * Non-BC nets start with 16 channels (section 3, implementation details), BC nets with 2 k. The authors' released
      code starts with 2 k always. With 16 the counts of ``densenet40_k12_cifar``, ``densenet100_k12_cifar`` and
      ``densenet100_k24_cifar`` are the 1.0, 7.0 and 27.2 M of the paper's table 2. pytorchcv's nets of the same names
      are others: they compress and start with 2 k.
    * ``densenet264`` stands in table 1 of the paper. A count of 31.79 M was printed, which is 33,337,704 / 2^20. The
      authors' README links Torch weights of 256 MB, for which there is no tag here.
    * ``densenet40_k12_bc_cifar`` is by the paper's rules but not in the paper; pytorchcv has it. ``densenet_test`` is
      ours.
    * ``output_stride``: the pooling of a transition becomes a dilated one of stride 1, and the 3x3s behind it dilate.
      At every n-th position the maps are those of the native net, away from the border.
    * ``drop_path_rate`` drops the new maps of a layer; dropout inside of layers, which the paper uses on CIFAR without
      augmentation, is left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.backbone import Backbone, Trunk, drop_path_rates
from zoo.entry import Entry, StemSpec, cifar_task
from zoo.layers import (
    Concat,
    Conv,
    DropPath,
    Kit,
    Stage,
    avg_pool_halving,
    concatenate,
    run_checkpointed,
    sequence,
    write_behind,
)
from zoo.layouts.densenet import LAYOUTS
from zoo.strides import STEMS, halvings

torch.fx.wrap("write_behind")
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has but the latter


@dataclass(frozen=True, kw_only=True)
class DenseNetSpec(StemSpec):
    """A densely connected net.

    Attributes:
        depths: Layers in each dense block.
        growth_rate: Channels that each layer adds (k).
        stem_width: Channels of the stem.
        compression: Share of the channels that a transition keeps, rounded down (theta).
        bottleneck: Channels of the 1x1 before each 3x3, in growth rates; 0 for no 1x1.
        stem: ``imagenet`` (7x7 stride 2, norm, activation, max-pooling) or ``cifar`` (3x3).
    """

    depths: tuple[int, ...]
    growth_rate: int
    stem_width: int
    compression: float = 0.5
    bottleneck: int = 4

    def check(self) -> None:
        """Raise ValueError, naming field and value, if the numbers do not make a net."""
        self.require_positive("depths", "growth_rate", "stem_width")
        self.require_choice("stem", STEMS)
        self.require(self.bottleneck >= 0, "bottleneck", "not be negative; 0 means none")
        self.require(0 < self.compression <= 1, "compression", "lie above 0 and not above 1")
        self.require(min(self.widths) > 0, "compression", f"leave channels at every transition, not {self.widths}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Input channels of each block."""
        widths = [self.stem_width]
        for depth in self.depths[:-1]:
            widths.append(math.floor((widths[-1] + depth * self.growth_rate) * self.compression))
        return tuple(widths)

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total stride of each block."""
        return halvings(self.finest, len(self.depths))

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the smallest sizes (`Spec.smallest`). Transitions halve odd sizes downwards, the stem upwards."""
        sizes = tuple(max(1, stride - self.finest + 1) for stride in self.held(output_stride))
        return (*sizes, sizes[-1])

    def head_size(self, size: int) -> int:
        """Return the size of the head's map. Transitions halve an odd size downwards, the stem upwards."""
        return -(-size // self.finest) // (self.head_stride // self.finest)

    @property
    def lacks(self) -> Mapping[str, str]:
        """Unsupported arguments: no layer can start as the identity."""
        return {"zero_init_last": "its layers concatenate, so that there is no branch whose sum could vanish"}


class DenseLayer(nn.Module):
    """Compute new maps from all earlier maps: drop_path(branch(concatenation))."""

    def __init__(self, spec: DenseNetSpec, kit: Kit, in_chs: int, dilation: int, drop_path: float) -> None:
        super().__init__()
        convs = [Conv(out_chs=spec.growth_rate, kernel=3, dilation=dilation)]
        if spec.bottleneck:
            convs.insert(0, Conv(out_chs=spec.bottleneck * spec.growth_rate, kernel=1))
        self.concat = Concat()
        self.branch = sequence(kit, in_chs, "nac" * len(convs), convs)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Compute (N, growth_rate, H, W) from a list of maps (N, C_i, H, W)."""
        return self.drop_path(self.branch(self.concat(maps)))


class DenseStage(Stage):
    """A dense block. With ``grad_checkpointing`` a layer stores only its new maps, and no concatenation.

    Attributes:
        reserved: In copies for inference: channels of all new maps, to be written behind the input into one buffer.
    """

    reserved: int

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.reserved = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state; a net that was pickled before there were buffers has none."""
        super().__setstate__({"reserved": 0} | state)

    @torch.jit.ignore
    def reserve(self) -> bool:
        """Use one buffer from now on; return False if the layers do not tell how many channels they add.

        False also if the first operation of a layer is no norm: an activation could overwrite the buffer that it reads.
        """
        lasts = [list(layer.get_submodule("branch").children())[-1:] for layer in self]
        chs = [last.out_channels for found in lasts for last in found if isinstance(last, nn.Conv2d)]
        firsts = [child for layer in self for child in list(layer.get_submodule("branch").children())[:1]]
        normed = all(not isinstance(first, nn.Identity) for first in firsts)
        self.reserved = sum(chs) if normed and len(chs) == len(self) else 0
        for module in self.modules():
            if isinstance(module, Concat):
                module.passing = self.reserved > 0
        return self.reserved > 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the input followed by the new maps: (N, C, H, W) -> (N, C + layers * growth_rate, H, W)."""
        reserved = self.reserved
        if not torch.jit.is_scripting():
            if is_exporting() or torch.onnx.is_in_onnx_export():
                reserved = 0  # other runtimes concatenate better than they write into slices
            elif not isinstance(x, torch.fx.Proxy) and x.requires_grad and torch.is_grad_enabled():
                reserved = 0  # a backward pass needs the maps as they were read, and the buffer changes
        if reserved > 0:
            chs = x.shape[1]
            buffer = F.pad(x, [0, 0, 0, 0, 0, reserved])
            for layer in self:
                new = layer([buffer.narrow(1, 0, chs)])
                buffer = write_behind(buffer, new, chs)
                chs = chs + new.shape[1]  # not in place: a tracer warns of sizes that are changed in place
            return buffer
        maps = [x]
        for layer in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                new = run_checkpointed(layer, maps)
            else:
                new = layer(maps)
            maps = maps + [new]  # noqa: RUF005 - a new list, for a checkpoint keeps the old one; TorchScript has no star
        return concatenate(maps)


class DenseNet(Backbone):
    """DenseNet: a stem and dense blocks, with transitions between them that halve the resolution."""

    layouts = LAYOUTS

    def build(
        self, spec: DenseNetSpec, kit: Kit, *, in_chans: int, output_stride: int | None, drop_path_rate: float
    ) -> Trunk:
        """See `Backbone.build`."""
        conv_stride, _ = STEMS[spec.stem]
        stem = Conv(out_chs=spec.stem_width, kernel=7 if spec.stem == "imagenet" else 3, stride=conv_stride)
        # Layers bring the norm and activation of their input; before a pooling the stem has its own.
        self.stem = sequence(kit, in_chans, "cna" if spec.stem == "imagenet" else "c", [stem])
        taps = []
        if spec.stem == "imagenet":
            self.pool = nn.MaxPool2d(3, stride=2, padding=1)
            taps.append(("stem", spec.stem_width, conv_stride))

        rates = iter(drop_path_rates(drop_path_rate, sum(spec.depths)))
        chs = 0
        stages = zip(spec.depths, spec.widths, spec.hold(output_stride), strict=True)
        for index, (depth, width, level) in enumerate(stages):
            if index > 0:
                transition = sequence(kit, chs, "nac", [Conv(out_chs=width, kernel=1)])
                transition.add_module("pool", avg_pool_halving(stride=level.step, dilation=level.before))
                self.add_module(f"transition{index}", transition)
            inputs = [width + i * spec.growth_rate for i in range(depth)]
            name = f"stage{index + 1}"
            layers = [DenseLayer(spec, kit, inner, level.dilation, next(rates)) for inner in inputs]
            self.add_module(name, DenseStage(*layers))
            chs = width + depth * spec.growth_rate
            taps.append((name, chs, level.stride))

        return Trunk(taps=taps, final=sequence(kit, chs, "na"), num_features=chs)


HUANG = "Huang et al. 2017, arXiv:1608.06993"
NO_TWIN = (
    "No installable implementation of this net: pytorchcv's of the same name compresses and starts with 2 k channels."
    " The count is the paper's."
)

IMAGENET = {
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}
"""Layers per block, by depth (Huang et al. 2017, table 1; 161: the authors' released code)."""


def _imagenet(depth: int, params: int, *, growth_rate: int = 32, reference: str = "timm", notes: str = "") -> Entry:
    """Return the row of a DenseNet-BC for 224 px."""
    return Entry(
        DenseNet,
        DenseNetSpec(depths=IMAGENET[depth], growth_rate=growth_rate, stem_width=2 * growth_rate),
        paper=HUANG,
        params=params,
        reference=reference,
        notes=notes,
    )


def _cifar(depth: int, growth_rate: int, params: int, *, per_layer: int = 1, **kwargs: Any) -> Entry:
    """Return the row of a 32 px net: ``depth`` layers, four of them outside blocks, ``per_layer`` per dense layer."""
    layers, rest = divmod(depth - 4, 3 * per_layer)
    assert not rest, f"{depth} layers do not make three equal blocks"
    compact = per_layer == 2
    return Entry(
        DenseNet,
        DenseNetSpec(
            depths=(layers,) * 3,
            growth_rate=growth_rate,
            stem_width=2 * growth_rate if compact else 16,
            compression=0.5 if compact else 1.0,
            bottleneck=4 if compact else 0,
            stem="cifar",
        ),
        paper=HUANG,
        params=params,
        notes=kwargs.pop("notes", "" if compact else NO_TWIN),
        **kwargs,
        **cifar_task(),
    )


def _compact(depth: int, growth_rate: int, params: int, **kwargs: Any) -> Entry:
    """Return the row of a CIFAR net in BC form: two convolutions per layer; transitions keep half of the channels."""
    reference = f"pytorchcv:densenet{depth}_k{growth_rate}_bc_cifar10"
    return _cifar(depth, growth_rate, params, per_layer=2, reference=reference, **kwargs)


OURS = "A net of our own, by the paper's rules; no published numbers."

MODELS = {
    # ImageNet scale
    "densenet121": _imagenet(121, 7_978_856),
    "densenet161": _imagenet(161, 28_681_000, growth_rate=48),
    "densenet169": _imagenet(169, 14_149_480),
    "densenet201": _imagenet(201, 20_013_928),
    "densenet264": _imagenet(
        264,
        33_337_704,
        reference="",
        notes="In the paper's table 1. The authors' weights are a Torch file, which no tag is for. timm's densenet264d "
        "has another stem.",
    ),
    # CIFAR scale
    "densenet40_k12_cifar": _cifar(40, 12, 1_019_722),
    "densenet100_k12_cifar": _cifar(100, 12, 6_979_642),
    "densenet100_k24_cifar": _cifar(100, 24, 27_249_082),
    "densenet40_k12_bc_cifar": _compact(40, 12, 176_122, notes="Not in the paper; by its rules.", lineups=("all",)),
    "densenet100_k12_bc_cifar": _compact(100, 12, 769_162),
    "densenet190_k40_bc_cifar": _compact(190, 40, 25_624_430),
    "densenet250_k24_bc_cifar": _compact(250, 24, 15_324_406),
    # A tiny net for tests
    "densenet_test": Entry(
        DenseNet,
        DenseNetSpec(depths=(2, 3, 3, 2), growth_rate=8, stem_width=16),
        paper=HUANG,
        params=37_474,
        input_size=(3, 64, 64),
        num_classes=10,
        notes=OURS,
    ),
}
