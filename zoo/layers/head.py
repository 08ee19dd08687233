"""Wide layers between the features and the classifier, as in older nets."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit


@dataclass(frozen=True, kw_only=True)
class Wide:
    """Channels of each wide layer; kernel size and dilation of the first (above 1 if strides were traded for it)."""

    widths: tuple[int, ...]
    kernel: int
    dilation: int = 1


class WideHead(nn.Module):
    """Fully connected layers as convolutions (k x k, then 1x1), each with an activation; takes any input size.

    On a map of the paper's training size the result equals that of the linear layers. A larger map gives one vector for
    each position of the window. A smaller map is pooled to the size of the window first.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the features.
        wide: The layers.
        drop_rate: Dropout between two layers. Dropout before the classifier is part of the classifier.

    Attributes:
        out_chs: Channels of the result; ``in_chs`` while the layers are removed.
        same: Pad the input so that the result is as large as the features (for scores at every position).
    """

    def __init__(self, kit: Kit, in_chs: int, wide: Wide, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.kit = kit
        self.in_chs = in_chs
        self.wide = wide
        self.drop_rate = drop_rate
        self.reach = wide.dilation * (wide.kernel - 1)
        self.same = False
        self.layers = nn.Sequential()
        self.out_chs = in_chs

    def reset(self, active: bool, **place: Any) -> None:
        """Remove the layers, or draw new ones if there are none; ``place`` is a device and a dtype."""
        if active and not len(self.layers):
            self.layers = self._build(replace(self.kit, **place))
        elif not active:
            self.layers = nn.Sequential()
        self.out_chs = self.wide.widths[-1] if active else self.in_chs

    def _build(self, kit: Kit) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        chs, kernel, dilation = self.in_chs, self.wide.kernel, self.wide.dilation
        for i, width in enumerate(self.wide.widths, 1):
            if i > 1:
                layers[f"drop{i - 1}"] = nn.Dropout(self.drop_rate)
            conv = Conv(out_chs=width, kernel=kernel, dilation=dilation, padding=0, bias=True)
            layers[f"conv{i}"] = kit.conv(chs, conv)
            layers[f"act{i}"] = kit.act()
            chs, kernel, dilation = width, 1, 1
        return nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the wide layers: (N, in_chs, H, W) -> (N, out_chs, H', W')."""
        if len(self.layers) == 0:
            return x
        if self.same:
            before = self.reach // 2
            x = F.pad(x, (before, self.reach - before, before, self.reach - before))
        else:
            x = _at_least(x, self.reach + 1)
        return self.layers(x)


@torch.fx.wrap
def _at_least(x: Tensor, size: int) -> Tensor:
    # One node of a traced graph, which cannot compare sizes.
    if x.shape[2] < size or x.shape[3] < size:
        x = F.adaptive_avg_pool2d(x, (max(x.shape[2], size), max(x.shape[3], size)))
    return x
