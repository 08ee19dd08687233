"""Specification of a model (`Spec`) and its row in a family's table (`Entry`)."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_args

from torch import nn

from zoo.arguments import is_whole
from zoo.strides import STEMS, Level, hold
from zoo.weights import Weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
LARGEST = 2**20
"""Bound on whole numbers in a specification. No layer has as many channels, and no net as many layers."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """An architecture as numbers, words and tuples of them. Subclasses add the fields and the derived values.

    Lists become tuples, so that a specification read back from JSON equals the one that was written.
    """

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            self._read(f.name, f.type)
        self.check()

    def _read(self, name: str, kind: Any) -> None:
        """Check type and finiteness of a field; make lists tuples, and whole numbers floats in float fields."""
        value = getattr(self, name)
        element, *rest = get_args(kind) or (kind,)
        values = tuple(value) if rest and isinstance(value, list | tuple) else (value,)
        self.require(not rest or isinstance(value, list | tuple), name, "be a tuple")
        if element is int:
            self.require(all(map(is_whole, values)), name, "hold whole numbers only" if rest else "be a whole number")
            self.require(all(-LARGEST <= n <= LARGEST for n in values), name, f"not exceed {LARGEST}")
        elif element is float:
            good = all(isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x) for x in values)
            self.require(good, name, "hold finite numbers only" if rest else "be a finite number")
        else:
            words = {str: "a word", bool: "True or False"}
            self.require(all(type(x) is element for x in values), name, f"be {words[element]}")
        values = tuple(map(element, values))
        object.__setattr__(self, name, values if rest else values[0])

    def check(self) -> None:
        """Raise ValueError, naming the field and its value, if the fields do not make a net."""

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Total stride of each part of the trunk before any is traded for dilation, finest first.

        Parts of one resolution are adjacent.
        """
        raise NotImplementedError

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """Total strides of taps in the stem. Strides of the stem are never traded for dilation."""
        return ()

    @property
    def native_stride(self) -> int | None:
        """Output stride of a net that was published with strides already traded for dilation; None for any other."""
        return None

    @property
    def tap_strides(self) -> tuple[int, ...]:
        """Total stride of each feature tap at the native output stride, finest first; one tap per resolution."""
        return tuple(dict.fromkeys((*self.stem_strides, *self.output_strides)))

    @property
    def output_strides(self) -> tuple[int, ...]:
        """Total strides at which dilation can hold the deepest map. The native one is last."""
        return tuple(dict.fromkeys(level.stride for level in self.hold(None)))

    def hold(self, output_stride: int | None) -> tuple[Level, ...]:
        """Return the parts of the trunk with strides and dilations at ``output_stride`` (None for the native one)."""
        return hold(self.level_strides, output_stride or self.native_stride)

    @property
    def head_stride(self) -> int:
        """Total stride of the map that the head reads."""
        return self.tap_strides[-1]

    def head_size(self, size: int) -> int:
        """Return the height or width of the map that the head reads, for an image of that size at the native stride."""
        return -(-size // self.head_stride)

    def held(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return the total stride of each feature tap at ``output_stride``."""
        return tuple(level.stride for level in hold(self.tap_strides, output_stride))

    def smallest(self, output_stride: int | None = None) -> tuple[int, ...]:
        """Return height and width of the smallest image that reaches each tap, and last the map that the head reads.

        Args:
            output_stride: Output stride of the net; None for the native one.
        """
        return (1,) * (len(self.tap_strides) + 1)

    @property
    def lacks(self) -> Mapping[str, str]:
        """Arguments that the topology cannot support, with the reason that an error gives.

        ``drop_path_rate``, ``zero_init_last`` and ``norm_layer`` must stay at their defaults in a net without residual
        branches or norms. ``out_indices`` is listed if the taps differ from those of an ImageNet net (strides 2, 4, 8,
        16, 32). ``output_stride`` is listed if such a net cannot be held at 8 and 16. ``padding`` is listed if
        convolutions without padding make maps smaller than size / stride.
        """
        return {}

    @property
    def dense(self) -> bool:
        """True if the head scores every position of its map by default, instead of the pooled map."""
        return False

    def facts(self) -> dict[str, str]:
        """Return derived values that are worth showing to a reader, by name."""
        return {}

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of the fields, which may be overridden."""
        return tuple(f.name for f in dataclasses.fields(cls))

    def replace(self, **changes: Any) -> Self:
        """Return the specification with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary; ``from_dict`` reverses this."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make a specification from the output of ``to_dict``, also after a trip through JSON."""
        return cls(**fields)

    def require(self, condition: bool, name: str, rule: str) -> None:
        """Raise ValueError with the field and its value unless the condition holds."""
        if not condition:
            raise ValueError(f"{name} ({getattr(self, name)!r}) must {rule}")

    def require_choice(self, name: str, choices: Mapping[str, Any] | tuple[str, ...]) -> None:
        """Raise ValueError unless the field is one of the choices."""
        self.require(getattr(self, name) in choices, name, f"be one of {', '.join(choices)}")

    def require_positive(self, *names: str) -> None:
        """Raise ValueError unless the fields (numbers, or tuples of them) are positive whole numbers."""
        for name in names:
            value = getattr(self, name)
            numbers_given = value if isinstance(value, tuple) else (value,)
            self.require(bool(numbers_given) and min(numbers_given) > 0, name, "hold positive whole numbers only")


@dataclass(frozen=True, kw_only=True)
class StemSpec(Spec):
    """Specification of a net that has either a stem for photographs or one for small images.

    Attributes:
        stem: A key of ``STEMS``.
    """

    stem: str = "imagenet"

    @property
    def finest(self) -> int:
        """Total stride where the trunk begins."""
        return STEMS[self.stem][1]

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """Total stride of the first convolution, if the stem halves again after it."""
        first, finest = STEMS[self.stem]
        return (first,) if first < finest else ()


@dataclass(frozen=True)
class Entry:
    """A model: one row of a family's ``MODELS`` table.

    Attributes:
        build: The net's class, called as ``build(spec, **task)``.
        spec: The architecture.
        paper: Authors, year and arXiv number or venue.
        reference: The implementation that tests compare the net with. If empty, `notes` give the reason.
        params: Number of parameters with the default head; a test counts them.
        input_size: Channels, height and width of the published net's input.
        num_classes: Width of the default head.
        mean: Mean of each input channel, for preprocessing.
        std: Standard deviation of each input channel.
        crop_pct: Share of the resized image that the evaluation crop takes.
        interpolation: Interpolation of the evaluation resize.
        lineups: Benchmark line-ups that include the model.
        lr_factor: Factor on the recipe's learning rate, for nets that do not train with the common one; `notes` say
            why.
        epochs_factor: Factor on the recipe's epochs, for nets that need more; `notes` say why.
        precise_norms: True if a recipe has to estimate the norms' statistics again before a test; `notes` say why.
        notes: Facts for a reader: differences from the paper, readings of unclear parts.
        weights: Trained weights by tag, the default first; filled in by the registry from
            ``zoo/data/weights.csv``, and from timm or torchvision where that is the reference.
        name: Name in the zoo; filled in by the registry from the table's key.
        timm_name: Name in timm's registry: the same, or ``zoo_<name>`` if timm has the name; filled in by the registry.
        family: Name of the family's file; filled in by the registry.
    """

    build: type[nn.Module]
    spec: Spec
    _: dataclasses.KW_ONLY
    paper: str
    params: int
    reference: str = ""
    input_size: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    lineups: tuple[str, ...] = ()
    lr_factor: float = 1.0
    epochs_factor: float = 1.0
    precise_norms: bool = False
    notes: str = ""
    weights: Mapping[str, Weights] = field(default_factory=dict, hash=False)
    name: str = field(default="")
    timm_name: str = field(default="")
    family: str = field(default="")

    @property
    def default_tag(self) -> str:
        """First tag of the preset's own weights; empty if all belong to changed nets, or there are none."""
        return next((tag for tag, weights in self.weights.items() if not weights.overrides), "")

    @property
    def pool_size(self) -> tuple[int, int]:
        """Height and width of the map that the head reads, at the published input size."""
        return self.spec.head_size(self.input_size[1]), self.spec.head_size(self.input_size[2])


def cifar_task() -> dict[str, Any]:
    """Return the entry fields of a net for 32x32 images and ten classes."""
    return dict(input_size=(3, 32, 32), num_classes=10, mean=CIFAR_MEAN, std=CIFAR_STD, crop_pct=1.0)
