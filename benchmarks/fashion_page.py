"""What the lines of the comparison on Fashion-MNIST say: tables, comparisons by chance, and the state they are in."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from fashion_nets import HEADS, NETWORKS, DenseNetwork
from fashion_picture import Figure, digest_of, draw, published_figures
from fashion_plan import (
    LONG,
    LONG_EPOCHS,
    OUT,
    PLANNED,
    SEEDS,
    SIZES,
    STUDY,
    Choice,
    chosen_rates,
    image_runs,
    long_runs,
    scene_runs,
    search_runs,
)
from fashion_weights import TRUTH, read_answers
from tabulate import tabulate

from zoo.files import write_in_folder
from zoo.results import NetResult, group
from zoo.results.chance import LEVEL, Paired, holm, mcnemar, rank_correlation
from zoo.results.metrics import METRICS
from zoo.results.store import read_if_there
from zoo.results.table import to_csv
from zoo_cli import main as zoo_command

ROOT = Path(__file__).resolve().parents[1]
_, LARGE = SIZES
FLOOR = 91
"""Accuracy in percent below which the page has to say why."""
NEAR = (1 / 3, 3)
"""Parameters of published nets that stand beside the net that was trained for longer, as a share of its own."""
TITLE = "Sixteen topologies of one size on Fashion-MNIST"
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A topology at a size, over the seeds that are in.

    Attributes:
        label: Of the topology.
        size: Key of `SIZES`.
        rate: Its learning rate.
        result: The net over its seeds.
    """

    label: str
    size: str
    rate: float
    result: NetResult

    @property
    def accuracy(self) -> float:
        """Mean accuracy over the seeds, in percent."""
        return 100 * self.result.score

    @property
    def seed_error(self) -> float | None:
        """Standard error of that mean over the seeds, in points; None for a single seed."""
        return None if self.result.spread is None else 100 * self.result.spread / self.result.seeds**0.5

    def line(self, seed: int) -> Line | None:
        """Return the line of a seed, if it is in."""
        return next((line for line in self.result.runs if line["seed"] == seed), None)


@dataclass(frozen=True)
class Pair:
    """Two topologies of a size, on the same seed and test images, and the p-value after Holm's correction."""

    size: str
    labels: tuple[str, str]
    paired: Paired
    corrected: float

    @property
    def differs(self) -> bool:
        """True if the nets differ by more than chance."""
        return self.corrected < LEVEL


def _ahead(pair: Pair, label: str) -> bool:
    """Return True if a net of a pair has more right answers than the other."""
    return pair.paired.difference * (1 if pair.labels[0] == label else -1) > 0


@dataclass(frozen=True)
class Study:
    """Everything that the files of the comparison hold.

    Attributes:
        points: Image level, by topology and size.
        rates: Chosen learning rates.
        scenes: Nets on scenes, by net and whether its weights are frozen.
        long: The net that is trained for longer; None if it is not in.
        done: Number of finished runs of the plan, by stage.
        planned: Number of planned runs, by stage.
        failed: Failed runs of the image level and the scenes, one text each.
        answers: Answers to the test images, by key of the run; see `fashion_weights`.
    """

    points: Mapping[Choice, Point]
    rates: Mapping[Choice, float]
    scenes: Mapping[tuple[DenseNetwork, bool], NetResult]
    done: Mapping[str, int]
    planned: Mapping[str, int]
    long: NetResult | None = None
    failed: Sequence[str] = ()
    answers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def ranked(self) -> list[str]:
        """Labels, the best larger net first; those without one last."""
        means = {choice: point.accuracy for choice, point in self.points.items()}
        return sorted((t.label for t in STUDY), key=lambda label: -means.get(Choice(label, LARGE), 0.0))

    @property
    def state(self) -> str:
        """Sentence on how many runs are in."""
        counts = " and ".join(f"{self.done[s]} of {self.planned[s]} runs on {s}" for s in ("images", "scenes"))
        whole = all(self.done[stage] == self.planned[stage] for stage in self.planned)
        return f"{'' if whole else 'Not complete: '}{counts} are in."

    @cached_property
    def pairs(self) -> list[Pair]:
        """All pairs of nets of one size whose answers with the first seed are there."""
        return [pair for size in SIZES for pair in self._pairs(size)]

    def _pairs(self, size: str) -> list[Pair]:
        truth, right = self.answers.get(TRUTH, ""), {}
        for topology in STUDY:
            point = self.points.get(Choice(topology.label, size))
            line = point.line(SEEDS[0]) if point else None
            if line is not None and line["key"] in self.answers:
                own = self.answers[line["key"]]
                right[topology.label] = [a == b for a, b in zip(own, truth, strict=True)]
        names = list(combinations(right, 2))
        found = [mcnemar(right[a], right[b]) for a, b in names]
        corrected = holm([paired.p_value for paired in found])
        return [Pair(size, *each) for each in zip(names, found, corrected, strict=True)]

    def verdict(self, label: str, size: str) -> str:
        """Return the numbers of nets of a size that a net is better and worse than by more than chance; "-" if unknown.

        Those of both directions that are missing are not told apart from it.
        """
        own = [pair for pair in self.pairs if pair.size == size and label in pair.labels]
        ahead = [_ahead(pair, label) for pair in own if pair.differs]
        return f"{sum(ahead)} / {len(ahead) - sum(ahead)} of {len(own)}" if own else "-"

    @property
    def device(self) -> str:
        """Device of most larger nets: times of others are not shown beside theirs."""
        lines = [point.result.runs[0] for choice, point in self.points.items() if choice.size == LARGE]
        return statistics.mode(line["device"]["name"] for line in lines) if lines else ""


def read_study(out: Path) -> Study:
    """Read the results in a folder; lines of other runs are passed over."""
    rates = chosen_rates(out / "search.jsonl")
    runs, dense, search, longer = image_runs(rates), scene_runs(), search_runs(), long_runs()
    planned = image_runs(rates, planned=True)
    images, scenes, long = (read_if_there(out / f"{stage}.jsonl") for stage in ("image", "scenes", "long"))
    points: dict[Choice, Point] = {}
    for comparison in group(line for line in images.trainings if line["key"] in runs):
        for net in comparison.nets:
            choice, run = runs[net.runs[0]["key"]]
            points[choice] = Point(choice.label, choice.size, run.recipe.lr, net)
    nets: dict[tuple[DenseNetwork, bool], NetResult] = {}
    for comparison in group(line for line in scenes.trainings if line["key"] in dense):
        for net in comparison.nets:
            network, run = dense[net.runs[0]["key"]]
            nets[network, run.frozen] = net
    stored = read_if_there(out / "search.jsonl")
    tried = [line for line in (*stored.trainings, *stored.failures) if line["key"] in search]
    known = {*runs, *dense, *longer}
    lost = [line for line in (*images.failures, *scenes.failures, *long.failures) if line["key"] in known]
    return Study(
        points=points,
        rates=rates,
        scenes=nets,
        long=next((c.nets[0] for c in group(line for line in long.trainings if line["key"] in longer)), None),
        done={
            "search": len(tried),
            "images": sum(line["key"] in planned for point in points.values() for line in point.result.runs),
            "scenes": sum(net.seeds for net in nets.values()),
        },
        planned={
            "search": len(search),
            "images": len(STUDY) * sum(map(len, PLANNED.values())),
            "scenes": len(dense),
        },
        failed=[f"{line.get('display', line['name'])}, seed {line.get('seed')}: {line['error']}" for line in lost],
        answers=read_answers(out),
    )


# ---------------------------------------------------------------- tables


def image_table(study: Study) -> str:
    """Return the image level as Markdown, a row a topology, the best larger net first."""
    rows = []
    for label in study.ranked:
        cells = [label]
        for size in SIZES:
            choice = Choice(label, size)
            rate = study.rates.get(choice)
            cells += [_accuracy(study.points.get(choice)), "-" if rate is None else f"{rate:g}"]
        points = [study.points.get(Choice(label, size)) for size in SIZES]
        macs = " / ".join("-" if point is None else f"{point.result.macs / 1e6:.1f}" for point in points)
        rows.append([*cells, study.verdict(label, LARGE), macs, *_costs(study, label)])
    headers = ["topology", *(f"{size}: {what}" for size in SIZES for what in ("accuracy [%]", "rate"))]
    headers += [f"{LARGE}: better / worse", "M MACs", f"{LARGE}: s an epoch", f"{LARGE}: MiB"]
    return _markdown(headers, rows)


def _accuracy(point: Point | None) -> str:
    if point is None:
        return "not yet"
    error = "" if point.seed_error is None else f" +- {point.seed_error:.2f}"
    return f"{point.accuracy:.2f}{error} ({seeds_in(point.result.seeds, len(PLANNED[point.size]))})"


def seeds_in(seeds: int, planned: int) -> str:
    """Return how many seeds are in, and of how many where some are missing."""
    return f"{seeds} of {planned} seeds" if seeds < planned else f"{seeds} seed{'s' * (seeds > 1)}"


def _costs(study: Study, label: str) -> tuple[str, str]:
    """Return seconds of an epoch and peak memory of the larger net, if it was trained where most were."""
    point = study.points.get(Choice(label, LARGE))
    lines = [line for line in (point.result.runs if point else ()) if line["device"]["name"] == study.device]
    if not lines:
        return "-", "-"
    seconds = statistics.fmean(line["seconds"] / line["recipe"]["epochs"] for line in lines)
    memory = [line["peak_memory"] / 2**20 for line in lines if line.get("peak_memory")]
    return f"{seconds:.1f}", f"{statistics.fmean(memory):.0f}" if memory else "-"


def scene_table(study: Study) -> str:
    """Return the level of regions and pixels as Markdown; empty if no run is in."""
    if not study.scenes:
        return ""
    names = dict.fromkeys((n.label, n.size, frozen) for n in NETWORKS for frozen in (False, True))
    rows = []
    for label, size, frozen in names:
        own = {
            network.task: net
            for (network, still), net in study.scenes.items()
            if (network.label, network.size, still) == (label, size, frozen)
        }
        if own:
            title = f"{label}, {size}" + ", random and frozen" * frozen
            rows.append([title, *(_score(own.get(task)) for task in HEADS)])
    for task in HEADS:
        trivial = {net.trivial for net in study.scenes.values() if net.task == task and net.trivial is not None}
        cells = [f"{100 * trivial.pop():.2f}" if trivial and task == other else "-" for other in HEADS]
        rows.append([METRICS[task].trivial_title, *cells])
    return _markdown(["net", *(f"{METRICS[task].title} [%]" for task in HEADS)], rows)


def _score(net: NetResult | None) -> str:
    if net is None:
        return "not yet"
    error = "" if net.spread is None else f" +- {100 * net.spread / net.seeds**0.5:.2f}"
    return f"{100 * net.score:.2f}{error} ({seeds_in(net.seeds, len(SEEDS))})"


def long_table(study: Study) -> str:
    """Return the net that was trained for longer beside published nets of its size, as Markdown; empty if not in."""
    if study.long is None:
        return ""
    params = study.long.params
    near = [figure for figure in published_figures() if NEAR[0] <= figure.params / params <= NEAR[1]]
    own = Figure(f"{LONG}, {LONG_EPOCHS} epochs", "", params, study.long.macs, 100 * study.long.score, "this study")
    cells = [
        (
            *(f.name, f"{f.params / 1e6:.2f}", "-" if f.macs is None else f"{f.macs / 1e6:.1f}"),
            *(f"{f.accuracy:.2f}", f.source),
        )
        for f in sorted([own, *near], key=lambda figure: -figure.accuracy)
    ]
    headers = ("net", "M parameters", "M MACs", "accuracy [%]", "source")
    return tabulate(cells, headers, tablefmt="pipe", colalign=("left", *["right"] * 3, "left"), disable_numparse=True)


def levels(study: Study) -> dict[str, dict[str, float]]:
    """Return the score of each topology at each level: images of two sizes, pixels, regions."""
    found: dict[str, dict[str, float]] = {
        f"images, {size}": {p.label: p.accuracy for choice, p in study.points.items() if choice.size == size}
        for size in SIZES
    }
    for task in HEADS:
        found[_scene_level(task)] = {
            network.label: 100 * net.score
            for (network, frozen), net in study.scenes.items()
            if (network.task, network.size, frozen) == (task, "large", False)
        }
    return found


def _scene_level(task: str) -> str:
    return f"scenes, {METRICS[task].title}"


def correlation_table(study: Study) -> str:
    """Return the rank correlations between the levels as Markdown; levels without lines are said to be missing."""
    rows = []
    for (one, first), (two, second) in combinations(levels(study).items(), 2):
        both = [label for label in first if label in second]
        scores = [first[label] for label in both], [second[label] for label in both]
        if len(both) < 3 or any(len(set(side)) == 1 for side in scores):
            rows.append([one, two, len(both), "not yet", "-"])
        else:
            found = rank_correlation(*scores)
            rows.append(
                [
                    one,
                    two,
                    found.pairs,
                    f"{found.rho:.2f}",
                    "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}",
                ]
            )
    return _markdown(["level", "level", "topologies", "rank correlation", "p"], rows, texts=2)


def summary(study: Study) -> str:
    """Return everything as Markdown, for the page of the study."""
    compared = [pair for pair in study.pairs if pair.size == LARGE]
    apart = sum(pair.differs for pair in compared)
    parts = [textwrap.fill(says(study), 120, break_on_hyphens=False), image_table(study)]
    compared_by = (
        f"Better / worse: of how many larger nets a net is told apart by its answers to the same test images with seed "
        f"{SEEDS[0]} (McNemar's exact test with mid-p, level {LEVEL}, Holm for {len(compared)} comparisons); "
        f"{apart} of the {len(compared)} differ by more than chance."
        if compared
        else "No two nets are compared by their answers yet."
    )
    notes = (
        f"{compared_by} Accuracies are means over seeds, and +- is the standard error over them. Seconds and memory "
        f"are those of the training runs on {study.device or 'one device'}, which several runs shared."
    )
    parts.append(textwrap.fill(notes, 120, break_on_hyphens=False))
    below = [point for point in study.points.values() if point.accuracy < FLOOR]
    below.sort(key=lambda point: point.accuracy)
    listed = ", ".join(f"{point.label} at {point.size} ({point.accuracy:.2f} %)" for point in below)
    parts.append(textwrap.fill(f"Below {FLOOR} %: {listed or 'none'}.", 120, break_on_hyphens=False))
    parts.append(long_table(study) or f"{LONG} with {LONG_EPOCHS} epochs is not in yet.")
    parts.append(scene_table(study) or "No run on scenes is in.")
    parts.append(correlation_table(study))
    if study.failed:
        parts.append("Failed runs:\n\n" + "\n".join(f"- {text}" for text in study.failed))
    return "\n\n".join(parts)


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[Any]], texts: int = 1) -> str:
    align = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(rows, headers=headers, tablefmt="pipe", colalign=align, disable_numparse=True)


# ---------------------------------------------------------------- files

COLUMNS = (
    *("topology", "size", "seeds", "planned", "accuracy", "seed_error", "standard_error", "rate"),
    *("params", "macs", "activations", "better", "worse", "not_told_apart"),
    *("seconds", "peak_memory", "device", "state"),
)
"""Columns of the table as CSV; accuracies and errors are in percent."""


def image_csv(study: Study) -> str:
    """Return the image level as CSV, a row a topology and size; what is not in is empty."""
    rows = []
    for label in study.ranked:
        for size in SIZES:
            choice = Choice(label, size)
            point = study.points.get(choice)
            cells = {"topology": label, "size": size, "seeds": 0, "planned": len(PLANNED[size]), "state": study.state}
            cells["rate"] = study.rates.get(choice)
            rows.append([{**cells, **(_cells(study, point) if point else {})}.get(column) for column in COLUMNS])
    return to_csv(COLUMNS, rows)


def _cells(study: Study, point: Point) -> dict[str, Any]:
    result, line = point.result, point.result.runs[0]
    verdict = study.verdict(point.label, point.size).replace(" of ", " / ").split(" / ")
    told = list(map(int, verdict)) if len(verdict) == 3 else []
    return {
        "seeds": result.seeds,
        "accuracy": round(point.accuracy, 4),
        "seed_error": None if point.seed_error is None else round(point.seed_error, 4),
        "standard_error": None if result.standard_error is None else round(100 * result.standard_error, 4),
        **{name: getattr(result, name) for name in ("params", "macs", "activations")},
        **(dict(better=told[0], worse=told[1], not_told_apart=told[2] - told[0] - told[1]) if told else {}),
        "seconds": round(result.seconds, 2),
        "peak_memory": line.get("peak_memory"),
        "device": line["device"]["name"],
    }


SCENE_COLUMNS = (
    *("topology", "size", "task", "frozen", "seeds", "planned", "score", "seed_error", "standard_error"),
    *("trivial", "params", "macs", "seconds", "device", "state"),
)
"""Columns of the table of scenes as CSV; scores, errors and the score of the answer without content are in percent."""


def scene_csv(study: Study) -> str:
    """Return the level of pixels and regions as CSV, a row a net that is in."""
    rows = []
    for (network, frozen), net in study.scenes.items():
        cells = {
            "topology": network.label,
            "size": network.size,
            "task": network.task,
            "frozen": frozen,
            "seeds": net.seeds,
            "planned": len(SEEDS),
            "score": round(100 * net.score, 4),
            "seed_error": None if net.spread is None else round(100 * net.spread / net.seeds**0.5, 4),
            "standard_error": None if net.standard_error is None else round(100 * net.standard_error, 4),
            "trivial": None if net.trivial is None else round(100 * net.trivial, 4),
            "params": net.params,
            "macs": net.macs,
            "seconds": round(net.seconds, 2),
            "device": net.runs[0]["device"]["name"],
            "state": study.state,
        }
        rows.append([cells[column] for column in SCENE_COLUMNS])
    return to_csv(SCENE_COLUMNS, rows)


def pairs_csv(study: Study) -> str:
    """Return the paired comparisons as CSV."""
    header = (
        "size",
        "seed",
        "first",
        "second",
        "first_alone",
        "second_alone",
        "images",
        "p_value",
        "corrected",
        "differs",
    )
    return to_csv(
        header,
        [
            (
                *(pair.size, SEEDS[0], *pair.labels, pair.paired.first, pair.paired.second, pair.paired.images),
                *(f"{pair.paired.p_value:.6g}", f"{pair.corrected:.6g}", pair.differs),
            )
            for pair in study.pairs
        ],
    )


def tables(study: Study) -> dict[str, str]:
    """Return the tables by name of their file."""
    return {"study.csv": image_csv(study), "scenes.csv": scene_csv(study), "pairs.csv": pairs_csv(study)}


def says(study: Study) -> str:
    """Return three sentences on what the picture says, behind the state of the runs."""
    large = sorted((p for c, p in study.points.items() if c.size == LARGE), key=lambda point: -point.accuracy)
    if len(large) < 2:
        return f"**{study.state}**"
    best, last = large[0], large[-1]
    cheap, dear = (pick(large, key=lambda point: point.result.macs) for pick in (min, max))
    pairs = [pair for pair in study.pairs if pair.size == LARGE]
    own = [pair for pair in pairs if best.label in pair.labels]
    worse = sum(pair.differs and _ahead(pair, best.label) for pair in own)
    told = (
        f", by more than chance ahead of {worse} of {len(own)} others on the same test images"
        if own
        else "; which differences are more than chance is not known yet"
    )
    sentences = [
        f"**{study.state}**",
        f"Of {len(large)} nets with {LARGE} parameters {best.label} leads with {best.accuracy:.2f} %{told}, and "
        f"{last.label} ends at {last.accuracy:.2f} %.",
        f"The work differs more than the accuracy does: from {cheap.result.macs / 1e6:.1f} M multiply-adds "
        f"({cheap.label}, {cheap.accuracy:.2f} %) to {dear.result.macs / 1e6:.1f} M ({dear.label}, "
        f"{dear.accuracy:.2f} %).",
        _scenes_say(study),
    ]
    return " ".join(filter(None, sentences))


def _scenes_say(study: Study) -> str:
    """Return the sentence on pixels and regions; empty while nets are missing there."""
    found = levels(study)
    pixels, regions = (found[_scene_level(task)] for task in HEADS)
    labels = {network.label for network in NETWORKS}
    if not (labels == pixels.keys() == regions.keys()):
        return ""
    best = [max(level, key=lambda label: level[label]) for level in (pixels, regions)]
    images = found[f"images, {LARGE}"]
    both = [label for label in pixels if label in images]
    rho = [rank_correlation([images[b] for b in both], [level[b] for b in both]).rho for level in (pixels, regions)]
    return (
        f"In scenes of garments {best[0]} leads by pixels (mIoU {pixels[best[0]]:.1f} %) and {best[1]} by regions (mAP "
        f"{regions[best[1]]:.1f} %); the rank correlation of {len(both)} topologies between images and pixels is "
        f"{rho[0]:.2f}, between images and regions {rho[1]:.2f}."
    )


def pages(study: Study, picture: bytes) -> dict[Path, bytes]:
    """Return the repository's pages of the study with their blocks filled, and their copy of the picture."""
    shown = ROOT / "docs" / "images" / "fashion.png"
    alt = (
        "Sixteen topologies: a row each with images, pixels and regions; accuracy against parameters and multiply-adds"
    )
    more = "[What this tells and what not](docs/study.md)."
    readme = (
        f"![{alt}](docs/images/fashion.png)\n\n{textwrap.fill(f'{says(study)} {more}', 120, break_on_hyphens=False)}"
    )
    blocks = {ROOT / "README.md": readme, ROOT / "docs" / "study.md": summary(study)}
    return {path: _filled(path.read_text("ascii"), block).encode() for path, block in blocks.items()} | {shown: picture}


def _filled(page: str, block: str) -> str:
    """Return a page with another block between its marks."""
    before, start, rest = page.partition("<!-- fashion -->\n")
    _, end, after = rest.partition("<!-- /fashion -->")
    if not (start and end):
        raise ValueError(
            "the page has no place for the study: <!-- fashion --> and <!-- /fashion --> on lines of their own"
        )
    return f"{before}{start}{block}\n{end}{after}"


def publish(out: Path) -> str:
    """Write tables, pictures and the report of whatever lines are in, each at once; return the summary.

    Results in their own place also fill the blocks of the README and of the page of the study.
    """
    study = read_study(out)
    text = summary(study)
    files = {out / "study.md": f"{text}\n".encode()} | {out / name: t.encode() for name, t in tables(study).items()}
    source = digest_of("".join(tables(study).values()))
    files |= {out / f"study.{kind}": draw(study, kind, source) for kind in ("png", "svg")}
    if out.resolve() == OUT:
        files |= pages(study, files[out / "study.png"])
    for path, content in files.items():
        write_in_folder(path, content)
    lines = [path for path in (out / f"{stage}.jsonl" for stage in ("image", "long", "scenes")) if path.is_file()]
    if study.done["images"] or study.done["scenes"]:
        title = f"{TITLE}. {study.state}"
        zoo_command(["report", *map(str, lines), "-o", str(out / "report.html"), "--title", title])
    return text
