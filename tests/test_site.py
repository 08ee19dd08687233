"""The site: pages written from nets and docstrings; in the last tier built strictly and opened in a browser."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from accessibility import serious_faults

import zoo

ROOT = Path(__file__).parents[1]
SITE = runpy.run_path(str(ROOT / "docs" / "site.py"))

HTTP = "http:" + "//"

TEXT = """\
Summary.

Papers:
    One, Two 2015, A Title, with a Comma, NeurIPS 2016, arXiv:1234.56789: a remark on
    several lines.
    Three 2016, Another, doi:10.1/x.

Sizes of ``net``, with a long label that is
no heading:

A drawing::

    a --> b

      c

What differs:
    * This.
    * That.
"""


def test_a_docstring_becomes_a_page() -> None:
    text = SITE["to_markdown"](TEXT)
    assert (
        "## Papers\n\n- One, Two 2015, A Title, with a Comma, NeurIPS 2016, arXiv:1234.56789: a remark on several"
        in text
    )
    assert "\n- Three 2016, Another, doi:10.1/x.\n" in text
    assert "A drawing:\n\n```text\na --> b\n\n  c\n```\n" in text
    assert "## What differs\n\n* This.\n* That.\n" in text
    assert "\nno heading:\n" in text


@pytest.mark.parametrize("family", zoo.families())
def test_every_family_has_its_papers_as_bibtex(family: str) -> None:
    cited = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", zoo.model_entry(zoo.list_models(family=family)[0]).paper))
    found = list(SITE["citations"](family))
    assert found
    assert cited <= {number for entry in found for number in re.findall(r"eprint = \{(.+)\}", entry)}
    assert not [entry for entry in found if "NeurIPS" in entry or "CVPR" in entry]


def test_a_family_page_tells_all() -> None:
    page = SITE["family_page"]("lenet")
    assert page.startswith("# LeNet\n")
    for part in ("lenet5_cifar.svg", "62,006", "## Paper", "## Published errors", "## Weights", "@misc{lecun1998"):
        assert part in page, part
    assert re.search(r"`lenet5_cifar \+ .*` +\| digits", page), "measured by the study"
    assert "| 16 px " in page, "receptive field"


def test_measured_nets_name_their_recipe() -> None:
    special = [(family, dataset, net) for family in zoo.families() for dataset, net in SITE["measured"](family)]
    special = [(family, dataset, net) for family, dataset, net in special if net.recipe]
    assert special
    for family, dataset, net in special:
        row = next(
            line
            for line in SITE["measured_table"](family).splitlines()
            if f"`{net.net}`" in line and f" {dataset} " in line and f"{net.score:.2%}" in line
        )
        assert f"| {net.recipe} " in row
    assert re.search(r"\| digits +\| - ", SITE["measured_table"]("resnet"))


def test_ranges_of_the_gallery_are_of_one_recipe() -> None:
    def net(recipe: str, score: float) -> Any:
        return SimpleNamespace(recipe=recipe, score=score)

    own, other = [net("", 0.95), net("", 0.97)], [net("lr=0.02", 0.5), net("lr=0.02", 0.99)]
    assert SITE["measured_range"]([*other, *own]) == "95.0% to 97.0%"
    assert SITE["measured_range"](other) == "50.0% to 99.0% (lr=0.02)"
    assert SITE["measured_range"]([]) == "none"
    entry = zoo.model_entry("densenet121")
    assert SITE["results_of"]("densenet", entry)["error in the paper"].endswith("(paper; single crop)")


def test_the_navigation_names_families_as_their_pages_do() -> None:
    nav = dict(re.findall(r"- ([^:]+): families/(\w+)\.md", (ROOT / "mkdocs.yml").read_text("ascii")))
    assert nav == {SITE["title"](family): family for family in zoo.families()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built strictly."""
    pytest.importorskip("zensical", reason="needs zensical, of the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    SITE["build"](folder / "build" / "docs")
    (folder / "mkdocs.yml").write_bytes((ROOT / "mkdocs.yml").read_bytes())
    for room in ("zoo", "zoo_cli"):
        (folder / room).symlink_to(ROOT / room)
    result = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a web server, as search needs it."""
    with ThreadingHTTPServer(("localhost", 0), partial(Quiet, directory=site)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"{HTTP}localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = pytest.importorskip("test_report_browser", reason="needs chromium and selenium")
    yield from browser.chromium.__wrapped__()


@pytest.mark.slow
def test_it_is_built_without_a_broken_link(site: Path) -> None:
    for name in SITE["generated"]():
        assert (site / name).with_suffix(".html").is_file()
    assert (site / SITE["STUDY"]).is_file()
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="?([^"\s>]+)', page.read_text(encoding="utf-8")):
            path, _, _ = target.partition("#")
            if path and not re.match(r"[a-z]+:|//|javascript", path) and page.name not in ("404.html", SITE["STUDY"]):
                file = page.parent / path.partition("?")[0]
                assert file.exists(), f"{page.name} links to {target}"


def show(chromium: Any, page: str, theme: str, width: int = 1280) -> None:
    from test_report_browser import PATIENCE, By, WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    chromium.get(page)
    chromium.execute_script("localStorage.clear()")
    chromium.get(page)
    WebDriverWait(chromium, PATIENCE).until(lambda d: not d.find_elements(By.ID, "status"))  # the report unpacks itself


PAGES = [*re.findall(r": (\S+)\.md$", (ROOT / "mkdocs.yml").read_text("ascii"), re.MULTILINE), SITE["STUDY"][:-5]]
"""All pages of the site, without their ends."""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_a_browser(address: str, chromium: Any, page: str, theme: str) -> None:
    """No error, no request to others, no wider than the screen, in the reader's colours, no fault of accessibility."""
    for width in (1280, 390):
        chromium.get_log("browser")
        chromium.get_log("performance")
        show(chromium, f"{address}/{page}.html", theme, width)
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
        shade = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
        assert (sum(chromium.execute_script(shade)) < 300) == (theme == "dark")
        assert chromium.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert f"{address}/{page}.html" in asked
        assert not [url for url in asked if not url.startswith((address, "data:", "blob:", "chrome"))]
        assert serious_faults(chromium) == []
