"""Shape or texture: which of two cues a net follows where they disagree.

Geirhos et al. 2019 (arXiv:1811.12231) show nets photographs with the shape of one class and the texture of another;
the shape bias is the share of shapes among the answers that are one of the two. Their pictures and 1,000-class weights
are not at hand everywhere, so this is a substitute of our own (`zoo.datasets.cues`): digits filled with gratings. No
number of it compares with one of theirs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.analysis.nets import Options, accuracy, expand, open_images, open_net, sample, trained_on, untouched
from zoo.analysis.outcome import Outcome
from zoo.datasets.built_in import load_dataset
from zoo.datasets.cues import Conflicts, conflicting
from zoo.escape import for_picture, for_terminal
from zoo.evaluation import pooled

CUES = "cues"
BATCH = 100


@dataclass(frozen=True)
class Bias:
    """Answers of a net to images with two cues, in percent.

    Attributes:
        agreeing: Accuracy on images whose cues agree.
        shape: Answers to images in conflict that name the shape.
        texture: Answers that name the texture.
        shape_alone: Accuracy on white shapes.
        texture_alone: Accuracy on textures over the whole image.
    """

    agreeing: float
    shape: float
    texture: float
    shape_alone: float
    texture_alone: float

    @property
    def shape_bias(self) -> float | None:
        """Share of shapes among the answers that name one of the two cues; None if none does."""
        named = self.shape + self.texture
        return 100 * self.shape / named if named else None


def cue_bias(net: nn.Module, agreeing: tuple[Tensor, Tensor], conflicts: Conflicts) -> Bias:
    """Return which cue a net follows.

    Args:
        net: The net. It runs in evaluation and stays as it is.
        agreeing: Images whose cues agree, and their classes.
        conflicts: Images whose cues disagree.
    """
    with torch.inference_mode(), untouched(net):
        answers = torch.cat([pooled(net(batch)).argmax(1) for batch in conflicts.both.split(BATCH)])
    shape, texture = (100 * float((answers == cue).float().mean()) for cue in (conflicts.shapes, conflicts.textures))
    return Bias(
        agreeing=accuracy(net, *agreeing),
        shape=shape,
        texture=texture,
        shape_alone=accuracy(net, conflicts.shape, conflicts.shapes),
        texture_alone=accuracy(net, conflicts.texture, conflicts.textures),
    )


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Measure which cue trained nets follow.

    Args:
        names: Folders of nets that were trained on the set ``cues``.
        options: ``images``, which bounds each kind of images, and ``seed``.

    Raises:
        ValueError: If a net was not trained on the set, or ``images`` is below 1.
    """
    cues: Any = load_dataset(CUES)
    digits: Any = load_dataset("digits")
    agreeing = sample(cues, "test", options.images)
    conflicts = conflicting(cues, digits, options.seed)
    few = conflicts.every(-(-len(conflicts.both) // options.images))
    found: dict[str, Bias] = {}
    for name, title in expand(names).items():
        if trained_on(name) != CUES:
            raise ValueError(
                f"{for_terminal(title)!r} must be trained on the two cues: zoo bench NAME --dataset {CUES}"
            )
        open_images(name, Options())  # compares the images that it was trained on
        found[title] = cue_bias(open_net(name), agreeing, few)
    values = {name: {**asdict(bias), "shape_bias": bias.shape_bias} for name, bias in found.items()}
    rows = [
        {"net": name, **{key: None if value is None else round(value, 3) for key, value in measured.items()}}
        for name, measured in values.items()
    ]
    return Outcome(
        what="shape-or-texture",
        rows=rows,
        draw=lambda figure: _draw(figure, found, cues, conflicts),
        notes=(
            "All in percent. shape, texture: answers where the two disagree. shape_bias: shape / (shape + texture), "
            "nothing if no answer names either. "
            "A set of our own: nothing here compares with published shape biases.",
        ),
        size=(8.0, 2.6 + 0.25 * len(found)),
    )


def _draw(figure: Any, found: dict[str, Bias], cues: Any, conflicts: Conflicts) -> None:
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2))
    grid = left.subplots(4, 3, squeeze=False)
    kinds = {
        "agree": cues.test_images,
        "disagree": conflicts.both,
        "shape": conflicts.shape,
        "texture": conflicts.texture,
    }
    for row, (word, images) in zip(grid, kinds.items(), strict=True):
        for i, axes in enumerate(row):
            picture = (images[i] * cues.std + cues.mean).clamp(0, 1).permute(1, 2, 0)
            axes.imshow(picture.numpy(), interpolation="nearest")
            axes.set_axis_off()
        row[0].text(-0.15, 0.5, word, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    axes = right.subplots()
    places = range(len(found))
    shapes, textures = ([getattr(bias, cue) for bias in found.values()] for cue in ("shape", "texture"))
    axes.barh(places, shapes, color="#0072B2", label="shape")
    axes.barh(places, textures, left=shapes, color="#D55E00", label="texture")
    others = [100 - a - b for a, b in zip(shapes, textures, strict=True)]
    axes.barh(places, others, left=[100 - other for other in others], color="0.85", label="another class")
    for place, bias in zip(places, found.values(), strict=True):
        told = "no cue named" if bias.shape_bias is None else f"shape bias {bias.shape_bias:.0f} %"
        axes.text(50, place, told, ha="center", va="center", fontsize=7)
    axes.set_yticks(places, [for_picture(name) for name in found], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("answers where shape and texture disagree [%]")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7)
