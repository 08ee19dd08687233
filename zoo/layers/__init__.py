"""The closed vocabulary of units that every network is made of.

Units get resolved channel counts, strides and dilations; they know no family, no stage and no depth.
"""

from zoo.layer_types import LayerType
from zoo.layers.checkpointing import run_checkpointed
from zoo.layers.convs import BandConv2d, DeformConv2d, OffsetConv
from zoo.layers.gates import DropPath, KeepAll, Scale, SqueezeGate, local_norm
from zoo.layers.head import ScoreHead, Scores, Wide, WideHead
from zoo.layers.kit import Conv, Kit, named, sequence
from zoo.layers.residual import ORDERS, Order, Residual, basic, bottleneck
from zoo.layers.sampling import (
    UPS,
    ChannelSum,
    DilatedAvgPool,
    DilatedMaxPool,
    PadShortcut,
    Resize,
    avg_pool_halving,
    max_pool_halving,
    upsample_like,
)
from zoo.layers.stage import Chain, Concat, Skippable, Stage, Sum, concatenate, write_behind

__all__ = [
    "ORDERS",
    "UPS",
    "BandConv2d",
    "Chain",
    "ChannelSum",
    "Concat",
    "Conv",
    "DeformConv2d",
    "DilatedAvgPool",
    "DilatedMaxPool",
    "DropPath",
    "KeepAll",
    "Kit",
    "LayerType",
    "OffsetConv",
    "Order",
    "PadShortcut",
    "Residual",
    "Resize",
    "Scale",
    "ScoreHead",
    "Scores",
    "Skippable",
    "SqueezeGate",
    "Stage",
    "Sum",
    "Wide",
    "WideHead",
    "avg_pool_halving",
    "basic",
    "bottleneck",
    "concatenate",
    "local_norm",
    "max_pool_halving",
    "named",
    "run_checkpointed",
    "sequence",
    "upsample_like",
    "write_behind",
]
