"""Tasks: image sets, model around the net, loss and metric. The training loop and the sweep read nothing else of them.

`TASKS` has three: `classify` (labels of images), `segment` (a class for every pixel, decoders of
segmentation_models_pytorch) and `detect` (boxes, detectors of torchvision). A new task is one row.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import registry
from zoo.bench import dense_tasks as dense
from zoo.bench.distributed import Team
from zoo.datasets.annotated import open_boxes, open_masks
from zoo.datasets.built_in import DATASETS, DatasetRow, load_dataset
from zoo.datasets.external import BUILT_IN, DataLocation, is_external, open_set
from zoo.datasets.image_set import Dataset, ImageSet
from zoo.datasets.library import FOLDER, unknown
from zoo.datasets.scenes import FASHION_TEST, FASHION_TRAIN, detection_scenes, segmentation_scenes
from zoo.escape import for_terminal
from zoo.evaluation import finite
from zoo.extras import require
from zoo.keeping import CONFIG, digest_of
from zoo.recipes import RECIPES
from zoo.results.metrics import METRICS, standard_error
from zoo.results.recipe import Recipe
from zoo.results.run import CLASSIFY, Run
from zoo.weights.loading import load_weights

AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of each auxiliary classifier (Szegedy et al. 2014, arXiv:1409.4842, section 5)."""
BLOCKS = 10
MOVING = ("max_shift", "flip", "colour", "lighting", "augment", "erase", "mixup", "cutmix")
"""Fields of a recipe that change images. Targets other than a class would have to change as well."""
MOST_CONFUSED = 100
"""Largest number of classes whose confusion matrix is stored."""
MODERN = "modern_cifar", "modern_imagenet"
"""Recipes of sets without a row here: for small images, and for sets that are read from disk."""
PLACES = "scenes"
"""Recipe of such sets with masks or boxes."""
FEW = "few_small", "few_pictures"
"""Recipes of such sets with fewer than `MANY` training images."""
MANY = 5000


@dataclass(frozen=True, kw_only=True)
class Task:
    """Description of a task.

    Targets have the form of `Dataset.train_labels`: a tensor whose first dimension counts images, or a list with one
    dict of tensors per image.

    Attributes:
        name: The key in `TASKS`.
        datasets: Built-in image sets, the default one first, each with the recipe of this task.
        build: Run, dataset -> the model to train.
        loss: Model in training mode, images, targets, recipe, weight of each class or None, processes that share the
            batch or None -> the loss, and the number of correctly answered images of the batch, or None if there is no
            such number.
        predict: Model in evaluation mode, images -> predictions, as a tensor or list over images, on the CPU.
        score: Predictions, targets -> the metric of `zoo.results.metrics`, in [0, 1].
        error: Score, predictions, targets -> the standard error of the score.
        heads: Decoders or detectors that the net can be built into, the default first; none if the net is the model.
        head_option: Option of the command line that chooses the head.
        nets: Nets of a sweep without names. Default: the line-up of the registry.
        by_class: Predictions, targets, number of classes -> fields of the result line that tell classes apart.
        trivial: Targets -> predictions that need no net.
        countable: Model -> its part from images to maps or logits, without post-processing, which no counter can trace.
        modules: Packages that the task needs beyond those of the extra `bench`; all are in the extra `downstream`.
        open: Name, location -> a set that is not built in; its recipe is that of a built-in set unless it has classes
            alone.
        check: Raises ValueError for a recipe that the loss cannot follow.
    """

    name: str
    datasets: Mapping[str, DatasetRow]
    build: Callable[[Run, ImageSet], nn.Module]
    loss: Callable[[nn.Module, Tensor, Any, Recipe, Tensor | None, Team | None], tuple[Tensor, Tensor | None]]
    predict: Callable[[nn.Module, Tensor], Any]
    score: Callable[[Any, Any], float]
    error: Callable[[float, Any, Any], float]
    heads: tuple[str, ...] = ()
    head_option: str = ""
    nets: tuple[str, ...] = ()
    by_class: Callable[[Any, Any, int], dict[str, Any]] = field(default=lambda *_: {})
    trivial: Callable[[Any], Any] | None = None
    countable: Callable[[nn.Module], nn.Module] = field(default=lambda model: model)
    modules: tuple[str, ...] = ()
    open: Callable[[str, DataLocation], ImageSet] = open_set
    check: Callable[[Recipe], None] = field(default=lambda _: None)

    @property
    def metric(self) -> str:
        """Key of the metric in results and tables, such as "accuracy" in ``test_accuracy``."""
        return METRICS[self.name].key

    @property
    def title(self) -> str:
        """Name of the metric in headings and on axes."""
        return METRICS[self.name].title

    def opens(self, dataset: str) -> bool:
        """Return True for the name of a set that is not built in: a folder, or of another library if it has classes."""
        folder = dataset == FOLDER or dataset.startswith(f"{FOLDER}/")
        return folder or (not self.heads and is_external(dataset))

    def row(self, dataset: str) -> DatasetRow:
        """Return the row of an image set.

        Raises:
            ValueError: If the task has no such set; the message lists them.
        """
        if dataset not in self.datasets:
            raise (
                unknown(dataset, (*self.datasets, FOLDER), external=False)
                if self.heads
                else unknown(dataset, tuple(self.datasets))
            )
        return self.datasets[dataset]

    def head(self, name: str) -> str:
        """Return the head of that name; the default head for an empty name.

        Raises:
            ValueError: If the task has no such head.
        """
        if name and name not in self.heads:
            known = ", ".join(self.heads) or "none: its nets end in their own classifiers"
            raise ValueError(f"unknown head {name!r} of task {self.name}: choose from {known}")
        return name or (self.heads[0] if self.heads else "")

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise ValueError if the task cannot follow a recipe."""
        for name in MOVING:
            if self.name != CLASSIFY and (value := getattr(recipe, name)):
                raise ValueError(
                    f"recipe field {name} must be {type(value)()!r} for task {self.name}, got {value}: "
                    "images would move and their targets not"
                )
        self.check(recipe)

    def require(self) -> None:
        """Raise ValueError, naming the extra, if a package that the task needs is missing."""
        require("downstream", *self.modules)


def task_row(name: str) -> Task:
    """Return a task.

    Raises:
        ValueError: If the task does not exist; the message lists the tasks.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: choose from {', '.join(TASKS)}")
    return TASKS[name]


def load(task: str, dataset: str, location: DataLocation = BUILT_IN) -> ImageSet:
    """Load an image set with the targets of a task, once per process.

    Raises:
        ValueError: If the task or the set does not exist, the set cannot be read, or it is built in and the location
            says something of files.
    """
    if task_row(task).opens(dataset):
        return _open(task, dataset, location)
    located = task_row(task).row(dataset).located
    for option, given in (("data-dir", location.folder), ("skip-broken", location.skip_broken)):
        if given and not (located and option == "data-dir"):
            raise ValueError(f"{option} was given, but {dataset} is built in: leave it out, or name another data set")
    return load_dataset(dataset, location.folder, location.download) if task == CLASSIFY else _load(task, dataset)


def default_recipe(task: str, dataset: str, location: DataLocation = BUILT_IN) -> Recipe:
    """Return the recipe of an image set: that of its row, or of a set that is not built in one for its kind and size.

    Raises:
        ValueError: See `load`.
    """
    row = task_row(task)
    if not row.opens(dataset):
        return row.row(dataset).recipe
    if row.heads:
        return RECIPES[PLACES].recipe
    images = load(task, dataset, location)
    small, large = (RECIPES[name].recipe for name in (MODERN if images.train_size >= MANY else FEW))
    return small if isinstance(images, Dataset) else large


def key_fingerprint(task: str, dataset: str, location: DataLocation = BUILT_IN) -> str:
    """Return the fingerprint of a set in the keys of its runs; an empty text for sets that are keyed by name.

    Raises:
        ValueError: See `load`.
    """
    row = task_row(task)
    if not row.opens(dataset) and row.row(dataset).keyed_by_name:
        return ""
    return load(task, dataset, location).fingerprint


def forget() -> None:
    """Drop the sets in folders that this process has opened, because their files may change before the next sweep."""
    _open.cache_clear()
    trivial_score.cache_clear()


@cache
def _open(task: str, dataset: str, location: DataLocation) -> ImageSet:
    return task_row(task).open(dataset, location)


@cache
def _load(task: str, dataset: str) -> Dataset:
    return task_row(task).row(dataset).load()


@cache
def trivial_score(
    task: str, dataset: str, location: DataLocation = BUILT_IN, recipe: Recipe | None = None
) -> float | None:
    """Return the score of a task's trivial answer on the test images; None if there is none.

    Args:
        task: Name of the task.
        dataset: Name of the set.
        location: Its location.
        recipe: Recipe that the images are read for.
    """
    row = task_row(task)
    if row.trivial is None:
        return None
    images = load(task, dataset, location)
    targets = (images if recipe is None else images.for_recipe(recipe)).test_labels
    return row.score(row.trivial(targets), targets)


def block_error(
    score: Callable[[Any, Any], float],
    predictions: Any,
    targets: Any,
    has_truth: Callable[[Any], bool] = lambda _: True,
) -> float:
    """Return the standard error of a score over images that is no mean over them.

    The images are cut into `BLOCKS` runs of equal length, or fewer for few images. The scores of the blocks spread as
    those of independent test sets of that size would. The error of the whole set is smaller by the root of their
    number. Blocks without truth have no score and are left out.

    Args:
        score: Predictions, targets -> the score.
        predictions: Predictions of all images.
        targets: Targets of all images.
        has_truth: Targets -> True if there is anything to be found in them.
    """
    blocks = min(BLOCKS, len(targets))
    if blocks < 2:
        return 0.0
    edges = [len(targets) * i // blocks for i in range(blocks + 1)]
    runs = [slice(low, high) for low, high in pairwise(edges)]
    parts = [score(predictions[run], targets[run]) for run in runs if has_truth(targets[run])]
    return statistics.stdev(parts) / math.sqrt(len(parts)) if len(parts) > 1 else 0.0


def _build_classifier(run: Run, dataset: ImageSet) -> nn.Module:
    own = registry.has_tag(run.name) and not run.weights
    model = registry.create_model(run.name, pretrained=own, num_classes=dataset.num_classes, **run.overrides)
    if run.weights:
        _start_from(model, run, dataset)
    if run.frozen:
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)  # ty: ignore[not-callable]
    return model


def _start_from(model: Any, run: Run, dataset: ImageSet) -> None:
    """Load the first weights of a run; a classifier of other classes stays new.

    Raises:
        ValueError: If they do not fit, or are not those that the run was planned with.
    """
    if digest_of(Path(run.weights)) != run.digest:
        raise ValueError(f"weights {for_terminal(run.weights)!r} have changed since this run was planned: start again")
    try:
        load_weights(model, run.weights)
    except TypeError as error:
        raise ValueError(f"weights start nets of the zoo, and {run.name} is none: {error}") from error
    config = Path(run.weights) / CONFIG
    names = json.loads(config.read_bytes()).get("label_names") if config.is_file() else None
    if names and tuple(names) != dataset.classes:
        model.reset_classifier(dataset.num_classes)


def _classifier_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    weights: Tensor | None = None,
    _: Team | None = None,
) -> tuple[Tensor, Tensor]:
    outputs = model(images)
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    named = labels.argmax(1) if labels.is_floating_point() else labels  # mixed images have shares of classes
    loss = dense.weighted_loss(logits, labels, recipe, weights)
    for other in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * dense.weighted_loss(other, labels, recipe, weights)
    return loss, (logits.argmax(1) == named).sum()


def _accuracy(predictions: Tensor, labels: Tensor) -> float:
    return int((predictions == labels.cpu()).sum()) / len(labels)


def _by_class(predictions: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    """Return the accuracy of each class, the mean of their F1 scores, and the confusion matrix of few classes.

    A class without a test image has no accuracy; one that is not named either is left out of the mean.
    """
    labels = labels.cpu()
    right, named, there = (
        torch.bincount(values, minlength=classes) for values in (labels[labels == predictions], predictions, labels)
    )
    known = named + there > 0
    accuracies = (right / there.clamp(min=1)).tolist()
    found = {
        "macro_f1": float((2 * right[known] / (named + there)[known]).mean()),
        "class_accuracy": [share if n else None for share, n in zip(accuracies, there.tolist(), strict=True)],
    }
    if classes > MOST_CONFUSED:
        return found
    pairs = torch.bincount(labels * classes + predictions, minlength=classes**2)
    return found | {"confusion": pairs.reshape(classes, classes).tolist()}


TASKS = {
    task.name: task
    for task in (
        Task(
            name=CLASSIFY,
            datasets=DATASETS,
            build=_build_classifier,
            loss=_classifier_loss,
            predict=lambda model, images: finite(model(images)).argmax(1).cpu(),
            score=_accuracy,
            error=lambda score, _, labels: standard_error(score, len(labels)),
            by_class=_by_class,
        ),
        Task(
            name="segment",
            datasets={
                "scenes": DatasetRow(
                    load=segmentation_scenes,
                    recipe=RECIPES["scenes"].recipe,
                    keyed_by_name=True,
                ),
                "fashion_scenes": DatasetRow(
                    load=lambda: segmentation_scenes(FASHION_TRAIN, FASHION_TEST, "fashion"),
                    recipe=RECIPES["fashion_scenes"].recipe,
                    keyed_by_name=True,
                ),
            },
            build=dense.build_segmenter,
            loss=dense.segmentation_loss,
            predict=dense.segment,
            score=dense.mean_iou,
            error=lambda _, predictions, masks: block_error(dense.mean_iou, predictions, masks, dense.has_classes),
            heads=tuple(dense.DECODERS),
            head_option="--decoder",
            nets=dense.NETS,
            by_class=lambda predictions, masks, classes: {"class_iou": dense.class_ious(predictions, masks, classes)},
            open=open_masks,
            trivial=torch.zeros_like,
            modules=("segmentation_models_pytorch", "torchmetrics"),
        ),
        Task(
            name="detect",
            datasets={
                "scenes": DatasetRow(
                    load=detection_scenes,
                    recipe=RECIPES["scenes"].recipe,
                    keyed_by_name=True,
                ),
                "fashion_scenes": DatasetRow(
                    load=lambda: detection_scenes(FASHION_TRAIN, FASHION_TEST, "fashion"),
                    recipe=RECIPES["fashion_scenes"].recipe,
                    keyed_by_name=True,
                ),
            },
            build=dense.build_detector,
            loss=dense.detection_loss,
            check=dense.check_detection,
            predict=dense.detect,
            score=dense.mean_average_precision,
            error=lambda _, boxes, truth: block_error(dense.mean_average_precision, boxes, truth, dense.has_boxes),
            heads=tuple(dense.DETECTORS),
            head_option="--detector",
            nets=dense.NETS,
            open=open_boxes,
            trivial=dense.no_boxes,
            countable=dense.Undecoded,
            modules=("torchmetrics", "pycocotools"),
        ),
    )
}
