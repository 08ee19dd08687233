"""Boxes of a drawing and the lines between them: steps of a net, gathered into layers, units or stages.

What is a unit is read from how modules contain each other, by one rule for every net. A *run* is a sequence at least
half of whose children have parts of their own. A unit is the outermost module that is no run and contains none. A stage
is a run without runs inside whose units end at one resolution.

A module can give one hint: with the attribute ``one_column``, its children stand above each other.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from zoo.drawing.graph import Step

LEVELS = ("stages", "units", "layers")
KINDS = {
    "convolution": "convolution",
    "residual": "residual unit",
    "gated": "unit with a gate",
    "branches": "parallel branches",
    "stacked": "unit on a concatenation",
    "node": "node: sum of its inputs",
    "pooling": "pooling, resampling",
    "norm": "norm, activation",
    "classifier": "classifier",
}
"""Kinds of boxes, with their names for a reader."""
JOINS = {"sum": "sum", "concatenation": "concatenation", "product": "product (gate)"}
"""Kinds of circles, in which maps meet outside of units."""


@dataclass(eq=False)
class Box:
    """A part of the net.

    Attributes:
        name: Name of the module, or of the function.
        steps: Steps inside, in order of computation.
        kind: A key of `KINDS` or `JOINS`.
        level: Total stride of its map; of its coarsest map if others read several.
        shape: Shape of that map.
        units: Number of units inside.
        shortcut: True if a path inside leads around convolutions to a sum.
        column: Name of the module whose boxes stand above each other; empty for none.
        taps: Numbers of the taps that are its map.
        alive: True if the output of the net needs it.
    """

    name: str
    steps: list[Step]
    kind: str = ""
    level: int = 1
    shape: tuple[int, ...] = ()
    units: int = 1
    shortcut: bool = False
    column: str = ""
    taps: list[int] = field(default_factory=list)
    alive: bool = False

    @property
    def channels(self) -> int:
        """Channels of the map, or width of a token."""
        return self.shape[1] if len(self.shape) != 3 else self.shape[2]

    @property
    def part(self) -> str:
        """Name of the child of the net that the box belongs to."""
        return next((_name(call).partition(".")[0] for call in self.steps[0].calls), "")


@dataclass(frozen=True)
class Line:
    """A map that goes from a box to another one; ``level`` is the map's total stride."""

    source: Box
    target: Box
    level: int
    alive: bool


Wire = tuple[Step, Step]
"""A map's step in a box, and a step in a box that reads it."""


def boxes_of(net: nn.Module, steps: list[Step], detail: str) -> tuple[list[Box], list[Line]]:
    """Gather the steps of a net into boxes.

    Args:
        net: The net.
        steps: Its steps, see `zoo.drawing.graph.steps_of`.
        detail: One of `LEVELS`.

    Returns:
        Boxes and lines, in order of computation.
    """
    modules = dict(net.named_modules())
    runs = {name for name, module in modules.items() if _is_run(module)}
    above = {parent for name in runs for parent in _parents(name)}
    if detail == "layers":
        owner = _gather(steps, lambda step: step.calls[-1] if step.module else "", modules)
    else:
        units = modules.keys() - runs - above
        owner = _gather(steps, lambda step: next((call for call in step.calls if _name(call) in units), ""), modules)
    _move_taps(steps, owner)
    wires = _wires(steps, owner)
    _describe(owner, wires, modules)
    _name_the_classifier(owner, getattr(net, "num_classes", None))
    if detail == "stages":
        owner = _stages(owner, runs - above)
        wires = _wires(steps, owner)
    lines = {
        Line(owner[source], owner[target], source.level, source.alive and target.alive): None
        for source, target in wires
        if owner[source] is not owner[target]
    }
    return list(dict.fromkeys(owner.values())), list(lines)


def _name(call: str) -> str:
    """Return the name of the module of a call. Further calls of one module have a number behind a mark."""
    return call.partition("@")[0]


def _parents(name: str) -> Iterator[str]:
    """Yield the names of the modules around a module, the net first."""
    parts = name.split(".") if name else []
    for end in range(len(parts)):
        yield ".".join(parts[:end])


def _is_run(module: nn.Module) -> bool:
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return False
    parted = [any(True for _ in child.children()) for child in module.children()]
    return any(parted) and 2 * sum(parted) >= len(parted)


def _is_own(module: nn.Module | None) -> bool:
    """Return True if a module computes more than a layer of torch or a chain does."""
    own = type(module).__module__.partition(".")[0] != "torch"
    return own and getattr(type(module), "forward", None) is not nn.Sequential.forward


def _passes(step: Step) -> bool:
    """Return True if a step shows nothing: a function of one map, or a layer that does nothing in evaluation."""
    return (
        len(step.inputs) < 2 if step.module is None else isinstance(step.module, nn.Identity | nn.Dropout | nn.Flatten)
    )


def _gather(steps: list[Step], key_of: Callable[[Step], str], modules: Mapping[str, nn.Module]) -> dict[Step, Box]:
    """Gather steps by a key. Steps without one are boxes of their own if maps meet in them, and else part of a line.

    Layers that do nothing are part of a line, too; not so a unit with parts, such as a node of a grid with one input.
    """
    boxes: dict[str, Box] = {}
    owner: dict[Step, Box] = {}
    for number, step in enumerate(steps):
        key = key_of(step)
        if key or not _passes(step):
            name = _name(key) if key else ".".join([*map(_name, step.calls[-1:]), step.name])
            owner[step] = boxes.setdefault(key or f"@{number}", Box(name, []))
            owner[step].steps.append(step)
    parted = {name for name, module in modules.items() if any(True for _ in module.children())}
    return {step: box for step, box in owner.items() if box.name in parted or not all(map(_passes, box.steps))}


def _move_taps(steps: list[Step], owner: dict[Step, Box]) -> None:
    """Give taps that are part of a line to the step whose map the line carries."""
    for step in steps:
        source = step
        while source not in owner and source.inputs:
            source = source.inputs[0]
        if source is not step:
            source.taps += step.taps
            step.taps = []


def _wires(steps: list[Step], owner: dict[Step, Box]) -> list[Wire]:
    """Return the maps that steps in boxes read from steps in boxes, past steps that are part of a line."""
    sources: dict[Step, dict[Step, None]] = {}
    for step in steps:
        sources[step] = {}
        for source in step.inputs:
            sources[step] |= {source: None} if source in owner else sources.get(source, {})
    return [(source, step) for step in steps if step in owner for source in sources[step]]


def _describe(owner: dict[Step, Box], wires: list[Wire], modules: dict[str, nn.Module]) -> None:
    """Fill in what the steps of each box tell: its map, its kind, its taps."""
    read: dict[Box, dict[Step, None]] = {}
    entering: dict[Box, dict[Step, None]] = {}
    inputs: dict[Step, list[Step]] = {}
    for source, step in wires:
        inputs.setdefault(step, []).append(source)
        if owner[source] is not owner[step]:
            read.setdefault(owner[source], {})[source] = None
            entering.setdefault(owner[step], {})[source] = None
    votes: dict[type, Counter[str]] = {}
    for box in dict.fromkeys(owner.values()):
        last = max(read.get(box, box.steps[-1:]), key=lambda step: step.level)
        box.level, box.shape, box.alive = last.level, last.shape, any(step.alive for step in box.steps)
        box.taps = [tap for step in box.steps for tap in step.taps]
        box.kind = _kind(box, list(entering.get(box, {})), inputs)
        around = box.name.rpartition(".")[0]
        box.column = around if getattr(modules.get(around), "one_column", False) else ""
        if _is_own(modules.get(box.name)) and box.kind not in JOINS:
            votes.setdefault(type(modules.get(box.name)), Counter())[box.kind] += 1
    for box in dict.fromkeys(owner.values()):  # units of one class are of one kind, such as the nodes of a grid
        if box.kind not in JOINS and type(modules.get(box.name)) in votes:
            box.kind = votes[type(modules.get(box.name))].most_common(1)[0][0]
        box.shortcut = box.kind in ("residual", "gated") and any(_join(step) == "sum" for step in box.steps)


def _join(step: Step) -> str:
    """Return how maps meet in a function, a key of `JOINS`; an empty text for a layer or a function of one map."""
    if step.module is not None or len(step.inputs) < 2:
        return ""
    if step.shape[1] == sum(source.shape[1] for source in step.inputs):
        return "concatenation"
    return "product" if step.name == "mul" else "sum"


def _weight_dims(step: Step) -> int:
    weight: Any = getattr(step.module, "weight", None)
    return weight.dim() if isinstance(weight, Tensor) else 0


def _kind(box: Box, entering: list[Step], inputs: dict[Step, list[Step]]) -> str:
    """Return the kind of a box, from the layers in it and the ways in which maps meet in it."""
    joins = {kind: step for step in box.steps if (kind := _join(step))}
    dims = {_weight_dims(step) for step in box.steps}
    if joins and not any(dims):
        return list(joins)[-1]
    if "product" in joins:
        return "gated"
    if "concatenation" in joins:
        return "stacked" if set(inputs[joins["concatenation"]]) & set(entering) else "branches"
    if "sum" in joins:
        return "node" if len(entering) > 1 else "residual"
    if dims & {3, 4}:
        return "convolution"
    if 2 in dims:
        return "classifier"
    resized = any(box.shape[2:] != source.shape[2:] for source in entering)
    return "pooling" if resized or "pool" in type(box.steps[0].module).__name__.lower() else "norm"


def _name_the_classifier(owner: dict[Step, Box], classes: Any) -> None:
    """Call the box with the last weights a classifier, whatever they are, if it gives as many numbers as classes."""
    weighted = [step for step in owner if step.alive and _weight_dims(step)]
    if weighted and weighted[-1].shape[1] == classes:
        owner[weighted[-1]].kind = "classifier"


def _stages(owner: dict[Step, Box], runs: set[str]) -> dict[Step, Box]:
    """Merge the boxes of each run that end at one resolution."""
    members: dict[str, list[Box]] = {}
    for box in dict.fromkeys(owner.values()):
        call = next((call for call in box.steps[0].calls if _name(call) in runs), "")
        if call:
            members.setdefault(call, []).append(box)
    merged: dict[Box, Box] = {}
    for call, boxes in members.items():
        if len({box.level for box in boxes}) > 1:
            continue
        units = [box for box in boxes if box.kind not in (*JOINS, "pooling", "norm")] or boxes
        stage = Box(
            _name(call),
            [step for box in boxes for step in box.steps],
            kind=Counter(box.kind for box in units).most_common(1)[0][0],
            level=boxes[-1].level,
            shape=boxes[-1].shape,
            units=len(units),
            shortcut=any(box.shortcut for box in units),
            taps=[tap for box in boxes for tap in box.taps],
            alive=any(box.alive for box in boxes),
        )
        merged |= dict.fromkeys(boxes, stage)
    return {step: merged.get(box, box) for step, box in owner.items()}
