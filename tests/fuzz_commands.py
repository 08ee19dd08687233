"""Command lines by chance, right ones and wrong ones of every verb.

    python tests/fuzz_commands.py --count 500 --seed 0

Words are drawn from the parsers themselves: each argument is left out, gets a value that may be right, or one that is
wrong; now and then a word is doubled, lost, or spoiled. What may never happen: a traceback, an error that nobody
foresaw, a wrong request that is answered by more than one line or has printed or written something.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from result_lines import run, write
from safetensors.torch import save_file

import zoo
from zoo import racing
from zoo.bench import Request, request
from zoo.bench import run as bench
from zoo_cli import VERBS, main, parser_of

DAMAGED = ("kept_bare", "kept_spoiled", "kept_other", "kept_torn")
NETS = ("resnet_test", "lenet_test", "timm:test_resnet")
# By the name of an argument: what may be right. The rest gets its choices, or a small number.
RIGHT = {
    "filter": ("_test", "lenet*", "nothing"),
    "--family": ("resnet", "lenet"),
    "--sort": ("name", "params", "macs", "accuracy"),
    "--input-size": ("32", "3x64x64", "64"),
    "--model": ("resnet_test", "lenet_test"),
    "--prefix": ("", "module."),
    "--num-classes": ("10", "1000"),
    "--in-chans": ("1", "3"),
    "--dataset": ("folder", "digits", "scenes", "cifar10", "torch/cifar10"),
    "--data-dir": ("pictures",),
    "--split": ("validation", "train"),
    "--class-map": ("",),
    "--checkpoint": ("good.safetensors", "bad.pth"),
    "--series": ("paper", "pytorchcv"),
    "--task": ("classify", "segment", "detect"),
    "--decoder": ("unet",),
    "--detector": ("fcos",),
    "--lineup": ("default",),
    "--set": ("activate_first=True", "stem_width=8"),
    "--vary": ("activate_first True False",),
    "--recipe": ("digits", "batch_size=299", "lr=0.05", "max_shift=0"),
    "--epochs": ("1",),
    "--device": ("cpu", "auto"),
    "--threads": ("1", "2"),
    "--workers": ("0", "1"),
    "--ray-address": ("auto",),
    "--gpus-per-run": ("0", "0.5"),
    "--out": ("out", "out/new.jsonl"),
    "-o, --out": ("page.html",),
    "--title": ("A title",),
    "--repeats": ("2",),
    "--seconds": ("1",),
    "--batch-size": ("2", "1"),
    "--seeds": ("0", "1"),
    "--retries": ("0",),
    "--jobs": ("1",),
    "IN": ("good.safetensors", "bad.pth"),
    "FILE": ("good.safetensors", "bad.pth"),
    "OUT.safetensors": ("new.safetensors",),
    "RESULTS": ("results", "results/results.jsonl", "runs"),
    "--max-params": ("30M", "300k", "1e6"),
    "--max-macs": ("5G", "50m"),
    "--max-size": ("224",),
    "--max-latency": ("1000",),
    "--min-accuracy": ("80", "0"),
    "--min-gpu": ("100",),
    "--min-cpu": ("30",),
    "--licence": ("apache-2.0", "cc-by-*"),
    "--needs": ("weights", "output_stride=8"),
    "--source": ("timm", "weights", "published", "results"),
    "--cost": ("macs", "params"),
    "--weights": ("kept", "kept", "good.safetensors", "resnet20_cifar.fashion", "nothing.safetensors", *DAMAGED),
    "--freeze": ("none", "body", "until=features"),
    "--validation": ("0.1", "0"),
    "--budget": ("90s", "30m"),
    "--seed": ("0", "1"),
    "FOLDER|DATASET": ("pictures", "digits"),
    "PICTURE": ("pictures", "pictures/train/cat/0.png", "-", "bad.pth"),
    "--top": ("1", "5"),
    "--masks": ("masks",),
    "--min-score": ("0.5",),
    "--module": ("stage1", "features", "nothing"),
    "--threshold": ("0.2",),
    "--units": ("1", "2"),
    "--images": ("20", "3"),
    "--draws": ("1", "2"),
}
NAMES = {
    "recipes": ("digits", "scenes", "wide_resnet_cifar"),
    "weights": ("fishnet150", "*_cifar", "resnet_test"),
    "validate": (*NETS, "resnet20_cifar.fashion", "kept", *DAMAGED),
    "analyse": (*NETS, "resnet20_cifar.fashion", "kept", "fabric_test", *DAMAGED),
    "draw": (*NETS, "fishnet_test", "order=pre", "lenet*"),
    "race": ("lenet_test", "resnet_test"),
}
OWN = {"analyse --dataset": ("digits", "cues", "folder"), "analyse --input-size": ("32", "3x32x32")}
WRONG = (
    *("", " ", "nothing", "-1", "0", "1e400", "nan", "inf", "9" * 30, "3.5", "True", "None", "x=y", "=", "a=", "=b"),
    *("lr=", "lr=nan", "epochs=0", "epochs=1.5", "widths=8,16,32", "depths=()", "depths=(0,)", "stem_width=-4"),
    *("order=pre", "act_layer=nothing", "device=cuda:9", "num_classes=10**9", "__class__=1", "0x0x0", "3x99999999x1"),
    *("1x1x1", "3x1x1", "../..", "/dev/null", "/proc/self/mem", "bad.pth", "results", "pictures", "a\nb", "\x1b[31m"),
    *("caf\u00e9", "\udcff", "\u202e", "'", '"', "$(true)", "%s", "{0}", "*", "?", "[", "timm:nosuch", "timm:", "zoo_"),
    *("hf-hub:nobody/nothing", "local-dir:nowhere", "resnet50.nosuch", "folder", "torch/nosuch", "hfds/x", "cuda:77"),
    *("mps", "meta", "--", "--nothing", "-x", "--help=x", "@file", "A" * 3000),
)
RUNNING = ("bench", "race", "speed", "predict")
"""Verbs of which a part may fail."""
SLOW = {"--jobs", "--ray-address", "--engine"}  # new processes, which take their time to begin: asked for seldom


def build(folder: Path) -> None:
    """Make the files that command lines name."""
    for half in ("train", "validation"):
        for number, name in enumerate(("cat", "dog")):
            (folder / "pictures" / half / name).mkdir(parents=True)
            for i in range(6):
                colour = (40 * i, 100 * number, 90 if half == "train" else 0)
                Image.new("RGB", (40, 36), colour).save(folder / "pictures" / half / name / f"{i}.png")
    save_file(zoo.create_model("resnet_test").state_dict(), folder / "good.safetensors")
    (folder / "bad.pth").write_bytes(b"nothing that torch reads")
    (folder / "results").mkdir()
    write(folder / "results" / "results.jsonl", [run("a"), run("b", 1), run("b")])
    build_kept(folder)


def build_kept(folder: Path) -> None:
    """Make the folder of a trained net, and four copies of which something is wrong."""
    asked = Request(models=["lenet_test"], changes={"epochs": 1}, out=folder / "runs", device="cpu")
    [kept] = (bench(asked).path.parent / "weights").iterdir()
    shutil.copytree(kept, folder / "kept")
    for name in DAMAGED:
        shutil.copytree(kept, folder / name)
    (folder / "kept_bare" / "config.json").unlink()
    line = json.loads((kept / "run.json").read_bytes())
    spoiled = {"recipe": {"lr": "x", "more": 1}, "dataset": {"name": "nothing", "test": 9}, "name": "nosuch"}
    (folder / "kept_spoiled" / "run.json").write_text(json.dumps(line | spoiled))
    other = {"task": "segment", "test_miou": 0.5, "head": "unet"}
    (folder / "kept_other" / "run.json").write_text(json.dumps(line | other))
    for name in ("config.json", "model.safetensors"):
        content = (kept / name).read_bytes()
        (folder / "kept_torn" / name).write_bytes(content[: len(content) // 2])


def line(chance: random.Random) -> list[str]:
    """Draw a command line."""
    verb = chance.choice([*VERBS, "bench", "bench", "speed"])
    words = [verb] if chance.random() < 0.97 else [chance.choice(["", "bnech", "LIST", "-v", "--version", "help"])]
    rich, careful = chance.choice([0.03, 0.1, 0.25]), chance.choice([1.0, 0.97, 0.8])
    for action in parser_of(verb)._actions[1:]:
        name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        needed = action.required or (verb in ("bench", "count") and name == "NAME")
        often = 0.03 if name in SLOW else 0.97 if needed else rich
        if name == "--epochs":
            often = 0.9
        if chance.random() >= often:
            continue
        words += action.option_strings[-1:]
        if action.nargs == 0:
            continue
        for _ in range(1 if action.nargs in (None, "?") else chance.choice([1, 1, 1, 2, 0])):
            right = action.choices or OWN.get(f"{verb} {name}") or RIGHT.get(name) or NAMES.get(verb, NETS)
            words += chance.choice(list(right)).split(" ") if chance.random() < careful else [chance.choice(WRONG)]
    if chance.random() < 0.1:
        words.insert(chance.randrange(1, len(words) + 1), chance.choice(WRONG))
    if words[:1] == ["list"] and "--counts" in words:
        words.insert(1, "lenet")  # all would take a minute
    if words[:1] == ["race"] and chance.random() < 0.9:
        words += ["--recipe", "epochs=3"]
    if words[:1] == ["analyse"] and "--images" not in words:
        words += ["--images", "20"]
    if words[:1] == ["speed"]:
        words += ["--repeats", "2", "--seconds", "1"]
        words += ["--no-memory"] if chance.random() < 0.9 else []  # a process for each row takes seconds
    if chance.random() < 0.05:
        del words[chance.randrange(len(words))]
    return words


@contextlib.contextmanager
def apart(folder: Path) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Work in a folder, with streams that can be read, and leave the process as it was."""
    before, threads, compiler, lineup = os.getcwd(), torch.get_num_threads(), torch.compile, request.lineup
    stdin, candidates = sys.stdin, racing.candidates
    # What takes minutes and depends on no command line: the compiler, and training the nets of a whole line-up.
    torch.compile = lambda net, **_: net  # ty: ignore[invalid-assignment]
    request.lineup = lambda name: [*lineup(name)[:0], "lenet_test"]  # ty: ignore[invalid-assignment]
    racing.candidates = lambda *_: ["lenet_test"]  # ty: ignore[invalid-assignment]
    sys.stdin = io.StringIO("pictures/train/cat/0.png\nnothing.png\n")
    out, err = io.StringIO(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield out, err
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
        torch.compile, request.lineup = compiler, lineup
        sys.stdin, racing.candidates = stdin, candidates


def judge(words: Sequence[str], folder: Path) -> tuple[str, list[str]]:
    """Run a command line; return how it ended, and what is wrong with that."""
    files = written(folder)
    with apart(folder) as (out, err):
        try:
            status: object = main(words)
        except SystemExit as stop:  # help and version
            status = f"exit {stop.code}"
        except BaseException:
            traceback.print_exc()
            status = "raised"
    lines = err.getvalue().splitlines()
    wrong = []
    if status not in (0, 1, 2, "exit 0"):
        wrong.append(f"status {status}")
    if "Traceback" in err.getvalue():
        wrong.append("a traceback")
    if "ZOO_TRACEBACK" in err.getvalue():
        wrong.append("an error that nobody foresaw")
    if status == 1 and not any(text.startswith("zoo: ") for text in lines):
        wrong.append("no line says why it failed")
    if status == 1 and words[0] not in RUNNING:
        wrong.append("a request that is wrong, and no run that failed")
    if status == 2:
        errors = [text for text in lines if text.startswith("zoo: error: ")]
        others = [text for text in lines if not text.startswith("zoo: ")]
        if len(errors) != 1 or others:
            wrong.append(f"{len(errors)} errors and {len(others)} other lines")
        if out.getvalue():
            wrong.append("something was printed")
        if made := written(folder) - files:
            wrong.append(f"something was written: {sorted(path.name for path in made)}")
    if not err.getvalue().isprintable() and any(not text.isprintable() for text in lines):
        wrong.append("control characters")
    return str(status), [*wrong, *lines[-3:]] if wrong else []


def written(folder: Path) -> set[Path]:
    """Return files and folders, without what a wrong request may leave: what it remembers of pictures."""
    there = set(folder.rglob("*"))
    remembered = {path for path in there if "pictures.json" in path.name}
    return there - remembered - {path.parent for path in remembered} - {folder / "out", folder / "results"}


def fuzz(folder: Path, number: int, seed: int, *, verbose: bool = False) -> tuple[Counter[str], list[str]]:
    """Run so many command lines; return how they ended, and one text for each that ended badly."""
    build(folder)
    chance = random.Random(seed)
    ends: Counter[str] = Counter()
    faults = []
    for count in range(number):
        words = line(chance)
        began = time.monotonic()
        status, wrong = judge(words, folder)
        ends[f"{words[0] if words and words[0] in VERBS else 'other'}: {status}"] += 1
        if wrong:
            faults.append(f"line {count}: {json.dumps(words)[:400]}: {'; '.join(wrong)}")
        if verbose:
            took = time.monotonic() - began
            if wrong or took > 20:
                print(f"{took:6.1f} s  {faults[-1] if wrong else json.dumps(words)[:300]}", flush=True)
    return ends, faults


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="command lines to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    asked = build_parser().parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as place:
        ends, faults = fuzz(Path(place), asked.count, asked.seed, verbose=True)
    print("\n".join(f"{number:4}  {end}" for end, number in sorted(ends.items())))
    print(f"{sum(ends.values())} command lines, {len(faults)} faults")
    sys.exit(bool(faults))
