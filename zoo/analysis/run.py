"""Table of all analyses."""

from collections.abc import Callable, Sequence

from zoo.analysis import (
    cues,
    effective,
    field,
    gates,
    gradients,
    lesion,
    path_gradients,
    paths,
    probes,
    responses,
    units,
)
from zoo.analysis.nets import Options
from zoo.analysis.outcome import Outcome

ANALYSES: dict[str, Callable[[Sequence[str], Options], Outcome]] = {
    "receptive-field": field.analyse,
    "effective-field": effective.analyse,
    "paths": paths.analyse,
    "path-gradients": path_gradients.analyse,
    "lesion": lesion.analyse,
    "responses": responses.analyse,
    "gradients": gradients.analyse,
    "probes": probes.analyse,
    "gates": gates.analyse,
    "units": units.analyse,
    "shape-or-texture": cues.analyse,
}
"""Analyses by name."""


def analyse(what: str, names: Sequence[str], options: Options | None = None) -> Outcome:
    """Run an analysis.

    Args:
        what: A key of ``ANALYSES``.
        names: Models of the zoo or of timm, patterns, or folders of trained nets.
        options: Options of all analyses.

    Raises:
        ValueError: If the analysis or a net does not exist, or an option does not fit.
    """
    if what not in ANALYSES:
        raise ValueError(f"what ({what!r}) must be one of {', '.join(ANALYSES)}")
    return ANALYSES[what](names, options or Options())
