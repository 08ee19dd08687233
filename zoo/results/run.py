"""A request to the benchmark, and the key of its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
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

    @property
    def display(self) -> str:
        """Display name of the run, without its seed."""
        return display_name(self.name, self.overrides, self.head, self.frozen)

    @property
    def key(self) -> str:
        """Short hash of the request. Versions, device and time are not part of it."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types. The last four are included only if they differ from their defaults.

        Keys of classification runs on digits therefore stay the same as before there were other tasks and fingerprints.
        """
        extra = {"task": self.task, "head": self.head, "frozen": self.frozen, "fingerprint": self.fingerprint}
        default = {"task": CLASSIFY, "head": "", "frozen": False, "fingerprint": ""}
        return {
            "name": self.name,
            "overrides": dict(self.overrides),
            "dataset": self.dataset,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            **{key: value for key, value in extra.items() if value != default[key]},
        }


def display_name(name: str, overrides: Mapping[str, Any], head: str = "", frozen: bool = False) -> str:
    """Return the display name of a net: `net`, `frozen net`, `head(net)` or `head(frozen net)`.

    A preset with overrides is no longer the preset: it is shown as `name + key=value, key=value`.
    """
    net = name
    if overrides:
        net += " + " + ", ".join(f"{key}={_plain(value)}" for key, value in sorted(overrides.items()))
    net = f"frozen {net}" if frozen else net
    return f"{head}({net})" if head else net


def _plain(value: Any) -> str:
    """Return the text of a value; tuples and the lists that JSON makes of them give the same text."""
    return f"({', '.join(map(_plain, value))})" if isinstance(value, list | tuple) else str(value)
