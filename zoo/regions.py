"""Deformable RoI pooling for torchvision's detectors (Dai et al. 2017, arXiv:1703.06211, section 2.2).

A region is cut into bins, and each bin is moved by an offset of its own before its samples are averaged. The offsets
are learnt from the region: a first pooling without offsets, and one fully connected layer. Their unit is ``gamma``
times the side of the region. Samples are taken as `torchvision.ops.roi_align` takes them, so with offsets of zero the
two are equal; the authors' operator rounds the region's corners first and averages only the samples inside of the map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign

from zoo import arguments


def deform_roi_pool(
    x: Tensor,
    rois: Tensor,
    offsets: Tensor,
    *,
    scale: float = 1.0,
    sampling_ratio: int = 2,
    gamma: float = 0.1,
    aligned: bool = True,
) -> Tensor:
    """Pool regions of a map with an offset for each bin.

    Args:
        x: Map, (N, C, H, W).
        rois: (K, 5): number of the image, x1, y1, x2, y2 in pixels of the image.
        offsets: (K, 2, h, w): offsets of the bins in x and y, in units of ``gamma`` times the region's side.
        scale: Pixels of the map per pixel of the image.
        sampling_ratio: Samples of a bin along each side. Adaptive numbers (0) are no option: regions share one grid.
        gamma: Unit of the offsets.
        aligned: As in `torchvision.ops.roi_align`: pixels have their centres at halves. Otherwise they are not moved,
            and regions have at least a side of one pixel of the map.

    Returns:
        (K, C, h, w).

    Raises:
        ValueError: If a shape does not fit, or ``sampling_ratio`` is below 1.
    """
    arguments.whole("sampling_ratio", sampling_ratio, least=1)
    if rois.dim() != 2 or rois.shape[1] != 5 or offsets.dim() != 4 or offsets.shape[:2] != (len(rois), 2):
        raise ValueError(
            f"rois {tuple(rois.shape)} and offsets {tuple(offsets.shape)} must be (K, 5) and (K, 2, h, w) with one K"
        )
    # Half precision could not tell one pixel from the next, and some types may come together under autocast.
    exact = torch.promote_types(x.dtype, torch.float32)
    rois, offsets = rois.to(exact), offsets.to(exact)
    (height, width), (bins_y, bins_x) = x.shape[2:], offsets.shape[2:]
    half = 0.5 if aligned else 0.0
    left, top, right, bottom = (rois[:, 1:] * scale - half).unbind(1)
    sides = right - left, bottom - top
    if not aligned:
        sides = sides[0].clamp(min=1), sides[1].clamp(min=1)
    xs = _samples(left, sides[0], bins_x, sampling_ratio)[:, None, :]
    ys = _samples(top, sides[1], bins_y, sampling_ratio)[:, :, None]
    moved = offsets.repeat_interleave(sampling_ratio, 2).repeat_interleave(sampling_ratio, 3)
    xs = xs + moved[:, 0] * gamma * sides[0][:, None, None]
    ys = ys + moved[:, 1] * gamma * sides[1][:, None, None]
    inside = (xs >= -1) & (xs <= width) & (ys >= -1) & (ys <= height)
    grid = torch.stack([_unit(xs, width), _unit(ys, height)], 3)
    pooled = x.new_zeros((len(rois), x.shape[1], bins_y, bins_x))
    for image in rois[:, 0].unique().long().tolist():
        own = rois[:, 0] == image
        count = int(own.sum())
        flat = grid[own].flatten(0, 1)[None]  # (1, regions * rows, columns, 2)
        values = F.grid_sample(x[image : image + 1].to(exact), flat, align_corners=True)
        values = values[0].unflatten(1, (count, -1)).transpose(0, 1) * inside[own][:, None]
        means = F.avg_pool2d(values, sampling_ratio).to(x.dtype)
        pooled = pooled.index_put((torch.nonzero(own)[:, 0],), means)
    return pooled


def _samples(start: Tensor, side: Tensor, bins: int, ratio: int) -> Tensor:
    """Return (K, bins * ratio) positions, evenly in each bin."""
    steps = (torch.arange(bins * ratio, dtype=start.dtype, device=start.device) + 0.5) / (bins * ratio)
    return start[:, None] + side[:, None] * steps


def _unit(places: Tensor, size: int) -> Tensor:
    """Return positions as `grid_sample` counts them: -1 at the first pixel, 1 at the last; those outside clamped."""
    return 2 * places.clamp(0, size - 1) / max(size - 1, 1) - 1


class DeformRoIPool(MultiScaleRoIAlign):
    """Deformable RoI pooling over the maps of a pyramid: ``box_roi_pool`` of torchvision's detectors.

    At its start the offsets are zero, and it is equal to `torchvision.ops.MultiScaleRoIAlign`.

    >>> pool = zoo.regions.DeformRoIPool(["0", "1", "2", "3"], 7, 2, channels=256)
    >>> detector = FasterRCNN(zoo.detection_backbone("fishnet99"), num_classes=91, box_roi_pool=pool)

    Args:
        featmap_names: Names of the maps, finest first.
        output_size: Bins along each side.
        sampling_ratio: Samples of a bin along each side.
        channels: Channels of the maps.
        gamma: Unit of the offsets, in sides of the region.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int,
        sampling_ratio: int,
        *,
        channels: int,
        gamma: float = 0.1,
    ) -> None:
        arguments.whole("sampling_ratio", sampling_ratio, least=1)
        super().__init__(list(featmap_names), output_size, sampling_ratio)
        self.gamma = gamma
        bins = self.output_size[0] * self.output_size[1]
        self.offset = nn.Linear(channels * bins, 2 * bins)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool the boxes of all images: (K, channels, output_size, output_size)."""
        still = super().forward(x, boxes, image_shapes)
        offsets = self.offset(still.flatten(1)).unflatten(1, (2, *self.output_size))
        maps = [x[name] for name in self.featmap_names if name in x]
        rois = torch.cat([F.pad(own, (1, 0), value=float(i)) for i, own in enumerate(boxes)])
        scales, mapper = self.scales, self.map_levels
        assert scales is not None
        assert mapper is not None
        levels = mapper(boxes) if len(maps) > 1 else torch.zeros(len(rois), dtype=torch.long, device=rois.device)
        pooled = still.new_zeros(still.shape)
        for level, (own_map, scale) in enumerate(zip(maps, scales, strict=True)):
            [own] = torch.nonzero(levels == level, as_tuple=True)
            part = deform_roi_pool(
                own_map,
                rois[own],
                offsets[own],
                scale=scale,
                sampling_ratio=self.sampling_ratio,
                gamma=self.gamma,
                aligned=False,
            )
            pooled = pooled.index_put((own,), part.to(pooled.dtype))
        return pooled
