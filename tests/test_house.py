"""The house: which module may know which, how large the vocabulary may grow, and what no file may name."""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "zoo").rglob("*.py"), *(ROOT / "zoo_cli").rglob("*.py")])
FAMILIES = sorted(p for p in (ROOT / "zoo" / "models").glob("*.py") if p.stem != "__init__")

# What a module of the package, or a module below it, may import from the package besides its own parts. Arrows go one
# way: from the command line to the benchmark, the registry, the families, the contract, the layers.
MAY_IMPORT = {
    "zoo": {"zoo.registry", "zoo.hub", "zoo.detection", "zoo.drawing", "zoo.fusing", "zoo.lean", "zoo.weights.loading"},
    "zoo.layer_types": set(),
    "zoo.arguments": {"zoo.layer_types"},
    "zoo.layers": {"zoo.layer_types"},
    "zoo.strides": set(),
    "zoo.entry": {"zoo.weights", "zoo.arguments", "zoo.strides"},
    "zoo.bounds": {"zoo.arguments", "zoo.entry"},
    "zoo.features": {"zoo.arguments", "zoo.backbone", "zoo.entry"},
    "zoo.weights": {"zoo.escape"},
    "zoo.weights.sources": {"zoo.weights", "zoo.files", "zoo.escape"},
    "zoo.weights.loading": {"zoo.escape", "zoo.weights", "zoo.weights.sources", "zoo.entry", "zoo.backbone"},
    "zoo.checkpoint": {"zoo.weights", "zoo.weights.sources"},
    "zoo.files": set(),
    "zoo.extras": set(),
    "zoo.escape": set(),
    "zoo.recipes": {"zoo.results"},
    "zoo.former_paths": set(),
    "zoo.environment": {"zoo", "zoo.arguments"},
    "zoo.interrupts": set(),
    "zoo.topology": set(),
    "zoo.grid": {"zoo.backbone", "zoo.layers", "zoo.topology"},
    "zoo.complexity": set(),
    "zoo.catalogue": {"zoo.complexity", "zoo.registry", "zoo.interrupts"},
    "zoo.papers": set(),
    "zoo.published": {"zoo.registry"},
    "zoo.results": {"zoo.escape", "zoo.extras", "zoo.files", "zoo.published"},
    "zoo.backbone": {"zoo.arguments", "zoo.entry", "zoo.layers", "zoo.weights"},
    "zoo.layouts": {"zoo.weights"},
    "zoo.models": {
        "zoo.entry",
        "zoo.layers",
        "zoo.backbone",
        "zoo.grid",
        "zoo.layouts",
        "zoo.strides",
        "zoo.topology",
        "zoo.weights",
    },
    "zoo.registry": {
        "zoo.arguments",
        "zoo.bounds",
        "zoo.entry",
        "zoo.escape",
        "zoo.features",
        "zoo.models",
        "zoo.weights",
        "zoo.weights.loading",
    },
    "zoo.testing": {"zoo.backbone", "zoo.entry", "zoo.layers", "zoo.registry"},
    "zoo.detection": {"zoo.arguments", "zoo.backbone", "zoo.features", "zoo.layers", "zoo.registry"},
    "zoo.timm": {"zoo", "zoo.backbone"},
    "zoo.front": {"zoo.arguments"},
    "zoo.hypercolumns": {"zoo.arguments", "zoo.registry"},
    "zoo.regions": {"zoo.arguments"},
    "zoo.lean": {"zoo.layers"},
    "zoo.fusing": {"zoo.layers", "zoo.lean"},
    "zoo.analysis": {
        "zoo.arguments",
        "zoo.complexity",
        "zoo.datasets",
        "zoo.escape",
        "zoo.evaluation",
        "zoo.files",
        "zoo.grid",
        "zoo.keeping",
        "zoo.layers",
        "zoo.registry",
        "zoo.results",
        "zoo.topology",
    },
    "zoo.drawing": {"zoo.arguments", "zoo.backbone", "zoo.escape", "zoo.extras", "zoo.files", "zoo.registry"},
    "zoo.hub": {"zoo.files"},
    "zoo.datasets": {"zoo.escape", "zoo.files", "zoo.interrupts", "zoo.recipes", "zoo.results"},
    "zoo.evaluation": {"zoo.datasets", "zoo.environment"},
    "zoo.choosing": {"zoo", "zoo.arguments", "zoo.escape", "zoo.published", "zoo.registry", "zoo.results"},
    "zoo.freezing": set(),
    "zoo.keeping": {"zoo.escape", "zoo.hub", "zoo.results"},
    "zoo.predicting": {
        "zoo.arguments",
        "zoo.datasets",
        "zoo.environment",
        "zoo.escape",
        "zoo.evaluation",
        "zoo.fusing",
        "zoo.keeping",
        "zoo.registry",
        "zoo.results",
    },
    "zoo.finding": {"zoo.bench", "zoo.datasets", "zoo.environment", "zoo.escape", "zoo.results"},
    "zoo.bench": {
        "zoo",
        "zoo.arguments",
        "zoo.entry",
        "zoo.registry",
        "zoo.complexity",
        "zoo.analysis",
        "zoo.results",
        "zoo.files",
        "zoo.datasets",
        "zoo.environment",
        "zoo.escape",
        "zoo.evaluation",
        "zoo.recipes",
        "zoo.extras",
        "zoo.fusing",
        "zoo.former_paths",
        "zoo.interrupts",
        "zoo.freezing",
        "zoo.keeping",
        "zoo.weights.loading",
    },
    "zoo.racing": {
        "zoo",
        "zoo.arguments",
        "zoo.bench",
        "zoo.complexity",
        "zoo.environment",
        "zoo.escape",
        "zoo.files",
        "zoo.registry",
        "zoo.results",
        "zoo.speed",
    },
    # Not the benchmark: what times nets trains none.
    "zoo.speed": {
        "zoo",
        "zoo.arguments",
        "zoo.registry",
        "zoo.complexity",
        "zoo.results",
        "zoo.files",
        "zoo.environment",
        "zoo.fusing",
        "zoo.lean",
        "zoo.interrupts",
    },
    # Not the benchmark: the page shows lines, whoever wrote them.
    "zoo.report": {
        *("zoo", "zoo.entry", "zoo.complexity", "zoo.drawing"),
        *("zoo.escape", "zoo.published", "zoo.results", "zoo.files"),
    },
    "zoo.cli": {"zoo_cli"},
    "zoo.__main__": {"zoo_cli"},
    "zoo.bench.__main__": {"zoo_cli"},
    "zoo_cli": {
        "zoo",
        "zoo.arguments",
        "zoo.analysis",
        "zoo.registry",
        "zoo.catalogue",
        "zoo.complexity",
        "zoo.drawing",
        "zoo.papers",
        "zoo.published",
        "zoo.choosing",
        "zoo.racing",
        "zoo.weights.loading",
        "zoo.weights.sources",
        "zoo.evaluation",
        "zoo.keeping",
        "zoo.predicting",
        "zoo.finding",
        "zoo.escape",
        "zoo.datasets",
        "zoo.bench",
        "zoo.speed",
        "zoo.environment",
        "zoo.recipes",
        "zoo.results",
        "zoo.report",
        "zoo.files",
        "zoo.extras",
    },
}
# Packages whose modules may know each other.
SHARED = {
    "zoo.analysis",
    "zoo.bench",
    "zoo.datasets",
    "zoo.drawing",
    "zoo.fusing",
    "zoo.layers",
    "zoo.report",
    "zoo.results",
    "zoo.speed",
    "zoo.weights",
    "zoo_cli",
}
# Modules of timm that are not public, by the only file that may use them.
PRIVATE_TIMM = {"zoo.features": {"timm.models._features"}}
# What registers, builds or configures models in timm: for the registry alone.
TIMM_REGISTRY = {
    "build_model_with_cfg",
    "create_model",
    "generate_default_cfgs",
    "is_model",
    "list_models",
    "model_entrypoint",
    "register_model",
    "register_model_deprecations",
    "set_pretrained_cfg",
}
TEXT = {
    "",
    ".cff",
    ".cfg",
    ".css",
    ".csv",
    ".gitignore",
    ".html",
    ".js",
    ".json",
    ".md",
    ".py",
    ".toml",
    ".txt",
    ".yml",
}
BUILT = {".cache", ".git", ".venv", "results", "site", "build", "dist", "__pycache__", ".hypothesis", "node_modules"}
CITED = {"www.apache.org", "arxiv.org", "doi.org"}
# Hosts that one file alone may name: where trained weights are published is a fact about them, and SVG has a name.
PUBLIC = {
    "zoo/weights/tags.py": {"github.com"},
    "zoo/results/card.py": {"www.w3.org"},
    "zoo/drawing/write.py": {"www.w3.org"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names of everything that a source imports, wherever in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> list[str]:
    return list(imports(path.read_text(encoding="utf-8"), module_name(path), path.stem == "__init__"))


def within(name: str, packages: set[str] | dict[str, set[str]]) -> str | None:
    """The innermost of the packages that a module belongs to."""
    parts = name.split(".")
    return next((p for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in packages), None)


def wrong_arrows(module: str, names: list[str]) -> list[str]:
    """Imports from the package that the module's place does not allow."""
    place = module if module == "zoo" else within(module, MAY_IMPORT)
    if place == "zoo" and module != "zoo":
        return [f"{module} has no place in MAY_IMPORT"]
    wrong = []
    for name in names:
        target = within(name, MODULES)
        if target is None or target == module:
            continue
        home = within(target, MAY_IMPORT)
        same = home == place and home in SHARED
        if not same and home not in MAY_IMPORT[place or ""]:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    assert not wrong_arrows(module_name(path), imports_of(path))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("zoo.models.fishnet", "from zoo.models.resnet import ResNet"),
        ("zoo.models.fishnet", "from .resnet import ResNet"),
        ("zoo.models.fishnet", "from zoo import registry"),
        ("zoo.models.fishnet", "def f():\n    import zoo.registry"),
        ("zoo.layers.kit", "from zoo.entry import Spec"),
        ("zoo.layers.kit", "from ..backbone import Backbone"),
        ("zoo.complexity", "import zoo"),
        ("zoo.bench.train", "from zoo.models import resnet"),
        ("zoo.bench.train", "from zoo.backbone import Backbone"),
        ("zoo.backbone", "from zoo.registry import create_model"),
        ("zoo.report.rows", "from zoo.bench.tasks import TASKS"),
        ("zoo.results.group", "from zoo.recipes import RECIPES"),
        ("zoo.datasets.built_in", "from zoo.bench.tasks import TASKS"),
        ("zoo.speed.cases", "from zoo.bench.sweep import sweep"),
        ("zoo.bench.train", "from zoo.speed.timing import clocked"),
        ("zoo.environment", "from zoo.bench import run"),
        ("zoo.newcomer", "import torch"),
    ],
)
def test_a_wrong_import_is_found(module: str, line: str) -> None:
    assert wrong_arrows(module, list(imports(line, module, is_package=False)))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_registry_touches_that_of_timm(path: Path) -> None:
    module = module_name(path)
    names = [name for name in imports_of(path) if name.split(".")[0] == "timm"]
    private = {name for name in names if any(part.startswith("_") for part in name.split("."))}
    assert {name.rpartition(".")[0] for name in private} <= PRIVATE_TIMM.get(module, set())
    if module != "zoo.registry":
        assert not {name for name in names if name.rpartition(".")[2] in TIMM_REGISTRY}
        text = path.read_text(encoding="utf-8")
        assert not re.search(rf"\btimm(\.models)?\.({'|'.join(TIMM_REGISTRY)})\(", text)


def test_the_registry_is_seen_to_touch_it() -> None:
    # The rule above would pass on a package that it does not understand.
    assert TIMM_REGISTRY & {name.rpartition(".")[2] for name in imports_of(ROOT / "zoo" / "registry.py")}


@pytest.mark.parametrize("path", sorted((ROOT / "zoo" / "results").glob("*.py")), ids=lambda path: path.stem)
def test_results_are_read_without_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "torchvision", "timm", "fvcore"}


@pytest.mark.parametrize("path", [p for p in SOURCES if "zoo_cli" in p.parts], ids=module_name)
def test_the_command_line_needs_nothing_before_a_verb_runs(path: Path) -> None:
    body = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if not _for_types_alone(node)]
    names = {name.split(".")[0] for node in body if not isinstance(node, ast.FunctionDef) for name in named(node)}
    assert names <= {*sys.stdlib_module_names, "zoo_cli"}


def named(node: ast.stmt) -> list[str]:
    """What a statement imports, at any depth."""
    return list(imports(ast.unparse(node), "x", is_package=False))


def _for_types_alone(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_layers_stay_a_small_vocabulary() -> None:
    files = sorted((ROOT / "zoo" / "layers").rglob("*.py"))
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len([name for name in lengths if name != "__init__.py"]) <= 8
    assert not {name: n for name, n in lengths.items() if n > 150}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_file_is_long(path: Path) -> None:
    """What is long is data, and data is a table in ``zoo/data``."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_a_family_is_its_text_its_specification_its_net_and_its_rows(path: Path) -> None:
    """Weights, hashes and the names that others give to tensors have rooms of their own."""
    assigned = [
        ast.unparse(target)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    assert assigned[-1] == "MODELS", "the rows come last"
    assert not {"LAYOUTS", "WEIGHTS"} & set(assigned)
    assert not re.search(r"[0-9a-f]{16}|https?://", path.read_text(encoding="utf-8"))


def test_every_table_of_names_belongs_to_a_family() -> None:
    tables = {path.stem for path in (ROOT / "zoo" / "layouts").glob("[!_]*.py")}
    assert tables == {name for name in zoo.families() if zoo.model_entry(zoo.list_models(family=name)[0]).build.layouts}


def test_the_benchmark_stays_a_room_that_one_sees_at_once() -> None:
    assert len(list((ROOT / "zoo" / "bench").glob("*.py"))) <= 14


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_a_family_cites_its_papers(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    cited = set(re.findall(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/\S*\w", text))
    assert cited
    rows = {e.paper for e in map(zoo.model_entry, zoo.list_models(family=path.stem))}
    assert {c for row in rows for c in re.findall(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/\S*\w", row)} <= cited


def texts() -> Iterator[tuple[Path, str]]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        built = BUILT.intersection(parts) or any(part.endswith(("_cache", ".egg-info")) for part in parts)
        if path.is_file() and not built and path.suffix in TEXT:
            yield path, path.read_text(encoding="utf-8")


def test_no_file_names_a_machine() -> None:
    # Put together here, so that this file does not name them either.
    places = re.compile(r"(?<![\w.<])/" + "(work|home|root|Users|tmp|mnt|opt)" + r"/\w")
    hosts = re.compile(r"https?://([\w.-]+)")
    found = [(path.name, m.group()) for path, text in texts() for m in places.finditer(text)]
    for path, text in texts():
        allowed = CITED | PUBLIC.get(path.relative_to(ROOT).as_posix(), set())
        found += [(path.name, m.group()) for m in hosts.finditer(text) if m.group(1) not in allowed]
    assert not found


def test_files_are_ascii() -> None:
    assert not [path.name for path, text in texts() if not text.isascii()]


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == zoo.__version__
    assert f"\nversion: {zoo.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {zoo.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# Words that begin a clause without its noun: "Of the stages.", "What a run holds.", "Whether it is there." A docstring
# begins with a verb and its object or with a noun; booleans are "True if ...". No exceptions are needed.
CLAUSES = {"Of", "What", "Who", "Whose", "Where", "Whether"}


def docstrings(source: str) -> Iterator[str]:
    """Docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield inspect.cleandoc(str(statement.value.value))


def clauses(source: str) -> list[str]:
    """First lines, and entries of lists of arguments and attributes, that begin with a clause."""
    found = []
    for text in docstrings(source):
        entries = re.findall(r"^ {4}\**\w+: (.*)$", text, re.MULTILINE)
        found += [line for line in (text.partition("\n")[0], *entries) if re.split(r"\W", line)[0] in CLAUSES]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    assert not clauses(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        '"""What a net is."""',
        'class Net:\n    """Who reads it."""',
        'def f():\n    """Whether it is there."""',
        'STRIDE = 4\n"""Of the stem."""',
        'def f(x):\n    """Do it.\n\n    Args:\n        x: Of the stem.\n    """',
    ],
)
def test_a_clause_is_found(source: str) -> None:
    assert len(clauses(source)) == 1
    assert not clauses(
        source.replace("What", "Form").replace("Who", "Net").replace("Whether", "True if").replace("Of", "Map")
    )
