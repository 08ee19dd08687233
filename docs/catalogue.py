"""Writes docs/models.md, docs/papers.md and all drawings: ``python docs/catalogue.py``.

Tests compare them with the registry, a table and the nets.
"""

import re
from pathlib import Path
from typing import Any

import zoo
from zoo.analysis.field import known_fields
from zoo.entry import Entry
from zoo.papers import KINDS, SYSTEMS
from zoo.report.drawings import packed

PAGE = Path(__file__).with_name("models.md")
PAPERS = Path(__file__).with_name("papers.md")
DRAWINGS = Path(__file__).parent / "images" / "drawn"
CARDS = Path(zoo.__file__).parent / "data" / "drawings.json.gz"
DRAWN = re.findall(r"images/drawn/(\w+)[.]svg", Path(__file__).with_name("drawing.md").read_text(encoding="ascii"))
"""Nets that docs/drawing.md shows."""
HEAD = """\
# Models

<!-- Written by docs/catalogue.py from the registry. Change the row of the model, then run `make format`. -->

Every name works in `zoo.create_model` and on the command line. In `timm.create_model` it works as it stands, or as
`zoo_<name>` where timm has a net of that name; the third column shows those. Taps are `channels/stride`, from fine to
coarse: what `features_only=True` returns. The field is the receptive field of the last tap, in pixels, gates left out
([Analyses](analyses.md#receptive-field)). The reference is the implementation that the tests hold the net against.
"""
PAPERS_HEAD = """\
# Papers

<!-- Written by docs/catalogue.py from zoo/data/papers.toml. Change the row there, then run `make format`. -->

What the papers describe, and where it is to be found: architectures, units, analyses. `zoo list --papers` prints the
same, `zoo list --papers planned` what is still to come. The kinds:

"""
COLUMNS = ("model", "parameters", "name in timm", "input", "taps", "field", "paper", "reference", "line-up")


def catalogue() -> str:
    """The whole page."""
    parts = [HEAD]
    for family in zoo.families():
        entries = [zoo.model_entry(name) for name in zoo.list_models(family=family)]
        parts.append(f"\n## {family}\n\n" + _table(entries))
        parts += _notes(entries)
    return "".join(parts)


def _table(entries: list[Entry]) -> str:
    head = f"| {' | '.join(COLUMNS)} |\n|---|--:{'|---' * 3}|--:{'|---' * (len(COLUMNS) - 6)}|\n"
    return head + "".join(
        f"| {' | '.join(cells(entry, zoo.create_model(entry.name, device='meta')))} |\n" for entry in entries
    )


def cells(entry: Entry, net: Any) -> tuple[str, ...]:
    """The row of a net."""
    return (
        f"`{entry.name}`",
        f"{entry.params:,}",
        f"`{entry.timm_name}`" if entry.timm_name != entry.name else "",
        "x".join(map(str, entry.input_size)),
        " ".join(f"{tap['num_chs']}/{tap['reduction']}" for tap in net.feature_info),
        known_fields()[entry.name][-1],
        entry.paper,
        entry.reference or "none",
        ", ".join(entry.lineups),
    )


def _notes(entries: list[Entry]) -> list[str]:
    """Each note once, with the models that it is about."""
    about: dict[str, list[str]] = {}
    for entry in entries:
        if entry.notes:
            about.setdefault(entry.notes, []).append(f"`{entry.name}`")
    return [f"\n{', '.join(names)}: {note}\n" for note, names in about.items()]


def papers() -> str:
    """The whole page of papers."""
    parts = [PAPERS_HEAD, *(f"- *{kind}*: {meaning}\n" for kind, meaning in KINDS.items())]
    for subject, systems in SYSTEMS.items():
        parts.append(f"\n## {subject}\n\n| system | kind | found | source |\n|---|---|---|---|\n")
        parts += [f"| {s.name} | {s.kind} | {s.found('`{}`')} | {s.source} |\n" for s in systems]
    return "".join(parts)


def drawing(name: str) -> bytes:
    """The file of a drawing."""
    return zoo.draw(name).svg.encode()


if __name__ == "__main__":
    DRAWINGS.mkdir(exist_ok=True)
    for name in DRAWN:
        (DRAWINGS / f"{name}.svg").write_bytes(drawing(name))
    PAGE.write_text(catalogue(), encoding="ascii")
    PAPERS.write_text(papers(), encoding="ascii")
    CARDS.write_bytes(packed())
