"""Write the HTML file: template, style, script, plotting library and data, with a policy that admits nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from zoo.escape import for_html


def render(contents: Mapping[str, Any], title: str) -> bytes:
    """Return the page for the contents from `rows.gather`. Equal contents give equal bytes.

    Library and data are compressed, and in base64, which no text of the data can break out of. The browser unpacks
    them with `DecompressionStream`, which all have had since May 2023.
    """
    from plotly.offline import get_plotlyjs  # optional dependency: the `report` extra

    library, script = get_plotlyjs(), _own("page.js")
    data = json.dumps(contents, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    parts = {
        "title": for_html(title),
        "scripts": " ".join(
            f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (script, library)
        ),
        "style": _own("page.css"),
        "script": script,
        "library": _packed(library),
        "data": _packed(data),
    }
    # In one go: a part is never searched for the names of others.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], _own("page.html")).encode()


def _own(name: str) -> str:
    return resources.files("zoo.report").joinpath(name).read_text(encoding="ascii")


def _packed(text: str) -> str:
    return _base64(gzip.compress(text.encode(), mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
