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
from zoo.analysis.nets import Options, expand, open_images, open_net
from zoo.analysis.outcome import Outcome
from zoo.complexity import count
from zoo.escape import for_terminal

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
    options = options or Options()
    try:
        return ANALYSES[what](names, options)
    except (AssertionError, RuntimeError):
        check_images(names, options)  # some nets of timm take images of one size alone, and say so in many ways
        raise


def check_images(names: Sequence[str], options: Options) -> None:
    """Raise ValueError if a net does not take the images that are asked for.

    Args:
        names: See `analyse`.
        options: ``input_size``, or ``dataset`` and ``data_dir``.
    """
    for name, title in expand(names).items():
        size = options.input_size or open_images(name, options).input_size
        try:
            count(open_net(name, meta=True), (size[0], size[1], size[2]))
        except ValueError as error:
            raise ValueError(f"{for_terminal(title)!r}: {error}") from error
