"""Speed and memory of nets, measured side by side: what is asked, the rounds, and one record a net and configuration.

docs/speed.md says what each figure is. `zoo.speed.timing` takes the times; here is what they are taken of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import registry
from zoo.complexity import count
from zoo.environment import describe_device, git_revision, versions
from zoo.files import check_writable
from zoo.fusing import fuse
from zoo.results.line import SPEED
from zoo.results.run import KEY_LENGTH
from zoo.results.store import append, read_if_there
from zoo.speed.timing import (
    DTYPES,
    LAYOUTS,
    MODES,
    Products,
    Step,
    added_memory,
    in_fresh_process,
    make_step,
    ratios,
    spread,
    stopwatch,
    time_round,
)

WARMUP = 2
LEAST = 2
"""Rounds that every net takes part in; without two there is no spread."""

COMPARED = ("name", "layout", "compile", "fuse")
"""What a ratio tells of the row that it is to."""
COUNTS = ("params", "macs", "fvcore_flops", "activations", "uncounted")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one net is asked to do.

    Attributes:
        name: Of the registry, or ``timm:<name>``.
        mode: ``eval``, a forward pass without autograd, or ``train``, a step: forward, backward, SGD with momentum.
        batch_size: Images a step.
        input_size: (C, H, W) of an image.
        layout: Memory format of images and weights, a key of ``measure.LAYOUTS``.
        compile: Whether `torch.compile` has the net first.
        fuse: Whether it is what `zoo.fuse` makes of the net; for ``eval`` alone.
        dtype: Autocast type of the forward pass, a key of ``measure.DTYPES``.
        device: A torch device.
    """

    name: str
    mode: str
    batch_size: int
    input_size: tuple[int, int, int]
    layout: str = "contiguous"
    compile: bool = False
    fuse: bool = False
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def display(self) -> str:
        """The case in words."""
        how = ", fused" * self.fuse + ", compiled" * self.compile
        return f"{self.name}, {self.mode}, batch {self.batch_size}, {self.layout}{how}"

    def to_dict(self) -> dict[str, Any]:
        """All but name and device, in plain JSON types; ``fuse`` where it is true, so that older keys still hold."""
        fields = asdict(self) | {"input_size": list(self.input_size)}
        absent = ("name", "device") if self.fuse else ("name", "device", "fuse")
        return {key: value for key, value in fields.items() if key not in absent}


class Listener:
    """Receives what happens while nets are measured; the base class keeps silent."""

    def on_phase(self, what: str, steps: int) -> None:
        """A part of the work begins: counting, memory, warm-up, rounds."""

    def on_step(self, display: str) -> None:
        """The next piece of the phase begins."""

    def on_skip(self, steps: int) -> None:
        """So many pieces that were announced will not come."""

    def on_finish(self, record: Mapping[str, Any]) -> None:
        """A net has been measured; its record is on disk if there is a file."""

    def on_failure(self, message: str) -> None:
        """A net could not be measured; the others go on."""


@dataclass(eq=False, kw_only=True)
class Row:
    """A case while it is measured; times are in seconds, one a round."""

    case: Case
    memory: int | None = None
    step: Step = field(default=lambda: None)
    products: Products | None = None
    times: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)

    @property
    def spent(self) -> float:
        """Seconds that the rounds have taken."""
        return sum(self.times) + sum(self.bounds)


@dataclass(kw_only=True)
class Outcome:
    """What came out.

    Attributes:
        records: One a case that was measured in two rounds or more, in the order in which they were asked for.
        failures: One message a case that could not be measured.
        interrupted: Whether the user stopped it; what had two rounds is in the records all the same.
    """

    records: list[dict[str, Any]]
    failures: list[str]
    interrupted: bool


def plan(
    names: Sequence[str],
    *,
    modes: Sequence[str] = MODES,
    batch_sizes: Sequence[int] = (1, 8),
    input_size: tuple[int, int, int] | None = None,
    layouts: Sequence[str] = ("contiguous",),
    compiled: Sequence[bool] = (False,),
    fused: Sequence[bool] = (False,),
    dtype: str = "float32",
    device: str = "cpu",
) -> list[Case]:
    """Return the cases in the order in which a round takes them: nets that are compared stand beside each other.

    A training step of one image is left out where there are other batch sizes: it is nobody's training, and norms of
    maps with one pixel cannot do it. So is the training of fused nets, which are for inference.

    Args:
        names: Models, each once.
        modes: Some of ``measure.MODES``.
        batch_sizes: Images a step.
        input_size: (C, H, W); without it, each net's own.
        layouts: Some of ``measure.LAYOUTS``; ratios are taken to the first.
        compiled: False, True or both.
        fused: The same.
        dtype: A key of ``measure.DTYPES``.
        device: A torch device.

    Raises:
        ValueError: If a value is none of these, or a name is unknown.
    """
    for what, values, known in (("mode", modes, MODES), ("layout", layouts, LAYOUTS), ("dtype", [dtype], DTYPES)):
        if wrong := [value for value in values if value not in known]:
            raise ValueError(f"unknown {what} {wrong[0]!r}: choose from {', '.join(known)}")
    if wrong := [n for n in batch_sizes if n < 1]:
        raise ValueError(f"batch size must be at least 1, got {wrong[0]}")
    sizes = {name: input_size or _own_size(name) for name in names}
    return [
        Case(
            name=name,
            mode=mode,
            batch_size=batch_size,
            input_size=sizes[name],
            layout=layout,
            compile=compiling,
            fuse=fusing,
            dtype=dtype,
            device=device,
        )
        for mode in dict.fromkeys(modes)
        for batch_size in dict.fromkeys(batch_sizes)
        if mode == "eval" or batch_size > 1 or max(batch_sizes) == 1
        for fusing in dict.fromkeys(fused)
        if mode == "eval" or not fusing
        for compiling in dict.fromkeys(compiled)
        for layout in dict.fromkeys(layouts)
        for name in sizes
    ]


def sweep(
    cases: Sequence[Case],
    *,
    repeats: int = 15,
    seconds: float = 20.0,
    bound: bool = True,
    memory: bool = True,
    path: Path | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Measure all cases against each other.

    First each case has a process of its own for its memory; one that fails there, as for want of memory, is measured
    no further and harms no other. Then all nets are built and warmed up, and the rounds begin: each times every case
    once, step and products, and every other round goes backwards. A case leaves when it has had ``repeats`` rounds or
    its ``seconds``; its record is written at that moment.

    Args:
        cases: What is asked, see `plan`.
        repeats: Rounds at the most, at least 2.
        seconds: Time that the rounds of one case may take, except that every case takes part in two.
        bound: Whether to time the products alone.
        memory: Whether to measure memory.
        path: A file of JSON lines to append to.
        listener: Told about progress.

    Raises:
        ValueError: If a number is too small, the file is a folder, or an image does not run through a net.
    """
    if repeats < LEAST:
        raise ValueError(f"repeats must be at least {LEAST}, got {repeats}")
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    listener = listener or Listener()
    if path is not None:
        check_writable("out", path)
        read_if_there(path)  # a file that holds anything but results is an error now, not when all is measured
    rows = [Row(case=case) for case in cases]
    records: dict[int, dict[str, Any]] = {}
    failures: list[str] = []
    running: list[Row] = []

    def survivors(what: str, rows: Sequence[Row], act: Callable[[Row], None]) -> list[Row]:
        listener.on_phase(what, len(rows))
        good = []
        for row in rows:
            listener.on_step(row.case.display)
            try:
                act(row)
            except (RuntimeError, ValueError) as error:  # not enough memory, or a net that cannot do it
                failures.append(f"{row.case.display}: {error}")
                listener.on_failure(failures[-1])
            else:
                good.append(row)
        return good

    def finish(row: Row) -> None:
        record = make_record(row, reference(row, rows), facts[row.case.name])
        if path is not None:
            append(path, record)
        records[rows.index(row)] = record
        listener.on_finish(record)

    # Nets of one class share their code, and torch.compile gives up on code that it has compiled some eight times.
    patient = torch._dynamo.config.patch(recompile_limit=1024) if any(case.compile for case in cases) else nullcontext()
    facts: dict[str, dict[str, Any]] = {}
    interrupted = False
    try:
        with patient:
            facts = _facts(cases, listener)
            started = rows
            if memory:
                started = survivors("memory", rows, _measure_memory)
            nets: dict[Case, nn.Module] = {}
            started = survivors("warm-up", started, lambda row: _warm_up(row, nets, bound, seconds))
            running = list(started)
            listener.on_phase("rounds", repeats * len(running))
            for turn in range(repeats):
                if not running:
                    break
                _round(running, bool(turn % 2), listener)
                for row in list(running):
                    if len(row.times) == repeats or (len(row.times) >= LEAST and row.spent >= seconds):
                        finish(row)
                        running.remove(row)
                        if skipped := repeats - len(row.times):
                            listener.on_skip(skipped)
    except KeyboardInterrupt:
        interrupted = True
        for row in running:
            if len(row.times) >= LEAST:
                finish(row)
    return Outcome(records=[records[i] for i in sorted(records)], failures=failures, interrupted=interrupted)


def reference(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row that another is compared with: the first net in the first layout, as it is, doing the same.

    None if that was not measured.
    """
    same = [other for other in rows if _task(other.case) == _task(row.case)]
    return same[0] if same and len(same[0].times) >= LEAST else None


def make_record(row: Row, first: Row | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that is stored of a measured case, in the order in which a reader wants it.

    Times are in milliseconds, memory in bytes; ``speed_ratio`` is the first row's time over this one's, so above 1
    this one is faster; ``bound_share`` is the part of a step that its products alone take.
    """
    case, step = row.case, spread([1e3 * t for t in row.times])
    device = describe_device(torch.device(case.device))
    return {
        "key": case_key(case, device),
        "kind": SPEED,
        "name": case.name,
        **facts,
        "case": case.to_dict(),
        "rounds": len(row.times),
        "step_ms": asdict(step),
        "images_per_second": 1e3 * case.batch_size / step.median,
        "bound_ms": asdict(spread([1e3 * t for t in row.bounds])) if row.bounds else None,
        "bound_share": asdict(ratios(row.bounds, row.times)) if row.bounds else None,
        "bound_calls": len(row.products.calls) if row.products else None,
        "speed_ratio": asdict(ratios(first.times, row.times)) if first else None,
        "speed_ratio_to": {key: getattr(first.case, key) for key in COMPARED} if first else None,
        "peak_memory": row.memory,
        "versions": versions(),
        "device": device,
        "git_revision": git_revision(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def case_key(case: Case, device: Mapping[str, Any]) -> str:
    """Short hash of what was measured and on what; versions and time have no part in it."""
    asked = {"kind": SPEED, "name": case.name, "case": case.to_dict(), "device": dict(device)}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def speed_records(path: Path) -> list[dict[str, Any]]:
    """Return the newest record of each case that a file holds; lines of another kind are passed over."""
    return read_if_there(path).timings


def step_memory(case: Case) -> int | None:
    """Bytes that a case needs at its peak; for a process of its own."""

    def rehearse() -> None:
        channels = case.input_size[0]
        tiny = replace(case, batch_size=2, input_size=(channels, 32, 32))
        unit = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        _step(_placed(nn.Sequential(unit, nn.Flatten(), nn.Linear(8, 8)), tiny), tiny)()

    return added_memory(lambda: _step(_build(case), case), rehearse, torch.device(case.device))


def _build(case: Case) -> nn.Module:
    net = _placed(_create(case.name), case)
    return fuse(net.eval()) if case.fuse else net


def _measure_memory(row: Row) -> None:
    # The compiler's own memory cannot be told from the net's in a resident set; CUDA's allocator sees the net's alone.
    if not row.case.compile or torch.device(row.case.device).type == "cuda":
        row.memory = in_fresh_process(step_memory, row.case)


def _warm_up(row: Row, nets: dict[Case, nn.Module], bound: bool, seconds: float) -> None:
    """Build the net of a row, or take the one that other batch sizes have, and run it."""
    case = row.case
    kind = replace(case, batch_size=0, compile=False)
    if kind not in nets:
        nets[kind] = _build(kind)
    net = nets[kind]
    if bound:
        row.products = Products(_step(net, replace(case, compile=False)), net)
        row.products.run()
    row.step = _step(net, case)
    timer = stopwatch(torch.device(case.device))
    row.step()  # compiles, too
    for _ in range(WARMUP - 1):
        if timer(row.step) >= seconds / 4:
            break


def _round(rows: Sequence[Row], backwards: bool, listener: Listener) -> None:
    """Time every row once; an interrupt leaves all rows as they were."""
    steps: list[Step] = []
    owners: list[tuple[Row, list[float]]] = []
    for row in rows:
        steps.append(row.step)
        owners.append((row, row.times))
        if row.products:
            steps.append(row.products.run)
            owners.append((row, row.bounds))

    def tell(position: int) -> None:
        row, times = owners[position]
        if times is row.times:
            listener.on_step(row.case.display)

    times = time_round(steps, stopwatch(torch.device(rows[0].case.device)), backwards, tell)
    for (_, kept), seconds in zip(owners, times, strict=True):
        kept.append(seconds)


def _facts(cases: Sequence[Case], listener: Listener) -> dict[str, dict[str, Any]]:
    """Family and counts of each net, for one image."""
    sizes = {case.name: case.input_size for case in cases}
    listener.on_phase("counting", len(sizes))
    facts = {}
    for name, size in sizes.items():
        listener.on_step(name)
        ours = _is_ours(name)
        try:
            counts = count(_create(name, "meta" if ours else "cpu"), size).to_dict()
        except AssertionError as error:  # as timm's transformers have it
            raise ValueError(f"input_size {size} does not run through {name}: {error}") from error
        family = registry.model_entry(name).family if ours else "timm"
        facts[name] = {"family": family, "counts": {key: counts[key] for key in COUNTS}}
    return facts


def _is_ours(name: str) -> bool:
    try:
        registry.model_entry(name)
    except ValueError:
        return False
    return True


def _own_size(name: str) -> tuple[int, int, int]:
    if _is_ours(name):
        return registry.model_entry(name).input_size
    config: Any = _create(name, "meta").pretrained_cfg
    channels, height, width = config["input_size"]
    return channels, height, width


def _create(name: str, device: str = "cpu") -> nn.Module:
    return registry.create_model(name, device=device) if _is_ours(name) else registry.create_model(name)


def _placed(net: nn.Module, case: Case) -> nn.Module:
    return net.to(case.device).to(memory_format=LAYOUTS[case.layout])


def _step(net: nn.Module, case: Case) -> Step:
    """The step of a case with a net that is in place."""
    torch.manual_seed(0)
    images = torch.randn(case.batch_size, *case.input_size, device=case.device)
    images = images.to(memory_format=LAYOUTS[case.layout])
    run: Any = torch.compile(net, dynamic=False) if case.compile else net
    return make_step(run, images, case.mode, case.dtype)


def _task(case: Case) -> Case:
    """What a case shares with those it is compared with."""
    return replace(case, name="", input_size=(0, 0, 0), layout="", compile=False, fuse=False)
