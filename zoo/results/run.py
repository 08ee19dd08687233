"""A request to the benchmark, and the key of its result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from zoo.results.recipe import Recipe

KEY_LENGTH = 16
CLASSIFY = "classify"
"""Task of results without a task."""
NAMED_SETS = ("digits", "scenes", "fashion", "fashion_search", "fashion_scenes")
"""Image sets whose name identifies their images, with or without a fingerprint in the line."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Request to the benchmark: one net, trained once.

    Attributes:
        name: Name of the model in the registry.
        overrides: Changed fields of its specification; values are plain JSON types or tuples of them.
        dataset: Name of the image set.
        recipe: Recipe of the training.
        seed: Seed of initialisation, order and augmentation.
        task: Name of the task, see `zoo.bench.tasks`.
        head: Model that the net is built into, for tasks with a choice.
        frozen: True if the net keeps its first weights and only the layers on top of it learn. The statistics of its
            norms still follow the batches.
        fingerprint: Fingerprint of the image set, see `zoo.datasets.image_set.ImageSet`; empty for a set that its name
            identifies.
        validation: Share of the training images that is held out and tested after each epoch, instead of the test
            images; 0 for none. The run's seed chooses them.
        weights: File or folder of the first weights; empty for random ones, or those of a tag in the name. The key
            holds their digest instead of this path.
        digest: Digest of these weights.
        freeze: Part of the net that keeps its first weights, and whose norms keep their statistics: ``body`` for all
            but the classifier, ``until=STAGE`` for all up to the end of a stage; empty for none.
    """

    name: str
    dataset: str
    recipe: Recipe
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    task: str = CLASSIFY
    head: str = ""
    frozen: bool = False
    fingerprint: str = ""
    validation: float = 0.0
    weights: str = ""
    digest: str = ""
    freeze: str = ""

    @property
    def display(self) -> str:
        """Display name of the run, without its seed."""
        return display_name(self.name, self.overrides, self.head, self.frozen, self.start)

    @property
    def start(self) -> dict[str, Any]:
        """Fields that say how the net starts and what it is tested on, for lines; those at their defaults are left out.

        Of the path only the last part is stored, which is enough for a reader and does not name a machine's folders.
        """
        weights = re.split(r"[/\\]", self.weights.rstrip("/\\"))[-1]
        fields = {"first_weights": weights, "digest": self.digest, "freeze": self.freeze, "validation": self.validation}
        return {key: value for key, value in fields.items() if value}

    @property
    def key(self) -> str:
        """Short hash of the request. Versions, device and time are not part of it."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types. Later fields are included only if they differ from their defaults.

        Keys of classification runs on digits therefore stay the same as before there were other tasks and fingerprints.
        """
        names = ("task", "head", "frozen", "fingerprint", "validation", "digest", "freeze")
        default = {field.name: field.default for field in fields(self)}
        extra = {name: getattr(self, name) for name in names}
        return {
            "name": self.name,
            "overrides": dict(self.overrides),
            "dataset": self.dataset,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            **{key: value for key, value in extra.items() if value != default[key]},
        }


def display_name(
    name: str,
    overrides: Mapping[str, Any],
    head: str = "",
    frozen: bool = False,
    start: Mapping[str, Any] | None = None,
) -> str:
    """Return the display name of a net: `net`, `frozen net`, `head(net)` or `head(frozen net)`.

    A preset with overrides is no longer the preset: it is shown as `name + key=value, key=value`. First weights, a
    frozen part and a validation half are named behind it.

    Args:
        name: Name of the model.
        overrides: Changed fields of its specification.
        head: Decoder or detector.
        frozen: True if the net keeps its first weights.
        start: Fields of a line as `Run.start` returns them. Others are left alone.
    """
    net = name
    if overrides:
        net += " + " + ", ".join(f"{key}={_plain(value)}" for key, value in sorted(overrides.items()))
    net = f"frozen {net}" if frozen else net
    start = start or {}
    notes = [f"from {start['first_weights']}"] if start.get("first_weights") else []
    notes += [f"frozen {start['freeze'].replace('=', ' ')}"] if start.get("freeze") else []
    notes += [f"validation {start['validation']:g}"] if start.get("validation") else []
    net += f" ({', '.join(notes)})" if notes else ""
    return f"{head}({net})" if head else net


def _plain(value: Any) -> str:
    """Return the text of a value; tuples and the lists that JSON makes of them give the same text."""
    return f"({', '.join(map(_plain, value))})" if isinstance(value, list | tuple) else str(value)
