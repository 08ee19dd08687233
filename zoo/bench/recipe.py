"""What a benchmark run trains with: one frozen recipe for all nets, so that only the topology differs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

AMP_DTYPES = ("", "bfloat16")
OPTIMIZERS = ("sgd", "adamw")
KINDS: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stochastic gradient descent, or AdamW, with a linear warm-up and a half-cosine down to zero.

    Weight decay acts on convolution and linear weights only, not on norms and biases (He et al. 2018,
    arXiv:1812.01187).
    Every field is part of a run's key: change one and the run counts as a new one.

    Attributes:
        epochs: Passes over the training set.
        batch_size: Images a step; the incomplete last batch of an epoch is dropped, because a net that ends in a
            1x1 map cannot normalise a batch of one image.
        lr: Peak learning rate, reached after the warm-up.
        momentum: Momentum of the gradient average; AdamW takes it for its first beta.
        nesterov: Whether the momentum looks ahead; sgd only.
        weight_decay: L2 factor of the decayed weights.
        warmup_epochs: Length of the linear warm-up in epochs; fractions are allowed.
        label_smoothing: Share of the target that is spread over all classes.
        max_shift: Each training image moves by a uniform -n..n pixels along both axes. There is no flip: a mirrored
            2 is not a 2.
        amp: Autocast type of the forward pass; empty means float32 throughout. bfloat16 needs no loss scaling.
        optimizer: sgd or adamw (Loshchilov and Hutter 2017, arXiv:1711.05101).

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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            _check(field.name, value, isinstance(value, KINDS[str(field.type)]), f"be of type {field.type}")
            if field.type == "float":  # 1 and 1.0 ask for the same run
                object.__setattr__(self, field.name, float(value))
        for name in ("epochs", "batch_size"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "be at least 1")
        _check("lr", self.lr, self.lr > 0, "be positive")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "lie in [0, 1)")
        _check("nesterov", self.nesterov, self.momentum > 0 or not self.nesterov, "be False without momentum")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "not be negative")
        _check("warmup_epochs", self.warmup_epochs, self.warmup_epochs >= 0, "not be negative")
        _check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "lie in [0, 1)")
        _check("max_shift", self.max_shift, self.max_shift >= 0, "not be negative")
        _check("amp", self.amp, self.amp in AMP_DTYPES, f"be one of {AMP_DTYPES}")
        _check("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"be one of {OPTIMIZERS}")

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a moment of the run.

        Args:
            epoch: Epochs gone by, with fractions: 0 at the first step, `epochs` after the last.
        """
        warmup = min(self.warmup_epochs, self.epochs / 2)  # a run of one epoch still needs a peak inside it
        if epoch < warmup:
            return self.lr * epoch / warmup
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types; the optimizer only where it is not sgd.

        So the keys of runs that were stored before there was a choice stay as they are.
        """
        fields = asdict(self)
        if self.optimizer == "sgd":
            del fields["optimizer"]
        return fields


def _check(name: str, value: object, fine: bool, rule: str) -> None:
    if not fine:
        raise ValueError(f"recipe field {name} must {rule}, got {value!r}")
