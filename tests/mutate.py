"""Break the package in small ways, one at a time, and count how many of the changes the tests of the area notice.

Each change is a swapped comparison, sign or constant, a flipped flag, a condition turned round or a call left out, at
a place that the seed chooses. The tests of the usual tier run first; what they miss is shown to all tests of the area.

    python tests/mutate.py --count 60

A change that no test notices is printed as a diff. Some change nothing that could be noticed: read each one.
"""

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ("golden", "sizes", "parity", "contract")
AREAS: dict[str, tuple[list[str], list[str]]] = {
    "layers": (
        ["zoo/layers/*.py"],
        [
            "layers",
            "golden_nets",
            "structure",
            "densenet",
            "highway",
            "fabric",
            "frrn",
            "plain",
            "fusing",
            "contract",
            "tools",
        ],
    ),
    "backbone": (
        ["zoo/backbone.py", "zoo/entry.py", "zoo/features.py", "zoo/arguments.py"],
        ["registry", "sizes", "contract", "features", "arguments", "papers"],
    ),
    "models": (
        ["zoo/models/*.py", "zoo/grid.py"],
        [
            "golden_nets",
            "structure",
            "fabric",
            "frrn",
            "densenet",
            "highway",
            "googlenet",
            "bn_inception",
            "gridnet",
            "bagnet",
            "wider_resnet",
            *SHARED,
        ],
    ),
    "topology": (["zoo/topology.py", "zoo/analysis/*.py"], ["topology", "structure", "frrn", "fabric", "golden_nets"]),
    "complexity": (["zoo/complexity.py"], ["complexity", "study", "published"]),
    "results": (["zoo/results/*.py"], ["results", "shared_results", "bench", "report", "study", "tasks"]),
    "weights": (["zoo/weights/*.py"], ["loading", "weights", "wrappings", "bad_files", "downloads", "weights_cli"]),
}
"""Of each area the files to break, and the tests to show it to, the quick ones first."""
COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
SIGNS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Div: "*"}
PATIENCE = 4
"""Times that the tests of an area may take what they take unbroken: some changes make an endless loop."""
COPIED = ("zoo", "zoo_cli", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "CONTRIBUTING.md", "Makefile")
COPIED += ("CHANGELOG.md", "changes", "mkdocs.yml", "hubconf.py")


@dataclass(frozen=True)
class Mutation:
    """A piece of a source file, by its place in characters, and what takes its place."""

    path: Path
    begin: int
    end: int
    text: str

    def apply(self) -> str:
        """Return the broken source."""
        source = (ROOT / self.path).read_text(encoding="utf-8")
        return source[: self.begin] + self.text + source[self.end :]

    def __str__(self) -> str:
        before = (ROOT / self.path).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.apply().splitlines(), str(self.path), "", n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++ ")))


def mutations(path: Path) -> Iterator[Mutation]:
    """Yield every change that can be made in one file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node: ast.AST) -> tuple[int, int]:
        # Columns count bytes, which are characters in a package that is ASCII.
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def between(left: ast.AST, right: ast.AST, text: str) -> Mutation:
        begin, end = place(left)[1], place(right)[0]
        gap = source[begin:end]
        front, back = gap[: len(gap) - len(gap.lstrip(") \n"))], gap[len(gap.rstrip("( \n")) :]
        return Mutation(path, begin, end, f"{front} {text} {back}")

    tree, skipped = ast.parse(source), set()
    for node in ast.walk(tree):
        # Types are for the checker, and a dataclass that is not frozen is no wrong number.
        parts = getattr(node, "annotation", None), getattr(node, "returns", None), *getattr(node, "decorator_list", ())
        for part in parts:
            skipped |= {id(below) for below in ast.walk(part)} if part is not None else set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                yield between(left, right, COMPARISONS[type(op)])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
                yield between(left, right, SIGNS[type(op)])
            case ast.Constant(value=bool(value)):
                yield Mutation(path, *place(node), str(not value))
            case ast.Constant(value=int(value)):
                yield Mutation(path, *place(node), str(value + 1))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield Mutation(path, place(node)[0], place(operand)[0], "")
            case ast.If(test=test) | ast.IfExp(test=test):
                yield Mutation(path, *place(test), f"(not ({source[slice(*place(test))]}))")
            case ast.Expr(value=ast.Call()):
                yield Mutation(path, *place(node), "pass")


def choose(count: int, seed: int) -> list[tuple[str, Mutation]]:
    """Return so many mutations with their areas, as even over the areas as the count allows."""
    chance = random.Random(seed)
    pools = {
        area: [m for glob in globs for path in sorted(ROOT.glob(glob)) for m in mutations(path.relative_to(ROOT))]
        for area, (globs, _) in AREAS.items()
    }
    areas = [area for number, area in zip(range(count), list(AREAS) * count, strict=False)]
    return [(area, pools[area].pop(chance.randrange(len(pools[area])))) for area in areas]


def noticed(folder: Path, area: str, tier: str, limit: float | None = None) -> str:
    """Return the first test of the area that fails in a tier; empty if all pass.

    Raises:
        subprocess.TimeoutExpired: If the tests do not end within the limit, in seconds.
    """
    files = [f"tests/test_{name}.py" for name in AREAS[area][1]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tier", tier, "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "" if done.returncode == 0 else (failed or [f"status {done.returncode}: {done.stderr[-200:]}"])[0][:160]


def time_unbroken(folder: Path, areas: Iterable[str], tier: str) -> dict[str, float]:
    """Return the seconds that the tests of each area take on the package as it is.

    Raises:
        SystemExit: If one fails there, for then it would seem to notice every change.
    """
    seconds = {}
    for area in areas:
        begin = time.monotonic()
        if failure := noticed(folder, area, tier):
            raise SystemExit(f"{area}, {tier}: a test fails on the package as it is: {failure}")
        seconds[area] = time.monotonic() - begin
        print(f"{area}, {tier}, unbroken: {seconds[area]:.0f} s", flush=True)
    return seconds


def run(count: int, seed: int) -> int:
    """Try the mutations; return how many the usual tier does not notice."""
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        chosen = choose(count, seed)
        usual = time_unbroken(folder, dict.fromkeys(area for area, _ in chosen), "usual")
        for number, (area, mutation) in enumerate(chosen):
            target, begin = folder / mutation.path, time.monotonic()
            target.write_text(mutation.apply(), encoding="utf-8")
            try:
                failure = noticed(folder, area, "usual", PATIENCE * usual[area])
                end = "noticed by usual" if failure else "missed by usual"
                if not failure and (failure := noticed(folder, area, "all")):
                    end = "noticed by all alone"
            except subprocess.TimeoutExpired:
                failure, end = "", "without an end"
            ends[end] += 1
            print(f"{number} {area}, {time.monotonic() - begin:.0f} s: {end} {failure}\n{mutation}", flush=True)
            shutil.copy(ROOT / mutation.path, target)
    print(f"{count} changes, seed {seed}: " + ", ".join(f"{end} {times}" for end, times in sorted(ends.items())))
    return count - ends["noticed by usual"]


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="changes to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    given = build_parser().parse_args()
    sys.exit(bool(run(given.count, given.seed)))
