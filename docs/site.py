"""Gathers the pages of the site in ``build/docs``: ``python docs/site.py``, then ``zensical build``.

Those of this folder are copied. Others are written from the nets, their docstrings, and the tables of published and
measured results: the gallery, a page a family, the changelog, and the page of the study.
"""

import csv
import inspect
import re
import runpy
import shutil
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tabulate import tabulate

import zoo
from zoo import published
from zoo.analysis.field import known_fields
from zoo.entry import Entry
from zoo.report.page import render
from zoo.report.rows import gather
from zoo.results.group import NetResult, group
from zoo.results.store import read
from zoo.results.topologies import FAMILIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILT = ROOT / "build" / "docs"
_LINES = ("fashion/image.jsonl", "fashion/scenes.jsonl", "digits/results.jsonl")
RESULTS = [path for path in (ROOT / "benchmarks/results" / name for name in _LINES) if path.is_file()]
"""Lines of the two studies; those of photographs first, which the report shows first."""
DRAWN = runpy.run_path(str(DOCS / "catalogue.py"))["DRAWN"]
STUDY = "study-report.html"
TITLES = {
    "bn_inception": "BN-Inception",
    "fabric": "Neural fabrics",
    "gridnet": "GridNet",
    "highway": "Highway nets",
    "resnet": "Residual nets",
}
SOURCE = (
    r"(?P<authors>.+?) (?P<year>\d{4}), (?P<title>.+?)(?:, [A-Z][\w&.]*(?: \d{4})?)?, "
    r"(?:reprinted as )?(?P<id>arXiv:[\d.]+\d|doi:\S+\w)"
)
"""Authors, year, title, perhaps a venue, and a number: how a docstring cites."""
SOURCES = (published.PAPER, published.AUTHORS)
ON_THE_SITE = {
    "../CHANGELOG.md": "changelog.md",
    "../benchmarks/results/digits/report.html": STUDY,
    "../benchmarks/results/fashion/report.html": STUDY,
    "drawing.md#one-net-of-each-family": "gallery.md",
}
"""Pages of the site for what links of this folder lead to, in the repository."""


def generated() -> list[str]:
    """Return the names of the pages that are not in this folder."""
    return ["changelog.md", "gallery.md", *(f"families/{family}.md" for family in zoo.families())]


def build(folder: Path = BUILT) -> None:
    """Write all pages into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in folder.glob("*.md"):
        page.write_text(on_the_site(page.read_text(encoding="ascii")), encoding="ascii")
    (folder / "families").mkdir()
    (folder / "changelog.md").write_text(changelog(), encoding="ascii")
    (folder / "gallery.md").write_text(gallery(), encoding="ascii")
    for family in zoo.families():
        (folder / "families" / f"{family}.md").write_text(family_page(family), encoding="ascii")
    title = "Topologies of one size, on photographs of clothes and on digits"
    (folder / STUDY).write_bytes(render(gather(read(RESULTS), with_published=False), title))


def on_the_site(text: str) -> str:
    """Return a page of this folder with the links that it has on the site."""
    return re.sub(r"(?<=\]\()[^)\s]+", lambda link: ON_THE_SITE.get(link[0], link[0]), text)


def changelog() -> str:
    """Return the changelog as a page, with what has changed since the last release."""
    changes = runpy.run_path(str(ROOT / "changes" / "release.py"))
    text = (ROOT / "CHANGELOG.md").read_text(encoding="ascii")
    files = changes["fragments"]()
    head, mark, rest = text.partition("\n## ")
    return f"{head}\n{changes['section']('Unreleased', files) if files else ''}{mark.lstrip()}{rest}"


# ---- the gallery


def title(family: str) -> str:
    """Return a family's name for readers."""
    return TITLES.get(family, FAMILIES.get(family, family))


def docstring(family: str) -> str:
    """Return the text of a family's file."""
    return inspect.getdoc(sys.modules[f"zoo.models.{family}"]) or ""


def drawn(family: str) -> list[Entry]:
    """Return the nets of a family that docs/drawing.md shows, at least one."""
    return [entry for entry in map(zoo.model_entry, DRAWN) if entry.family == family]


def gallery() -> str:
    """Return the gallery: a section a family."""
    parts = [
        "# Gallery\n\nOne net of every family, drawn by [one rule](drawing.md); a click on a drawing opens it alone. "
        "Each family has a page with all of its nets, its text, results, weights and citations. "
        "[Models](models.md) lists all nets in one place.\n"
    ]
    for family in zoo.families():
        first = drawn(family)[0]
        summary = docstring(family).partition("\n\n")[0].replace("\n", " ")
        facts = {**facts_of(first), "paper": first.paper, **results_of(family, first)}
        parts.append(
            f"## [{title(family)}](families/{family}.md)\n\n{summary}\n\n{picture(first, 'images/drawn')}\n\n"
            f"{table([list(fact) for fact in facts.items()], ['', ''])}\n\n"
            f'```python\nnet = zoo.create_model("{first.name}")\n```\n'
        )
    return "\n".join(parts)


def picture(entry: Entry, folder: str) -> str:
    """Return a drawing that links to itself."""
    file = f"{folder}/{entry.name}.svg"
    return f"[![{entry.name}, drawn]({file})]({file})"


@cache
def counts() -> dict[str, dict[str, str]]:
    """Return the counts of all nets, which benchmarks/study.py writes and a test compares."""
    with (ROOT / "benchmarks" / "results" / "counts.csv").open(encoding="ascii", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@cache
def facts_of(entry: Entry) -> dict[str, str]:
    """Return the counts of a net and its receptive field."""
    cost = counts()[entry.name]
    return {
        "image": cost["input_size"],
        "parameters": f"{int(cost['params']):,}",
        "multiply-adds": f"{int(cost['macs']) / 1e6:,.1f} M",
        "activations": f"{int(cost['activations']) / 1e6:,.2f} M",
        "receptive field": f"{known_fields()[entry.name][-1]} px",
    }


def results_of(family: str, entry: Entry) -> dict[str, str]:
    """Return what is known of errors: published ones of a net, measured ones of its family."""
    nets = [net for net in measured(family) if net[0] == "digits"]
    errors = {name: f"{tag.top1_error:g} %" for name, tag in entry.weights.items() if tag.top1_error is not None}
    figures = [figure for figure in published_figures(entry.name) if figure.series in SOURCES]
    best = "none"
    if figures:
        first = figures[0]
        best = f"{first.top1_error:g} % on {first.dataset} ({first.series}; {first.protocol})"
    return {
        "error in the paper": best,
        "weights": "; ".join(f"`{name}` {error}" for name, error in list(errors.items())[:3]) or "none",
        "measured on digits": measured_range([net for _, net in nets]),
    }


def measured_range(nets: list[NetResult]) -> str:
    """Return the range of accuracies by the study's own recipe, or else by others, each of which is named."""
    ranges = []
    for recipe in sorted({net.recipe for net in nets}):  # the study's own has no name, and comes first
        scores = [net.score for net in nets if net.recipe == recipe]
        ranges.append(f"{min(scores):.1%} to {max(scores):.1%}" + (f" ({recipe})" if recipe else ""))
    own = ranges[:1] if any(not net.recipe for net in nets) else ranges
    return "; ".join(own) or "none"


# ---- a page a family


def family_page(family: str) -> str:
    """Return the page of a family."""
    entries = [zoo.model_entry(name) for name in zoo.list_models(family=family)]
    summary, _, text = docstring(family).partition("\n\n")
    first = drawn(family)[0]
    parts = [
        f"# {title(family)}\n\n{' '.join(summary.split())}\n",
        *(f"{picture(entry, '../images/drawn')}\n" for entry in drawn(family)),
        f'```python\nimport zoo\n\nnet = zoo.create_model("{first.name}")\n'
        f'maps = zoo.create_model("{first.name}", features_only=True)\n'
        f'zoo.model_entry("{first.name}").spec  # every field that can be changed\n```\n',
        f"{to_markdown(text)}\n",
        f"## Nets\n\n{nets_table(entries)}\n",
        f"## Published errors\n\n{published_table(entries)}\n",
        f"## Measured here\n\n{measured_table(family)}\n",
        f"## Weights\n\n{weights_table(entries)}\n",
        "## Cite\n\nThe papers, and the package by `CITATION.cff`.\n\n```bibtex\n"
        + "\n".join(citations(family))
        + "```\n",
    ]
    return "\n".join(parts)


def nets_table(entries: list[Entry]) -> str:
    """Return the nets with their counts."""
    rows = []
    for entry in entries:
        net: Any = zoo.create_model(entry.name, device="meta")
        taps = " ".join(f"{tap['num_chs']}/{tap['reduction']}" for tap in net.feature_info)
        rows.append([f"`{entry.name}`", *facts_of(entry).values(), taps, entry.paper])
    head = ["net", *facts_of(entries[0]), "taps (channels/stride)", "paper"]
    return (
        table(rows, head)
        + "\n\nMultiply-adds and activations are of one image. The receptive field is that of the last "
        "[tap](../analyses.md#receptive-field), as if the image had no end; gates are left out."
    )


def published_figures(name: str) -> list[published.Published]:
    """Return the published figures of a net, the primary one of each data set first, then by error."""
    figures = [figure for figure in published.results(name) if figure.top1_error is not None]
    first = {published.primary(name, figure.dataset) for figure in figures}
    return sorted(figures, key=lambda figure: (figure not in first, figure.dataset, figure.top1_error))


def published_table(entries: list[Entry]) -> str:
    """Return a figure a data set of each net: the one that a run here is compared with, else the papers'."""
    rows = []
    for entry in entries:
        for dataset in dict.fromkeys(figure.dataset for figure in published_figures(entry.name)):
            own = [figure for figure in published_figures(entry.name) if figure.dataset == dataset]
            best = own[0]
            cells = [f"{best.top1_error:g}", f"{best.top5_error:g}" if best.top5_error else "-", best.series]
            rows.append([f"`{entry.name}`", dataset, *cells, best.protocol, best.source, len(own) - 1])
    if not rows:
        return "None that is known here."
    head = ["net", "images", "top-1 [%]", "top-5 [%]", "series", "protocol", "source", "others"]
    return table(rows, head) + "\n\n`zoo published NAME` lists all; [compare within a series](../published.md#a-row)."


@cache
def comparisons() -> list[tuple[str, NetResult]]:
    """Return the measured nets with their image sets."""
    return [(c.dataset, net) for c in group(read(RESULTS).trainings) for net in c.nets]


def measured(family: str) -> list[tuple[str, NetResult]]:
    """Return the measured nets of a family by image set and recipe, the best first."""
    own = [(dataset, net) for dataset, net in comparisons() if net.family == family]
    return sorted(own, key=lambda pair: (pair[0], pair[1].recipe, -pair[1].score))


def measured_table(family: str) -> str:
    """Return what the studies have measured."""
    rows = [
        [
            *(
                f"`{net.net}`",
                dataset,
                net.recipe or "-",
                f"{net.params:,}",
                f"{net.macs / 1e6:,.1f} M",
                f"{net.score:.2%}",
            ),
            *(f"{net.spread:.2%}" if net.spread is not None else "-", net.seeds),
        ]
        for dataset, net in measured(family)
    ]
    if not rows:
        return "Not in the [study](../study.md)."
    head = ["net", "images", "recipe", "parameters", "multiply-adds", "accuracy", "deviation over seeds", "seeds"]
    return (
        table(rows, head) + "\n\nFrom the [study](../study.md), which says what such figures can tell and what not. "
        "Compare within one image set and recipe: `-` is the one of most nets on these images, others are named by "
        "what differs from it."
    )


def weights_table(entries: list[Entry]) -> str:
    """Return the tags."""
    rows = [
        [f"`{entry.name}.{name}`", tag.num_classes]
        + [f"{error:g}" if error is not None else "-" for error in (tag.top1_error, tag.top5_error)]
        + [tag.error_source or "-", tag.licence or "-"]
        for entry in entries
        for name, tag in entry.weights.items()
    ]
    if not rows:
        return "None are published that are known here."
    return table(rows, ["tag", "classes", "top-1 error [%]", "top-5 error [%]", "errors from", "licence"])


# ---- text


def table(rows: list[list], head: list[str]) -> str:
    """Return a table in Markdown."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    right = [all(re.fullmatch(r"[\d.,]+( [kMG%])?|-", str(row[i])) for row in rows) for i in range(len(head))]
    align = ["right" if numbers else "left" for numbers in right]
    return tabulate(cells, head, tablefmt="pipe", colalign=align, disable_numparse=True)


def to_markdown(text: str) -> str:
    """Turn the text of a family into Markdown: labels become headings, drawings code, papers a list."""
    out: list[str] = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        if not line.endswith(":"):
            out.append(line)
            continue
        block = textwrap.dedent("\n".join(indented(lines))).strip("\n")
        if line.endswith("::"):
            out += [line[:-1], "", "```text", block, "```", ""]
        elif line in ("Paper:", "Papers:"):
            out += [f"## {line[:-1]}", "", *(f"- {paper}" for paper in papers(block)), ""]
        else:
            is_label = len(line) < 50 and not "".join(out[-1:])
            out += [f"## {line[:-1]}" if is_label else line, "", block, ""]
    return "\n".join(out)


def indented(lines: list[str]) -> list[str]:
    """Take the indented lines from the front of a list."""
    taken = []
    while lines and (lines[0].startswith(" ") or not lines[0]):
        taken.append(lines.pop(0))
    return taken


def papers(block: str) -> list[str]:
    """Return the papers of a list: each begins with authors and a year."""
    return [" ".join(part.split()) for part in re.split(r"(?<=[.])\n(?=[A-Z][\w-]+(?:, [A-Z]| \d{4}))", block)]


def citations(family: str) -> Iterator[str]:
    """Yield the papers of a family as BibTeX."""
    lines = docstring(family).splitlines()
    start = next(i for i, line in enumerate(lines) if line in ("Paper:", "Papers:"))
    for paper in papers(textwrap.dedent("\n".join(indented(lines[start + 1 :]))).strip()):
        if found := re.match(SOURCE, paper):
            authors = " and ".join(found["authors"].split(", "))
            key = re.sub(r"\W", "", found["authors"].split(",")[0].split()[-1]).lower() + found["year"]
            kind, _, number = found["id"].partition(":")
            where = {"arXiv": f"eprint = {{{number}}},\n  archivePrefix = {{arXiv}}", "doi": f"doi = {{{number}}}"}[
                kind
            ]
            yield (
                f"@misc{{{key},\n  author = {{{authors}}},\n  title = {{{{{found['title']}}}}},\n"
                f"  year = {{{found['year']}}},\n  {where},\n}}\n"
            )


if __name__ == "__main__":
    build()
