"""Training of short paths alone: in each step few branches are active, the other units hand on their shortcut.

Veit et al. 2016 (arXiv:1605.06431, section 5) train a net of 54 units with 23 active ones in each mini-batch, so that
no path has more than 23 branches, and test it with all. It loses nothing (5.96 % against 6.10 % on CIFAR-10).
"""

import random
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from zoo.analysis.branches import Unit, hooked, units_of


class ActiveUnits:
    """Units of a net of which a fixed number is active.

    Unlike drop path (Huang et al. 2016), which draws for each unit and image by itself, one draw chooses exactly this
    number for the whole batch. Units that change the shape of a map are always active and count among them: without
    branch their shortcut alone would have to project. The paper does not say what it does with them.

    Args:
        net: A net whose units have branches.
        input_size: Channels, height and width of the image.
        number: Number of active units; 0 for all, whatever the net.
        scaled: Multiply the branches that are drawn by all that could be drawn over those that are, so that sums have
            on average the size that they have with all units. The paper does not mention it.

    Raises:
        ValueError: If the net has units without a branch, or not so many units.
    """

    def __init__(self, net: nn.Module, input_size: Sequence[int], number: int, *, scaled: bool = False) -> None:
        self.free: list[Unit] = []
        self.drawn, self.factor = 0, 1.0
        if not number:
            return
        units = units_of(net, input_size)
        self.free = [unit for unit in units if not unit.reshapes]
        fixed = len(units) - len(self.free)
        if any(unit.branch is None for unit in units):
            raise ValueError("recipe field paths must be 0 for a plain net: without a layer nothing is left to train")
        if not fixed < number <= len(units):
            raise ValueError(
                f"recipe field paths must lie between {fixed + 1} and {len(units)} for this net, got {number}: it has "
                f"{len(units)} units, of which {fixed} change the shape of the map and are always active"
            )
        self.drawn = number - fixed
        self.factor = len(self.free) / self.drawn if scaled else 1.0

    def draw(self, seed: str) -> list[Unit]:
        """Return the units that change no shape and are active, by a seed."""
        return random.Random(seed).sample(self.free, self.drawn)

    @contextmanager
    def step(self, seed: str) -> Generator[None]:
        """Train one step, forward and backward, with units drawn by a seed.

        The branches of other units are computed and multiplied by zero: their weights decay and their norms see maps.
        """
        active = self.draw(seed)
        factors = {unit: self.factor if unit in active else 0.0 for unit in self.free}

        def times(factor: float) -> Callable[[Any, Any], Any]:
            return lambda _, output: output * factor

        with hooked({unit.branch: times(f) for unit, f in factors.items() if unit.branch is not None and f != 1}):
            yield
