"""What is asked of the benchmark, and the key that a result is known by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.results.recipe import Recipe

KEY_LENGTH = 16
CLASSIFY = "classify"
"""The task that results without a task belong to."""
NAMED_SETS = ("digits", "scenes", "fashion", "fashion_search", "fashion_scenes")
"""Image sets whose name tells their images, whether or not a line holds their fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is asked of the benchmark: one net, trained once.

    Attributes:
        name: Name of the model in the registry.
        overrides: Changed fields of its specification; values are plain JSON types or tuples of them.
        dataset: Name of the image set.
        recipe: How it is trained.
        seed: Seed of initialisation, order and augmentation.
        task: Name of the task, see `zoo.bench.tasks`.
        head: What the net is built into, for tasks that have a choice.
        frozen: Whether the net keeps its first weights, so that only what is put on top of it learns. The statistics
            of its norms still follow the batches.
        fingerprint: Of the image set, see `zoo.bench.data.ImageSet`; empty for a set that its name tells.
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
        """The run as it is shown, without its seed."""
        return display_name(self.name, self.overrides, self.head, self.frozen)

    @property
    def key(self) -> str:
        """Short hash of what is asked; versions, device and time have no part in it."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types; the last four only where they are not the default.

        So the keys of classification runs on digits are those from before there were other tasks and fingerprints.
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
    """Return a net as it is shown: `net`, `frozen net`, `head(net)` or `head(frozen net)`.

    A preset with overrides is no longer the preset: it is shown as `name + key=value, key=value`.
    """
    net = name
    if overrides:
        net += " + " + ", ".join(f"{key}={_plain(value)}" for key, value in sorted(overrides.items()))
    net = f"frozen {net}" if frozen else net
    return f"{head}({net})" if head else net


def _plain(value: Any) -> str:
    """Text of a value that does not depend on a trip through JSON, which turns tuples into lists."""
    return f"({', '.join(map(_plain, value))})" if isinstance(value, list | tuple) else str(value)
