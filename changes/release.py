"""Moves the changes of this folder into CHANGELOG.md: ``python changes/release.py 0.2.0 2027-03-01``."""

import argparse
import datetime
import re
import textwrap
from pathlib import Path

FOLDER = Path(__file__).parent
CHANGELOG = FOLDER.parent / "CHANGELOG.md"
KINDS = {
    "added": "Added",
    "changed": "Changed",
    "fixed": "Fixed",
    "removed": "Removed",
    "number": "Numbers that moved",
}
"""Kinds of changes, in their order, with their headings."""


def fragments(folder: Path = FOLDER) -> list[Path]:
    """Return the files that hold a change, in the order of their names.

    Raises:
        ValueError: If a name does not begin with a kind, or a file is empty.
    """
    found = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    for path in found:
        if path.name.partition("-")[0] not in KINDS:
            raise ValueError(f"name ({path.name}) must begin with one of {', '.join(KINDS)}, and a dash")
        if not path.read_text(encoding="ascii").strip():
            raise ValueError(f"file ({path.name}) must hold the line of the changelog")
    return found


def section(title: str, files: list[Path]) -> str:
    """Return the section of a release: a list for each kind of change."""
    parts = [f"## {title}\n"]
    for kind, heading in KINDS.items():
        texts = [path.read_text(encoding="ascii") for path in files if path.name.startswith(f"{kind}-")]
        if texts:
            lines = [
                textwrap.fill(" ".join(t.split()), 120, initial_indent="- ", subsequent_indent="  ") for t in texts
            ]
            parts.append(f"### {heading}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts) + "\n"


def release(version: str, date: str, folder: Path = FOLDER, changelog: Path = CHANGELOG) -> None:
    """Write the changes above the last release, and remove their files.

    Raises:
        ValueError: If there is nothing to release, or version or date are not written as they should.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version ({version}) must be three numbers, such as 0.2.0")
    datetime.date.fromisoformat(date)
    files = fragments(folder)
    if not files:
        raise ValueError(f"folder ({folder}) holds no change to release")
    head, mark, rest = changelog.read_text(encoding="ascii").partition("\n## ")
    changelog.write_text(f"{head}\n{section(f'{version} - {date}', files)}{mark.lstrip()}{rest}", encoding="ascii")
    for path in files:
        path.unlink()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="three numbers: 0.2.0")
    parser.add_argument("date", help="year, month and day: 2027-03-01")
    return parser


if __name__ == "__main__":
    args = build_parser().parse_args()
    release(args.version, args.date)
