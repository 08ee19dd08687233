"""Import paths that the docs of the last release named: they work, and say where to go."""

import importlib
import sys
from pathlib import Path

import pytest

from zoo.former_paths import MOVED, SAID, install

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("former", MOVED)
def test_a_former_path_gives_what_is_elsewhere_and_warns(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    new = importlib.import_module(MOVED[former])
    with pytest.warns(DeprecationWarning, match="goes with the next release") as caught:
        module = importlib.import_module(former)
    assert [str(warning.message) for warning in caught] == [
        f"{former} is now {SAID.get(new.__name__, new.__name__)}; the former path goes with the next release"
    ]
    contents = {name: value for name, value in vars(new).items() if not name.startswith("__")}
    assert contents.items() <= vars(module).items()
    assert new.__spec__ is not None
    assert new.__spec__.name == MOVED[former], "the new module is what it was"


def test_the_warning_is_of_the_line_that_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "zoo.bench.recipes", raising=False)
    with pytest.warns(DeprecationWarning, match="goes with the next release") as caught:
        from zoo.bench.recipes import RECIPES  # ty: ignore[unresolved-import]
    assert "digits" in RECIPES
    assert caught[0].filename == __file__


def test_a_former_path_knows_the_former_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "zoo.bench.images", raising=False)
    with pytest.warns(DeprecationWarning, match="zoo.bench.images is now zoo.datasets.external"):
        from zoo.bench.images import Where  # ty: ignore[unresolved-import]
    assert Where is importlib.import_module("zoo.datasets.external").DataLocation


def test_other_names_are_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("zoo.bench.nothing")


def test_it_is_installed_once() -> None:
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before


def test_only_the_changelog_names_former_paths() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    named = {(page.name, path) for page in pages for path in MOVED if f"`{path}" in page.read_text(encoding="utf-8")}
    assert {page for page, _ in named} <= {"CHANGELOG.md"}
