"""Collect the contents of the page as plain data: rows, series, cards, runs, provenance.

A row is one point of a plot: a net over its seeds, or a published figure. A *series* is a set of comparable rows with a
Pareto front of its own: the runs of one recipe, or the figures that one source obtained in one way. Scores are in
percent; larger is better.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import zoo
from zoo import published
from zoo.complexity import count, taps
from zoo.entry import Entry
from zoo.report.drawings import drawing, kept_drawings
from zoo.results.classes import by_class
from zoo.results.group import Comparison, NetResult, display_of, group
from zoo.results.line import score_key
from zoo.results.metrics import METRICS
from zoo.results.run import CLASSIFY
from zoo.results.store import Results
from zoo.results.topologies import looks, topology_of

Record = dict[str, Any]

CURVE_POINTS = 100  # a learning curve has no more; a screen shows no more
MOST_CLASSES = 20  # of which a confusion matrix is shown; of more, the most frequent confusions
COUNTS = ("params", "macs", "activations")
OTHER = "other"
"""Family of the published table that is none: nets with nothing in common."""
SIZE = re.compile(
    r"width|(.+_)?(widths|blocks|laterals|units|reduces)|(stem|last)_width|depths|wide|growth_rate|channels|columns"
    r"|lanes|squeeze|ones|threes|fives|projections|stage[23]"
)
"""Overrides that make a net larger or smaller, and none of another kind."""
THEIRS = {"wrn": "wide", "preact_resnet": "pre-activation", "resnext": "ResNeXt", "seresnet": "squeeze-excite"}
"""Topologies of families of the published table that are part of our residual family."""


def gather(results: Results, *, with_published: bool = True, count_stages: bool = False) -> dict[str, Any]:
    """Return the contents of the page, ready for JSON.

    Args:
        results: Contents of the result files.
        with_published: Show published figures, of the same data sets and of all others.
        count_stages: Count the nets whose lines hold no counts by stage. Only registered nets without overrides are
            counted, at their own input size: lines are other people's input, and nothing that they ask for is built.
    """
    rows: list[Record] = []
    series: dict[str, Record] = {}
    conditions: dict[str, str] = {}
    speeds = _speeds(results.timings, conditions)
    comparisons = group(results.trainings)
    runs = _runs(comparisons, conditions)
    for comparison in comparisons:
        rows += [_measured(comparison, net, speeds) for net in comparison.nets]
    if with_published:
        families = own_families()
        titles = {published.dataset_name(c.dataset): c.title for c in comparisons if c.task == CLASSIFY}
        figures = [figure for figure in published.results() if figure.top1_error is not None]
        rows += [_published(figure, families, speeds, titles) for figure in figures]
    for number, row in enumerate(rows):
        row["id"] = number
        key = f"{row['kind']}: {row['series']}"
        series.setdefault(key, {"kind": row["kind"], "title": row["series"], "shown": row["shown"]})
        del row["shown"]
        row["series"] = list(series).index(key)
    groups = {row["group"]: {"id": row["group"], "metric": row.pop("metric")} for row in rows[::-1]}
    for row in rows:
        row.pop("metric", None)
    shown_topologies = [row["topology"] for row in rows]
    last = _last_runs(results.trainings, runs)
    cards = _cards(rows, last, count_stages)
    return {
        "groups": [groups[name] for name in dict.fromkeys(row["group"] for row in rows)],
        "rows": rows,
        "series": list(series.values()),
        "conditions": [{"id": key, "title": title} for key, title in conditions.items()],
        "looks": {name: [look.colour, look.mark] for name, look in looks(dict.fromkeys(shown_topologies)).items()},
        "cards": cards,
        "drawings": _drawings(cards.values(), last.values()),
        "runs": [run["shown"] for run in runs],
        "failures": [
            {"name": display_of(record), "seed": record.get("seed"), "error": str(record["error"])}
            for record in results.failures
        ],
        "provenance": _provenance(results, [remark for comparison in comparisons for remark in comparison.remarks]),
    }


def _runs(comparisons: Sequence[Comparison], conditions: dict[str, str]) -> list[Record]:
    """Return all runs behind the rows, each as its line and as shown; record the conditions of their training."""
    runs = []
    for comparison in comparisons:
        for net, record in ((own, run) for own in comparison.nets for run in own.runs):
            condition = _condition(comparison, record)
            conditions.setdefault(condition, f"training in zoo bench, {_device(record)}")
            epochs = record.get("epochs") or []
            step = -(-len(epochs) // CURVE_POINTS) or 1
            kept = epochs[::-1][::step][::-1]  # the last one is always there
            key = score_key(record)
            tested = key.replace("test_", "validation_") if record.get("validation") else key
            shown = {
                "card": display_of(record),
                "group": comparison.title,
                "seed": record["seed"],
                "score": round(100 * record[key], 4),
                "seconds": round(record["seconds"], 1),
                "recipe": {str(key): _plain(value) for key, value in record["recipe"].items()},
                "device": _device(record),
                "versions": ", ".join(f"{key} {value}" for key, value in (record.get("versions") or {}).items()),
                "revision": record.get("git_revision") or "",
                "finished": record.get("finished_at") or "",
                "epochs": [_number(epoch.get("epoch"), 0) for epoch in kept],
                "scores": [_number(epoch.get(tested), 2, 100) for epoch in kept],
                "losses": [_number(epoch.get("train_loss"), 4) for epoch in kept],
            }
            runs.append(
                {"record": record, "shown": shown, "of": ", ".join(filter(None, [comparison.title, net.recipe]))}
            )
    return runs


def _condition(comparison: Comparison, record: Record) -> str:
    """Return the conditions that throughput and memory of a training depend on."""
    return f"training of {comparison.title}: {_device(record)}"


def _measured(comparison: Comparison, net: NetResult, speeds: Mapping[Any, Any]) -> Record:
    """Return the row of one net over its seeds."""
    record = net.runs[-1]
    machine = {}
    for condition, own in _by(net.runs, lambda run: _condition(comparison, run)).items():
        machine[condition] = [
            _mean(run.get("images_per_second") for run in own),
            _mean(run.get("peak_memory") for run in own),
        ]
    if not record.get("overrides") and not record.get("head"):
        sides = tuple((record["dataset"].get("input_size") or [])[1:])
        machine |= speeds.get((record["name"], sides), {})
    row = {
        "kind": "measured",
        "shown": True,
        "name": net.net,
        "card": net.net,
        "family": net.family,
        "topology": net.topology,
        "group": comparison.title,
        "metric": comparison.metric.title,
        "series": f"measured, {net.recipe}" if net.recipe else "measured",
        **{key: getattr(net, key) for key in COUNTS},
        "score": round(100 * net.score, 4),
        "spread": None if net.spread is None else round(100 * net.spread, 4),
        "error": None if net.standard_error is None else round(100 * net.standard_error, 4),
        "apart": _apart(record),
        "seeds": net.seeds,
        "seconds": round(net.seconds, 1),
        "machine": machine,
        "note": "",
    }
    if net.versus_published is not None:
        row["gap"] = round(net.versus_published, 2)
        row["note"] = f"published top-1 error {net.published_error:g} %; recipes differ"
    return row


def _apart(record: Record) -> str:
    """Return what sets a net apart from nets of other sizes besides topology and recipe; empty for most."""
    overrides = {key: value for key, value in (record.get("overrides") or {}).items() if not SIZE.fullmatch(str(key))}
    parts = {key: record.get(key) for key in ("head", "frozen", "digest", "freeze", "validation")} | overrides
    return "; ".join(f"{key}={_plain(value)}" for key, value in sorted(parts.items(), key=str) if value)


def own_families() -> dict[str, str]:
    """Map families of the published table to ours, where all of a family's nets here are in one family."""
    own: dict[str, set[str]] = {}
    for figure in published.results():
        if entry := _entry(figure.entry):
            own.setdefault(figure.family, set()).add(entry.family)
    return {theirs: ours.pop() for theirs, ours in own.items() if len(ours) == 1 and theirs != OTHER}


def figure_topology(figure: published.Published, families: Mapping[str, str] | None = None) -> str:
    """Return the topology of a published net; its family if that is none of ours.

    Args:
        figure: A published figure.
        families: Output of `own_families`, for many figures.
    """
    entry = _entry(figure.entry)
    if entry:
        return topology_of(entry.family, entry.spec.to_dict(), entry.name)
    family = (own_families() if families is None else families).get(figure.family, figure.family)
    return THEIRS.get(figure.family) or topology_of(family, None)


def _published(
    figure: published.Published, families: Mapping[str, str], speeds: Mapping[Any, Any], titles: Mapping[str, str]
) -> Record:
    entry = _entry(figure.entry)
    own = figure.entry or f"{figure.model} (published)"
    sides = (figure.input_size, figure.input_size)
    departures = "".join(f"; {part}" for part in figure.departures)
    family = entry.family if entry else families.get(figure.family, figure.family)
    return {
        "kind": "published",
        "shown": figure.view in published.ONE_VIEW,
        "name": figure.model,
        "card": own,
        "family": family,
        "topology": figure_topology(figure, families),
        "group": titles.get(figure.dataset, figure.dataset),
        "metric": METRICS[CLASSIFY].title,
        "series": f"{figure.series}, {figure.view}{departures}",
        "params": figure.params,
        "macs": figure.macs,
        "score": round(100 - (figure.top1_error or 0.0), 4),
        "top5": figure.top5_error,
        "size": figure.input_size,
        "machine": speeds.get((figure.entry, sides), {}) if figure.entry else {},
        "source": figure.source,
        "note": "; ".join(filter(None, [figure.note, "multiply-adds counted by zoo" * figure.counted])),
    }


def _speeds(records: Sequence[Record], conditions: dict[str, str]) -> dict[Any, dict[str, list[float | None]]]:
    """Return throughput and memory by (net, image size), then by condition."""
    speeds: dict[Any, dict[str, list[float | None]]] = {}
    for record in records:
        case = record["case"]
        parts = [
            f"{case['mode']}, batch {case['batch_size']}",
            *(str(case.get(key, "")) for key in ("layout", "dtype")),
        ]
        parts += ["fused" * bool(case.get("fuse")), "compiled" * bool(case.get("compile"))]
        title = ", ".join(filter(None, [*parts, _device(record)]))
        conditions.setdefault(f"speed: {title}", f"zoo speed, {title}")
        own = speeds.setdefault((record["name"], tuple(case["input_size"][1:])), {})
        own[f"speed: {title}"] = [_number(record["images_per_second"], 2), record.get("peak_memory")]
    return speeds


def _last_runs(trainings: Sequence[Record], runs: Sequence[Record]) -> dict[str, Record]:
    """Return the run of each net that was read last, on whatever images and by whatever recipe, by display name."""
    known = {id(run["record"]): run for run in runs}
    return {display_of(line): known[id(line)] for line in trainings if id(line) in known}


def _cards(rows: Sequence[Record], last: Mapping[str, Record], count_stages: bool) -> dict[str, Record]:
    """Return facts about each net besides its rows and runs, by the name that rows use for the net."""
    cards: dict[str, Record] = {}
    for name in dict.fromkeys(row["card"] for row in rows):
        run = last.get(name)
        record = run["record"] if run else None
        entry = _entry(record["name"] if record else name)
        plain = record is None or not record.get("overrides")
        card: Record = {"family": record["family"] if record else entry.family if entry else ""}
        if entry:
            card |= {"paper": entry.paper, "reference": entry.reference, "notes": entry.notes}
            card |= {"net": entry.name, "timm": entry.timm_name}
            card["drawn"] = entry.name if record or entry.name in kept_drawings() else ""
            if plain:
                card["structure"] = entry.spec.facts()
        spec = record.get("spec") if record else entry.spec.to_dict() if entry else None
        card["spec"] = {str(key): _plain(value) for key, value in (spec or {}).items()}
        if run and record:
            card["overrides"] = {str(key): _plain(value) for key, value in (record.get("overrides") or {}).items()}
            card["uncounted"] = {str(key): _plain(value) for key, value in record["counts"]["uncounted"].items()}
            size = record["dataset"].get("input_size")
            card["counted"] = f"for one image of {record['dataset']['name']}" + (f", {_plain(size)}" if size else "")
            card["classes"] = _classes(record)
            card["of"] = run["of"]
            card["stages"] = _table(record.get("stages"), ("name", *COUNTS))
            card["taps"] = _table(record.get("taps"), ("module", "channels", "stride"))
            if count_stages and entry and plain and not card["stages"]:
                card |= _count(entry)
        cards[name] = card
    return cards


def _drawings(cards: Iterable[Record], runs: Iterable[Record]) -> dict[str, str]:
    """Return the drawings of the cards' nets: unit by unit of those that were measured, of others their stages."""
    measured = {run["record"]["name"] for run in runs}
    names = sorted({card["drawn"] for card in cards if card.get("drawn")})
    return {name: drawing(name) if name in measured else kept_drawings()[name] for name in names}


def _classes(record: Record) -> Record | None:
    """Return the figures of the classes of a run as a sentence and a table; None if its line has none."""
    found = by_class(record)
    if found is None:
        return None
    parts = [f"seed {record['seed']}"]
    parts += [f"macro F1 {100 * found.macro_f1:.2f} %"] if found.macro_f1 is not None else []
    matrix = found.confusion if len(found.confusion) <= MOST_CLASSES else ()
    if found.confusion and not matrix:
        parts += [f"{true} as {named}: {number}" for true, named, number in found.confusions()]
    return {
        "words": "; ".join(parts),
        "heads": [f"as {name}" for name in found.names] if matrix else [],
        "rows": [
            [name, _number(share, 2, 100), *(matrix[i] if matrix else ())]
            for i, (name, share) in enumerate(zip(found.names, found.accuracies, strict=True))
        ],
    }


def _count(entry: Entry) -> Record:
    model: Any = zoo.create_model(entry.name, device="meta")
    counts = count(model, entry.input_size).to_dict()
    return {
        "stages": _table(counts["stages"], ("name", *COUNTS)),
        "taps": _table(taps(model), ("module", "channels", "stride")),
        "counted": f"for one image of {'x'.join(map(str, entry.input_size))} and {entry.num_classes} classes",
        "uncounted": counts["uncounted"],
    }


def _provenance(results: Results, remarks: Sequence[str]) -> Record:
    """Return the files, and the number of their lines by versions and device."""
    machines = Counter(
        (
            _device(record),
            ", ".join(f"{key} {value}" for key, value in (record.get("versions") or {}).items()),
            record.get("git_revision") or "unknown",
        )
        for record in [*results.trainings, *results.timings]
    )
    return {
        "zoo": zoo.__version__,
        "files": results.files,
        "machines": [
            {"device": device, "versions": versions, "revision": revision, "lines": number}
            for (device, versions, revision), number in machines.items()
        ],
        "warnings": [*results.warnings, *remarks],
    }


def _device(record: Mapping[str, Any]) -> str:
    device = record.get("device") or {}
    torch = (record.get("versions") or {}).get("torch")
    threads = device.get("threads")
    on_cpu = device.get("type") == "cpu" and threads is not None
    name = str(device.get("name", "unknown device")) + (f", {threads} thread{'s' * (threads != 1)}" if on_cpu else "")
    return name + (f", torch {torch}" if torch else "")


@cache
def _entry(name: str) -> Entry | None:
    """Return the registry's row; None for timm's nets, nets of later versions and any other name."""
    return zoo.model_entry(name) if name in zoo.list_models() else None


def _by(items: Iterable[Record], key: Callable[[Record], Any]) -> dict[Any, list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _table(rows: Any, columns: tuple[str, ...]) -> list[list[Any]]:
    """Return some columns of rows that a line may hold; an empty list for anything that is no such table."""
    good = isinstance(rows, list | tuple) and all(isinstance(row, dict) for row in rows)
    return [[_plain(row.get(column, "")) for column in columns] for row in rows] if good else []


def _plain(value: Any) -> Any:
    """Return a number unchanged, anything else as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, 6)
    if isinstance(value, list | tuple):
        return f"({', '.join(str(_plain(part)) for part in value)})"
    return re.sub(r"\s+", " ", str(value))


def _number(value: Any, digits: int, factor: float = 1) -> Any:
    """Return a rounded number; None for other values, and for infinities, which JSON cannot hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        return None
    return value * factor if isinstance(value, int) else round(value * factor, digits)


def _mean(values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 2) if known else None
