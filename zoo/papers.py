"""Places of everything that the papers describe: architectures, units and analyses, by the text that they come from.

The rows are in ``zoo/data/papers.toml``. The command line and the documentation present them. Tests look up every name
in them.
"""

import fnmatch
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

KINDS = {
    "model": "a net of the zoo, or several",
    "override": "nets of the zoo with some arguments",
    "part": "elsewhere in the package: a unit, an analysis, the benchmark",
    "installed": "an installed library has it; nets of timm's pass through zoo.create_model",
    "planned": "not built yet",
    "cited": "only mentioned, and no part of the package",
}
"""Kinds of answers, and their meaning for a reader."""


@dataclass(frozen=True)
class System:
    """An architecture, unit or analysis that a text names.

    Attributes:
        name: Name in the text.
        source: Paper that it is from.
        kind: A key of ``KINDS``.
        models: Names for ``zoo.create_model``.
        overrides: Arguments for ``zoo.create_model``, the same for all models.
        where: Names in Python, or files of the repository.
        note: Further remarks.
    """

    name: str
    source: str
    kind: str
    models: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    note: str = ""

    def found(self, code: str = "{}") -> str:
        """Return the answer in one line; ``code`` formats names of models and of Python."""
        arguments = "".join(f" + {key}={value}" for key, value in self.overrides.items())
        names = [code.format(name + arguments) for name in self.models] + [code.format(name) for name in self.where]
        return "; ".join(part for part in (", ".join(names), self.note) if part)


def _system(fields: Mapping[str, Any]) -> System:
    """Return a row of the file, with lists as tuples."""
    row: dict[str, Any] = _with_tuples(fields)
    row["overrides"] = _with_tuples(row.get("overrides", {}))
    return System(**row)


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def _read() -> dict[str, tuple[System, ...]]:
    text = resources.files("zoo").joinpath("data", "papers.toml").read_text(encoding="ascii")
    return {part["subject"]: tuple(map(_system, part["systems"])) for part in tomllib.loads(text)["subjects"]}


SYSTEMS = _read()
"""Everything that the texts name (``zoo/data/papers.toml``), by subject, in the order of the texts."""


def systems(filter: str = "") -> list[tuple[str, System]]:
    """Return the matching subjects and systems.

    Args:
        filter: A shell-style pattern (``*net``), or a part, of the subject, the name, the source, the kind, a model or
            a name in Python; case does not matter.
    """
    pattern = (filter if any(c in filter for c in "*?[") else f"*{filter}*").lower()
    return [
        (subject, system)
        for subject, rows in SYSTEMS.items()
        for system in rows
        if any(
            fnmatch.fnmatchcase(text.lower(), pattern)
            for text in (subject, system.name, system.source, system.kind, *system.models, *system.where)
        )
    ]
