"""Any net in torchvision's detectors: feature pyramids over its taps, or one map as in the first R-CNNs.

torchvision's own `BackboneWithFPN` splits a net into children that pass one tensor on. Fish and fabrics pass several,
and nets of other packages have their taps deeper inside. Here the net stays whole and returns its taps.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, roi_pool
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from zoo import arguments
from zoo.backbone import Backbone
from zoo.features import FeatureGetter
from zoo.layers import WideHead
from zoo.registry import create_model, model_entry

STRIDES = (4, 8, 16, 32)
"""Total strides of the maps of a feature pyramid (Lin et al. 2017, arXiv:1612.03144)."""
WIDEST = 4096
"""Largest number of channels of a pyramid. Its convolutions have nine times the square of this number of weights."""
EXTRA_BLOCKS = ("pool", "p6p7", "none")
POOLINGS = ("max", "align")
"""Ways to pool a region: the largest value of each bin (Girshick 2015), or the mean of samples (He et al. 2017)."""
FIRST: Mapping[str, Any] = dict(min_size=600, max_size=1000, rpn_post_nms_top_n_test=300, box_batch_size_per_image=64)
"""Options of torchvision's Faster R-CNN as in its paper: sides of images, proposals in tests, regions of an image that
are trained on (64 of each of two, Girshick 2015, section 2.3)."""
WINDOW, WIDTH = 7, 1024
"""Bins along each side and width of the two linear layers behind nets that have no wide layers of their own."""


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


class MapBackbone(nn.Module):
    """One map of a net: a backbone for torchvision's detectors.

    Args:
        body: Images -> list of one map.
        out_channels: Channels of the map.
    """

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the map ``"0"`` (N, out_channels, H / stride, W / stride) from images (N, C, H, W)."""
        return {"0": self.body(x)[0]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the body's units in the backward pass instead of storing their maps."""
        self.body.set_grad_checkpointing(enable)  # ty: ignore[not-callable]


class MaxRoIPool(MultiScaleRoIAlign):
    """RoIPool of one map (Girshick 2015, arXiv:1504.08083, section 2.1): ``box_roi_pool`` of torchvision's detectors.

    The corners of a region are rounded to pixels of the map, and so are the bins; each gives its largest value.

    Args:
        output_size: Bins along each side.
        stride: Total stride of the map.
    """

    def __init__(self, output_size: int, stride: int) -> None:
        super().__init__(["0"], output_size, sampling_ratio=1)
        self.stride = stride

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the boxes of all images: (K, channels, output_size, output_size)."""
        return roi_pool(x["0"], boxes, self.output_size, 1 / self.stride)


def faster_rcnn(
    net: str | Backbone,
    num_classes: int,
    *,
    stride: int = 16,
    sizes: Sequence[int] = (128, 256, 512),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    pooling: str = "max",
    trainable_stages: int | None = None,
    options: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> FasterRCNN:
    """Make a Faster R-CNN on one map of a net, as in its paper (Ren et al. 2015, arXiv:1506.01497).

    A 3x3 convolution over the map proposes boxes. Each is pooled to the window of the net's own wide layers (fc6 and
    fc7 of VGG and AlexNet), which classify it. Behind nets without such layers stand two linear ones of 1,024. The
    parts are torchvision's, and so is what papers and code leave open; of the boxes that are trained on as background,
    it takes those below an overlap of 0.1 as well. The paper trains proposals and classes in turn, this at once.

    >>> detector = zoo.detection.faster_rcnn("vgg16", num_classes=21, drop_rate=0.5)

    Args:
        net: A name of ours for `zoo.create_model`, or a net of the zoo, which is copied with its weights.
        num_classes: Number of classes, with the background as the first.
        stride: Total stride of the map. If several taps have it, the deepest is taken.
        sizes: Sides of the anchors, in pixels: roots of their areas.
        ratios: Heights of the anchors over their widths.
        pooling: One of ``POOLINGS``.
        trainable_stages: As in `detection_backbone`.
        options: Further arguments of torchvision's `FasterRCNN`, before those in ``FIRST``.
        **overrides: As in `zoo.create_model`; only if ``net`` is a name. ``drop_rate`` acts behind each wide layer.

    Raises:
        ValueError: If an argument is out of its range, or the net has no such map; the message names it.
        TypeError: If ``net`` is no net of the zoo, or ``options`` has an unknown name.
    """
    num_classes = arguments.whole("num_classes", num_classes, least=2)
    options = arguments.mapping("options", options)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling ({pooling!r}) must be one of {', '.join(POOLINGS)}")
    for name, values in (("sizes", sizes), ("ratios", ratios)):
        numbers = values if isinstance(values, Sequence) else ()
        if not numbers or not all(isinstance(number, int | float) and number > 0 for number in numbers):
            raise ValueError(f"{name} ({values!r}) must be a tuple of numbers above 0")
    name = _title(net)
    whole = _classifier(net, overrides)
    body, channels, wide = _one_map(whole, stride, name)
    _freeze_stages(body, trainable_stages, name)
    if wide is None:
        window, width = WINDOW, WIDTH
        head: nn.Module = TwoMLPHead(channels * window**2, width)
    else:
        window, width = wide.reach + 1, wide.out_chs
        head = nn.Sequential(wide, nn.Flatten(), nn.Dropout(wide.drop_rate))
    pool = MaxRoIPool(window, stride) if pooling == "max" else MultiScaleRoIAlign(["0"], window, 2)
    known: Any = getattr(whole, "pretrained_cfg", {})
    prepared = {f"image_{key}": list(known[key]) for key in ("mean", "std") if key in known}
    return FasterRCNN(
        MapBackbone(body, channels),
        rpn_anchor_generator=AnchorGenerator((tuple(sizes),), (tuple(ratios),)),
        box_roi_pool=pool,
        box_head=head,
        box_predictor=FastRCNNPredictor(width, num_classes),
        **{**FIRST, **prepared, **options},
    )


class FastRCNN(nn.Module):
    """Fast R-CNN: a detector that classifies and refines given boxes (Girshick 2015, arXiv:1504.08083).

    It is a Faster R-CNN without the part that proposes boxes; they come from elsewhere, such as selective search.

    >>> detector = zoo.detection.FastRCNN(zoo.detection.faster_rcnn("vgg16", num_classes=21))
    >>> losses = detector(images, proposals, targets)

    Args:
        detector: Faster R-CNN of `faster_rcnn`, or any of torchvision's. Its parts are shared.
    """

    def __init__(self, detector: FasterRCNN) -> None:
        super().__init__()
        self.transform: Any = detector.transform
        self.backbone = detector.backbone
        self.roi_heads = detector.roi_heads

    def forward(
        self,
        images: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute losses in training mode, and else detections, as torchvision's detectors do.

        Args:
            images: Images (C, H, W) with values from 0 to 1, of any sizes.
            proposals: Boxes (P, 4) of each image: left, top, right, bottom, in its pixels.
            targets: True ``boxes`` (B, 4) and their ``labels`` (B,) for each image; for training.

        Raises:
            ValueError: If numbers of images, proposals and targets differ, targets are missing, or a box has no area.
        """
        if len(proposals) != len(images):
            raise ValueError(f"proposals ({len(proposals)}) must be one tensor for each of {len(images)} images")
        if self.training and (targets is None or len(targets) != len(images)):
            number = "none" if targets is None else len(targets)
            raise ValueError(f"targets ({number}) must be one dict for each of {len(images)} images in training mode")
        for i, boxes in enumerate(proposals):
            shaped = boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.is_floating_point()
            if not shaped or not bool((boxes[:, 2:] > boxes[:, :2]).all()):
                raise ValueError(
                    f"proposals ({boxes.dtype}, {tuple(boxes.shape)} for image {i}) must be boxes (P, 4) in floating "
                    "point, left, top, right and bottom, with right and bottom beyond left and top"
                )
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch, truth = self.transform(list(images), None if targets is None else [dict(t) for t in targets])
        scaled = [
            boxes * boxes.new_tensor([new[1] / old[1], new[0] / old[0]]).repeat(2)
            for boxes, old, new in zip(proposals, sizes, batch.image_sizes, strict=True)
        ]
        maps = self.backbone(batch.tensors)
        maps = {"0": maps} if isinstance(maps, Tensor) else maps
        found, losses = self.roi_heads(maps, scaled, batch.image_sizes, truth)
        return losses if self.training else self.transform.postprocess(found, batch.image_sizes, sizes)


def _classifier(net: str | Backbone, overrides: dict[str, Any]) -> Backbone:
    """Return a net of the zoo with its classifier: a new one, or a copy."""
    if isinstance(net, str):
        made: Any = create_model(net, **overrides)
    elif overrides:
        raise ValueError(f"{', '.join(overrides)} must be given to the net where it is made; here it is made already")
    else:
        made = copy.deepcopy(net)
    if not isinstance(made, Backbone) or made.gives_taps:
        raise TypeError(f"net ({_title(net)}) must be the name of a net of the zoo, or such a net with its classifier")
    return made


def _one_map(net: Backbone, stride: int, title: str) -> tuple[nn.Module, int, WideHead | None]:
    """Return a body with one map, its channels, and the wide layers of the net, if it has such."""
    strides = [tap["reduction"] for tap in net.feature_info]
    if stride not in strides:
        raise ValueError(
            f"stride ({stride!r}) must be one of those of the taps of {title}: {', '.join(map(str, strides))}"
        )
    tap = max(i for i, one in enumerate(strides) if one == stride)
    channels, wide = net.feature_info[tap]["num_chs"], net.wide
    if wide is not None and not len(wide.layers):
        raise ValueError(f"net ({title}) must have its wide layers, which come and go with its classes")
    if wide is not None and wide.in_chs != channels:
        raise ValueError(
            f"stride ({stride}) must be that of a map of {wide.in_chs} channels, which the wide layers of {title} "
            f"read; it has {channels}"
        )
    if wide is not None:
        wide.same = False
        net.wide = None  # or it would lose its layers with the classifier
    return FeatureGetter(net, out_indices=(tap,)), channels, wide


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
