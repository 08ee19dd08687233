"""Make an environment of the lowest releases that pyproject.toml admits, and run a sample of the suite in it.

    python tests/floors.py ../floors             # the lowest releases, and a sample of the tests
    python tests/floors.py ../bare --bare        # what a plain install takes, without extras, and what it can do

It installs some gigabytes into the folder, and is run by hand when a floor changes.
"""

import argparse
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE = {"quick": ("layers", "registry", "topology", "contract"), "usual": ("loading",)}
"""Files of tests by the tier that is run of them."""
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "psutil", "pytorchcv")
"""What the sample is run with; the floors of these are no promise to users."""


def requirements(*extras: str) -> list[str]:
    """Return the requirements of the package, and of extras, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def floor(requirement: str) -> str:
    """Return ``name==1.2`` for ``name>=1.2,<2``.

    Raises:
        ValueError: If the requirement has no floor.
    """
    match = re.match(r"([\w-]+)[>=]=([\w.]+)", requirement)
    if match is None:
        raise ValueError(f"requirement ({requirement}) must have a floor, name>=version")
    return f"{match[1]}=={match[2]}"


def lowest(folder: Path) -> int:
    """Run the sample with the lowest releases."""
    python = make(folder)
    tools = [line for line in requirements("test") if re.match(r"[\w-]+", line)[0] in TOOLS]
    install(python, *map(floor, requirements("bench")), *tools)
    status = 0
    for tier, names in SAMPLE.items():
        files = [f"tests/test_{name}.py" for name in names]
        command = [python, "-m", "pytest", "-q", "-n", "2", "--tier", tier, *files]
        status |= subprocess.run(command, cwd=ROOT, check=False).returncode
    return status


def bare(folder: Path) -> int:
    """List, count and ask for what is missing in an environment without extras."""
    python = make(folder)
    install(python, str(ROOT))
    status = 0
    for wanted, words in (
        (0, ["list", "fish*"]),
        (0, ["info", "fishnet99"]),
        (0, ["count", "resnet18"]),
        (2, ["bench", "lenet_test"]),
        (2, ["report", "nothing"]),
    ):
        print("$ zoo", *words, flush=True)
        done = subprocess.run([python, "-m", "zoo", *words], cwd=folder, check=False).returncode
        print(f"status {done}" + ("" if done == wanted else f", not {wanted}"), flush=True)
        status |= done != wanted
    return status


def make(folder: Path) -> str:
    """Make an environment; return its interpreter."""
    venv.create(folder, with_pip=True)
    return str(folder / "bin" / "python")


def install(python: str, *what: str) -> None:
    """Install with pip."""
    print("installing", *what, flush=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *what], check=True)


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the environment is made")
    parser.add_argument("--bare", action="store_true", help="no extras and no floors instead")
    return parser


if __name__ == "__main__":
    asked = build_parser().parse_args()
    sys.exit((bare if asked.bare else lowest)(asked.folder.absolute()))
