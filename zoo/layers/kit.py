"""How convolutions, norms and activations are made, and strung together from a word such as ``"cnacn"``."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from zoo.layer_types import LayerType, make_act, make_norm
from zoo.layers.convs import BandConv2d, DeformConv2d


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One convolution, fully resolved; its input width is that of the map it meets."""

    out_chs: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = False
    padding: int | None = None
    """On each side; None keeps the map's size at stride 1."""
    deform: bool = False
    """Whether its taps move (`DeformConv2d`)."""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What all layers of a net have in common: norm and activation type, device and dtype.

    Attributes:
        norm_layer: A name of ``zoo.layer_types.NORMS``, or a callable ``(channels) -> module``.
        act_layer: A name of ``zoo.layer_types.ACTS``, a callable ``() -> module``, or a function of a map.
        device: Where parameters live; None is torch's current default.
        dtype: Type of the parameters; None is torch's current default.
    """

    norm_layer: LayerType = "batchnorm2d"
    act_layer: LayerType = "relu"
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def conv(self, in_chs: int, conv: Conv) -> nn.Conv2d:
        """Make a convolution; without a padding of its own it gets dilation * (kernel - 1) / 2 on each side.

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
        """Make a 3x3 in which an output channel sees neighbouring input channels alone."""
        kind = dict(stride=conv.stride, dilation=conv.dilation)
        return BandConv2d(in_chs, conv.out_chs, bias=conv.bias, **kind, device=self.device, dtype=self.dtype)

    def norm(self, chs: int) -> nn.Module:
        """Make a normalisation of ``chs`` channels."""
        return self._placed(make_norm(self.norm_layer, chs))

    def act(self) -> nn.Module:
        """Make an activation; never in place, for what a layer returns belongs to whoever hooks into it."""
        return self._placed(make_act(self.act_layer))

    def _placed(self, layer: nn.Module) -> nn.Module:
        # Moved instead of made there: few constructors take a device and a dtype.
        return layer if self.device is None and self.dtype is None else layer.to(device=self.device, dtype=self.dtype)


def sequence(kit: Kit, in_chs: int, ops: str, convs: Sequence[Conv] = ()) -> nn.Module:
    """String layers together: c = the next convolution, n = norm, a = activation; blanks are ignored.

    Children are called conv1, norm1, act1, conv2, ... each letter counted on its own. The empty word is the identity.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the input map.
        ops: The word, for example ``"cna cna"``.
        convs: One convolution for each c.

    Raises:
        ValueError: If the word holds another letter or its c's and the convolutions do not match in number.
    """
    ops = ops.replace(" ", "")
    if ops.strip("cna") or ops.count("c") != len(convs):
        raise ValueError(f"ops ({ops!r}) must consist of c, n and a, with one c for each of {len(convs)} convolutions")
    if not ops:
        return nn.Identity()
    layers: OrderedDict[str, nn.Module] = OrderedDict()
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
    return nn.Sequential(layers)


def named(**layers: nn.Module) -> nn.Sequential:
    """String layers together under names of their own."""
    return nn.Sequential(OrderedDict(layers))
