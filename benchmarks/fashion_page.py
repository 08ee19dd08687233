"""Pages of the comparison on Fashion-MNIST: what its lines say, in words, tables and pictures, everywhere at once."""

from __future__ import annotations

import textwrap
from pathlib import Path

from fashion_nets import HEADS
from fashion_picture import digest_of, draw
from fashion_plan import LONG, LONG_EPOCHS, OUT
from fashion_study import LARGE, PLANNED_AT, Study, image_level, levels, read_study, scene_level, verdict
from fashion_tables import correlation_table, image_table, long_table, scene_table, tables

from zoo.files import write_in_folder
from zoo.results.chance import LEVEL, rank_correlation
from zoo.results.metrics import METRICS
from zoo_cli import main as zoo_command

ROOT = Path(__file__).resolve().parents[1]
FLOOR = 91
"""Accuracy in percent below which the page has to say why."""
TITLE = "Sixteen topologies of one size on Fashion-MNIST"


def summary(study: Study) -> str:
    """Return everything as Markdown, for the page of the study."""
    parts = [textwrap.fill(says(study), 120, break_on_hyphens=False), image_table(study)]
    notes = (
        f"{_compared(study)} Accuracies are means over seeds, and +- is the standard error over them. Seconds and "
        f"memory are those of the training runs on {study.device or 'one device'}, which several runs shared."
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


def _compared(study: Study) -> str:
    """Return the sentences on how nets are compared, and on how many pairs differ by more than chance."""
    found = {level: study.told_apart(level) for level in levels(study)}
    texts = [
        f"{sum(pair.differs for pair in pairs)} of {len(pairs)} pairs ({level})"
        for level, pairs in found.items()
        if pairs
    ]
    if not texts:
        return "No two nets are compared yet."
    return (
        f"Better / worse: of how many others of its column a net is told apart at the level {LEVEL}, with Holm's "
        f"correction for all pairs of the column. With one planned seed, nets are compared by their answers to the "
        f"same test images (McNemar's exact test with mid-p); with three, over the seeds, as soon as all are in "
        f"(two-way analysis of variance of nets and seeds; a net with a failed run is left out). "
        f"More than chance: {'; '.join(texts)}."
    )


def says(study: Study) -> str:
    """Return three sentences on what the picture says, behind the state of the runs."""
    large = sorted((p for c, p in study.points.items() if c.size == LARGE), key=lambda point: -point.accuracy)
    if len(large) < 2:
        return f"**{study.state}**"
    best, last = large[0], large[-1]
    cheap, dear = (pick(large, key=lambda point: point.result.macs) for pick in (min, max))
    own = verdict(best.label, study.told_apart(image_level(LARGE)))
    told = (
        f", by more than chance ahead of {own[0]} of {own[2]} others on the same test images"
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
    found, places = levels(study), dict(zip(HEADS, ("pixels", "regions"), strict=True))
    if any(found[scene_level(task)].keys() != PLANNED_AT[scene_level(task)][0] for task in HEADS):
        return ""
    images, correlations = found[image_level(LARGE)], []
    leaders: dict[str, list[str]] = {}
    for task, place in places.items():
        scores = found[scene_level(task)]
        best = max(scores, key=lambda label: scores[label])
        told = verdict(best, study.told_apart(scene_level(task)))
        ahead = f", by more than chance ahead of {told[0]} of {told[2]} others" if told else ""
        leaders.setdefault(best, []).append(f"by {place} ({METRICS[task].title} {scores[best]:.1f} %{ahead})")
        both = [label for label in scores if label in images]
        rho = rank_correlation([images[label] for label in both], [scores[label] for label in both]).rho
        correlations.append(f"between images and {place} is {rho:.2f}")
    led = " and ".join(f"{label} leads {' and '.join(where)}" for label, where in leaders.items())
    return f"In scenes of garments {led}; the rank correlation of {len(both)} topologies {' and '.join(correlations)}."


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
