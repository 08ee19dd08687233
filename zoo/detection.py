"""Feature pyramids over the taps of any net, for torchvision's detectors.

torchvision's own `BackboneWithFPN` splits a net into children that pass one tensor on. Fish and fabrics pass several,
and nets of other packages have their taps deeper inside. Here the net stays whole and returns its taps.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from zoo import arguments
from zoo.backbone import Backbone
from zoo.features import FeatureGetter
from zoo.registry import create_model, model_entry

STRIDES = (4, 8, 16, 32)
"""Total strides of the maps of a feature pyramid (Lin et al. 2017, arXiv:1612.03144)."""
WIDEST = 4096
"""Largest number of channels of a pyramid. Its convolutions have nine times the square of this number of weights."""
EXTRA_BLOCKS = ("pool", "p6p7", "none")


class PyramidBackbone(nn.Module):
    """Taps of a net with a feature pyramid over them: a backbone for torchvision's detectors.

    Args:
        body: Images -> list of maps.
        take: Positions in the list of the maps for the pyramid, finest first.
        fpn: The pyramid.
        out_channels: Channels of each map of the pyramid.
        strides: Total stride of each map that the body feeds into it.

    Attributes:
        out_channels: As given; the detectors read it.
        strides: As given. Coarser maps of the extra blocks come after them.
    """

    def __init__(
        self,
        body: nn.Module,
        take: Sequence[int],
        fpn: FeaturePyramidNetwork,
        out_channels: int,
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.take = list(take)
        self.out_channels = out_channels
        self.strides = list(strides)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute maps (N, out_channels, H / stride, W / stride) from images (N, C, H, W); ``"0"`` is the finest."""
        taps = self.body(x)
        # What a wrapper of forward_intermediates returns is a union of types to TorchScript.
        assert torch.jit.isinstance(taps, list[Tensor])
        maps: dict[str, Tensor] = {}
        for level, tap in enumerate(self.take):
            maps[str(level)] = taps[tap]
        return self.fpn(maps)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the body's units in the backward pass instead of storing their maps."""
        self.body.set_grad_checkpointing(enable)  # ty: ignore[not-callable]


def detection_backbone(
    net: str | nn.Module,
    out_channels: int = 256,
    *,
    strides: Sequence[int] | None = None,
    trainable_stages: int | None = None,
    freeze_norms: bool = False,
    extra_blocks: str | ExtraFPNBlock = "pool",
    fpn_norm: Callable[..., nn.Module] | None = None,
    **overrides: Any,
) -> PyramidBackbone:
    """Make a backbone for torchvision's Faster R-CNN, Mask R-CNN, RetinaNet and FCOS.

    >>> from torchvision.models.detection import FasterRCNN
    >>> detector = FasterRCNN(zoo.detection_backbone("fishnet99"), num_classes=91)

    The detectors' default anchors expect five maps. Four taps and ``extra_blocks="pool"`` make five (the R-CNNs); so do
    ``strides=(8, 16, 32)`` and ``extra_blocks="p6p7"`` (RetinaNet, FCOS). A net with fewer taps, or one with
    ``output_stride``, needs an anchor generator of its own.

    Args:
        net: A name for `zoo.create_model`; a net of the zoo, which is copied with its weights and without its
            classifier; or a wrapper of timm's (``features_only=True``), which is used as it is.
        out_channels: Channels of each map of the pyramid.
        strides: Total strides of the maps for the pyramid. None for those of 4, 8, 16 and 32 that the net has. If
            ``output_stride`` gives several taps one stride, the deepest of them is used.
        trainable_stages: Number of stages that learn, counted from the deepest; None for all. A stage is a part of the
            net between two taps that has parameters: five in most nets, two in a fabric, whose scales are equally deep.
            The other stages get no gradient; their norms still follow the batch unless ``freeze_norms``.
        freeze_norms: Replace each batch norm of the net permanently by the affine map of its statistics. For small
            batches and trained weights. Other norms have no statistics and stay unchanged.
        extra_blocks: Coarser maps after the pyramid: ``pool`` for one, by sub-sampling; ``p6p7`` for two, by
            convolutions; ``none``; or a block of torchvision's.
        fpn_norm: Norm after each convolution of the pyramid; None for biases instead.
        **overrides: As in `zoo.create_model`; only if ``net`` is a name.

    Returns:
        Images (N, C, H, W) -> dict of maps (N, out_channels, H / stride, W / stride), named ``"0"``, ``"1"``, ... from
        the finest, followed by ``"pool"``, or ``"p6"`` and ``"p7"``.
        the finest, and ``"pool"``, or ``"p6"`` and ``"p7"``, behind them.

    Raises:
        ValueError: If an argument is out of its range, or the net has no such taps; the message names it.
        TypeError: If ``net`` is neither a name nor a net with feature taps.
    """
    out_channels = arguments.whole("out_channels", out_channels, least=1, most=WIDEST)
    freeze_norms = arguments.flag("freeze_norms", freeze_norms)
    if isinstance(strides, str) or not isinstance(strides, Sequence | None):
        raise ValueError(f"strides ({strides!r}) must be numbers such as {STRIDES}, or None")
    body, reductions, channels = _body(net, strides, overrides)
    wanted = sorted(set(reductions) & set(STRIDES)) if strides is None else list(strides)
    if not wanted or not set(wanted) <= set(reductions) or wanted != sorted(set(wanted)):
        has = ", ".join(map(str, reductions))
        raise ValueError(f"strides ({strides}) must be rising and among those of the taps of {_title(net)}: {has}")
    take = [max(i for i, stride in enumerate(reductions) if stride == one) for one in wanted]
    _freeze_stages(body, trainable_stages, _title(net))
    if freeze_norms:
        freeze_batch_norm_2d(body)
    extra: ExtraFPNBlock | None = None
    if isinstance(extra_blocks, ExtraFPNBlock):
        extra = extra_blocks
    elif extra_blocks not in EXTRA_BLOCKS:
        raise ValueError(f"extra_blocks ({extra_blocks!r}) must be one of {', '.join(EXTRA_BLOCKS)}, or a block")
    elif extra_blocks == "pool":
        extra = LastLevelMaxPool()
    elif extra_blocks == "p6p7":
        extra = LastLevelP6P7(out_channels, out_channels)
    fpn = FeaturePyramidNetwork([channels[i] for i in take], out_channels, extra, fpn_norm)
    return PyramidBackbone(body, take, fpn, out_channels, wanted)


def _body(
    net: str | nn.Module, strides: Sequence[int] | None, overrides: dict[str, Any]
) -> tuple[nn.Module, list[int], list[int]]:
    """Return a body with its strides and channels. A net of the zoo returns only the taps that the pyramid reads."""
    if isinstance(net, str):
        if _is_ours(net):
            net = create_model(net, num_classes=0, **overrides)
        else:
            net = create_model(net, features_only=True, **overrides)
    elif overrides:
        raise ValueError(f"{', '.join(overrides)} must be given to the net where it is made; here it is made already")
    elif isinstance(net, Backbone):
        net = copy.deepcopy(net)
    if isinstance(net, Backbone):
        all_strides = [tap["reduction"] for tap in net.feature_info]
        wanted = set(strides or STRIDES)
        keep = [i for i, stride in enumerate(all_strides) if stride in wanted]
        if not keep or not wanted.issubset(all_strides if strides else wanted):
            keep = list(range(len(all_strides)))  # The caller will be told which there are.
        net = FeatureGetter(net, out_indices=tuple(keep))
    info: Any = getattr(net, "feature_info", None)
    if not callable(getattr(info, "reduction", None)):
        raise TypeError(
            f"net ({type(net).__name__}) must be a model's name, a net of ours, or what create_model(..., "
            "features_only=True) returns"
        )
    return net, list(info.reduction()), list(info.channels())


def _is_ours(name: str) -> bool:
    try:
        model_entry(name.partition(".")[0])
    except ValueError:
        return False
    return True


def _freeze_stages(body: nn.Module, trainable: int | None, title: str) -> None:
    """Turn off the gradients of all stages but the deepest ones."""
    if trainable is None:
        return
    net: Any = body.model if isinstance(body, FeatureGetter) else body
    ends = getattr(net, "tap_names", None) or getattr(net, "return_layers", None)
    if not ends:
        raise ValueError(f"trainable_stages ({trainable}) must be None for {title}: where its stages end is not known")
    stages: list[list[tuple[str, nn.Module]]] = [[]]
    for name, child in net.named_children():
        if any(True for _ in child.parameters()):
            stages[-1].append((name, child))
        if name in ends and stages[-1]:
            stages.append([])
    stages = [stage for stage in stages if stage]
    if not arguments.is_whole(trainable) or not 0 <= trainable <= len(stages):
        text = "; ".join(", ".join(name for name, _ in stage) for stage in stages)
        raise ValueError(f"trainable_stages ({trainable!r}) must lie in 0 to {len(stages)} for {title}: {text}")
    for stage in stages[: len(stages) - trainable]:
        for _, child in stage:
            child.requires_grad_(False)


def _title(net: str | nn.Module) -> str:
    return net if isinstance(net, str) else type(net).__name__
