"""Make convolutions, norms and activations, and chain them by a word such as ``"cnacn"``."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from zoo.layer_types import LayerType, make_act, make_norm
from zoo.layers.convs import BandConv2d, DeformConv2d
from zoo.layers.stage import Chain


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One convolution without its input channels, which come from the map that it is applied to."""

    out_chs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = False
    padding: int | None = None
    """Pixels on each side. None: the map keeps its size at stride 1."""
    deform: bool = False
    """True for a deformable convolution (`DeformConv2d`)."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """Settings that all layers of a net share: norm, activation, device and dtype.

    Attributes:
        norm_layer: A name of ``zoo.layer_types.NORMS``, or a callable ``(channels) -> module``.
        act_layer: A name of ``zoo.layer_types.ACTS``, a callable ``() -> module``, or a function of a map.
        device: Device of the parameters; None for torch's current default.
        dtype: Type of the parameters; None for torch's current default.
    """

    norm_layer: LayerType = "batchnorm2d"
    act_layer: LayerType = "relu"
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def conv(self, in_chs: int, conv: Conv) -> nn.Conv2d:
        """Make a convolution. The default padding is dilation * (kernel - 1) / 2 on each side.

        Raises:
            ValueError: If the kernel is even and no padding is given, or the groups do not divide the channels.
        """
        if conv.kernel % 2 == 0 and conv.padding is None:
            raise ValueError(f"kernel ({conv.kernel}) must be odd, so that padding can be symmetric")
        if in_chs % conv.groups or conv.out_chs % conv.groups:
            raise ValueError(f"groups ({conv.groups}) must divide in_chs ({in_chs}) and out_chs ({conv.out_chs})")
        return (DeformConv2d if conv.deform else nn.Conv2d)(
            in_chs,
            conv.out_chs,
            conv.kernel,
            stride=conv.stride,
            padding=conv.dilation * (conv.kernel - 1) // 2 if conv.padding is None else conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias,
            device=self.device,
            dtype=self.dtype,
        )

    def band(self, in_chs: int, conv: Conv) -> BandConv2d:
        """Make a 3x3 convolution in which an output channel reads only the neighbouring input channels."""
        kind = dict(stride=conv.stride, dilation=conv.dilation)
        return BandConv2d(in_chs, conv.out_chs, bias=conv.bias, **kind, device=self.device, dtype=self.dtype)

    def norm(self, chs: int) -> nn.Module:
        """Make a norm of ``chs`` channels."""
        return self._placed(make_norm(self.norm_layer, chs))

    def act(self) -> nn.Module:
        """Make an activation. It is never in place, because hooks may keep the outputs of layers."""
        return self._placed(make_act(self.act_layer))

    def _placed(self, layer: nn.Module) -> nn.Module:
        # Moved instead of made there: few constructors take a device and a dtype.
        return layer if self.device is None and self.dtype is None else layer.to(device=self.device, dtype=self.dtype)


def sequence(kit: Kit, in_chs: int, ops: str, convs: Sequence[Conv] = ()) -> nn.Module:
    """Chain layers by a word: c = next convolution, n = norm, a = activation. Blanks are ignored.

    Children are named conv1, norm1, act1, conv2, ...; each letter has its own count. The empty word is the identity.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the input map.
        ops: The word, for example ``"cna cna"``.
        convs: One convolution for each c of the word.

    Raises:
        ValueError: If the word has another letter, or its number of c's differs from the number of convolutions.
    """
    ops = ops.replace(" ", "")
    if ops.strip("cna") or ops.count("c") != len(convs):
        raise ValueError(f"ops ({ops!r}) must consist of c, n and a, with one c for each of {len(convs)} convolutions")
    if not ops:
        return nn.Identity()
    layers: dict[str, nn.Module] = {}
    chs, done = in_chs, ""
    for op in ops:
        index = done.count(op)
        if op == "c":
            layers[f"conv{index + 1}"] = kit.conv(chs, convs[index])
            chs = convs[index].out_chs
        elif op == "n":
            layers[f"norm{index + 1}"] = kit.norm(chs)
        else:
            layers[f"act{index + 1}"] = kit.act()
        done += op
    return Chain(layers)


def named(**layers: nn.Module) -> Chain:
    """Chain layers under the given names."""
    return Chain(layers)
