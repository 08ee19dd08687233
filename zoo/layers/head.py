"""Layers between features and scores where there are more than one linear layer.

Older nets have wide layers before their classifier; nets that score every position may do so by windows.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch.fx
import torch.nn.functional as F
from timm.layers import ClassifierHead
from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit, sequence
from zoo.layers.stage import Chain


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

    def _build(self, kit: Kit) -> Chain:
        layers: dict[str, nn.Module] = {}
        chs, kernel, dilation = self.in_chs, self.wide.kernel, self.wide.dilation
        for i, width in enumerate(self.wide.widths, 1):
            if i > 1:
                layers[f"drop{i - 1}"] = nn.Dropout(self.drop_rate)
            conv = Conv(out_chs=width, kernel=kernel, dilation=dilation, padding=0, bias=True)
            layers[f"conv{i}"] = kit.conv(chs, conv)
            layers[f"act{i}"] = kit.act()
            chs, kernel, dilation = width, 1, 1
        return Chain(layers)

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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Two convolutions that score every position, with an activation between them.

    Attributes:
        hidden: Channels between them; 0 for as many as there are classes.
        kernel: Kernel size of both.
        dilation: Dilation of both.
        norm: A norm follows either of them.
    """

    hidden: int
    kernel: int = 3
    dilation: int = 1
    norm: bool = False


class ScoreHead(ClassifierHead):
    """timm's classifier, but scores at every position come from `Scores`. With a pooling it is timm's linear layer.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the features.
        scores: The convolutions.
        drop_rate: Dropout before the last layer.
    """

    def __init__(self, kit: Kit, in_chs: int, scores: Scores, drop_rate: float = 0.0) -> None:
        super().__init__(in_chs, 0, "", drop_rate, use_conv=True)
        self.kit, self.scores = kit, scores
        fc, flatten = self.fc, self.flatten
        del self.fc, self.flatten  # to have the children in the order in which they run
        self.hidden, self.fc, self.norm, self.flatten = nn.Identity(), fc, nn.Identity(), flatten

    def reset(self, num_classes: int, pool_type: str | None = None, *args: Any, **given: Any) -> None:
        """Replace the last layer, and add or remove what only scores at every position need; as timm's."""
        super().reset(num_classes, pool_type, *args, **given)
        place = {key: given[key] for key in ("device", "dtype") if key in given}
        kit, scores = replace(self.kit, **place), self.scores
        self.hidden, self.norm = nn.Identity(), nn.Identity()
        if num_classes and not self.global_pool.pool_type:
            conv = Conv(out_chs=scores.hidden or num_classes, kernel=scores.kernel, dilation=scores.dilation, bias=True)
            self.hidden = sequence(kit, self.in_features, "cna" if scores.norm else "ca", [conv])
            self.fc = kit.conv(conv.out_chs, replace(conv, out_chs=num_classes))
            self.norm = kit.norm(num_classes) if scores.norm else nn.Identity()
            self.num_features = conv.out_chs
            self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute scores from (N, in_chs, H, W): (N, num_classes, H, W), or (N, num_classes) with a pooling."""
        x = self.drop(self.hidden(self.global_pool(x)))
        if pre_logits:
            return self.flatten(x)
        return self.flatten(self.norm(self.fc(x)))
