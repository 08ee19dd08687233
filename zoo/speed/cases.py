"""Measure speed and memory of nets side by side: cases, rounds, and one record per net and configuration.

docs/speed.md explains each figure. `zoo.speed.timing` takes the times of the cases here.
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
from zoo.arguments import LARGEST, image_size
from zoo.complexity import count
from zoo.environment import MOST_IMAGES, check_between, describe_device, git_revision, versions
from zoo.files import check_writable
from zoo.fusing import fuse
from zoo.lean import set_lean
from zoo.results.line import SPEED
from zoo.results.run import KEY_LENGTH
from zoo.results.store import append, read_if_there
from zoo.speed.timing import (
    DTYPES,
    LAYOUTS,
    LEAST,
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

COMPARED = ("name", "layout", "compile", "fuse", "lean")
"""Fields that a ratio names of the row that it refers to."""
COUNTS = ("params", "macs", "fvcore_flops", "activations", "uncounted")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Work of one net that is measured.

    Attributes:
        name: Name in the registry, or ``timm:<name>``.
        mode: ``eval``, a forward pass without autograd, or ``train``, a step: forward, backward, SGD with momentum.
        batch_size: Images per step.
        input_size: (C, H, W) of an image.
        layout: Memory format of images and weights, a key of ``timing.LAYOUTS``.
        compile: Compile the net with `torch.compile` first.
        fuse: Measure the result of `zoo.fuse` instead of the net; only for ``eval``.
        lean: Measure the net after `zoo.set_lean`; only for ``train``, and not compiled.
        dtype: Autocast type of the forward pass, a key of ``timing.DTYPES``.
        device: A torch device.
    """

    name: str
    mode: str
    batch_size: int
    input_size: tuple[int, int, int]
    layout: str = "contiguous"
    compile: bool = False
    fuse: bool = False
    lean: bool = False
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def display(self) -> str:
        """Description of the case in words."""
        how = ", fused" * self.fuse + ", lean" * self.lean + ", compiled" * self.compile
        return f"{self.name}, {self.mode}, batch {self.batch_size}, {self.layout}{how}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields without name and device, in plain JSON types.

        ``fuse`` and ``lean`` are there only if true, so that the keys of older lines hold.
        """
        fields = asdict(self) | {"input_size": list(self.input_size)}
        absent = {"name", "device"} | {key for key in ("fuse", "lean") if not fields[key]}
        return {key: value for key, value in fields.items() if key not in absent}


class Listener:
    """Receives events while nets are measured. The base class ignores them."""

    def on_phase(self, what: str, steps: int) -> None:
        """Handle the start of a phase: counting, memory, warm-up, rounds."""

    def on_step(self, display: str) -> None:
        """Handle the start of the next step of the phase."""

    def on_skip(self, steps: int) -> None:
        """Handle the cancellation of this number of announced steps."""

    def on_finish(self, record: Mapping[str, Any]) -> None:
        """Handle a measured net; its record is on disk if there is a file."""

    def on_failure(self, message: str) -> None:
        """Handle a net that could not be measured; the others go on."""


@dataclass(eq=False, kw_only=True)
class Row:
    """A case while it is measured. Times are in seconds, one per round."""

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
    """Outcome of a measurement.

    Attributes:
        records: One record per case that was measured in two rounds or more, in the order of the cases.
        failures: One message per case that could not be measured.
        interrupted: True if the user stopped it. Cases with two rounds are in the records all the same.
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
    lean: Sequence[bool] = (False,),
    dtype: str = "float32",
    device: str = "cpu",
) -> list[Case]:
    """Return the cases in the order of a round: nets that are compared are adjacent.

    A training step of one image is left out if there are other batch sizes: nobody trains like that, and norms of maps
    with one pixel cannot do it. Fused nets are measured in inference alone, which they are for; lean ones in training
    alone, and not compiled, because there the compiler decides what is kept.

    Args:
        names: Names of models, each once.
        modes: Some of ``timing.MODES``.
        batch_sizes: Images per step.
        input_size: (C, H, W). Default: each net's own.
        layouts: Some of ``timing.LAYOUTS``. Ratios refer to the first.
        compiled: False, True or both.
        fused: False, True or both.
        lean: False, True or both.
        dtype: A key of ``timing.DTYPES``.
        device: A torch device.

    Raises:
        ValueError: If a value is not among these, or a name is unknown.
    """
    groups = {"modes": modes, "batch_sizes": batch_sizes, "layouts": layouts, "names": names}
    groups |= {"compiled": compiled, "fused": fused, "lean": lean}
    for what, values in groups.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"{what} must be a list, got {values!r}")
    for what, values, known in (("mode", modes, MODES), ("layout", layouts, LAYOUTS), ("dtype", [dtype], DTYPES)):
        if wrong := [value for value in values if value not in known]:
            raise ValueError(f"unknown {what} {wrong[0]!r}: choose from {', '.join(known)}")
    for number in batch_sizes:
        check_between("batch size", number, 1, MOST_IMAGES)
    if input_size is not None:
        image_size("input_size", input_size)
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
            lean=leaning,
            dtype=dtype,
            device=device,
        )
        for mode in dict.fromkeys(modes)
        for batch_size in dict.fromkeys(batch_sizes)
        if mode == "eval" or batch_size > 1 or max(batch_sizes) == 1
        for fusing in dict.fromkeys(fused)
        if mode == "eval" or not fusing
        for leaning in dict.fromkeys(lean)
        if mode == "train" or not leaning
        for compiling in dict.fromkeys(compiled)
        if not (compiling and leaning)
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

    First, each case measures its memory in a process of its own. A case that fails there, for example for lack of
    memory, is not measured further and harms no other case. Then all nets are built and warmed up, and the rounds
    begin. A round times every case once, step and products; every other round goes backwards. A case leaves after
    ``repeats`` rounds or ``seconds`` of its own. Its record is written at that moment.

    Args:
        cases: Cases from `plan`.
        repeats: Largest number of rounds, at least 2.
        seconds: Time that the rounds of one case may take, except that every case takes part in two rounds.
        bound: Time the products alone as well.
        memory: Measure memory as well.
        path: A file of JSON lines to append to.
        listener: Receives events.

    Raises:
        ValueError: If a number is too small, the file is a folder, or an image does not run through a net.
    """
    check_between("repeats", repeats, LEAST, LARGEST)
    if not seconds > 0:  # nan, too
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
    """Return the row that another is compared with: the first net in the first layout, unchanged, with the same work.

    Return None if that row was not measured.
    """
    same = [other for other in rows if _task(other.case) == _task(row.case)]
    return same[0] if same and len(same[0].times) >= LEAST else None


def make_record(row: Row, first: Row | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored record of a measured case, with its fields in reading order.

    Times are in milliseconds, memory in bytes. ``speed_ratio`` is the first row's time divided by this one's; above 1
    this one is faster. ``bound_share`` is the share of a step that its products alone take.
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
    """Return a short hash of the case and the device. Versions and time are not part of it."""
    asked = {"kind": SPEED, "name": case.name, "case": case.to_dict(), "device": dict(device)}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def speed_records(path: Path) -> list[dict[str, Any]]:
    """Return the newest record of each case in a file; lines of another kind are skipped."""
    return read_if_there(path).timings


def step_memory(case: Case) -> int | None:
    """Return the bytes that a case needs at its peak. Call it in a process of its own."""

    def rehearse() -> None:
        channels = case.input_size[0]
        tiny = replace(case, batch_size=2, input_size=(channels, 32, 32))
        unit = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        _step(_placed(nn.Sequential(unit, nn.Flatten(), nn.Linear(8, 8)), tiny), tiny)()

    return added_memory(lambda: _step(_build(case), case), rehearse, torch.device(case.device))


def _build(case: Case) -> nn.Module:
    net = _placed(_create(case.name), case)
    if case.lean:
        set_lean(net)
    return fuse(net.eval()) if case.fuse else net


def _measure_memory(row: Row) -> None:
    # The compiler's own memory cannot be told from the net's in a resident set; CUDA's allocator sees the net's alone.
    if not row.case.compile or torch.device(row.case.device).type == "cuda":
        row.memory = in_fresh_process(step_memory, row.case)


def _warm_up(row: Row, nets: dict[Case, nn.Module], bound: bool, seconds: float) -> None:
    """Build the net of a row, or share the one of other batch sizes, and run it."""
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
    """Time every row once. An interrupt leaves all rows unchanged."""
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
    """Return family and counts of each net, for one image."""
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
    """Return the step of a case for a net that is already placed."""
    torch.manual_seed(0)
    images = torch.randn(case.batch_size, *case.input_size, device=case.device)
    images = images.to(memory_format=LAYOUTS[case.layout])
    run: Any = torch.compile(net, dynamic=False) if case.compile else net
    return make_step(run, images, case.mode, case.dtype)


def _task(case: Case) -> Case:
    """Return the part of a case that it shares with those it is compared with."""
    return replace(case, name="", input_size=(0, 0, 0), layout="", compile=False, fuse=False, lean=False)
