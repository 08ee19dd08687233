"""The documentation does what it says: code runs, commands parse, links lead somewhere, the catalogue is up to date."""

import importlib
import inspect
import pkgutil
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from golden_nets import golden

import zoo
import zoo.timm
import zoo_cli
from zoo.complexity import count
from zoo.datasets.built_in import DATASETS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for folder in (".", "docs", "benchmarks", "changes") for page in (ROOT / folder).glob("*.md"))
SITE = runpy.run_path(str(DOCS / "site.py"))
CATALOGUE = runpy.run_path(str(DOCS / "catalogue.py"))
GENERATED = {*SITE["generated"](), SITE["STUDY"]}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Code blocks of a language, each with the line of the page that it begins after."""
    text = page.read_text(encoding="ascii")
    for match in FENCE.finditer(text):
        if match.group(1) == language:
            yield text.count("\n", 0, match.start(2)), match.group(2)


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if any(blocks(page, language))]


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every shell line, without comments."""
    for _, block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("page", with_blocks("python"), ids=relative)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line, block in blocks(page, "python"):  # each on its own, as a reader copies it
        exec(compile("\n" * line + block, str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", with_blocks("sh"), ids=relative)
def test_commands_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="ascii"), re.MULTILINE)
    for words in commands(page):
        match words:
            case ["zoo", *args]:
                parse(zoo_cli.parse, args)
            case ["make", target, *_]:
                assert target in targets
            case ["python", "-m", "zoo.timm", *args]:
                parse(zoo.timm.build_parser().parse_args, args)
            case ["python", script, *args]:
                monkeypatch.syspath_prepend(str((ROOT / script).parent))  # as Python does for a script
                parse(runpy.run_path(str(ROOT / script))["build_parser"]().parse_args, args)
            case ["pip", "install", "-e", _]:
                pass
            case ["accelerate", "launch", *_] | ["torchrun", *_] if "zoo.bench" in words:
                parse(zoo_cli.parse, ["bench", *words[words.index("zoo.bench") + 1 :]])
            case _:
                pytest.fail(f"{page.name}: nothing here checks {' '.join(words)}")


def parse(read: Callable[[list[str]], object], args: list[str]) -> None:
    try:
        read(args)
    except (SystemExit, ValueError) as stop:
        pytest.fail(f"nothing takes {' '.join(args)} ({stop})")


def test_a_wrong_command_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="nothing takes nonsense"):
        parse(zoo_cli.parse, ["nonsense"])


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="ascii"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if page.parent == DOCS and target not in SITE["ON_THE_SITE"]:
            assert file.resolve().is_relative_to(DOCS), f"{page.name} links to {target}, which is not part of the site"
        assert file.is_file(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="ascii"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {target}"


def test_links_lead_to_the_pages_of_the_site() -> None:
    assert set(SITE["ON_THE_SITE"].values()) <= GENERATED
    text = "".join(page.read_text(encoding="ascii") for page in DOCS.glob("*.md"))
    assert all(f"]({target})" in text for target in SITE["ON_THE_SITE"]), "each is of use"
    link = "[what](../CHANGELOG.md), [how](drawing.md#how-to-read-one)"
    assert SITE["on_the_site"](link) == "[what](changelog.md), [how](drawing.md#how-to-read-one)"


def test_every_page_is_in_the_navigation() -> None:
    nav = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="ascii"), re.MULTILINE)
    pages = {name for name in GENERATED if name.endswith(".md")} | {page.name for page in DOCS.glob("*.md")}
    assert sorted(nav) == sorted(pages)


def referenced() -> dict[str, list[str]]:
    """Modules and classes of docs/api.md, each with the members that it shows; none stands for all."""
    text = (DOCS / "api.md").read_text(encoding="ascii")
    found = re.findall(r"^::: (\S+)\n(?:    options:\n      (?:members: \[(.*)\]|show_submodules: true)$)?", text, re.M)
    return {name: re.findall(r"\w+", members) for name, members in found}


def shown() -> set[int]:
    """Identities of the objects that docs/api.md shows."""
    found = set()
    for name, members in referenced().items():
        rooms = [sys.modules[name]] if importable(name) else []
        inside = pkgutil.iter_modules(getattr(rooms[0], "__path__", [])) if rooms and not members else []
        rooms += [importlib.import_module(f"{name}.{module.name}") for module in inside]
        found |= {id(getattr(room, key)) for room in rooms for key in members or vars(room) if hasattr(room, key)}
        found |= {id(resolve(name))} if not rooms else set()
    return found


def resolve(path: str) -> object:
    """What a path names: a module, or its attribute; None if there is none."""
    parts = path.split(".")
    end = next(end for end in range(len(parts), 0, -1) if importable(".".join(parts[:end])))
    module = sys.modules[".".join(parts[:end])]
    return getattr(module, parts[end], None) if end < len(parts) else module


def importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def public_paths() -> set[str]:
    """What `zoo` and its rooms list, and what a page of the site names."""
    pages = [page.read_text(encoding="ascii") for page in DOCS.glob("*.md") if page.name != "api.md"]
    named = {path for text in pages for path in re.findall(r"\b(zoo(?:\.[a-zA-Z]\w*)+)(?![\w*/])", text)}
    for text in pages:
        for module, names in re.findall(r"^ *from (zoo[\w.]*) import (.+)$", text, re.MULTILINE):
            named |= {f"{module}.{name}" for name in re.findall(r"(\w+)(?: as \w+)?", names)}
    for room in ("zoo", "zoo.bench", "zoo.drawing", "zoo.fusing", "zoo.layers", "zoo.results", "zoo.weights"):
        named |= {f"{room}.{name}" for name in importlib.import_module(room).__all__}
    return {path for path in named if not path.startswith(("zoo.models.", "zoo_cli"))}


def test_the_reference_holds_everything_public() -> None:
    paths = public_paths()
    assert {"zoo.create_model", "zoo.bench.Request", "zoo.layers.KeepAll", "zoo.results.Line"} <= paths
    functions = {id(getattr(zoo, entry.timm_name)) for entry in map(zoo.model_entry, zoo.list_models())}
    known = shown() | functions  # docs/models.md lists those
    assert not {
        path
        for path in paths
        if (found := resolve(path)) is not None and not inspect.ismodule(found) and id(found) not in known
    }, "add it to docs/api.md"


def test_the_reference_names_what_there_is() -> None:
    for name, members in referenced().items():
        assert resolve(name) is not None, name
        assert all(hasattr(resolve(name), member) for member in members), name


@pytest.mark.slow  # its rows are compared where the costs of all nets are: tests/test_golden_nets.py
def test_the_catalogue_is_up_to_date() -> None:
    page = (DOCS / "models.md").read_text(encoding="ascii")
    assert all(f"| `{name}` |" in page for name in zoo.list_models())
    assert page == CATALOGUE["catalogue"](), "run `make format`"


def test_the_papers_are_up_to_date() -> None:
    page = (DOCS / "papers.md").read_text(encoding="ascii")
    assert page == CATALOGUE["papers"](), "run `make format`"


@pytest.mark.only(name=("fishnet99", "lenet5_cifar"))
@pytest.mark.parametrize("name", CATALOGUE["DRAWN"])
def test_the_drawings_are_up_to_date(name: str) -> None:
    file = CATALOGUE["DRAWINGS"] / f"{name}.svg"
    assert file.read_bytes() == CATALOGUE["drawing"](name), "run `make format`"


def test_a_net_of_every_family_is_drawn() -> None:
    assert {zoo.model_entry(name).family for name in CATALOGUE["DRAWN"]} == set(zoo.families())


def words_of(page: Path) -> str:
    return " ".join(page.read_text(encoding="ascii").split())


def test_the_text_knows_the_recipe() -> None:
    stated = dict(re.findall(r"`(\w+)=([\d.]+)`", (DOCS / "benchmark.md").read_text(encoding="ascii")))
    recipe = DATASETS["digits"].recipe.to_dict()
    assert len(stated) >= 7
    assert {key: float(value) for key, value in stated.items()} == {key: recipe[key] for key in stated}


def test_the_text_knows_the_figures() -> None:
    text, recorded = words_of(DOCS / "counting.md") + words_of(DOCS / "contract.md"), golden()
    for name, decimals, overrides in [
        ("fishnet99", 3, {}),
        ("fishnet150", 3, {}),
        ("fishnet201", 3, {}),
        ("resnet50", 3, {}),
        ("resnet50_v1", 3, {}),
        ("resnet50", 1, {"output_stride": 16}),
        ("resnet50", 1, {"output_stride": 8}),
    ]:
        new = overrides and count(zoo.create_model(name, device="meta", **overrides))
        macs = new.macs if new else int(recorded[name]["macs"])  # tests/test_golden_nets.py counts
        assert f" {macs / 1e9:.{decimals}f} " in text.replace(",", " "), (name, overrides)


def test_names_in_the_text_exist() -> None:
    """Names in code spans that look like models are models."""
    families = "|".join(["resnet", "preresnet", "wide_resnet", "resnext", "fishnet", "fishnext"])
    for page in PAGES:
        for name in re.findall(rf"`((?:zoo_)?(?:{families})\d\w*|(?:{families})_test)`", page.read_text("ascii")):
            assert zoo.model_entry(name), f"{page.name} names {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=relative)
def test_files_in_the_text_exist(page: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])((?:zoo|zoo_cli|tests|benchmarks|docs)/[\w/-]*(?:\.\w+)?)", page.read_text(encoding="ascii")
    )
    missing = {name for name in named if "FAMILY" not in name and not (ROOT / name).exists()}
    assert not missing, f"{relative(page)} names files that are not there"
