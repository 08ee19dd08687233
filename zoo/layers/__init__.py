"""The closed vocabulary of units that every network is made of.

Units get resolved channel counts, strides and dilations; they know no family, no stage and no depth.
"""

from zoo.layers.gates import SqueezeGate
from zoo.layers.kit import Conv, Kit, LayerType, sequence
from zoo.layers.residual import ORDERS, Order, Residual, basic, bottleneck
from zoo.layers.sampling import ChannelSum, DilatedMaxPool, PadShortcut, max_pool_halving, upsample_like
from zoo.layers.stage import Stage

__all__ = [
    "ORDERS",
    "ChannelSum",
    "Conv",
    "DilatedMaxPool",
    "Kit",
    "LayerType",
    "Order",
    "PadShortcut",
    "Residual",
    "SqueezeGate",
    "Stage",
    "basic",
    "bottleneck",
    "max_pool_halving",
    "sequence",
    "upsample_like",
]
