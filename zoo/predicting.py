"""Classes of pictures by a trained net, prepared as the net was tested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from zoo import arguments, registry
from zoo.arguments import LARGEST
from zoo.datasets.decode import PictureError, decode, read_file
from zoo.datasets.folders import pictures_below
from zoo.environment import MOST_IMAGES, MOST_THREADS, check_between, choose_device
from zoo.escape import for_terminal
from zoo.evaluation import finite, pooled, preprocessing, transform
from zoo.fusing import fuse as fused
from zoo.keeping import CONFIG, kept_line
from zoo.results.line import task_of
from zoo.results.run import CLASSIFY


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Classes of one picture, the most probable first, or the reason why there are none.

    Attributes:
        picture: Path of the picture.
        classes: Names of the classes; empty if the picture could not be read.
        probabilities: Probability of each, from the softmax over all classes. A net's own, they are not calibrated.
        error: Reason why the picture could not be read; empty for a picture that was.
    """

    picture: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained net with names of its classes and its preprocessing.

    Attributes:
        model: The net, in evaluation mode.
        classes: Names of the classes, in the order of the net's outputs; numbers if there are no names.
        prepared: Preprocessing, as `zoo.evaluation.preprocessing` returns it.
        device: Device of the net.
    """

    model: nn.Module
    classes: tuple[str, ...]
    prepared: Mapping[str, Any]
    device: str = "cpu"

    def __call__(
        self, pictures: Iterable[str | Path], *, top: int = 5, batch_size: int = 64, workers: int = 2
    ) -> Iterator[Prediction]:
        """Yield a prediction for each picture, in order.

        Pictures are read when their turn comes, a batch at a time, so an endless source of names works.

        Args:
            pictures: Paths of files.
            top: Number of classes of each picture; fewer if the net has fewer.
            batch_size: Pictures per batch.
            workers: Number of threads that read.
        """
        check_between("top", top, 1, LARGEST)
        check_between("batch_size", batch_size, 1, MOST_IMAGES)
        check_between("workers", workers, 1, MOST_THREADS)
        change = transform(self.prepared)

        def read(path: str | Path) -> Tensor | PictureError:
            try:
                return change(decode(read_file(Path(path), str(path)), str(path)))
            except PictureError as error:
                return error

        names = iter(pictures)
        with ThreadPoolExecutor(workers) as pool:
            while batch := list(islice(names, batch_size)):
                yield from self._named(batch, list(pool.map(read, batch)), top)

    def _named(self, names: Sequence[str | Path], items: Sequence[Tensor | PictureError], top: int) -> list[Prediction]:
        whole = [item for item in items if isinstance(item, Tensor)]
        rows = iter(self._best(torch.stack(whole), top) if whole else ())
        found = []
        for name, item in zip(names, items, strict=True):
            if isinstance(item, PictureError):
                found.append(Prediction(picture=str(name), error=str(item).removeprefix(f"{for_terminal(name)}: ")))
            else:
                classes, shares = next(rows)
                found.append(Prediction(picture=str(name), classes=classes, probabilities=shares))
        return found

    def _best(self, images: Tensor, top: int) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
        with torch.inference_mode():
            shares = finite(pooled(self.model(images.to(self.device)))).float().softmax(1).cpu()
        best = shares.topk(min(top, shares.shape[1]))
        return [
            (tuple(self.classes[i] for i in indices), tuple(values))
            for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def open_classifier(weights: str | Path, *, device: str = "cpu", fuse: bool = False) -> Classifier:
    """Open a trained net for pictures.

    Args:
        weights: A folder that `zoo bench` has kept, or another one that timm opens as ``local-dir:``; or a name with
            published weights, such as ``resnet56_projection_cifar.osmr_c100`` or ``timm:resnet18``.
        device: Device of the net.
        fuse: Use the copy that `zoo.fuse` makes: the same function with less to compute.

    Raises:
        ValueError: If there is no such folder or name, it has no trained classifier, or the weights do not fit.
        OSError: If published weights cannot be fetched.
    """
    device = choose_device(device)
    name, line = str(arguments.path("weights", weights)), kept_line(weights)
    if line is not None and task_of(line) != CLASSIFY:
        raise ValueError(f"weights {for_terminal(name)!r} are of task {task_of(line)}: pictures are named by classify")
    if Path(name).is_dir():
        if not (Path(name) / CONFIG).is_file():
            raise ValueError(f"weights {for_terminal(name)!r} is a folder without {CONFIG}: zoo bench writes such ones")
        name = f"local-dir:{name}"
    model: Any = registry.create_model(name, pretrained=True).eval()
    if not model.num_classes:
        raise ValueError(f"weights {for_terminal(weights)!r} have no classifier")
    prepared = preprocessing(model)
    classes = class_names(model)
    model = fused(model) if fuse else model
    return Classifier(model=model.to(device), classes=classes, prepared=prepared, device=device)


def class_names(model: Any) -> tuple[str, ...]:
    """Return the names of a net's classes: from its description, of ImageNet's classes from timm, else numbers."""
    names = model.pretrained_cfg.get("label_names")
    if names and len(names) == model.num_classes:
        return tuple(names)
    subset = infer_imagenet_subset(model)
    if subset:
        known = ImageNetInfo(subset)
        return tuple(known.index_to_description(i) for i in range(model.num_classes))
    return tuple(map(str, range(model.num_classes)))


def find_pictures(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield files as they are named, and the pictures in and below each folder, sorted, numbers by size.

    Raises:
        ValueError: If a folder cannot be listed, or holds no picture.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = pictures_below(path)
        if not found:
            raise ValueError(f"{for_terminal(path)} holds no picture that is read")
        yield from found


def predict(
    weights: str | Path,
    pictures: Iterable[str | Path],
    *,
    top: int = 5,
    batch_size: int = 64,
    workers: int = 2,
    device: str = "cpu",
    fuse: bool = False,
) -> Iterator[Prediction]:
    """Yield the classes of pictures and of all pictures in folders: `open_classifier`, `find_pictures` and the call.

    A picture that cannot be read gives a prediction with an ``error`` in its place.

    Args:
        weights: See `open_classifier`.
        pictures: Files and folders.
        top: See `Classifier`.
        batch_size: See `Classifier`.
        workers: See `Classifier`.
        device: See `open_classifier`.
        fuse: See `open_classifier`.

    Raises:
        ValueError: See `open_classifier` and `find_pictures`.
        OSError: See `open_classifier`.
    """
    net = open_classifier(weights, device=device, fuse=fuse)
    yield from net(find_pictures(pictures), top=top, batch_size=batch_size, workers=workers)
