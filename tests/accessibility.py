"""Faults of accessibility that axe-core finds. It is no part of the repository: ``npm install --no-save axe-core``."""

from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"


def serious_faults(browser: Any) -> list[str]:
    """Return the serious and critical findings on the page that a browser shows: rule, and the first elements."""
    if not AXE.exists():
        pytest.skip("needs axe-core: npm install --no-save axe-core")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [
        f"{fault['id']}: {[node['target'] for node in fault['nodes'][:5]]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
