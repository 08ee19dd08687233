"""Fragments of the changelog: each is well named, and a release moves them whole."""

import datetime
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHANGES = runpy.run_path(str(ROOT / "changes" / "release.py"))


def test_every_fragment_is_well_named() -> None:
    CHANGES["fragments"]()


def test_the_release_has_a_date() -> None:
    [dates] = [re.findall(r"^## \d+\.\d+\.\d+ - (.+)$", (ROOT / "CHANGELOG.md").read_text("ascii"), re.MULTILINE)]
    assert dates
    assert [datetime.date.fromisoformat(date) for date in dates]


def test_a_release_moves_them(tmp_path: Path) -> None:
    changelog, folder = tmp_path / "CHANGELOG.md", tmp_path / "changes"
    folder.mkdir()
    changelog.write_text("# Changelog\n\nWords.\n\n## 0.1.0 - 2026-11-27\n\nFirst.\n")
    for name, text in (("README", "How."), ("fixed-b", "Second\nline.\n"), ("added-a", "New."), ("fixed-a", "First.")):
        (folder / f"{name}.md").write_text(text)
    CHANGES["release"]("0.2.0", "2027-03-01", folder, changelog)
    assert changelog.read_text() == (
        "# Changelog\n\nWords.\n\n## 0.2.0 - 2027-03-01\n\n"
        "### Added\n\n- New.\n\n### Fixed\n\n- First.\n- Second line.\n\n"
        "## 0.1.0 - 2026-11-27\n\nFirst.\n"
    )
    assert [path.name for path in folder.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("name", "text", "version", "date", "message"),
    [
        ("new-thing.md", "Words.", "0.2.0", "2027-03-01", r"name \(new-thing.md\) must begin with one of added"),
        ("fixed-a.md", " \n", "0.2.0", "2027-03-01", r"file \(fixed-a.md\) must hold the line"),
        ("README.md", "How.", "0.2.0", "2027-03-01", "holds no change to release"),
        ("fixed-a.md", "Words.", "next", "2027-03-01", r"version \(next\) must be three numbers"),
        ("fixed-a.md", "Words.", "0.2.0", "1 March", "Invalid isoformat"),
    ],
)
def test_mistakes_are_told(name: str, text: str, version: str, date: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    changelog = tmp_path / "log" / "CHANGELOG.md"
    changelog.parent.mkdir()
    changelog.write_text("# Changelog\n\n## 0.1.0 - 2026-11-27\n")
    with pytest.raises(ValueError, match=message):
        CHANGES["release"](version, date, tmp_path, changelog)
    assert changelog.read_text() == "# Changelog\n\n## 0.1.0 - 2026-11-27\n"
    assert (tmp_path / name).exists()
