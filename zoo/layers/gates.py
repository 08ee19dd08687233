"""Gates: maps of factors computed from the map itself."""

from torch import Tensor, nn

from zoo.layers.kit import Conv, Kit


class SqueezeGate(nn.Module):
    """Squeeze and excite: one factor in (0, 1) a channel, from the global average (Hu et al. 2018, arXiv:1709.01507).

    Returns the gate, not the product, so that a net decides what to do with it.

    Args:
        kit: The shared layer types.
        in_chs: Channels of the map that is looked at.
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
        """(N, in_chs, H, W) -> (N, out_chs, 1, 1)."""
        return self.gate(self.excite(self.act(self.squeeze(self.pool(x)))))
