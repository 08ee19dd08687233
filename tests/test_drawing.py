"""`zoo.draw`: what is drawn is the net, and what is written can be read."""

import re
import xml.etree.ElementTree as ET
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
import zoo_cli
from zoo import topology
from zoo.drawing.boxes import Box, Line, boxes_of
from zoo.drawing.graph import steps_of
from zoo.drawing.layout import Layout, lay_out, scale_for
from zoo.drawing.scene import Text
from zoo.drawing.sheet import Net, compose
from zoo.drawing.write import to_svg
from zoo_cli import main

GALLERY = sorted((Path(__file__).parents[1] / "docs" / "images" / "drawn").glob("*.svg"))
SVG = "{http:" + "//www.w3.org/2000/svg}"


@cache
def drawn(name: str, level: str = "units", **overrides: Any) -> tuple[nn.Module, list[Box], list[Line]]:
    net: Any = zoo.create_model(name, device="meta", **overrides)
    return net, *boxes_of(net, steps_of(net, net.pretrained_cfg["input_size"]), level)


def laid(boxes: list[Box], lines: list[Line]) -> Layout:
    return lay_out(boxes, lines, scale_for([(boxes, lines)]))


def named(boxes: list[Box]) -> dict[str, Box]:
    return {box.name: box for box in boxes}


def test_a_fish_looks_like_a_fish() -> None:
    _, boxes, lines = drawn("fishnet_test")
    places = laid(boxes, lines).places
    at = {name: places[box] for name, box in named(boxes).items()}
    parts = [
        ["stem", "tail.pool", "tail.pool1", "tail.pool2", "tail.pool3"],
        ["bridge.widen", "body.join1", "body.join2", "body.join3"],
        ["body.join3", "head1.join", "head2.join", "head3.join"],
    ]
    for part, falls in zip(parts, (True, False, True), strict=True):
        xs, ys = [at[name].x for name in part], [at[name].left[1] for name in part]
        assert xs == sorted(xs)
        assert ys == sorted(ys, reverse=not falls), "from fine to coarse is downwards"
    for lateral, beside in (("body.lateral3.0", "tail.pool"), ("head1.lateral.0", "body.join2")):
        assert at[lateral].left[1] == at[beside].left[1]


@pytest.mark.parametrize(("type", "column_skip"), [*((type, 0) for type in topology.TYPES), ("d", 2)])
def test_a_fabric_looks_like_its_grid(type: str, column_skip: int) -> None:
    columns, scales = 4, 4
    net, boxes, lines = drawn("fabric_test", type=type, columns=columns, column_skip=column_skip)
    outputs = net.spec.head_nodes  # ty: ignore[unresolved-attribute]
    nodes = {
        box: (int(match[1]), int(match[2]))
        for box in boxes
        if (match := re.fullmatch(r"columns\.(\d+)\.(\d+)", box.name))
    }
    edges = topology.fabric_edges(type, columns, scales, column_skip)
    between = {(nodes[line.source], nodes[line.target]) for line in lines if {line.source, line.target} <= nodes.keys()}
    assert between == {(edge.source, edge.target) for edge in edges}
    live = topology.live_nodes(edges, outputs)
    assert {nodes[box] for box in nodes if box.alive} == live
    layout = laid(boxes, lines)
    for column in range(columns):
        assert len({layout.places[box].middle for box, node in nodes.items() if node[0] == column}) == 1
    for scale in range(scales):
        assert len({layout.places[box].left[1] for box, node in nodes.items() if node[1] == scale}) == 1
    rights = [layout.places[named(boxes)[f"columns.{column}.0"]].x for column in range(columns)]
    assert rights == sorted(set(rights))


def test_dead_edges_are_dotted() -> None:
    _, _boxes, lines = drawn("fabric_test", type="d", columns=4)
    edges = topology.fabric_edges("d", 4, 4)
    dead = len(edges) - len(topology.live_edges(edges, [(3, 3)]))
    assert dead
    assert sum(not line.alive for line in lines) == dead
    assert "stroke-dasharray" in zoo.draw(("fabric_test", {"type": "d", "columns": 4})).svg
    assert "stroke-dasharray" not in zoo.draw("fabric_test").svg


@pytest.mark.parametrize(
    ("name", "unit", "kind", "shortcut"),
    [
        ("resnet_test", "stage1.0", "residual", True),
        ("plain18", "stage1.0", "convolution", False),
        ("seresnet20_projection_cifar", "stage1.0", "gated", True),
        ("highway_test", "stage1.0", "gated", True),
        ("densenet_test", "stage1.0", "stacked", False),
        ("googlenet_test", "stage3.1", "branches", False),
        ("fabric_test", "columns.0.0", "node", False),
        ("fabric_test", "columns.1.1", "node", False),
        ("frrn_test", "down1.1", "stacked", False),
        ("frrn_test", "join", "concatenation", False),
        ("fishnet_test", "bridge.mul", "product", False),
        ("fishnet_test", "bridge.add", "sum", False),
        ("vgg_test", "stage2.0", "pooling", False),
        ("vgg_test", "stage2.1", "convolution", False),
        ("alexnet_test", "wide", "convolution", False),
        ("resnet_test", "classifier", "classifier", False),
        ("frrn_test", "classifier", "classifier", False),
    ],
)
def test_kinds_are_read_from_what_is_computed(name: str, unit: str, kind: str, shortcut: bool) -> None:
    box = named(drawn(name)[1])[unit]
    assert (box.kind, box.shortcut) == (kind, shortcut)


def test_every_layer_of_a_dense_block_reads_all_before_it() -> None:
    _, boxes, lines = drawn("densenet_test")
    block = [box for box in boxes if box.part == "stage2"]  # its layers, and what its next reader reads
    layers = len(block) - 1
    assert sum(line.target in block for line in lines) == sum(range(1, layers + 2))


def test_a_second_stream_is_a_line_in_its_own_row() -> None:
    _, boxes, lines = drawn("frrn_test")
    layout = laid(boxes, lines)
    lane = [route for route in layout.routes if route.line.level == 1 < route.line.source.level]
    assert len(lane) >= 5
    highest = layout.rows[1]
    assert all(min(y for _, y in route.points) <= highest for route in lane)


@pytest.mark.parametrize("level", ["stages", "units", "layers"])
def test_levels_gather_the_same_layers(level: str) -> None:
    net, boxes, _ = drawn("resnet_test", level)
    weights = {name for name, module in net.named_modules() if getattr(module, "weight", None) is not None}
    assert {step.name for box in boxes for step in box.steps} >= weights
    layers = [step for box in boxes for step in box.steps]
    assert len(layers) == len(set(layers))
    if level == "stages":
        assert [(box.name, box.units) for box in boxes if box.units > 1] == [("stage1", 2)]


@pytest.mark.parametrize("name", [name for name in zoo.list_models("*_test") if "bn" not in name])
def test_a_net_of_each_family_is_drawn_with_its_taps_and_texts_apart(name: str) -> None:
    check_drawing(name, "units")


@pytest.mark.parametrize("level", ["stages", "layers"])
@pytest.mark.parametrize("name", ["densenet_test", "fishnet_test", "fabric_test", "frrn_test"])
def test_nets_are_drawn_at_every_level(name: str, level: str) -> None:
    check_drawing(name, level)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["stages", "units", "layers"])
@pytest.mark.parametrize("name", zoo.list_models())
def test_every_net_is_drawn_at_every_level(name: str, level: str) -> None:
    check_drawing(name, level)


def check_drawing(name: str, level: str) -> None:
    """The taps are those of the net, there is one classifier, boxes and texts stand apart."""
    net, boxes, lines = drawn(name, level)
    info: Any = net.feature_info
    taps = {tap: box for box in boxes for tap in box.taps}
    assert [(taps[i].channels, taps[i].level) for i in range(len(info))] == [
        (tap["num_chs"], tap["reduction"]) for tap in info
    ]
    assert len([box for box in boxes if box.kind == "classifier"]) == 1
    check_places(boxes, lines)
    check_texts(to_svg(compose([Net(name, "facts", boxes, lines)])).decode())


def check_places(boxes: list[Box], lines: list[Line]) -> None:
    """No two boxes share a place, lines go to the right or stay in a column, and end at their boxes."""
    layout = laid(boxes, lines)
    assert len({(box.level, place.rank, place.lane) for box, place in layout.places.items()}) == len(boxes)
    assert all(place.x >= 0 and place.y >= 0 for place in layout.places.values())
    assert all(place.x + place.width <= layout.width for place in layout.places.values())
    for route in layout.routes:
        source, target = layout.places[route.line.source], layout.places[route.line.target]
        assert target.rank > source.rank or route.line.source.column == route.line.target.column != ""
        for (x, y), place in ((route.points[0], source), (route.points[-1], target)):
            assert place.x - 0.01 <= x <= place.x + place.width + 0.01
            assert place.y - 0.01 <= y <= place.y + place.height + 0.01


def check_texts(svg: str) -> None:
    """No text of an SVG covers another one, or leaves the sheet."""
    root = ET.fromstring(svg)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    texts = []
    for element in root.iter(f"{SVG}text"):
        x, y, size = (float(element.get(key, 0)) for key in ("x", "y", "font-size"))
        bold = element.get("font-weight") == "bold"
        texts.append(Text(x, y, element.text or "", size, element.get("text-anchor", "start"), bold=bold))
    assert texts
    for text in texts:
        x0, y0, x1, y1 = text.box
        assert x0 >= 0, text
        assert x1 <= width, text
        assert y0 >= 0, text
        assert y1 <= height, text
    for one, other in combinations(texts, 2):
        a, b = one.box, other.box
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_no_texts_of_the_gallery_overlap(path: Path) -> None:
    check_texts(path.read_text(encoding="ascii"))


def test_overlapping_texts_are_found() -> None:
    head = f'<svg xmlns="{SVG[1:-1]}" width="99" height="99">'
    apart = '<text x="5" y="20" font-size="10">one</text><text x="5" y="40" font-size="10">two</text>'
    check_texts(f"{head}{apart}</svg>")
    with pytest.raises(AssertionError):
        check_texts(f"{head}{apart.replace('40', '25')}</svg>")


NAMES = (
    *("fabric_a_l8_s4_c64x2_post", "wide_resnet101_2 + order=pre", "25.6 M parameters, image 3x224x224", "stride 32"),
    *("112x112", "classifier", "transition1", "unit on a concatenation", "2048", "x23"),
)


def test_texts_are_no_wider_than_they_are_taken_for() -> None:
    from matplotlib.textpath import TextPath

    for text in NAMES:
        for bold in (False, True):
            x0, _, x1, _ = Text(0, 0, text, 12, bold=bold).box
            font = {"family": "DejaVu Sans", "weight": "bold" if bold else "normal"}
            assert TextPath((0, 0), text, size=12, prop=font).get_extents().width <= x1 - x0, text


def test_several_nets_share_one_scale() -> None:
    drawing = zoo.draw("resnet_test", "vgg_test", ("resnet_test", {"order": "pre"}))
    root = ET.fromstring(drawing.svg)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"resnet_test", "vgg_test", "resnet_test + order=pre"} <= set(texts)
    heights: dict[str, set[str]] = {}
    for box in root.iter(f"{SVG}rect"):
        title = box.findtext(f"{SVG}title") or ""
        if title:
            heights.setdefault(title.rpartition(", ")[2].partition("x")[0], set()).add(box.get("height", ""))
    assert len(heights) > 5
    assert all(len(own) == 1 for own in heights.values())
    check_texts(drawing.svg)


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_equal_nets_give_equal_files(kind: str, tmp_path: Path) -> None:
    magic = {"svg": b"<svg ", "png": b"\x89PNG", "pdf": b"%PDF"}[kind]
    for name in ("one", "two"):
        zoo.draw("lenet_test").save(tmp_path / f"{name}.{kind}")
    one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
    assert one.read_bytes().startswith(magic)
    assert one.read_bytes() == two.read_bytes()


def test_a_net_is_drawn_and_left_alone() -> None:
    net: Any = zoo.create_model("lenet_test").train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert "LeNet" in zoo.draw(net)._repr_svg_()
    assert net.training
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert "Sequential" in zoo.draw(own, level="layers", input_size=(3, 16, 16)).svg


def test_layers_for_training_only_are_not_drawn() -> None:
    for name in ("fishnet_test", "vgg_test", "fabric_test"):
        _, boxes, lines = drawn(name, drop_path_rate=0.2)
        _, plain, wires = drawn(name)
        assert [(box.name, box.kind) for box in boxes] == [(box.name, box.kind) for box in plain]
        assert len(lines) == len(wires)


def test_nets_of_timm_are_drawn() -> None:
    drawing = zoo.draw("timm:test_resnet", level="stages")
    assert "timm:test_resnet" in drawing.svg
    check_texts(drawing.svg)


class Bends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else self.act(x)


@pytest.mark.parametrize(
    ("nets", "options", "message"),
    [
        ((), {}, "nets must name at least one net"),
        (("resnet_test",), {"level": "atoms"}, r"level \('atoms'\) must be one of stages, units, layers"),
        (("resnet_tset",), {}, "did you mean resnet_test"),
        (("resnet_test",), {"order": "nothing"}, r"order \('nothing'\) must be one of post"),
        (("resnet_test",), {"device": "cpu"}, r"device \('cpu'\) cannot be changed: a drawing needs no weights"),
        (("resnet_test",), {"input_size": (3, 32)}, r"input_size \(3, 32\) must be three positive integers"),
        (("resnet_test",), {"input_size": (1, 64, 64)}, "it takes no image of"),
        (("resnet_test",), {"input_size": 32}, r"input_size 32 must be three positive integers"),
        (("fabric_test",), {"input_size": (3, 2, 2)}, r"must be at least \d+x\d+ for this net\)$"),
        ((Bends(),), {"input_size": (3, 8, 8)}, "torch.fx cannot follow it"),
        ((nn.Identity(),), {}, "input_size must be given, for Identity states none"),
        ((nn.Identity(),), {"input_size": (3, 8, 8)}, "has nothing to draw"),
        ((nn.ReLU(),), {"order": "pre"}, r"overrides \(order\) belong to nets given by name"),
    ],
)
def test_mistakes_are_told(nets: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.draw(*nets, **options)


def test_a_change_with_the_name_of_an_option_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "lenet_test", "--set", "level=units"]) == 2
    assert "lenet_test has no argument 'level' (given 'units')" in capsys.readouterr().err


def test_the_verb_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "nets.svg"
    words = ["draw", "resnet_test", "resnet_test", "order=pre", "--set", "stem_width=8", "-o", str(out)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}\n"
    own = {"stem_width": 8}
    expected = zoo.draw(("resnet_test", own), ("resnet_test", {"order": "pre"}), stem_width=8).svg
    assert out.read_text() == expected
    assert "resnet_test + stem_width=8 + order=pre" in expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("order=pre resnet_test", "'order=pre' changes no net: it must stand behind a name"),
        ("resnet_test -o x.gif", "out (x.gif) must end in .svg, .png or .pdf"),
        ("resnet_test colour=red", "resnet_test has no argument 'colour'"),
        ("nothing*", "pattern 'nothing*' matches no model"),
    ],
)
def test_the_verb_tells_mistakes(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_info_names_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "lenet_test"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Picture: ")]
    assert zoo_cli.parse(line.removeprefix("Picture: zoo ").split()).names == ["lenet_test"]
