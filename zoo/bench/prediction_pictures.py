"""Pictures of dense predictions: test scenes, the truth and the prediction of a trained model, one picture per run."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.bench.tasks import task_row
from zoo.datasets.annotated import IGNORED
from zoo.datasets.image_set import Dataset, ImageSet
from zoo.datasets.scenes import BACKGROUND
from zoo.escape import for_picture
from zoo.files import write_in_folder
from zoo.results.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCENES = 8
# One colour a digit, from matplotlib's "tab10"; the ground is black.
COLOURS = (
    "#000000",
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
SHOWN_FROM = 0.3
"""Lowest score of a box that is drawn; the metric uses all boxes."""


def save_predictions(folder: Path, run: Run, model: nn.Module, images: ImageSet) -> Path:
    """Write the picture of a run.

    Args:
        folder: Folder of the picture; created if missing.
        run: The run.
        model: Its trained model in evaluation mode.
        images: Its image set, which a task with pictures holds in memory.

    Returns:
        Path of the picture.
    """
    assert isinstance(images, Dataset)
    figure = draw_predictions(run.task, model, images, f"{run.display}, seed {run.seed}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    name = re.sub(r"[^A-Za-z0-9]+", "_", f"{run.display} seed{run.seed}")
    path = folder / f"{name}.png"
    write_in_folder(path, buffer.getvalue())
    return path


def draw_predictions(task: str, model: nn.Module, dataset: Dataset, title: str, scenes: int = SCENES) -> Figure:
    """Draw the first test scenes of a dataset: image, truth and prediction one above the other.

    Args:
        task: segment or detect.
        model: The trained model of that task, in evaluation mode.
        dataset: Its images.
        title: Text above the picture.
        scenes: Number of scenes.

    Returns:
        A figure that is ready to be saved at its own resolution.
    """
    from matplotlib.figure import Figure  # optional dependency: the `bench` extra

    row = task_row(task)
    images, truth = next(dataset.test_batches())
    chosen = range(min(scenes, len(images)))
    images, truth = images[: len(chosen)], truth[: len(chosen)]
    first = next(model.parameters(), None)
    with torch.no_grad():
        predictions = row.predict(model, images if first is None else images.to(first.device))
    figure = Figure(figsize=(1.2 * len(chosen), 3.9), dpi=150, layout="constrained")
    grid: Any = figure.subplots(3, len(chosen), squeeze=False)
    for column in range(len(chosen)):
        picture = _picture(images[column])
        for line, answer in enumerate((None, truth[column], predictions[column])):
            axes: Axes = grid[line, column]
            axes.set(xticks=[], yticks=[])
            if isinstance(answer, Tensor):
                _show_mask(axes, answer)
            else:
                axes.imshow(picture)
                if answer is not None:
                    _show_boxes(axes, answer)
    for line, text in enumerate(("scene", "truth", "prediction")):
        grid[line, 0].set_ylabel(text, fontsize=8)
    figure.suptitle(f"{title}: {len(chosen)} held-out scenes", fontsize=8)
    figure.legend(
        handles=_legend(dataset.classes),
        loc="outside lower center",
        ncols=10,
        frameon=False,
        fontsize=7,
        handlelength=1.0,
    )
    return figure


def _picture(image: Tensor) -> Any:
    """Return a normalised (C, H, W) image as (H, W, C) in [0, 1], with the largest possible contrast."""
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0).numpy()


def _show_mask(axes: Axes, mask: Tensor) -> None:
    from matplotlib.colors import to_rgb

    colours = torch.tensor([to_rgb("white" if label == IGNORED else colour_of(label)) for label in range(256)])
    axes.imshow(colours[mask.long()].numpy(), interpolation="nearest")


def _show_boxes(axes: Axes, answer: dict[str, Tensor]) -> None:
    from matplotlib.patches import Rectangle

    if "scores" in answer:
        answer = {key: value[best_boxes(answer)] for key, value in answer.items()}
    for (x0, y0, x1, y1), label in zip(answer["boxes"].tolist(), answer["labels"].tolist(), strict=True):
        colour = colour_of(label)
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.2))
        frame = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        axes.text(x0, y0, str(label - 1), color="white", fontsize=5, ha="left", va="bottom", bbox=frame)


def colour_of(label: int) -> str:
    """Return the colour of a class; from the eleventh on they come again."""
    return COLOURS[label if label == BACKGROUND else 1 + (label - 1) % (len(COLOURS) - 1)]


def best_boxes(answer: dict[str, Tensor]) -> Tensor:
    """Return the positions of the boxes to draw: the best one of boxes that overlap by half, whatever their class.

    A detector removes overlaps only within a class, and the metric reads all that remain. Drawn, they would hide the
    best.

    Args:
        answer: `boxes` (n, 4) and `scores` (n,) of one scene.
    """
    from torchvision.ops import nms

    kept = nms(answer["boxes"], answer["scores"], 0.5)
    return kept[answer["scores"][kept] >= SHOWN_FROM]


def _legend(classes: Sequence[str]) -> list[Any]:
    from matplotlib.patches import Patch

    named = list(enumerate(classes))[BACKGROUND + 1 : len(COLOURS)]
    return [Patch(color=colour_of(label), label=for_picture(name)) for label, name in named]
