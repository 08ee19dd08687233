"""The report in a real browser: it opens, asks nobody, and its filter, headings, points and cards work."""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accessibility import serious_faults
from result_lines import RUN, run, write

from zoo.results.topologies import MARKS, TOPOLOGIES, looks
from zoo_cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver", allow_module_level=True)

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra 'test'")
ActionChains = webdriver.ActionChains
By = pytest.importorskip("selenium.webdriver.common.by").By
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

HOSTILE = "</script><img src=x onerror=document.title='pwned'><b>&amp;%{x}</b>"
PATIENCE = 600
"""Seconds, for a browser on a machine that does much else; only a page that is broken needs them."""
FAMILIES = ("resnet", "fabric", "densenet")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve nets of three families with two seeds, the larger the better, a hostile one, and one on CIFAR-10."""
    folder = tmp_path_factory.mktemp("report")
    lines = [
        run(
            f"net{n}",
            seed,
            family=FAMILIES[n % 3],
            counts__params=10_000 * 2**n,
            counts__macs=10**6 * 2**n,
            counts__activations=1000 * 2**n,
            test_accuracy=0.8 + 0.015 * n + 0.002 * seed,
        )
        for n in range(12)
        for seed in range(2)
    ]
    lines.append(run(HOSTILE, family=HOSTILE, spec={HOSTILE: HOSTILE}, test_accuracy=0.5))
    classes = {"class_accuracy": [0.9, None], "confusion": [[18, 2], [0, 0]], "macro_f1": 0.625}
    names = {"dataset__classes": ["frog", HOSTILE]}
    lines.append(run("resnet20_cifar", dataset__name="CIFAR-10", test_accuracy=0.92, **classes, **names))
    assert main(["report", str(write(folder / "results.jsonl", lines)), "-o", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


@pytest.fixture
def browser(chromium: Any, page: Path) -> Any:
    """The page, freshly opened at 1280 x 900."""
    show(chromium, page, 1280, 900)
    return chromium


def show(driver: Any, page: Path, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())
    WebDriverWait(driver, PATIENCE).until(lambda d: not d.find_elements(By.ID, "status"))


def names(browser: Any) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#table tbody button')].map(b => b.textContent)"
    )


def points(browser: Any, axis: str) -> list[Any]:
    return browser.find_elements(By.CSS_SELECTOR, f"#plot-{axis} .points path")


def choose(browser: Any, control: str, value: str) -> None:
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, control, value)


def press(browser: Any, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_without_an_error_and_asks_nobody(chromium: Any, page: Path, width: int) -> None:
    chromium.get_log("browser")
    chromium.get_log("performance")
    show(chromium, page, width, 900)
    press(chromium, "#table tbody button")
    assert chromium.find_element(By.ID, "card").is_displayed()
    assert chromium.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [page.as_uri()]
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    for axis in ("params", "macs", "activations", "throughput", "memory"):
        assert len(points(chromium, axis)) == 13


def test_filtering(browser: Any) -> None:
    assert len(names(browser)) == 13
    choose(browser, "filter", "fabric")
    assert sorted(names(browser)) == ["net1", "net10", "net4", "net7"]
    assert len(points(browser, "params")) == 4
    choose(browser, "filter", "params<=40k score>80.2")
    assert sorted(names(browser)) == ["net1", "net2"]
    choose(browser, "filter", "nothing like this")
    assert names(browser) == []
    choose(browser, "filter", "")
    press(browser, "#topologies button")
    assert sorted(names(browser)) == sorted([HOSTILE, *(f"net{n}" for n in range(12) if n % 3)])


def test_sorting(browser: Any) -> None:
    assert names(browser) == [*(f"net{n}" for n in range(11, -1, -1)), HOSTILE]
    press(browser, "[data-column=score]")
    assert names(browser) == [HOSTILE, *(f"net{n}" for n in range(12))]
    assert browser.find_element(By.CSS_SELECTOR, "th[aria-sort]").get_attribute("aria-sort") == "ascending"
    press(browser, "[data-column=name]")
    assert names(browser)[1:] == [f"net{n}" for n in range(12)]  # net2 before net10
    press(browser, "[data-column=params]")
    assert names(browser)[0] == "net11"


def test_a_point_is_found_everywhere(browser: Any) -> None:
    order = browser.execute_script(
        "const drawn = document.getElementById('plot-params').data.flatMap(trace => trace.customdata || []);"
        "return drawn.map(id => data.rows[id].name)"
    )
    ActionChains(browser).move_to_element(points(browser, "params")[order.index("net3")]).perform()
    WebDriverWait(browser, PATIENCE).until(lambda d: d.find_elements(By.CSS_SELECTOR, "tr.hovered"))
    [row] = browser.find_elements(By.CSS_SELECTOR, "tr.hovered")
    assert row.text.startswith("net3")
    for axis in ("params", "macs", "activations"):
        label = browser.find_element(By.CSS_SELECTOR, f"#plot-{axis} .hoverlayer").text
        assert "net3" in label
        assert "accuracy 84.60 % +- 0.14 (2 seeds)" in label


def test_the_front_and_its_filter(browser: Any) -> None:
    # Every net costs more than the one before and is better: all are on the front but the hostile one.
    fronts = "return plots.params.data.filter(t => t.mode === 'lines+text').map(t => t.x.length)"
    assert browser.execute_script(fronts) == [12]
    browser.execute_script("data.rows.find(r => r.name === 'net5').score = 1")
    press(browser, "#front")
    assert "net5" not in names(browser)
    assert "net6" in names(browser)


def test_a_box_selects_in_every_plot_and_the_table(browser: Any) -> None:
    plot = browser.find_element(By.CSS_SELECTOR, "#plot-params .nsewdrag")
    size = plot.size
    actions = ActionChains(browser).move_to_element_with_offset(plot, 2 - size["width"] // 2, 2 - size["height"] // 2)
    actions.click_and_hold().move_by_offset(size["width"] // 4, size["height"] // 2)
    actions.move_by_offset(size["width"] // 4, size["height"] // 2 - 6).release().perform()
    WebDriverWait(browser, PATIENCE).until(lambda d: len(names(d)) < 13)
    chosen = names(browser)
    assert chosen
    assert all(int(name.removeprefix("net")) < 8 for name in chosen if name != HOSTILE)
    press(browser, "#clear")
    assert len(names(browser)) == 13


@pytest.mark.slow
def test_published_points_are_hollow_and_measured_ones_filled(browser: Any) -> None:
    choose(browser, "group", "CIFAR-10")
    traces = browser.execute_script(
        "return document.getElementById('plot-params').data.filter(t => t.customdata)"
        ".map(t => [t.marker.symbol, [...new Set(t.customdata.map(i => data.rows[i].kind))]])"
    )
    assert {tuple(kinds) for _, kinds in traces} == {("measured",), ("published",)}
    assert all(symbol.endswith("-open") == (kinds == ["published"]) for symbol, kinds in traces)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#measured button")) == 1
    assert len(browser.find_elements(By.CSS_SELECTOR, "#published button")) > 3


def chosen_row(browser: Any, first: str) -> list[str]:
    """Cells of the row of a card's tables that begins so."""
    rows = [row.find_elements(By.TAG_NAME, "td") for row in browser.find_elements(By.CSS_SELECTOR, "#card tbody tr")]
    return next([cell.text for cell in row] for row in rows if row[0].text == first)


def test_a_card_tells_all(browser: Any) -> None:
    choose(browser, "group", "CIFAR-10")
    choose(browser, "filter", "resnet20_cifar measured")
    press(browser, "#table tbody button")
    text = browser.find_element(By.ID, "card").text
    for part in (
        "He et al. 2015",
        "8.75",
        "depths",
        "(3, 3, 3)",
        "aten::pad",
        "AMD EPYC",
        RUN["git_revision"],
        "2.15.0",
        "On the test images of the last run, on CIFAR-10: seed 0; macro F1 62.50 %",
        f"as {HOSTILE}",
    ):
        assert part in text, part
    assert chosen_row(browser, "frog") == ["frog", "90", "18", "2"]
    assert browser.find_element(By.CSS_SELECTOR, "#card a").get_attribute("href") == "https://arxiv.org/abs/1512.03385"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#curve-scores .js-line")) == 1
    press(browser, "#card header button")
    assert not browser.find_element(By.ID, "card").is_displayed()


def test_a_hostile_name_is_a_name(browser: Any) -> None:
    assert HOSTILE in names(browser)
    choose(browser, "filter", "</script>")
    assert names(browser) == [HOSTILE]
    ActionChains(browser).move_to_element(points(browser, "params")[0]).perform()
    WebDriverWait(browser, PATIENCE).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#plot-params .hovertext"))
    label = browser.find_element(By.CSS_SELECTOR, "#plot-params .hovertext").get_attribute("textContent")
    assert label.startswith(HOSTILE[:40])
    press(browser, "#table tbody button")
    assert browser.find_elements(By.CSS_SELECTOR, "body img") == []
    assert browser.title == "Backbones compared"


def test_light_and_dark(browser: Any) -> None:
    def colours() -> tuple[str, str]:
        script = (
            "const plot = document.getElementById('plot-params');"
            "return [getComputedStyle(document.body).backgroundColor, plot.layout.paper_bgcolor]"
        )
        return tuple(browser.execute_script(script))

    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
    bright = colours()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    WebDriverWait(browser, PATIENCE).until(lambda d: colours()[0] != bright[0] and colours()[1] != bright[1])
    assert browser.find_element(By.ID, "theme").text == "Light"
    press(browser, "#theme")
    assert colours() == bright
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_limit_that_is_none_is_told_with_the_accepted_words(browser: Any) -> None:
    def told() -> str:
        return browser.execute_script("return document.getElementById('filter-error').textContent")

    everything = len(names(browser))
    for wrong in ("weights<1M", "params<lots", "score>=9x"):
        choose(browser, "filter", wrong)
        assert told().startswith(f"No limit: {wrong.lower()}. A limit is one of params, macs, ")
        assert len(names(browser)) == everything
    choose(browser, "filter", "params<=40k")
    few = sorted(names(browser))
    assert 0 < len(few) < everything
    for same in ("params <= 40k", "param<=40 k", "parameters <=40000"):
        choose(browser, "filter", same)
        assert sorted(names(browser)) == few
        assert told() == ""
    choose(browser, "filter", "score > 90 %")
    assert 0 < len(names(browser)) < everything


def test_the_address_restores_a_view(chromium: Any, page: Path) -> None:
    show(chromium, page, 1280, 900)
    choose(chromium, "filter", "net params>20k")
    choose(chromium, "view", "log")
    press(chromium, "#topologies button")
    press(chromium, "[data-column=params]")
    shown, address = names(chromium), chromium.current_url
    hidden = chromium.execute_script("return document.querySelector('#topologies button').textContent")
    assert "#" in address
    chromium.get("about:blank")
    chromium.get(address)
    WebDriverWait(chromium, PATIENCE).until(lambda d: not d.find_elements(By.ID, "status"))
    assert names(chromium) == shown
    assert chromium.execute_script("return document.getElementById('view').value") == "log"
    pressed = "const b = document.querySelector('#topologies button'); return [b.textContent, b.ariaPressed]"
    assert chromium.execute_script(pressed) == [hidden, "false"]


@pytest.mark.slow
def test_an_address_pasted_into_the_open_page_changes_the_view(browser: Any) -> None:
    browser.execute_script("location.hash = 'group=digits&filter=fabric'")
    WebDriverWait(browser, PATIENCE).until(
        lambda d: not d.find_elements(By.ID, "status") and len(d.find_elements(By.CSS_SELECTOR, "#table tbody tr")) == 4
    )
    assert sorted(names(browser)) == ["net1", "net10", "net4", "net7"]


def test_the_export_is_the_table(browser: Any) -> None:
    choose(browser, "filter", "fabric")
    rows = list(csv.reader(io.StringIO(browser.execute_script("return csv()"))))
    assert [row[0] for row in rows[1:]] == names(browser)
    heads = [row.replace("\u25be", "").strip() for row in browser.execute_script(
        "return [...document.querySelectorAll('#table th button')].map(b => b.textContent)"
    )]  # fmt: skip
    assert rows[0] == heads
    assert float(rows[1][heads.index("params")]) >= 20_000
    choose(browser, "filter", "")
    hostile = browser.execute_script("state.table = [['=1+1', -2, 'a,b']]; return csv()")
    assert hostile == '\'=1+1,-2,"a,b"\r\n'


def test_colours_and_marks_are_those_of_the_pictures(browser: Any) -> None:
    looked = browser.execute_script("return data.looks")
    assert "ResNet" in looked
    for name, look in looks(TOPOLOGIES).items():
        assert looked.get(name, [look.colour, look.mark]) == [look.colour, look.mark]
    marks = "return [...new Set(plots.params.data.flatMap(t => t.marker ? [t.marker.symbol] : []))]"
    assert set(browser.execute_script(marks)) <= set(MARKS)


def test_a_budget_leaves_what_is_affordable(browser: Any) -> None:
    everything = set(names(browser))
    choose(browser, "budget-params", "50")
    few = set(names(browser))
    assert few < everything
    assert "net0" in few
    most = browser.execute_script("return document.getElementById('most-params').textContent")
    assert re.fullmatch(r"[\d.]+ [kM]", most)
    counts = browser.execute_script("return data.rows.filter(r => r.group === 'digits').map(r => [r.name, r.params])")
    limit = float(most.split()[0]) * {"k": 1e3, "M": 1e6}[most.split()[1]]
    assert few == {name for name, params in counts if params <= 1.001 * limit}
    choose(browser, "budget-params", "100")
    assert set(names(browser)) == everything


def test_targets_are_large_on_a_phone(chromium: Any, page: Path) -> None:
    chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        show(chromium, page, 390, 900)
        low = chromium.execute_script(
            "return [...document.querySelectorAll('button, select, input:not([type=checkbox]), label.check')]"
            ".filter(e => e.offsetHeight && e.offsetHeight < 44).map(e => e.outerHTML)"
        )
        assert low == []
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_every_net_is_reached_by_the_keyboard(browser: Any) -> None:
    buttons = browser.find_elements(By.CSS_SELECTOR, "#table tbody button")
    assert all(button.get_attribute("tabindex") in (None, "0") for button in buttons)
    browser.execute_script("arguments[0].focus()", buttons[0])
    browser.switch_to.active_element.send_keys("\ue007")  # Enter
    card = browser.find_element(By.ID, "card")
    assert card.is_displayed()
    browser.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert not card.is_displayed()
    for _ in range(2):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
    assert browser.switch_to.active_element.tag_name == "button"


def test_columns_are_chosen(chromium: Any, page: Path) -> None:
    show(chromium, page, 1280, 900)

    def heads() -> list[str]:
        return chromium.execute_script(
            "return [...document.querySelectorAll('#table th button')].map(b => b.dataset.column)"
        )

    before = heads()
    for title in ("params", "series"):
        script = "[...document.querySelectorAll('#columns button')].find(b => b.textContent === arguments[0]).click()"
        chromium.execute_script(script, title)
    assert heads() == [key for key in before if key not in ("params", "series")]
    assert chromium.execute_script("return csv()").startswith("net,accuracy [%]")
    assert "params" not in chromium.execute_script("return csv()").splitlines()[0].split(",")
    address = chromium.current_url
    chromium.get("about:blank")
    chromium.get(address)
    WebDriverWait(chromium, PATIENCE).until(lambda d: not d.find_elements(By.ID, "status"))
    assert heads() == [key for key in before if key not in ("params", "series")]


def test_the_first_view_shows_the_best_and_says_what_is_left_out(browser: Any) -> None:
    choose(browser, "group", "ImageNet-1k")
    plain = "data.rows.filter(r => r.group === 'ImageNet-1k' && data.series[r.series].shown)"
    best = browser.execute_script(f"return Math.max(...{plain}.map(r => r.score))")
    scores = "return [...document.querySelectorAll('#table tbody td.score')].map(c => Number(c.textContent))"
    assert max(browser.execute_script(scores)) == pytest.approx(best, abs=0.006)
    told = browser.find_element(By.CSS_SELECTOR, "#left-out span").text
    off = browser.execute_script(f"return inGroup().length - {plain}.length")
    assert off > 0
    assert told.startswith(f"Left out: {off} figures of ")
    press(browser, "#all-series")
    assert len(names(browser)) == browser.execute_script("return inGroup().length")
    assert browser.find_element(By.CSS_SELECTOR, "#left-out span").text == "All series are shown."
    assert not browser.find_elements(By.CSS_SELECTOR, "#published button[aria-pressed=false]")
    press(browser, "#all-series")
    assert browser.find_element(By.CSS_SELECTOR, "#left-out span").text == told


def test_images_without_a_series_of_the_first_view_are_never_empty(browser: Any) -> None:
    group = browser.execute_script(
        "const shown = (g) => data.rows.some((r) => r.group === g.id && data.series[r.series].shown);"
        "return data.groups.find((g) => !shown(g)).id"
    )
    choose(browser, "group", group)
    everything = names(browser)
    assert len(everything) == browser.execute_script("return inGroup().length") > 0
    assert not browser.find_element(By.ID, "all-series").is_displayed(), "there is nothing to switch"
    press(browser, "#all-series")
    assert names(browser) == everything


def test_nets_that_differ_in_more_than_size_are_not_joined(browser: Any) -> None:
    script = (
        "const [a, b] = data.rows.filter((r) => r.kind === 'measured' && r.topology === 'ResNet');"
        "return joined('params', [a, {...b, apart: arguments[0]}]).length"
    )
    assert browser.execute_script(script, "") == 1
    assert browser.execute_script(script, "head=linear") == 0


def test_labels_of_a_front_stand_beside_the_axis_and_not_on_it(browser: Any) -> None:
    script = "return plots.params.data.filter(t => t.mode === 'lines+text').map(t => t.textposition)"
    [sides] = browser.execute_script(script)
    assert sides == ["top right"] * 4 + ["top left"] * 8


def test_sizes_of_one_topology_are_joined(browser: Any) -> None:
    lines = browser.execute_script(
        "return plots.params.data.filter(t => t.mode === 'lines').map(t => [t.line.color, t.x.length])"
    )
    colours = browser.execute_script("return Object.fromEntries(Object.entries(data.looks).map(([k, v]) => [k, v[0]]))")
    assert sorted(lines) == sorted([colours[name], 4] for name in ("ResNet", "fabric", "DenseNet"))


def test_plots_are_told_in_words(browser: Any) -> None:
    plot = browser.find_element(By.ID, "plot-params")
    assert plot.get_attribute("role") == "figure"
    text = plot.get_attribute("aria-label")
    assert text.startswith("Plot of accuracy against parameters: 13 nets, ")
    assert "net0, net1, net2" in text
    choose(browser, "filter", "nothing like this")
    assert plot.get_attribute("aria-label") == "Plot of accuracy against parameters: nothing is shown."


def test_a_card_holds_the_drawing_of_its_preset(browser: Any) -> None:
    choose(browser, "group", "CIFAR-10")
    choose(browser, "filter", "resnet20_cifar measured")
    press(browser, "#table tbody button")
    [picture] = browser.find_elements(By.CSS_SELECTOR, "#card img")
    WebDriverWait(browser, PATIENCE).until(lambda d: picture.get_property("naturalWidth"))
    assert picture.get_property("naturalWidth") > 300
    assert picture.get_attribute("alt").startswith("resnet20_cifar, drawn")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_there_is_no_serious_fault_of_accessibility(chromium: Any, page: Path, theme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for width in (1280, 390):
        show(chromium, page, width, 900)
        assert serious_faults(chromium) == []
        press(chromium, "#table tbody button")
        assert serious_faults(chromium) == []
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
