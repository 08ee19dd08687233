"""What a measured run may be held against: the published figure of the same net on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.published import ONE_VIEW, primary


def published_error(record: Mapping[str, Any]) -> float | None:
    """Return the published top-1 error in percent of what a record measured, or None where there is none.

    There is none for a preset with overrides, for a net that kept its random weights, for images of another size than
    the published figure's, and where all that was published comes from several crops.
    """
    if record["overrides"] or record.get("frozen"):
        return None
    figure = primary(record["name"], record["dataset"]["name"])
    if figure is None or figure.view not in ONE_VIEW or figure.input_size != record["dataset"]["input_size"][-1]:
        return None
    return figure.top1_error
