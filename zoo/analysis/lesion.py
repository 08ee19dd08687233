"""Lesions: the error of a trained net without some of its units, or with units in another order.

Veit et al. 2016 (arXiv:1605.06431, section 4) delete units of trained nets without training them again. A residual unit
that is deleted leaves its shortcut: half of the paths go on. A layer of a plain net that is deleted cuts the only path.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from torch import Tensor, nn

from zoo.analysis.branches import Unit, reordered, units_of, without
from zoo.analysis.nets import Options, accuracy, check_classes, expand, fresh_note, open_images, open_net, sample
from zoo.analysis.outcome import Outcome, finish, rounded, styles
from zoo.analysis.progress import told

INTACT, ONE, SEVERAL, ORDER = "intact", "one deleted", "several deleted", "reordered"
NUMBERS = 8
"""Largest number of different numbers of deleted or exchanged units."""


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A changed net and its error.

    Attributes:
        kind: ``INTACT``, ``ONE``, ``SEVERAL`` or ``ORDER``.
        units: Names of the units that were deleted or have other places.
        position: For ``ONE`` the number of the unit, from 1 on in the order of the pass; else 0.
        reshapes: For ``ONE``, True if the unit changes the shape of its map, so that its shortcut is no identity.
        tau: Kendall's rank correlation of the original and the new order of all units.
        error: Wrong answers in percent.
    """

    kind: str
    units: tuple[str, ...] = ()
    position: int = 0
    reshapes: bool = False
    tau: float = 1.0
    error: float


def lesions(net: nn.Module, images: Tensor, labels: Tensor, *, draws: int = 5, seed: int = 0) -> list[Lesion]:
    """Measure the error of a net: intact, without each unit, without several, and with units exchanged.

    Units that change the shape of a map keep their places and are not among several deleted ones, which the paper
    leaves open. Statistics of norms are not estimated anew. Only units of one stage that read and give maps of the same
    shape are exchanged (of a fabric: edges that end in one node), so dense layers keep their order.

    Args:
        net: A trained net. It stays as it is.
        images: Images (N, C, H, W), normalised as the net needs them.
        labels: Classes (N,).
        draws: Number of random choices for each number of units. A choice that was drawn before is left out.
        seed: Seed of the choices.

    Raises:
        ValueError: If the net has no units, or ``draws`` is negative.
    """
    if draws < 0:
        raise ValueError(f"draws ({draws}) must not be negative")
    units = units_of(net, images.shape[1:])
    found = [Lesion(kind=INTACT, error=error_of(net, images, labels))]
    for position, unit in enumerate(told(units, "without one unit"), 1):
        with without([unit]):
            error = error_of(net, images, labels)
        found.append(Lesion(kind=ONE, units=(unit.name,), position=position, reshapes=unit.reshapes, error=error))
    chance = random.Random(seed)
    free = [unit for unit in units if not unit.reshapes]
    for chosen in told(_choices(free, draws, chance), "without several units"):
        with without(chosen):
            error = error_of(net, images, labels)
        found.append(Lesion(kind=SEVERAL, units=tuple(unit.name for unit in chosen), error=error))
    for order in told(_orders(free, draws, chance), "in other orders"):
        with reordered(net, order):
            error = error_of(net, images, labels)
        ranks = [units.index(order.get(unit, unit)) for unit in units]
        moved = tuple(unit.name for unit, other in order.items() if unit is not other)
        found.append(Lesion(kind=ORDER, units=moved, tau=kendall_tau(ranks), error=error))
    return found


def error_of(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the wrong answers in percent; the net runs in evaluation and stays as it is."""
    return 100 - accuracy(net, images, labels)


def kendall_tau(ranks: Sequence[int]) -> float:
    """Return Kendall's rank correlation of an order with 0, 1, 2, ...: 1 if it is the same, -1 if it is reversed."""
    signs = [1 if a < b else -1 for a, b in combinations(ranks, 2)]
    return sum(signs) / len(signs) if signs else 1.0


def _spread(least: int, most: int) -> list[int]:
    """Return at most ``NUMBERS`` numbers from ``least`` to ``most``, evenly."""
    if most < least:
        return []
    return sorted({least + round(i * (most - least) / (NUMBERS - 1)) for i in range(NUMBERS)})


def _choices(units: Sequence[Unit], draws: int, chance: random.Random) -> Iterator[Sequence[Unit]]:
    """Yield choices of more and more units, those of all units at last; none comes twice."""
    known = set()
    for number in _spread(2, len(units)):
        for _ in range(draws):
            chosen = chance.sample(units, number)
            if frozenset(chosen) not in known:
                known.add(frozenset(chosen))
                yield chosen


def _orders(units: Sequence[Unit], draws: int, chance: random.Random) -> Iterator[Mapping[Unit, Unit]]:
    """Yield orders with more and more exchanged pairs, each place with the unit that runs there.

    Exchanges that undo each other are no order of their own and are left out.
    """
    groups: dict[Any, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit)
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    for number in _spread(1, len(units) if pairs else 0):
        for _ in range(draws):
            order = {unit: unit for unit in units}
            for _ in range(number):
                first, second = chance.choice(pairs)
                order[first], order[second] = order[second], order[first]
            if any(place is not unit for place, unit in order.items()):
                yield order


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Measure lesions of nets.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``dataset``, ``data_dir``, ``images``, ``draws`` and ``seed``.
    """
    found = {}
    for name, title in expand(names).items():
        images, net = open_images(name, options), open_net(name, seed=options.seed)
        check_classes(name, net, images)
        found[title] = lesions(net, *sample(images, "test", options.images), draws=options.draws, seed=options.seed)
    rows = [
        {
            "net": name,
            "lesion": lesion.kind,
            "unit": lesion.position or "",
            "reshapes": "yes" if lesion.reshapes else "",
            "number": len(lesion.units),
            "kendall_tau": rounded(lesion.tau) if lesion.kind == ORDER else "",
            "error": rounded(lesion.error),
            "units": " ".join(lesion.units),
        }
        for name, measured in found.items()
        for lesion in measured
    ]
    return Outcome(
        what="lesion",
        rows=rows,
        shown=[_summary(name, measured) for name, measured in found.items()],
        draw=lambda figure: _draw(figure, found),
        notes=fresh_note(names),
        size=(11.0, 3.6),
    )


def _errors(measured: Sequence[Lesion], kind: str) -> list[float]:
    return [lesion.error for lesion in measured if lesion.kind == kind]


def _summary(name: str, measured: Sequence[Lesion]) -> dict[str, Any]:
    """Return a row for the terminal: errors in percent, medians over units and draws."""
    single, same = _errors(measured, ONE), [x for x in measured if x.kind == ONE and not x.reshapes]
    row: dict[str, Any] = {"net": name, "units": len(single), INTACT: f"{_errors(measured, INTACT)[0]:.1f}"}
    row["one: median"] = f"{median(single):.1f}"
    row["one: worst"] = f"{max(single):.1f}"
    row["that keep the shape: worst"] = f"{max((x.error for x in same), default=0):.1f}"
    row["several"] = f"{median(errors):.1f}" if (errors := _errors(measured, SEVERAL)) else ""
    row["reordered"] = f"{median(errors):.1f}" if (errors := _errors(measured, ORDER)) else ""
    return row


def _draw(figure: Any, found: Mapping[str, Sequence[Lesion]]) -> None:
    one, several, order = figure.subplots(1, 3, sharey=True)
    for name, looks in styles(list(found)):
        measured, colour = found[name], looks["color"]
        single = [lesion for lesion in measured if lesion.kind == ONE]
        one.plot([x.position for x in single], [x.error for x in single], **looks)
        rings = [x for x in single if x.reshapes]
        one.plot([x.position for x in rings], [x.error for x in rings], "o", mfc="none", ms=8, color=colour)
        one.axhline(_errors(measured, INTACT)[0], color=colour, linewidth=0.8, linestyle=":")
        numbers: dict[int, list[float]] = {}
        for lesion in measured:
            if lesion.kind == SEVERAL:
                numbers.setdefault(len(lesion.units), []).append(lesion.error)
        several.plot(list(numbers), [median(errors) for errors in numbers.values()], **looks)
        ranges = [[f(errors) for errors in numbers.values()] for f in (min, max)]
        several.fill_between(list(numbers), *ranges, color=colour, alpha=0.15, linewidth=0)
        moved = [lesion for lesion in measured if lesion.kind == ORDER]
        order.plot([x.tau for x in moved], [x.error for x in moved], **looks | {"linestyle": "none"})
    one.set_ylim(0, 100)
    for axes in (one, several):
        axes.xaxis.get_major_locator().set_params(integer=True)
    order.invert_xaxis()
    finish(one, "deleted unit (ring: changes the shape)", "error [%]", legend=False)
    finish(several, "number of deleted units", "", legend=False)
    finish(order, "Kendall's tau of the new order", "")
