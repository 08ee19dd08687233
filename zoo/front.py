"""A spatial transformer in front of any net (Jaderberg et al. 2015, arXiv:1506.02025, section 3).

A small net looks at the image and gives the parameters of an affine map; the image is sampled where that map sends the
pixels of the result, bilinearly; the net sees the result. At its start the map is the identity, so the whole computes
what the net alone computes. The result may have another size than the image.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import arguments

KINDS = ("affine", "attention")
"""Maps: all six numbers of an affine map, or scale and translation (the paper's equations 1 and 2)."""
START: Mapping[str, tuple[float, ...]] = {"affine": (1, 0, 0, 0, 1, 0), "attention": (1, 0, 0)}
"""Parameters of the identity: of the rows of the matrix, or scale, x and y."""

OWN_START = re.compile(r"(?<![\[\\])\^")
"""Mark of a name's start in a rule for names; not that of a set of other characters, and not the character."""


# Half precision, as under autocast, could not tell one pixel from the next. The types are known only where a net runs,
# so that a graph of torch.fx calls these functions as a whole. Sums and products element by element are not autocast.


@torch.fx.wrap
def linear_exactly(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a linear layer of features (N, C), in single precision at least."""
    exact = torch.promote_types(weight.dtype, torch.float32)
    return (x.to(exact)[:, None] * weight.to(exact)).sum(2) + bias.to(exact)


@torch.fx.wrap
def sample_exactly(x: Tensor, theta: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample images (N, C, H, W) at places of affine maps (N, 2, 3), in the maps' precision: -> (N, C, *size)."""
    ys, xs = (torch.linspace(-1 if n > 1 else 0, 1, n, dtype=theta.dtype, device=theta.device) for n in size)
    across, down, shift = theta[:, None, None].unbind(4)  # (N, 1, 1, 2)
    grid = across * xs[:, None] + down * ys[:, None, None] + shift
    return F.grid_sample(x.to(theta.dtype), grid, align_corners=True).to(x.dtype)


class Localisation(nn.Module):
    """Localisation net of the paper's experiments on MNIST: two 5x5s with 20 channels, each pooled, and a linear layer.

    The maps are averaged to 4x4 before the linear layer, so that images may have any size.

    Args:
        in_chans: Channels of the image.
        num_features: Numbers that it gives.
    """

    def __init__(self, in_chans: int = 3, num_features: int = 20) -> None:
        super().__init__()
        self.num_features = arguments.whole("num_features", num_features, least=1)
        arguments.whole("in_chans", in_chans, least=1)
        self.conv1 = nn.Conv2d(in_chans, 20, 5, padding=2)
        self.conv2 = nn.Conv2d(20, 20, 5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.act = nn.ReLU()
        self.average = nn.AdaptiveAvgPool2d(4)
        self.linear = nn.Linear(20 * 16, num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features (N, num_features) of images (N, in_chans, H, W)."""
        x = self.act(self.pool(self.conv1(x)))
        x = self.act(self.pool(self.conv2(x)))
        return self.act(self.linear(self.average(x).flatten(1)))


class Front(nn.Module):
    """A net behind a spatial transformer.

    >>> net = zoo.front.Front(zoo.create_model("resnet20_cifar"))

    What a net of timm's contract has (``forward_features``, ``forward_intermediates``, ``pretrained_cfg``, ...) is the
    net's own, on the transformed image. The paper learns the localisation with a tenth of the rate in some experiments:
    its parameters are those of ``localisation`` and ``last``.

    Args:
        net: Any net that takes an image.
        localisation: Images -> features (N, ``num_features``), such as a net with ``num_classes=0``. Default:
            `Localisation` for the net's channels.
        size: Height and width of what the net sees. Default: those of the image.
        kind: One of ``KINDS``.

    Raises:
        ValueError: If the kind or the size is none, or the localisation does not say how many features it gives.
    """

    def __init__(
        self,
        net: nn.Module,
        localisation: nn.Module | None = None,
        *,
        size: tuple[int, int] | None = None,
        kind: str = "affine",
    ) -> None:
        super().__init__()
        self.kind = arguments.one_of("kind", kind, KINDS)
        if not isinstance(net, nn.Module):
            raise TypeError(f"net ({net!r}) must be a net that takes an image")
        self.net = net
        self.localisation = Localisation(getattr(net, "in_chans", 3)) if localisation is None else localisation
        features: Any = getattr(self.localisation, "num_features", None)
        if not isinstance(features, int):
            raise ValueError(
                f"localisation must have num_features, the number of features that it gives: "
                f"{type(self.localisation).__name__} has {features!r}"
            )
        if size is not None and (
            not isinstance(size, tuple | list)
            or len(size) != 2
            or not all(arguments.is_whole(n) and n > 0 for n in size)
        ):
            raise arguments.wrong("size", size, "be a height and a width: two whole numbers above 0")
        self.size = size
        start = torch.tensor(START[kind], dtype=torch.float32)
        self.last = nn.Linear(features, len(start))
        nn.init.zeros_(self.last.weight)
        self.last.bias.data.copy_(start)

    def theta(self, x: Tensor) -> Tensor:
        """Compute the affine maps (N, 2, 3) of images (N, C, H, W), in coordinates from -1 to 1."""
        numbers = linear_exactly(self.localisation(x), self.last.weight, self.last.bias)
        if self.kind == "attention":
            scale, right, down = numbers.unbind(1)
            numbers = torch.stack([scale, 0 * scale, right, 0 * scale, scale, down], 1)
        return numbers.unflatten(1, (2, 3))

    def transform(self, x: Tensor) -> Tensor:
        """Sample images (N, C, H, W) -> (N, C, *size)."""
        return sample_exactly(x, self.theta(x), self.size or (x.shape[2], x.shape[3]))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the net's layer groups, in order of depth, by the names of parameters here.

        The localisation is new like the classifier, and in the last group with it.
        """
        net: Any = self.net
        groups = net.group_matcher(coarse=coarse)
        return {
            name: _behind_net(rule) if isinstance(rule, str) else [(_behind_net(one), place) for one, place in rule]
            for name, rule in groups.items()
        }

    def forward(self, x: Tensor) -> Any:
        """Compute what the net computes from the transformed images."""
        return self.net(self.transform(x))

    def forward_features(self, x: Tensor) -> Any:
        """Compute the net's unpooled features of the transformed images."""
        net: Any = self.net
        return net.forward_features(self.transform(x))

    def forward_intermediates(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Compute the net's taps of the transformed images."""
        net: Any = self.net
        return net.forward_intermediates(self.transform(x), *args, **options)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the front, or else of the net."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "net":
                raise
            return getattr(super().__getattr__("net"), name)


def _behind_net(rule: str) -> str:
    """Return a rule for names of parameters, which is matched at their start, for names with ``net.`` before them."""
    return rf"^net\.(?:{re.sub(OWN_START, '', rule)})"
