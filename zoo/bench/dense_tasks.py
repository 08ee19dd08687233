"""Models, losses and metrics of the two dense tasks: decoders and detectors of other packages around our nets.

segmentation_models_pytorch, torchmetrics and pycocotools belong to the extra `downstream`. They are imported on use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo import detection_backbone, registry
from zoo.datasets.annotated import IGNORED
from zoo.evaluation import finite

if TYPE_CHECKING:
    from zoo.bench.distributed import Team
    from zoo.datasets.image_set import ImageSet
    from zoo.results.recipe import Recipe
    from zoo.results.run import Run

NETS = ("resnet_test", "fishnet_test", "fabric_test")
TAPS = [2, 4, 8, 16, 32]
"""Strides of the maps that decoders and detectors read."""

# Narrow, as the scenes are small. The dilations of DeepLab are made for maps of 65x65; at 64 px and stride 16 there
# are 4x4, on which 12, 24 and 36 would see nothing but padding.
DECODERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "unet": ("Unet", {"decoder_channels": (64, 48, 32, 16, 16)}),
    "deeplabv3plus": ("DeepLabV3Plus", {"decoder_channels": 64, "decoder_atrous_rates": (1, 2, 3)}),
}
"""Classes of segmentation_models_pytorch with their arguments, by our name."""

# Digits are as wide as they are high, or less. torchvision wants as many anchors a place on each map.
DETECTORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "fcos": ("FCOS", {"anchor_sizes": ((8,), (16,), (32,)), "ratios": (1.0,)}),
    "retinanet": ("RetinaNet", {"anchor_sizes": ((16, 20, 25), (20, 25, 32), (25, 32, 40)), "ratios": (1.0, 1.5)}),
}
"""Classes of torchvision with the arguments of their anchors, by our name."""
LARGEST_SCENE = 96
"""Side in pixels up to which the anchors are those above."""
STRIDES = (8, 16, 32)
"""Strides of the maps that a detector reads, as in both papers without the coarser ones: the scenes are small."""
PYRAMID_CHANNELS = 64
MAX_BOXES = 50
SCORED = 64
"""Number of masks that are compared at a time."""


def build_segmenter(run: Run, dataset: ImageSet) -> nn.Module:
    """Build decoder and encoder: images (N, 3, H, W) -> logits (N, classes, H, W).

    Raises:
        ValueError: If the net has no taps of strides 2, 4, 8, 16 and 32.
    """
    import segmentation_models_pytorch as smp

    check_taps(run)
    kind, options = DECODERS[run.head]
    model = getattr(smp, kind)(
        encoder_name=f"tu-{timm_name(run.name)}",
        encoder_weights=None,
        classes=dataset.num_classes,
        **options,
        **run.overrides,
    )
    model.encoder.requires_grad_(not run.frozen)
    return model


def segmentation_loss(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    recipe: Recipe,
    weights: Tensor | None = None,
    team: Team | None = None,
) -> tuple[Tensor, None]:
    """Return the mean cross-entropy over all pixels with a class of the whole batch; 0 if it has none.

    Of processes that share a batch each returns its part times their number, so that the mean of all is the loss.
    """
    return weighted_loss(model(images), masks.long(), recipe, weights, IGNORED, team), None


def segment(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class of each pixel, (N, H, W) uint8: there are at most `IGNORED` classes."""
    return finite(model(images)).argmax(1).byte().cpu()


def has_classes(masks: Tensor) -> bool:
    """Return True if a pixel has a class."""
    return bool((masks != IGNORED).any())


def weighted_loss(
    logits: Tensor,
    targets: Tensor,
    recipe: Recipe,
    weights: Tensor | None,
    ignored: int | None = None,
    team: Team | None = None,
) -> Tensor:
    """Return the mean cross-entropy over images or pixels, each weighed by its class.

    The mean is over their number, not over the sum of their weights. Where a target counts nowhere, the number is that
    of the whole team, divided by its size. So the losses of shares have the loss of the batch as their mean.

    Args:
        logits: (N, classes, ...).
        targets: (N, ...) int64, or shares of the classes in the form of the logits.
        recipe: Recipe with the label smoothing.
        weights: (classes,) of mean 1 over the training set; None for equal weights.
        ignored: Target that counts nowhere. None: all count.
        team: Processes that share the batch. Default: this process alone.
    """
    if ignored is None:
        if weights is None:
            return cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
        whole = cross_entropy(logits.float(), targets, weights, label_smoothing=recipe.label_smoothing, reduction="sum")
        return whole / len(targets)
    whole = cross_entropy(
        logits.float(),
        targets,
        weights,
        ignore_index=ignored,
        label_smoothing=recipe.label_smoothing,
        reduction="sum",
    )
    places = (targets != ignored).sum().float()
    if team is not None and team.size > 1:
        places = team.total(places) / team.size
    return whole / places.clamp(min=1 / (1 if team is None else team.size))


def mean_iou(predictions: Tensor, masks: Tensor) -> float:
    """Return the intersection over union of each class over all pixels of all images, averaged over the classes.

    Classes that occur neither in the truth nor in the prediction are left out of the average.

    Args:
        predictions: (N, H, W) whole numbers.
        masks: (N, H, W) whole numbers; `IGNORED` pixels count nowhere.
    """
    masks = masks.cpu()
    # Of two classes at least; those that do not occur change nothing.
    highest = max(int(predictions.max()), int(masks[masks != IGNORED].max()), 1)
    return float(_jaccard(predictions, masks, highest + 1, "macro"))


def class_ious(predictions: Tensor, masks: Tensor, classes: int) -> list[float | None]:
    """Return the intersection over union of each class; None for one that neither truth nor prediction has.

    Args:
        predictions: See `mean_iou`.
        masks: See `mean_iou`.
        classes: Number of classes.
    """
    masks = masks.cpu()
    valid = masks != IGNORED
    there = torch.cat([predictions[valid], masks[valid]]).bincount(minlength=classes)
    values = _jaccard(predictions, masks, classes, "none").tolist()
    return [value if n else None for value, n in zip(values, there.tolist(), strict=True)]


def _jaccard(predictions: Tensor, masks: Tensor, classes: int, average: str) -> Tensor:
    from torchmetrics.classification import MulticlassJaccardIndex

    metric = MulticlassJaccardIndex(classes, average=average, ignore_index=IGNORED)  # ty: ignore
    for found, truth in zip(predictions.split(SCORED), masks.split(SCORED), strict=True):  # it needs int64
        metric.update(found.long(), truth.long())
    return metric.compute()


def build_detector(run: Run, dataset: ImageSet) -> nn.Module:
    """Build a torchvision detector over a feature pyramid of the net; in evaluation images -> one dict per image.

    Raises:
        ValueError: If the net has no taps of strides 2, 4, 8, 16 and 32.
    """
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.retinanet import RetinaNetHead

    check_taps(run)
    backbone = detection_backbone(
        run.name,
        PYRAMID_CHANNELS,
        strides=STRIDES,
        trainable_stages=0 if run.frozen else None,
        extra_blocks="none",
        **run.overrides,
    )
    kind, options = DETECTORS[run.head]
    # Objects grow with their pictures; above the size of the larger scenes anchors do, too.
    larger = max(1.0, dataset.input_size[1] / LARGEST_SCENE)
    sizes = tuple(tuple(round(side * larger) for side in row) for row in options["anchor_sizes"])
    anchors = AnchorGenerator(sizes, (options["ratios"],) * len(sizes))
    head = {}
    if kind == "RetinaNet":  # with norms, as torchvision's second version; without, it hardly learns from nothing
        norm = partial(nn.GroupNorm, 32)
        places = anchors.num_anchors_per_location()[0]
        head["head"] = RetinaNetHead(PYRAMID_CHANNELS, places, dataset.num_classes, norm_layer=norm)
    return getattr(detection, kind)(
        backbone,
        num_classes=dataset.num_classes,  # torchvision counts the background, too
        anchor_generator=anchors,
        **head,
        # Images come normalised and in one size.
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        min_size=dataset.input_size[1],
        max_size=dataset.input_size[2],
        score_thresh=0.05,
        detections_per_img=MAX_BOXES,
    )


def check_detection(recipe: Recipe) -> None:
    """Raise ValueError if a recipe changes the loss of a classification: detectors have their own."""
    for name, neutral in (("label_smoothing", 0), ("class_weights", "")):
        if (value := getattr(recipe, name)) != neutral:
            raise ValueError(f"recipe field {name} must be {neutral!r} for detection, got {value!r}")


def detection_loss(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    recipe: Recipe,
    *_: Tensor | Team | None,
) -> tuple[Tensor, None]:
    """Return the sum of the detector's own losses. Processes that share a batch take it of their shares."""
    check_detection(recipe)
    losses: dict[str, Tensor] = model(list(images), targets)
    return torch.stack(list(losses.values())).sum(), None


def detect(model: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
    """Return boxes, labels and scores of each image."""
    return [{key: value.cpu() for key, value in found.items()} for found in model(list(images))]


def has_boxes(targets: Sequence[Mapping[str, Tensor]]) -> bool:
    """Return True if an image has a box."""
    return any(len(target["boxes"]) for target in targets)


def no_boxes(targets: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return empty predictions."""
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    return [dict(empty) for _ in targets]


def mean_average_precision(
    predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
) -> float:
    """Return COCO's average precision: the mean over classes and over overlaps of 0.50, 0.55, ..., 0.95.

    Args:
        predictions: `boxes` (n, 4), `labels` (n,), `scores` (n,) for each image.
        targets: `boxes` (n, 4) and `labels` (n,) for each image.
    """
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_type="bbox", backend="pycocotools")
    found = [dict(prediction) for prediction in predictions]
    metric.update(found, [{key: value.cpu() for key, value in target.items()} for target in targets])
    return float(metric.compute()["map"])


class Undecoded(nn.Module):
    """The part of a detector before boxes are decoded: images (N, 3, H, W) -> tensors of the head."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Tensor]:
        """Run backbone, pyramid and head."""
        maps = self.detector.backbone(images)  # ty: ignore[not-callable]
        return list(self.detector.head(list(maps.values())).values())  # ty: ignore[not-callable]


def timm_name(name: str) -> str:
    """Return timm's name of a model, which is ours or timm's."""
    try:
        return registry.model_entry(name).timm_name
    except ValueError:
        return name.removeprefix("timm:")


def check_taps(run: Run) -> None:
    """Raise ValueError unless the net of a run has the taps that a decoder needs."""
    with torch.device("meta"):
        net: Any = registry.create_model(run.name, features_only=True, **run.overrides)
    strides = net.feature_info.reduction()
    if strides != TAPS:
        raise ValueError(
            f"{run.name} has taps of stride {', '.join(map(str, strides))}, and task {run.task} needs "
            f"{', '.join(map(str, TAPS))}: take a net of ImageNet scale and its native output stride"
        )
