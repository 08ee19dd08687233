"""Pixels and boxes of pictures by a model of `zoo bench --task segment` or `detect`, prepared as it was tested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo.bench.one_run import kept, open_model
from zoo.bench.tasks import task_row
from zoo.datasets.annotated import resized
from zoo.datasets.decode import PictureError, decode, read_file
from zoo.environment import MOST_IMAGES, MOST_THREADS, check_between, choose_device
from zoo.escape import for_terminal
from zoo.results.line import task_of

LEAST_SCORE = 0.3
"""Default of the lowest score of a box."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Contents of one picture, or the reason why there are none.

    Attributes:
        picture: Path of the picture.
        classes: Names of the classes: of each box, or those of the pixels, the most frequent first.
        values: Score of each box, or share of the pixels.
        boxes: Boxes as x0 y0 x1 y1 in pixels of the picture, the highest score first; empty for segmentation.
        mask: (H, W) uint8 class number of each pixel of the picture, upright; None for detection.
        error: Reason why the picture could not be read; empty for a picture that was.
    """

    picture: str
    classes: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: np.ndarray | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Finder:
    """A trained model with names of its classes and its preprocessing.

    Attributes:
        model: The model, in evaluation mode.
        task: ``segment`` or ``detect``.
        classes: Names of the classes by number.
        size: Height and width that pictures are resized to.
        mean: Mean of each channel, subtracted from pixels in [0, 1].
        std: Deviation of each channel.
        device: Device of the model.
    """

    model: nn.Module
    task: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    mean: Tensor
    std: Tensor
    device: str = "cpu"

    def __call__(
        self, pictures: Iterable[str | Path], *, least: float = LEAST_SCORE, batch_size: int = 16, workers: int = 2
    ) -> Iterator[Found]:
        """Yield what is found in each picture, in order; a batch is read when its turn comes.

        Args:
            pictures: Paths of files.
            least: Lowest score of a box.
            batch_size: Pictures per batch.
            workers: Number of threads that read.
        """
        check_between("batch_size", batch_size, 1, MOST_IMAGES)
        check_between("workers", workers, 1, MOST_THREADS)

        def read(path: str | Path) -> tuple[Tensor, tuple[int, int]] | PictureError:
            try:
                image = decode(read_file(Path(path), str(path)), str(path))
            except PictureError as error:
                return error
            return resized(image, self.size), image.size

        names = iter(pictures)
        with ThreadPoolExecutor(workers) as pool:
            while batch := list(islice(names, batch_size)):
                items = list(pool.map(read, batch))
                whole = [item for item in items if not isinstance(item, PictureError)]
                answers = iter(self._answers([images for images, _ in whole]) if whole else ())
                for name, item in zip(batch, items, strict=True):
                    if isinstance(item, PictureError):
                        yield Found(picture=str(name), error=str(item).removeprefix(f"{for_terminal(name)}: "))
                    elif self.task == "segment":
                        yield self._pixels(str(name), next(answers), item[1])
                    else:
                        yield self._boxes(str(name), next(answers), item[1], least)

    def _answers(self, images: Sequence[Tensor]) -> Any:
        batch = (torch.stack(list(images)).float() / 255 - self.mean) / self.std
        with torch.inference_mode():
            return task_row(self.task).predict(self.model, batch.to(self.device))

    def _pixels(self, name: str, answer: Tensor, size: tuple[int, int]) -> Found:
        mask = Image.fromarray(answer.numpy().astype(np.uint8))
        mask = np.array(mask.resize(size, Image.Resampling.NEAREST))
        counts = np.bincount(mask.ravel(), minlength=len(self.classes))
        order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        shares = tuple(float(counts[i]) / mask.size for i in order)
        return Found(picture=name, classes=tuple(self.classes[i] for i in order), values=shares, mask=mask)

    def _boxes(self, name: str, answer: dict[str, Tensor], size: tuple[int, int], least: float) -> Found:
        chosen = [i for i in answer["scores"].argsort(descending=True).tolist() if answer["scores"][i] >= least]
        scale = torch.tensor([size[0] / self.size[1], size[1] / self.size[0]]).repeat(2)
        boxes = (answer["boxes"][chosen] * scale).tolist()
        return Found(
            picture=name,
            classes=tuple(self.classes[i] for i in answer["labels"][chosen].tolist()),
            values=tuple(answer["scores"][chosen].tolist()),
            boxes=tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes),
        )


def open_finder(folder: str | Path, *, device: str = "cpu") -> Finder:
    """Open a trained model for pictures.

    Args:
        folder: A folder that `zoo bench --task segment` or `detect` has kept.
        device: Device of the model.

    Raises:
        ValueError: If it is no such folder, or its tensors do not fit.
    """
    device = choose_device(device)
    line = kept(folder)
    if not task_row(task_of(line)).heads:
        raise ValueError(f"weights {for_terminal(folder)!r} are of task {task_of(line)}: zoo.predicting names pictures")
    images = line["dataset"]
    mean, std = (torch.tensor(images[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
    count = images["num_classes"]
    names = images.get("classes") or ()
    return Finder(
        model=open_model(folder).to(device),
        task=task_of(line),
        classes=tuple(names) if len(names) == count else tuple(map(str, range(count))),
        size=(images["input_size"][1], images["input_size"][2]),
        mean=mean,
        std=std,
        device=device,
    )
