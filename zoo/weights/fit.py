"""Find the tensors of a checkpoint that fit a net: the prefix and layout of their names, and the leftovers.

No list of prefixes is kept. A file is a set of dotted names; keys of the dicts around the tensors are part of the
names. If a name can be read as the net's first convolution, the text before it is a candidate prefix. The prefix under
which most of the net fits is taken; an exponential moving average wins over plain weights. Only names, shapes and types
decide. Numbers are read last, cast to the net's type, and checked again.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import torch
from timm.models import adapt_input_conv
from torch import Tensor

from zoo.escape import for_terminal
from zoo.weights.formats import DTYPES, Stored
from zoo.weights.layout import Layout
from zoo.weights.words import number, problem, short, size

NATIVE = "native"
"""Layout of our own state dicts."""

FOLLOWED = "num_batches_tracked"
"""Last part of the name of a counter that checkpoints from before PyTorch 0.4.1 lack."""

FIRST_CONV, CLASSIFIER, WIDE = "stem.conv1", "classifier.fc", "wide"
"""Names of the first convolution, of the classifier, and of the wide layers, which come and go with the classifier."""

HEAD = "classifier."
"""Start of the names of the classifier and of what belongs to it."""

HEADS = ("", "fc", "head", "head.fc", "heads.head", "classifier", "classifier.fc", "linear", "cls_head", "cls_head.fc")
"""Usual names of a classifier beside a backbone."""

TRIED, PROBED, PARTS = 64, 500, 12
"""Largest numbers of readings to compare, of names to search for the first convolution, and of parts in a name."""

COUNTERS = {"n_averaged", "total_ops", "total_params"}
"""Last parts of names of counters: averages (torch), operations (thop). No net needs them."""


@dataclass(frozen=True)
class Target:
    """Net that weights are loaded into.

    Attributes:
        title: Name of the net in errors.
        tensors: Tensors of the net, under the names that they have in a whole net of its architecture.
        layouts: Layouts of the net's family, by name.
        whole: Returns the names that a whole net of this architecture has and this one lacks, because it was cut.
    """

    title: str
    tensors: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]
    whole: Callable[[], Collection[str]] = frozenset

    @cached_property
    def cut(self) -> frozenset[str]:
        """Names that a whole net has and this one lacks: a classifier, or parts that no tap needs."""
        return frozenset(self.whole()) - frozenset(self.tensors)

    @property
    def classes(self) -> int:
        """Width of the classifier; 0 without one."""
        fc = self.tensors.get(f"{CLASSIFIER}.weight")
        return 0 if fc is None else fc.shape[0]


@dataclass(frozen=True)
class Loaded:
    """Outcome of reading a checkpoint; as text, one line.

    Attributes:
        layout: ``native``, or the name of another implementation's layout.
        prefix: Text before every name in the file.
        tensors: Number of tensors that were taken.
        types: Types of the numbers in the file.
        classes: Classes of the file's classifier; 0 if it has none.
        channels: Input channels of the file's first convolution.
        new: Parts of the net that the file does not fill, with the reason; they stay unchanged.
        adapted: Changes that were made to fit, in words.
        left_out: Content of the file without a place in the net, in words.
        also: Other prefixes under which the net fits as well.
        guessed: True if nothing but the order in the file speaks for the prefix, so another may be meant.
    """

    layout: str
    prefix: str
    tensors: int
    types: tuple[str, ...]
    classes: int
    channels: int
    new: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    guessed: bool = False

    def __str__(self) -> str:
        parts = [f"{number(self.tensors, 'tensor')}, layout {self.layout}"]
        if self.prefix:
            parts[0] += f", from {short(self.prefix)}*"
        for title, words in (
            ("stays new", self.new),
            ("adapted", self.adapted),
            ("left out", self.left_out),
            (
                "the first of several was taken, choose by prefix; fits, too" if self.guessed else "fits, too",
                tuple(f"{short(prefix)}*" for prefix in self.also),
            ),
        ):
            if words:
                parts.append(f"{title}: {', '.join(words)}")
        return "; ".join(parts)


@torch.no_grad()
def fit(
    stored: Mapping[str, Stored],
    target: Target,
    *,
    source: str = "state dict",
    channels: int = 3,
    strict: bool = False,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], Loaded]:
    """Find a net's tensors in a checkpoint, in the net's shapes and types, without changing the net.

    Fully connected layers may be stored as convolutions, and convolutions as fully connected layers. Counters of
    batches may be missing. A classifier of another size, or none, is no error: the result then has no classifier, and
    `Loaded` says so. Kernels for ``channels`` channels are adapted to the channels of the net, as in timm: summed for
    one channel, repeated and rescaled for more.

    Args:
        stored: The file's tensors by their dotted names.
        target: The net to load into.
        source: Name of the checkpoint in errors.
        channels: Number of input channels of checkpoints that are adapted.
        strict: Adapt nothing, and require the classifier.
        prefix: Prefix of the names to load; None finds it.

    Returns:
        New tensors by our names, and a description of the findings.

    Raises:
        ValueError: If a tensor is missing, unknown, of a wrong shape or kind, or not finite in the net's type; the
            message names the first few and says how many there are.
    """
    found, also, guessed = _best(stored, target, channels, strict, prefix)
    problems = [
        *problem("missing", found.missing),
        *problem("unknown", found.unknown),
        *problem("twice there under two names", found.doubled),
        *problem("of a wrong shape or kind", found.wrong),
    ]
    if problems:
        raise ValueError(_refusal(source, target, found, problems))
    tensors: dict[str, Tensor] = {}
    broken: list[str] = []
    for key, value in found.taken.items():
        want = target.tensors[key]
        tensor = value.read()
        if found.layout is not None and found.layout.arrange is not None:
            tensor = found.layout.arrange(key, tensor, target.tensors.keys())
        if key == f"{FIRST_CONV}.weight" and tensor.dim() == 4 and tensor.shape[1] != want.shape[1]:
            tensor = adapt_input_conv(want.shape[1], tensor, base_chans=tensor.shape[1])
        tensors[key] = tensor.to(want.dtype).reshape(want.shape)
        if not _is_finite(tensor):
            broken.append(key)
        elif not (_is_finite(tensors[key]) and _has_room(tensor, want.dtype)):
            broken.append(f"{key} in {_word(want.dtype)}")
    if problems := [*problem("not finite", broken)]:
        raise ValueError(_refusal(source, target, found, problems))
    for key, want in target.tensors.items():
        if key not in tensors and key.endswith(FOLLOWED):
            tensors[key] = torch.zeros(want.shape, dtype=want.dtype)
        elif key not in tensors and found.layout is not None and key in found.layout.constants:
            tensors[key] = torch.full(want.shape, found.layout.constants[key], dtype=want.dtype)
    return {key: tensors[key] for key in target.tensors if key in tensors}, replace(
        found.loaded(), also=also, guessed=guessed
    )


def _refusal(source: str, target: Target, found: "_Reading", problems: Sequence[str]) -> str:
    read = "" if found.name == NATIVE else f" (read as layout {found.name})"
    under = f" under {short(found.prefix)}*" if found.prefix else ""
    return f"{for_terminal(source)}: does not fit {target.title}{read}{under}: {'; '.join(problems)}"


@dataclass
class _Reading:
    """A checkpoint under our names, as one layout reads it with one prefix."""

    name: str
    layout: Layout | None
    prefix: str
    averaged: bool
    taken: dict[str, Stored] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    counters: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)
    classes: int = 0

    @property
    def rank(self) -> tuple[int, int, bool]:
        """Rank of the fit, lowest is best: problems, parts that stay new, and False for a moving average, else True."""
        problems = len(self.unknown) + len(self.doubled) + len(self.wrong) + len(self.missing)
        return problems, len(self.new), not self.averaged

    def look_outside(self, stored: Mapping[str, Stored]) -> None:
        """Count the tensors under other prefixes, by the first part in which the prefixes differ."""
        used = {id(value) for value in self.taken.values()}
        parts = self.prefix.split(".")
        for key, value in stored.items():
            if not key.startswith(self.prefix) and id(value) not in used:
                others = key.split(".", len(parts))
                same = next((i for i, (a, b) in enumerate(zip(parts, others, strict=False)) if a != b), 0)
                self.outside[".".join(others[: same + 1])] += 1

    def loaded(self) -> Loaded:
        """Return the findings as `Loaded`."""
        left_out = [f"{number(count, 'tensor')} under {short(part)}" for part, count in self.outside.most_common(3)]
        if len(self.outside) > 3:
            left_out.append(f"{number(sum(self.outside.values()), 'tensor')} in all elsewhere")
        for what, names in (("counter", self.counters), ("tensor", self.spare)):
            if names:
                left_out.append(f"{number(len(names), what)} ({short(names[0])}{', ...' * (len(names) > 1)})")
        conv = self.taken[f"{FIRST_CONV}.weight"].shape if f"{FIRST_CONV}.weight" in self.taken else (0, 0)
        return Loaded(
            layout=self.name,
            prefix=self.prefix,
            tensors=len(self.taken),
            types=tuple(sorted({_word(value.dtype) for value in self.taken.values()})),
            classes=self.classes,
            channels=conv[1],
            new=tuple(self.new),
            adapted=tuple(self.adapted),
            left_out=tuple(left_out),
        )


def _averaged(prefix: str, stored: Collection[str]) -> bool:
    """Return True if the names under a prefix are those of a moving average."""
    named = bool(re.search(r"(^|[._])(ema|swa)([._]|$)|averag", prefix.lower()))
    # mmengine exchanges the two when it saves, so that the plain name has the average; only it counts in "steps".
    return named != ("ema_state_dict.steps" in stored)


def _best(
    stored: Mapping[str, Stored], target: Target, channels: int, strict: bool, prefix: str | None
) -> tuple[_Reading, tuple[str, ...], bool]:
    """Return the reading that fits best, the prefixes under which others fit as well, and whether one ranks equal."""
    tried = dict.fromkeys(islice(_candidates(stored, target, channels), TRIED))
    if prefix is not None:
        tried = dict.fromkeys((name, prefix) for name in (NATIVE, *target.layouts))
    elif not tried:
        tried = dict.fromkeys((name, common) for common in ("", _common(stored)) for name in (NATIVE, *target.layouts))
    readings = [_reading(stored, target, name, start, channels, strict) for name, start in tried]
    best = min(readings, key=lambda reading: reading.rank)
    best.look_outside(stored)
    others = [r for r in readings if r.rank[:2] == best.rank[:2] and r.prefix != best.prefix]
    return best, tuple(dict.fromkeys(r.prefix for r in others))[:3], any(r.rank == best.rank for r in others)


def _candidates(stored: Mapping[str, Stored], target: Target, channels: int) -> Iterator[tuple[str, str]]:
    """Yield layouts and prefixes under which the file has the net's first convolution."""
    anchor = f"{FIRST_CONV}.weight"
    if (want := target.tensors.get(anchor)) is None:
        return
    shapes = [torch.Size((want.shape[0], c, *want.shape[2:])) for c in {want.shape[1], channels}]
    for key in islice((key for key, value in stored.items() if value.shape in shapes), PROBED):
        starts = [0, *(i + 1 for i, c in enumerate(key) if c == ".")][:PARTS]
        for name, layout in ((NATIVE, None), *target.layouts.items()):
            for start in starts:
                if _ours(key[start:], layout) == anchor:
                    yield name, key[:start]


def _ours(name: str, layout: Layout | None) -> str | None:
    """Return our name for a name of a layout, also if a part of the net was in DataParallel: ``features.module.0``."""
    name = name.replace(".module.", ".")
    return name if layout is None else layout.rename(name)


def _common(names: Collection[str]) -> str:
    """Return the longest prefix of whole parts that all tensor names share."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(".", 0, same) + 1]


def _reading(
    stored: Mapping[str, Stored], target: Target, name: str, prefix: str, channels: int, strict: bool
) -> _Reading:
    """Read a checkpoint in one layout with one prefix, by names, shapes and types only."""
    layout = target.layouts.get(name)
    reading = _Reading(name, layout, prefix, _averaged(prefix, stored.keys()))
    own = target.tensors
    names = [key for key in stored if key.startswith(prefix)]
    most = 4 * len(own) + 1000  # more would take its time, and no net of ours can be among them
    reading.unknown += names[most:]
    for key in names[:most]:
        foreign, value = key[len(prefix) :], stored[key]
        if layout is not None and layout.drops(foreign):
            reading.spare.append(key)
            continue
        new = _ours(foreign, layout)
        if new is not None and new in reading.taken:
            reading.doubled.append(new)
        elif new is not None and new in own:
            reading.taken[new] = value
        elif _counts(foreign, value):
            reading.counters.append(key)
        elif new is not None and new in target.cut:
            reading.spare.append(key)
            if new == f"{CLASSIFIER}.weight" and value.shape:
                reading.classes = value.shape[0]
        elif new is not None and new.startswith(f"{CLASSIFIER}."):
            reading.heads.append(key)
        else:
            reading.unknown.append(key)
    _add_classifier(reading, stored, target)
    _check(reading, target, channels, strict)
    return reading


def _counts(name: str, value: Stored) -> bool:
    """Return True if a tensor is a counter that no net needs: a whole number, or a counter's name."""
    last = name.rpartition(".")[2]
    whole = value.dtype is not None and not value.dtype.is_floating_point and not value.dtype.is_complex
    return not value.odd and value.shape.numel() == 1 and last != FOLLOWED and (whole or last in COUNTERS)


def _add_classifier(reading: _Reading, stored: Mapping[str, Stored], target: Target) -> None:
    """Take a classifier beside the backbone if there is exactly one, such as ``backbone.`` and ``head.fc.``."""
    weight, bias = f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"
    if not reading.prefix or weight in reading.taken or weight not in target.tensors:
        return
    parent = reading.prefix.rstrip(".").rpartition(".")[0]
    parent = f"{parent}." if parent else ""
    places = [f"{parent}{head}." for head in HEADS if head and f"{parent}{head}.weight" in stored]
    places = [p for p in places if not p.startswith(reading.prefix) and stored[f"{p}weight"].shape[1:]]
    width = target.tensors[weight].shape[1]
    places = [p for p in places if stored[f"{p}weight"].shape[1] == width and f"{p}bias" in stored]
    if len(places) == 1:
        reading.taken[weight], reading.taken[bias] = stored[f"{places[0]}weight"], stored[f"{places[0]}bias"]
        reading.adapted.append(f"the classifier is {short(places[0])}*")


def _check(reading: _Reading, target: Target, channels: int, strict: bool) -> None:
    """Compare shapes and kinds, and record the parts that stay new."""
    own, taken = target.tensors, reading.taken
    constants = () if reading.layout is None else reading.layout.constants
    wrong: dict[str, str] = {}
    for key, want in own.items():
        if (value := taken.get(key)) is None:
            if not key.endswith(FOLLOWED) and key not in constants:
                reading.missing.append(key)
            continue
        counter = key.endswith(FOLLOWED) and value.dtype in DTYPES and value.shape.numel() == 1
        if value.odd or not (counter or _floats(value) == want.is_floating_point()):
            wrong[key] = value.odd or _word(value.dtype)
        elif counter or _same_layer(value.shape, want.shape):
            continue
        elif key == f"{FIRST_CONV}.weight" and not strict and _adapts(value.shape, want.shape, channels):
            reading.adapted.append(f"{FIRST_CONV} from {channels} channels to {want.shape[1]}")
        else:
            wrong[key] = f"{size(value.shape)} and not {size(want.shape)}"
    if f"{CLASSIFIER}.weight" in taken and taken[f"{CLASSIFIER}.weight"].shape:
        reading.classes = taken[f"{CLASSIFIER}.weight"].shape[0]
    # Layers in the classifier's place, such as a projection, are another head, if there is no classifier beside them.
    (reading.unknown if strict or f"{CLASSIFIER}.weight" in taken else reading.spare).extend(reading.heads)
    if not strict and not reading.unknown and not reading.doubled:
        _excuse_classifier(reading, target, wrong)
    reading.wrong += [f"{key} is {reason}" for key, reason in wrong.items()]


def _excuse_classifier(reading: _Reading, target: Target, wrong: dict[str, str]) -> None:
    """Accept a missing classifier, or one of another size, which then stays new; there must be no other problem."""
    own, taken = target.tensors, reading.taken
    parts = {key for key in own if key.startswith(HEAD) and not key.endswith(FOLLOWED)}
    wide = {key for key in own if key.startswith(f"{WIDE}.")}
    missing = set(reading.missing)
    if not wrong and missing and missing in (parts, parts | wide):
        held = "another head" if reading.heads else "none"
        reading.new += [f"{part} (the file has {held})" for part in (CLASSIFIER, WIDE)[: 1 + (missing != parts)]]
        reading.missing.clear()
    elif wrong and wrong.keys() <= parts <= taken.keys() and not missing:
        weight, bias = f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"
        (classes, *rest), width = taken[weight].shape or (0,), taken[bias].shape
        plain = all(_floats(taken[key]) for key in parts)
        if plain and width == (classes,) and len(rest) in (1, 3) and weight in wrong:
            have, want = (size(tensors[weight].shape[:2]) for tensors in (taken, own))
            reading.new.append(f"{CLASSIFIER} ({have} in the file, {want} in the net)")
            for key in {weight, bias, *wrong}:
                del taken[key]
            wrong.clear()


def _same_layer(shape: Sequence[int], want: torch.Size) -> bool:
    """Return True if two shapes are equal, or those of a linear layer and of a convolution over the whole map."""
    shape = torch.Size(shape)
    flat = len(shape) == 2 or len(want) == 2
    return shape == want or (flat and shape[:1] == want[:1] and shape.numel() == want.numel())


def _adapts(shape: torch.Size, want: torch.Size, channels: int) -> bool:
    return len(shape) == len(want) == 4 and shape[1] == channels and (shape[0], *shape[2:]) == (want[0], *want[2:])


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _has_room(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Return True unless a counter that is stored as a float is too large for a whole number."""
    if not tensor.is_floating_point() or dtype.is_floating_point:
        return True
    return bool((tensor.abs() <= torch.iinfo(dtype).max // 2).all())


def _floats(value: Stored) -> bool:
    return not value.odd and value.dtype is not None and value.dtype.is_floating_point


def _word(dtype: torch.dtype | None) -> str:
    return f"{dtype}".removeprefix("torch.")
