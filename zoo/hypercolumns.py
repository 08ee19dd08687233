"""Hypercolumns of any backbone, and a classifier of single pixels that is trained on few of them.

Hariharan et al. 2015 (arXiv:1411.5752): the hypercolumn of a pixel holds the values of several maps at its place,
enlarged bilinearly to the image's size. Bansal et al. 2017 (PixelNet, arXiv:1702.06506): a perceptron of two hidden
layers classifies the pixel. Neighbours tell nearly the same, so training draws 2,000 pixels an image, and the maps are
sampled at these places instead of enlarged.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import arguments
from zoo.registry import create_model

PIXELS = 2000
"""Pixels of an image that the paper trains on."""
CHUNK = 2**14
"""Pixels of an image that are classified at a time."""


def hypercolumns(maps: Sequence[Tensor], places: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the values of maps at pixels of the image.

    Args:
        maps: Maps (N, C_i, h_i, w_i).
        places: (N, P, 2): row and column of each pixel.
        size: Height and width of the image.

    Returns:
        (N, P, sum of C_i): what the maps would hold there, enlarged bilinearly to the image's size.
    """
    exact = reduce(torch.promote_types, [m.dtype for m in maps], torch.float32)
    rows_and_columns = places.to(exact) + 0.5
    grid = 2 * rows_and_columns / torch.tensor(size, dtype=exact, device=places.device) - 1
    grid = grid.flip(2)[:, None]  # x first
    return torch.cat([_sample(m, grid) for m in maps], 1).transpose(1, 2)


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    """Return (N, C, P): a map at (N, 1, P, 2) places. Half precision could not tell one pixel from the next."""
    found = F.grid_sample(x.to(grid.dtype), grid, padding_mode="border", align_corners=False)
    return found[:, :, 0].to(x.dtype)


def draw_pixels(labels: Tensor, count: int = PIXELS, *, ignore: int = 255) -> tuple[Tensor, Tensor]:
    """Return places (N, count, 2) and their labels (N, count), drawn evenly among the labelled pixels of each image.

    Pixels are drawn with replacement, from torch's random state.

    Args:
        labels: Classes (N, H, W).
        count: Pixels of each image.
        ignore: Label of pixels that are not drawn.

    Raises:
        ValueError: If an image has no labelled pixel.
    """
    width = labels.shape[2]
    flat = labels.flatten(1)
    known = (flat != ignore).float()
    if not known.any(1).all():
        raise ValueError(f"labels must have a pixel other than {ignore} (ignore) in every image")
    chosen = torch.multinomial(known, count, replacement=True)
    return torch.stack([chosen // width, chosen % width], 2), flat.gather(1, chosen)


class PixelNet(nn.Module):
    """A backbone whose hypercolumns are classified, pixel by pixel.

    >>> net = zoo.hypercolumns.PixelNet("vgg16", 21)
    >>> places, classes = zoo.hypercolumns.draw_pixels(labels)
    >>> loss = F.cross_entropy(net(images, places).flatten(0, 1), classes.flatten())

    Args:
        net: A name for `zoo.create_model`, or what it returns with ``features_only=True``.
        num_classes: Number of classes.
        hidden: Widths of the hidden layers.
        overrides: As in `zoo.create_model`, such as ``out_indices``; only if ``net`` is a name.
    """

    def __init__(
        self, net: str | nn.Module, num_classes: int, *, hidden: Sequence[int] = (4096, 4096), **overrides: Any
    ) -> None:
        super().__init__()
        arguments.whole("num_classes", num_classes, least=1)
        if isinstance(net, str):
            net = create_model(net, features_only=True, **overrides)
        elif overrides:
            raise ValueError(
                f"{', '.join(overrides)} must be given to the net where it is made; here it is made already"
            )
        info: Any = getattr(net, "feature_info", None)
        if not callable(getattr(info, "channels", None)):
            raise TypeError(
                f"net ({type(net).__name__}) must be a model's name, or what create_model(..., features_only=True) "
                "returns"
            )
        self.body = net
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise arguments.wrong("hidden", hidden, "be the widths of the hidden layers")
        widths = [sum(info.channels()), *(arguments.whole("hidden", width, least=1) for width in hidden)]
        layers = [layer for ins, outs in pairwise(widths) for layer in (nn.Linear(ins, outs), nn.ReLU())]
        self.classifier = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Compute scores of some pixels, or of all.

        Args:
            x: Images (N, C, H, W).
            places: (N, P, 2): row and column of each pixel. None for all pixels.

        Returns:
            (N, P, num_classes); for all pixels (N, num_classes, H, W).
        """
        size = (x.shape[2], x.shape[3])
        maps = self.body(x)
        if places is not None:
            return self.classifier(hypercolumns(maps, places, size))
        axes = [torch.arange(side, device=x.device) for side in size]
        every = torch.cartesian_prod(*axes).expand(x.shape[0], -1, -1)
        scores = [self.classifier(hypercolumns(maps, part, size)) for part in every.split(CHUNK, 1)]
        return torch.cat(scores, 1).transpose(1, 2).unflatten(2, size)
