"""The recipe of a benchmark run. It is frozen and the same for all nets, so that only the topology differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

AMP_DTYPES = ("", "bfloat16")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "steps")
BORDERS = ("background", "mean", "reflect")
AUGMENTS = ("", "trivial", "rand")
CLASS_WEIGHTS = ("", "balanced")
LARGEST = {"int": 2**31 - 1, "float": 1e9}
"""Largest size of a number, by its type."""
KINDS: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "tuple[float, ...]": tuple,
    "tuple[int, ...]": tuple,
}
FIRST_FIELDS = (
    *("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay"),
    *("warmup_epochs", "label_smoothing", "max_shift", "amp"),
)
"""Fields that are always stored. Later fields are stored only if not the default, so that keys of old runs hold."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent, or AdamW, with a linear warm-up and a half-cosine or steps after it.

    Weight decay acts on convolution and linear weights only, not on norms and biases (He et al. 2018,
    arXiv:1812.01187), unless `decay_all` is set.
    Every field is part of a run's key: change one and the run counts as a new one.

    Attributes:
        epochs: Passes over the training set.
        batch_size: Images per step, over all processes. The incomplete last batch of an epoch is dropped, because a net
            that ends in a 1x1 map cannot normalise a batch of one image.
        lr: Peak learning rate, reached after the warm-up.
        momentum: Momentum of the gradient average. AdamW uses it as its first beta.
        nesterov: Use Nesterov momentum; sgd only.
        weight_decay: L2 factor of the decayed weights.
        warmup_epochs: Length of the linear warm-up in epochs; fractions are allowed.
        label_smoothing: Share of the target that is spread over all classes.
        max_shift: Each training image moves by a uniform -n..n pixels along both axes, which is the "pad n, crop" of
            the papers. Sets that are read from disk batch by batch are cropped instead, see `crop_scale`.
        amp: Autocast type of the forward pass; empty means float32 throughout. bfloat16 needs no loss scaling.
        optimizer: sgd or adamw (Loshchilov and Hutter 2017, arXiv:1711.05101).
        schedule: Learning rate after the warm-up: ``cosine`` falls along a half-cosine to zero, ``steps`` multiplies by
            `step_factor` at each of `step_at`.
        step_at: Moments of the steps as rising shares of all epochs, so that they move with `epochs`.
        step_factor: See `schedule`.
        warmup_lr: Learning rate at the start of the warm-up.
        decay_all: Decay norms and biases as well, as in the papers' own code before 2018.
        flip: Mirror a training image left to right with probability 1/2. Not for digits: a mirrored 2 is not a 2.
        border: Filling of the area that a moved image uncovers: the image's ``background``, the ``mean`` of all
            training images (zeros after normalising), or the image itself, ``reflect``-ed.
        crop_scale: Smallest share of the area that a training crop of a set on disk takes, before it is resized to
            `image_size`, with aspect ratios from 3/4 to 4/3 (Szegedy et al. 2014, arXiv:1409.4842).
        image_size: Height and width of images from a set on disk after resizing; 0 for 224.
        short_sides: Smallest and largest length to which the shorter side of a training image of a set on disk is
            resized, at random, before a square of `image_size` is cut from it (Simonyan and Zisserman 2014,
            arXiv:1409.1556); empty for crops by `crop_scale`.
        colour: Strength of random changes of brightness, contrast and saturation, as in torchvision's ColorJitter.
        lighting: Deviation of noise along the principal components of colour (Krizhevsky et al. 2012, section 4.1,
            where it is 0.1). For images of three channels; the components are those of ImageNet.
        augment: Random operations on each image, in torchvision's versions: ``trivial`` for one (TrivialAugment,
            arXiv:2103.10158), ``rand`` for two (RandAugment, arXiv:1909.13719).
        erase: Probability that a rectangle of a training image is erased (arXiv:1708.04896).
        mixup: Alpha of mixup (arXiv:1710.09412); 0 for none.
        cutmix: Alpha of CutMix (arXiv:1905.04899). If both are given, each batch uses one of them at random.
        precise_norms: Estimate the statistics of norms again before each test, from training images that pass the net
            in evaluation mode. For nets whose maps differ between training and evaluation, such as those with dropped
            skips (Li et al. 2018, arXiv:1801.05134).
        ema: Decay per step of an average of the weights, which is then tested; 0 for none.
        layer_decay: Factor on the learning rate from each group of layers to the one before it, the classifier's being
            1 (timm's groups and order). For fine-tuning.
        class_weights: Weight of each class in the loss: ``balanced`` for the inverse of its number of training images,
            or pixels, such that the mean over all of them is 1; empty for equal weights.
        paths: Number of units whose branches are active in a step, drawn anew for each batch (Veit et al. 2016,
            arXiv:1605.06431); tested are all units. 0 for all. See `zoo.analysis.active.ActiveUnits`.
        paths_scaled: Multiply the drawn branches, so that sums have the size that they have with all units.

    Raises:
        ValueError: If a field lies outside its range; the message names field, rule and value.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    max_shift: int = 0
    amp: str = ""
    optimizer: str = "sgd"
    schedule: str = "cosine"
    step_at: tuple[float, ...] = ()
    step_factor: float = 0.1
    warmup_lr: float = 0.0
    decay_all: bool = False
    flip: bool = False
    border: str = "background"
    crop_scale: float = 0.08
    image_size: int = 0
    short_sides: tuple[int, ...] = ()
    colour: float = 0.0
    lighting: float = 0.0
    augment: str = ""
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    precise_norms: bool = False
    ema: float = 0.0
    layer_decay: float = 1.0
    class_weights: str = ""
    paths: int = 0
    paths_scaled: bool = False

    def __post_init__(self) -> None:
        for name in ("step_at", "short_sides"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))  # JSON knows no tuples
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            good = isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
            _check(field.name, value, good, f"be of type {kind}")
            if kind in LARGEST:  # an infinity is no setting, and nobody waits for 10^30 epochs
                _check(field.name, value, abs(value) <= LARGEST[kind], f"have a size of at most {LARGEST[kind]:,.0f}")
            if kind == "float":  # 1 and 1.0 ask for the same run
                object.__setattr__(self, field.name, float(value))
        for name in ("epochs", "batch_size"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "be at least 1")
        _check("lr", self.lr, self.lr > 0, "be positive")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "lie in [0, 1)")
        _check("nesterov", self.nesterov, self.momentum > 0 or not self.nesterov, "be False without momentum")
        for name in ("weight_decay", "warmup_epochs", "max_shift", "warmup_lr", "image_size", "colour", "paths"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "not be negative")
        for name in ("mixup", "cutmix", "lighting"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "not be negative")
        for name in ("label_smoothing", "ema"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "lie in [0, 1)")
        _check("paths_scaled", self.paths_scaled, self.paths > 0 or not self.paths_scaled, "be False without paths")
        _check("erase", self.erase, 0 <= self.erase <= 1, "lie in [0, 1]")
        _check("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "lie in (0, 1]")
        fits = self.layer_decay == 1 or not self.decay_all
        _check("layer_decay", self.layer_decay, fits, "be 1 with decay_all")
        _check("crop_scale", self.crop_scale, 0 < self.crop_scale <= 1, "lie in (0, 1]")
        self._check_sides()
        _check("step_factor", self.step_factor, 0 < self.step_factor < 1, "lie in (0, 1)")
        choices = {
            "amp": AMP_DTYPES,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "border": BORDERS,
            "augment": AUGMENTS,
            "class_weights": CLASS_WEIGHTS,
        }
        for name, known in choices.items():
            _check(name, getattr(self, name), getattr(self, name) in known, f"be one of {known}")
        rising = all(isinstance(at, int | float) and 0 < at < 1 for at in self.step_at)
        rising = rising and list(self.step_at) == sorted(set(self.step_at))
        _check("step_at", self.step_at, rising, "be rising shares of the epochs, between 0 and 1")
        fits = bool(self.step_at) == (self.schedule == "steps")
        _check("step_at", self.step_at, fits, "have shares with schedule 'steps', and none with another")

    def _check_sides(self) -> None:
        sides = self.short_sides
        if not sides:
            return
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
        fits = whole and len(sides) == 2 and 0 < self.image_size <= sides[0] <= sides[1]
        rule = "be two rising whole numbers of at least image_size, which has to be given with them, or empty"
        _check("short_sides", sides, fits, rule)
        _check("crop_scale", self.crop_scale, self.crop_scale == DEFAULTS["crop_scale"], "be left out with short_sides")

    @property
    def rise(self) -> float:
        """Epochs of warm-up. At most half of all epochs, so that a run of one epoch reaches its peak as well."""
        return min(self.warmup_epochs, self.epochs / 2)

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a moment of the run.

        Args:
            epoch: Elapsed epochs, with fractions: 0 at the first step, `epochs` after the last.
        """
        warmup = self.rise
        if epoch < warmup:
            return self.warmup_lr + (self.lr - self.warmup_lr) * epoch / warmup
        if self.schedule == "steps":
            return self.lr * self.step_factor ** sum(epoch >= at * self.epochs for at in self.step_at)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup)))

    def changed(self, **changes: Any) -> Recipe:
        """Return a copy with some fields replaced.

        Raises:
            ValueError: If a key is no field, or a new value lies outside its range.
        """
        names = [field.name for field in fields(self)]
        for key in changes:
            if key not in names:
                raise ValueError(f"unknown recipe field {key!r}: choose from {', '.join(names)}")
        return replace(self, **changes)

    @classmethod
    def of_line(cls, fields: Mapping[str, Any]) -> Recipe:
        """Return the recipe that a result line holds.

        Raises:
            ValueError: If it lacks a field, or has an unknown or a wrong one.
        """
        try:
            return cls(**fields)
        except TypeError as error:
            told = str(error).removeprefix("Recipe.__init__() ")
            raise ValueError(f"the recipe of the line is none of this zoo: {told}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types. Later fields are included only if they differ from their defaults.

        Keys of runs that were stored before these fields existed therefore stay the same.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key in FIRST_FIELDS or value != DEFAULTS[key]
        }

    def describe(self) -> list[str]:
        """Describe the recipe in sentences without full stops."""
        rate = f"learning rate {self.lr:g}"
        if self.rise:
            rate += f", rising from {self.warmup_lr:g} over {self.rise:g} epoch{'s' * (self.rise != 1)}"
        if self.schedule == "steps":
            moments = ", ".join(f"{at * self.epochs:g}" for at in self.step_at)
            rate += f", times {self.step_factor:g} at epochs {moments}"
        else:
            rate += ", falling to 0 along a half-cosine"
        decayed = "all parameters" if self.decay_all else "convolution and linear weights"
        moving = f"{'Nesterov ' * (self.nesterov and self.optimizer == 'sgd')}momentum {self.momentum:g}"
        crop = f"crops of {100 * self.crop_scale:g} to 100 % of the area at {self.image_size} px"
        if self.short_sides:
            first, last = self.short_sides
            sides = f"{first}" if first == last else f"{first} to {last}"
            crop = f"squares of {self.image_size} px cut from images with a shorter side of {sides} px"
        images = [
            *[crop] * bool(self.image_size),
            *[f"moved by up to {self.max_shift} pixels ({self.border} at the border)"] * bool(self.max_shift),
            *["mirrored by chance"] * self.flip,
            *[f"colours changed by up to {self.colour:g}"] * bool(self.colour),
            *[f"noise of {self.lighting:g} along the principal components of colour"] * bool(self.lighting),
            *[f"one random operation each ({self.augment})"] * bool(self.augment),
            *[f"a rectangle erased with probability {self.erase:g}"] * bool(self.erase),
            *[f"mixup {self.mixup:g}"] * bool(self.mixup),
            *[f"cutmix {self.cutmix:g}"] * bool(self.cutmix),
        ]
        return [
            f"{self.epochs} epoch{'s' * (self.epochs > 1)} of batches of {self.batch_size}, {self.amp or 'float32'}",
            f"{self.optimizer}, {moving}, weight decay {self.weight_decay:g} on {decayed}",
            rate,
            "training images: " + (", ".join(images) or "as they are"),
            *[f"label smoothing {self.label_smoothing:g}"] * bool(self.label_smoothing),
            *["classes weigh by the inverse of how often they occur"] * bool(self.class_weights),
            *["statistics of norms are estimated anew before each test"] * self.precise_norms,
            *[f"learning rates fall by {self.layer_decay:g} from layer to layer"] * (self.layer_decay < 1),
            *[f"{self.paths} units are active in a step{', their branches scaled up' * self.paths_scaled}"]
            * bool(self.paths),
            *[f"tested is an average of the weights with decay {self.ema:g}"] * bool(self.ema),
        ]


DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
"""Default of each optional field, which also applies to fields that a stored line leaves out."""


def words(fields: Mapping[str, Any]) -> str:
    """Return fields as text, ``lr=0.02, epochs=20``, without the digits of rounding errors."""
    return ", ".join(
        f"{key}={value:.12g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )


def _check(name: str, value: object, fine: bool, rule: str) -> None:
    if not fine:
        raise ValueError(f"recipe field {name} must {rule}, got {value!r}")
