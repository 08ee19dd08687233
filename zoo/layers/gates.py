"""Gates: factors on a map, either computed from the map or drawn at random."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit


class SqueezeGate(nn.Module):
    """Squeeze and excite: one factor in (0, 1) per channel, from the global average (Hu et al. 2018, arXiv:1709.01507).

    Returns the gate, not the product; the net decides how to use it.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the input map.
        squeeze_chs: Channels between the two 1x1 convolutions.
        out_chs: Number of factors.
    """

    def __init__(self, kit: Kit, in_chs: int, squeeze_chs: int, out_chs: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = kit.conv(in_chs, Conv(out_chs=squeeze_chs, kernel=1, bias=True))
        self.act = kit.act()
        self.excite = kit.conv(squeeze_chs, Conv(out_chs=out_chs, kernel=1, bias=True))
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gate: (N, in_chs, H, W) -> (N, out_chs, 1, 1)."""
        return self.gate(self.excite(self.act(self.squeeze(self.pool(x)))))


class KeepAll(nn.Module):
    """Keep or zero the map of the whole batch at random in training; scale it by ``keep`` in evaluation.

    One draw serves all images. A kept map is not scaled up, so the expectation is ``keep`` times the map, which is what
    evaluation returns. Torch's own ``TotalDropout`` (Lua) returns the map unscaled in evaluation.

    Args:
        keep: Probability of keeping the map.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep
        # A layer of torch's own, so that a traced graph still follows train() and eval(). It divides what it keeps by
        # the probability of keeping it.
        self.draw = nn.Dropout(1 - keep)

    def forward(self, x: Tensor) -> Tensor:
        """Keep or zero the map: (N, C, H, W) -> the same shape."""
        return x * (self.keep * self.draw(x.new_ones((1, 1, 1, 1))))

    def plain(self) -> nn.Module:
        """Make the equal module for evaluation."""
        return Scale(self.keep)

    def extra_repr(self) -> str:
        """Return the probability of keeping the map, as text."""
        return f"{self.keep:g}"


class DropPath(nn.Module):
    """Drop the map of a sample at random in training; scale up the maps that are kept.

    Stochastic depth (Huang et al. 2016, arXiv:1603.09382), equal to timm's layer of the same name.

    Args:
        drop_prob: Probability of dropping.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        # A layer of torch's own, so that a traced graph still follows train() and eval().
        self.draw = nn.Dropout(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Drop maps of samples: (N, C, H, W) -> the same shape."""
        return x * self.draw(x.new_ones((x.shape[0], 1, 1, 1)))

    def plain(self) -> nn.Module:
        """Make the equal module for evaluation."""
        return nn.Identity()

    def extra_repr(self) -> str:
        """Return the probability of dropping, as text."""
        return f"{self.drop_prob:g}"


class Scale(nn.Module):
    """Multiply a map by a constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Scale the map: (N, C, H, W) -> the same shape."""
        return x * self.factor

    def extra_repr(self) -> str:
        """Return the factor as text."""
        return f"{self.factor:g}"


class LocalNorm(nn.LocalResponseNorm):
    """Local response norm as a sum of shifted maps: torch's own pools in 3-D and fails on the CPU in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the map: (N, C, H, W) -> the same shape."""
        before, chs = self.size // 2, x.shape[1]
        squares = F.pad(x * x, (0, 0, 0, 0, before, self.size - 1 - before))
        total = squares[:, :chs]
        for i in range(1, self.size):
            total = total + squares[:, i : i + chs]
        return x / (self.k + self.alpha / self.size * total) ** self.beta


def local_norm(k: float) -> nn.LocalResponseNorm:
    """Make local response normalisation over 5 channels: each value is divided by (k + 1e-4 * sum of squares) ** 0.75.

    Krizhevsky et al. 2012, section 3.3, where k is 2. Torch divides alpha by the number of channels; alpha is 5e-4 here
    to give the paper's 1e-4.
    """
    return LocalNorm(5, alpha=5e-4, beta=0.75, k=k)
