"""Drawings for the cards of nets.

A net that was measured is drawn when the page is made. Those that the published table names are a hundred, so their
stages are drawn beforehand, into ``zoo/data/drawings.json.gz``; `make format` writes the file.
"""

import gzip
import json
from functools import cache
from importlib import resources

from zoo import published
from zoo.drawing import draw


@cache
def drawing(name: str) -> str:
    """Return the drawing of a net as SVG, unit by unit."""
    return draw(name).svg


def published_nets() -> list[str]:
    """Return the names of our nets that the published table has figures of."""
    return sorted({row.entry for row in published.results() if row.entry})


def drawing_of_stages(name: str) -> str:
    """Return the drawing of a net's stages as SVG."""
    return draw(name, level="stages").svg


@cache
def kept_drawings() -> dict[str, str]:
    """Return the drawings of the stages of the published nets by name, as the file has them."""
    content = resources.files("zoo").joinpath("data", "drawings.json.gz").read_bytes()
    return json.loads(gzip.decompress(content))


def packed() -> bytes:
    """Return the contents of the file, drawn anew."""
    drawings = {name: drawing_of_stages(name) for name in published_nets()}
    return gzip.compress(json.dumps(drawings, indent=0).encode("ascii"), mtime=0)
