"""Everything that needs a GPU, in one command: the tests, then speed and memory against timm and pytorchcv.

python benchmarks/gpu.py
python benchmarks/gpu.py resnet50 fishnet99 --batch 64 --out results/gpu.jsonl
python benchmarks/gpu.py resnet_test --device cpu    # a miniature, to see that it works; its figures mean nothing

The command takes at most --seconds (8 minutes), whatever is left to do then. Every finding is a JSON line, written at
once: the result of the tests, a row for each form of a net, failures, and what there was no time for. Forms of one net
take turns (`zoo.speed.timing.interleave`), so ratios are taken within a round. What compiles comes last, as it takes
longest. All work is done by a second process: where it dies, a new one goes on with the next net.

Evaluation has weights and images of the type, training runs under autocast. The batch is halved until all forms fit.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate

import zoo
from zoo.environment import describe_device, versions
from zoo.speed import timing as measure

sys.path.insert(0, str(Path(__file__).resolve().parent))

from speed import MIB, create

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NETS = {
    "resnet50": ("timm:resnet50", "pytorchcv:resnet50b"),
    "preresnet50": ("pytorchcv:preresnet50b",),
    "densenet121": ("timm:densenet121", "pytorchcv:densenet121"),
    "vgg16_bn": ("timm:vgg16_bn", "pytorchcv:bn_vgg16"),
    "fishnet99": ("pytorchcv:fishnet99",),
    "fishnet150": ("pytorchcv:fishnet150",),
    "fabric_a_l8_s4_c64x2_post": (),
    "fabric_a_l9_s6_c128_post_cifar": (),
}
"""Nets, and the nets of other libraries that are the same."""
FORMS = (
    ("eval", ("fused",), False),
    ("train", ("lean",), False),
    ("eval", ("fused", "fused compiled"), True),
    ("train", ("compiled",), True),
)
"""Jobs of every net: the mode, the forms beside the plain one, whether it compiles. What does not has the twins too."""
TESTS = Path(__file__).resolve().parents[1] / "tests"
LATE = "no time was left"
NO_GPU = (
    "no GPU: torch.cuda.is_available() is False, and this is what the command measures; with --device cpu it runs a "
    "miniature that shows only that it works"
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Forms of one net that are measured against each other.

    Attributes:
        name: Net of the zoo.
        mode: ``eval`` or ``train``.
        forms: ``plain``, ``fused``, ``lean``, ``compiled``, ``fused compiled``, or the name of a twin.
        batch: Images a step, at most.
        size: Height and width in pixels; None for the net's own.
        device: A torch device.
        dtype: A key of ``timing.DTYPES``.
        repeats: Rounds.
    """

    name: str
    mode: str
    forms: tuple[str, ...]
    batch: int
    size: int | None
    device: str
    dtype: str
    repeats: int


def plan(args: argparse.Namespace) -> list[Job]:
    """Return the jobs: for all nets what does not compile, then what does."""
    shared: dict[str, Any] = {key: getattr(args, key) for key in ("batch", "size", "device", "dtype", "repeats")}
    jobs = []
    for mode, added, compiles in FORMS:
        for name in () if compiles and args.no_compile else args.names:
            twins = () if compiles else NETS.get(name, ())
            jobs.append(Job(name=name, mode=mode, forms=("plain", *added, *twins), **shared))
    return jobs


def make_step(job: Job, form: str, batch: int) -> measure.Step:
    """Return the step of a freshly made net in one form."""
    torch.manual_seed(0)
    device, layout = torch.device(job.device), torch.channels_last
    size = job.size or zoo.model_entry(job.name).input_size[-1]
    net: Any = create(form if ":" in form else job.name).to(device).train(job.mode == "train")
    if "fused" in form:
        net = zoo.fuse(net)
    if form == "lean":
        zoo.set_lean(net)
    kind = measure.DTYPES[job.dtype] if job.mode == "eval" else torch.float32
    net = net.to(memory_format=layout, dtype=kind)
    images = torch.randn(batch, 3, size, size, device=device, dtype=kind).to(memory_format=layout)
    if "compiled" in form:
        torch._dynamo.reset()
        net = torch.compile(net)
    return measure.make_step(net, images, job.mode, "float32" if job.mode == "eval" else job.dtype)


def clean() -> None:
    """Free the nets of earlier jobs. Fused nets hold themselves, and what is compiled is kept by the compiler."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


def measure_job(job: Job, batch: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each form of a job."""
    clean()
    device = torch.device(job.device)
    steps: list[measure.Step] = []
    memory: list[int | None] = []

    def make(form: str) -> measure.Step:
        steps.append(make_step(job, form, batch))
        return steps[-1]

    def rehearse() -> None:
        make_step(job, "plain", 2)()

    for form in job.forms:
        added = measure.added_memory(partial(make, form), rehearse, device)
        memory.append(added if device.type == "cuda" else None)  # on a CPU it would need a process for each
    times = measure.interleave(steps, job.repeats, measure.stopwatch(device))
    for form, own, added in zip(job.forms, times, memory, strict=True):
        ms, speed = measure.spread([1e3 * second for second in own]), measure.ratios(times[0], own)
        yield {
            "kind": "gpu",
            "name": job.name,
            "form": form,
            "mode": job.mode,
            "batch": batch,
            "size": job.size or zoo.model_entry(job.name).input_size[-1],
            "dtype": job.dtype,
            "rounds": job.repeats,
            "ms": asdict(ms),
            "images_per_second": 1e3 * batch / ms.median,
            "speed_ratio": asdict(speed),
            "memory": added,
        }


def fit(job: Job) -> Iterator[dict[str, Any]]:
    """Yield the rows of a job with the largest batch that fits: its own, a half of it, and so on."""
    batch = job.batch
    while True:
        try:
            yield from list(measure_job(job, batch))
        except torch.OutOfMemoryError:
            if batch < 2:
                raise
        else:
            return
        batch //= 2
        torch.cuda.empty_cache()


def work(sender: Any, jobs: Sequence[Job]) -> None:
    """Do jobs in a process of its own: send (the number of the job, a row, or None at its end)."""
    for number, job in enumerate(jobs):
        try:
            for row in fit(job):
                sender.send((number, row))
        except Exception as error:  # a net that fails must not cost the others
            text = f"{type(error).__name__}: {error}".strip()
            sender.send((number, failure(job, text.splitlines()[0])))
            if "CUDA error" in text:  # nothing runs in this process any more
                raise SystemExit(1) from None
        sender.send((number, None))


def failure(job: Job, reason: str) -> dict[str, Any]:
    """Return the line of a job without rows."""
    return {
        "kind": "late" if reason == LATE else "failure",
        "name": job.name,
        "mode": job.mode,
        "forms": list(job.forms),
        "reason": reason,
    }


def run(jobs: Sequence[Job], deadline: float) -> Iterator[dict[str, Any]]:
    """Yield the lines of all jobs until a time of the monotonic clock."""
    context, left = multiprocessing.get_context("spawn"), list(jobs)
    while left and time.monotonic() < deadline:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(sender, left))
        process.start()
        sender.close()
        done, failed = 0, False
        try:
            while done < len(left) and receiver.poll(max(0.0, deadline - time.monotonic())):
                number, row = receiver.recv()
                done, failed = (number + 1, False) if row is None else (number, row["kind"] == "failure")
                if row is not None:
                    yield row
        except EOFError:
            process.join()
            if not failed:
                yield failure(left[done], f"its process ended with status {process.exitcode}")
            done += 1
        finally:
            process.kill()
            process.join()
            receiver.close()
        left = left[done:]
    for job in left:
        yield failure(job, LATE)


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU (marked ``gpu``), and return their line."""
    files = [path for path in sorted(TESTS.glob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tier", "all", *map(str, files)]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=TESTS.parent, check=False)
    except subprocess.TimeoutExpired:
        return {"kind": "tests", "status": None, "summary": f"not done after {seconds:.0f} s", "seconds": seconds}
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    summary = "; ".join([*lines, *done.stdout.strip().splitlines()[-1:]])
    return {"kind": "tests", "status": done.returncode, "summary": summary, "seconds": time.monotonic() - start}


def describe(line: dict[str, Any]) -> str:
    """Return a line of the file for a reader."""
    if line["kind"] == "tests":
        return f"tests: {line['summary']}"
    if line["kind"] != "gpu":
        return f"{line['name']}, {line['mode']}, {', '.join(line['forms'])}: {line['reason']}"
    return f"{line['name']}, {line['mode']}, {line['form']}: {line['ms']['median']:.2f} ms"


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table. Speeds are against the plain net, within rounds; above 1 the form is faster."""
    cells = []
    for row in lines:
        if row["kind"] == "gpu":
            ms, speed, memory = row["ms"], row["speed_ratio"], row["memory"]
            cells.append(
                (
                    row["name"],
                    row["mode"],
                    row["form"],
                    f"{row['batch']} x {row['size']} px",
                    f"{ms['median']:.2f}",
                    f"{row['images_per_second']:.0f}",
                    f"{speed['median']:.2f} ({speed['low']:.2f} .. {speed['high']:.2f})",
                    "-" if memory is None else f"{memory / MIB:.0f}",
                )
            )
    header = ("net", "step", "form", "images", "ms", "images/s", "speed x", "MiB")
    return tabulate(cells, header, tablefmt="github", disable_numparse=True)


def build_parser() -> argparse.ArgumentParser:
    """Make the command line."""
    parser = argparse.ArgumentParser(description="Tests, speed and memory on one GPU.")
    parser.add_argument("names", nargs="*", default=list(NETS), help="nets of the zoo")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a miniature (default: %(default)s)")
    parser.add_argument("--dtype", choices=list(measure.DTYPES), default="bfloat16", help="default: %(default)s")
    parser.add_argument("--batch", type=int, help="images a step, halved until they fit (default: 128; 2 on a CPU)")
    parser.add_argument("--size", type=int, help="height and width (default: each net's own; 32 on a CPU)")
    parser.add_argument("--repeats", type=measure.rounds, default=15, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=480.0, help="time for everything (default: %(default)s)")
    parser.add_argument("--no-tests", action="store_true", help="leave out the tests")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--out", type=Path, default=Path("results/gpu.jsonl"), help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(NO_GPU)
    args.batch = args.batch or (128 if device.type == "cuda" else 2)
    args.size = args.size or (None if device.type == "cuda" else 32)
    deadline = time.monotonic() + args.seconds - 10  # for the last lines, and for what the start has taken
    where = {"versions": versions(), "device": describe_device(device)}
    print(f"{where['device']['name']}, torch {torch.__version__}, {args.dtype}, channels last", flush=True)
    lines: list[dict[str, Any]] = []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a", encoding="ascii") as file:
        if not args.no_tests:
            record(run_tests(args.seconds / 4), where, file, lines)
        for line in run(plan(args), deadline):
            record(line, where, file, lines)
    print(f"\n{table(lines)}")
    # Tests without a status were not done in time.
    failed = [line for line in lines if line["kind"] == "failure" or (line["kind"] == "tests" and line["status"] != 0)]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(lines)} lines are failures, see {args.out}")


def record(line: dict[str, Any], where: dict[str, Any], file: Any, lines: list[dict[str, Any]]) -> None:
    """Write a line at once, show it, and keep it."""
    file.write(json.dumps(line | where) + "\n")
    file.flush()
    lines.append(line)
    print(describe(line), flush=True)


if __name__ == "__main__":
    main()
