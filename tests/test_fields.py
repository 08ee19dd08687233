"""Receptive fields: published values, and the field by experiment, which knows nothing of intervals."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structures import FABRIC, FORWARDS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import zoo
import zoo_cli.analyse
from zoo.analysis.effective import effective_field
from zoo.analysis.field import known_fields, receptive_fields, stacked_maps, tap_fields
from zoo.analysis.flow import record
from zoo.analysis.nets import Options, open_net
from zoo.analysis.run import ANALYSES, analyse
from zoo_cli import main

SIZE = (3, 64, 64)
NETS: list[Any] = [
    *((name, {}) for name in FORWARDS if name != "fabric_test"),
    *(pytest.param(name, {}, marks=pytest.mark.slow) for name in zoo.list_models("*_test") if name not in FORWARDS),
    pytest.param("fabric_test", {}, marks=pytest.mark.slow),
    ("resnet_test", {"squeeze": 4, "output_stride": 8}),
    ("fabric_test", FABRIC | {"unit": "conv", "up": "zero", "type": "d", "column_skip": 2}),
    pytest.param("fabric_test", FABRIC | {"unit": "pre", "up": "nearest", "type": "b"}, marks=pytest.mark.slow),
]


class Averaging(TorchFunctionMode):
    """Max-pooling becomes an average and a gate becomes 1, so that every pixel that is read has a gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        match getattr(func, "__name__", ""):
            case "max_pool2d":
                return self.window(*args, **{key: value for key, value in kwargs.items() if key != "return_indices"})
            case "pad" if kwargs.get("value") == float("-inf"):
                return func(*args, **(kwargs | {"value": 0.0}))
            case "sigmoid":
                return torch.ones_like(args[0])
        return func(*args, **kwargs)

    @staticmethod
    def window(
        x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Tensor:
        kernel, stride = _one(kernel_size), _one(stride or kernel_size)
        x = F.pad(x, (0, stride - 1, 0, stride - 1)) if ceil_mode else x
        weight = x.new_full((x.shape[1], 1, kernel, kernel), 1 / kernel**2)
        return F.conv2d(x, weight, None, stride, _one(padding), _one(dilation), groups=x.shape[1])


def _one(number: Any) -> int:
    return number[0] if isinstance(number, tuple | list) else number


def positive(net: nn.Module) -> dict[str, Tensor]:
    """Tensors for the net: weights of 1 / fan-in, no biases, norms that do nothing."""
    found = {}
    for name, old in (*net.named_parameters(), *net.named_buffers()):
        value = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
        found[name] = torch.full(old.shape, value, dtype=torch.float64)
        if old.dim() > 1:
            found[name] /= old[0].numel()
    return found


def fields_by_experiment(net: nn.Module, size: Sequence[int]) -> dict[str, tuple[tuple[int, int], ...]]:
    """First and last row and column with a gradient from the centre of each tap."""
    x = torch.ones(1, *size, dtype=torch.float64, requires_grad=True)
    kept: dict[str, Tensor] = {}
    hooks = [
        net.get_submodule(tap["module"]).register_forward_hook(
            lambda _m, _i, out, name=tap["module"]: kept.update({name: out})
        )
        for tap in net.feature_info  # ty: ignore[not-iterable]
    ]
    with Averaging():
        torch.func.functional_call(net.eval(), positive(net), (x,))
    for hook in hooks:
        hook.remove()
    found = {}
    for name, tap in kept.items():
        centre = tap[0, :, tap.shape[2] // 2, tap.shape[3] // 2].sum()
        [gradient] = torch.autograd.grad(centre, x, retain_graph=True)
        seen = gradient[0].abs().sum(0)
        spans = [torch.nonzero(seen.sum(axis)).flatten() for axis in (1, 0)]
        found[name] = tuple((int(span[0]), int(span[-1])) for span in spans)
    return found


@pytest.mark.parametrize(("name", "changes"), NETS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_field_by_intervals_is_the_field_by_experiment(name: str, changes: dict[str, Any]) -> None:
    net = zoo.create_model(name, **changes)
    found = {f.module: (f.rows, f.columns) for f in receptive_fields(net, input_size=SIZE) if f.module != "features"}
    measured = fields_by_experiment(net, SIZE)
    assert found == measured


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("alexnet", 195),
        ("vgg16", 212),
        pytest.param("bagnet9", 9, marks=pytest.mark.slow),
        pytest.param("bagnet17", 17, marks=pytest.mark.slow),
        ("bagnet33", 33),
        ("resnet18", 435),
        pytest.param("resnet50", 427, marks=pytest.mark.slow),
        ("resnet50_v1", 483),
    ],
)
def test_published_fields(name: str, size: int) -> None:
    *_, last = receptive_fields(zoo.create_model(name, device="meta"), ["features"])
    assert last.size == (size, size)


def dilated(*dilations: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in dilations))


@pytest.mark.parametrize(("dilations", "size"), [((1, 2, 4, 8), 31), ((1,), 3), ((1,) * 10, 21), ((1,) * 100, 201)])
def test_stacks_of_dilated_convolutions(dilations: tuple[int, ...], size: int) -> None:
    [field] = receptive_fields(dilated(*dilations), ["features"], input_size=(1, 32, 40))
    assert field.size == (size, size)
    assert field.rows == (max(16 - size // 2, 0), min(16 + size // 2, 31))
    assert field.columns == (max(20 - size // 2, 0), min(20 + size // 2, 39))


def test_memory_of_a_hundred_convolutions() -> None:
    net = nn.Sequential(*(nn.Conv2d(200, 200, 3, padding=1, device="meta") for _ in range(100)))
    layers = stacked_maps(net, input_size=(200, 400, 400))
    assert round(layers[0].mebibytes, 2) == 122.07
    assert round(20 * sum(layer.mebibytes for layer in layers) / 1024, 1) == 238.4
    assert [layer.field[0] for layer in layers] == list(range(3, 202, 2))


class Shapes(nn.Module):
    """Operators between axes: halves of a map side by side, a transposition, a convolution that enlarges."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.transpose(2, 3).split([6, 10], dim=3)
        return self.up(torch.cat([right, left], 3).permute(0, 1, 3, 2))


def test_operators_that_move_axes() -> None:
    net = Shapes().double()
    [field] = receptive_fields(net, ["up"], input_size=(2, 16, 16))
    x = torch.ones(1, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    torch.func.functional_call(net, positive(net), (x,))[0, :, 16, 16].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].sum(0)
    rows, columns = (torch.nonzero(seen.sum(axis)).flatten().tolist() for axis in (1, 0))
    assert (field.rows, field.columns) == ((rows[0], rows[-1]), (columns[0], columns[-1]))


def test_gates_and_whole_images() -> None:
    net = zoo.create_model("resnet_test", squeeze=4, device="meta")
    plain = receptive_fields(zoo.create_model("resnet_test", device="meta"), input_size=SIZE)
    assert receptive_fields(net, input_size=SIZE) == plain, "gates are constants"
    gated = receptive_fields(net, input_size=SIZE, gates="whole")[-1]
    assert gated.size == (64, 64)
    assert gated.whole
    assert all(name.endswith("gate.pool") for name in gated.whole)


def test_an_operator_without_a_rule_reads_everything() -> None:
    [field] = receptive_fields(nn.Sequential(nn.Identity(), Flipped()), ["1"], input_size=SIZE)
    assert field.size == (64, 64)
    assert field.whole == ("1",)


class Flipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(3)


def test_the_net_stays_as_it_is() -> None:
    net = zoo.create_model("resnet_test").train()
    net.stem.eval()  # ty: ignore[unresolved-attribute]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    state = torch.get_rng_state()
    receptive_fields(net, input_size=SIZE)
    stacked_maps(net, input_size=SIZE)
    assert modes == [module.training for module in net.modules()]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_effective_field_of_random_convolutions_is_inside_of_the_field_and_grows_like_a_root() -> None:
    sides = []
    for depth in (5, 20):
        net = nn.Sequential(*(nn.Conv2d(8 if i else 1, 8, 3, padding=1, bias=False) for i in range(depth)))
        seen, side = effective_field(net, torch.randn(8, 1, 64, 64))
        reach = int((seen.sum(0) > 0).sum())
        assert reach == 2 * depth + 1
        assert 0 < side < reach
        sides.append(side / reach)
    assert sides[1] < 0.75 * sides[0], "the share of the field that matters shrinks with depth"


def test_the_analysis_of_effective_fields(tmp_path: Path) -> None:
    outcome = analyse("effective-field", ["resnet_test"], Options(input_size=(3, 64, 64), images=4, module="stage1"))
    [row] = outcome.rows
    net = open_net("resnet_test")
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen, side = effective_field(net, noise, "stage1")
    [field] = receptive_fields(net, ["stage1"], input_size=SIZE)
    assert row["effective"] == round(side, 2)
    assert row["field"] == f"{field.size[0]}x{field.size[1]}"
    lit = torch.nonzero(seen.sum(1)).flatten()
    assert field.rows[0] <= int(lit[0]) <= int(lit[-1]) <= field.rows[1]
    with pytest.raises(ValueError, match=r"module \('stage9'\) is not a module of the net"):
        effective_field(net, noise, "stage9")
    with pytest.raises(ValueError, match="a field belongs to a map"):
        effective_field(net, noise, "classifier")


def test_mistakes_are_explained() -> None:
    net = dilated(1)
    with pytest.raises(ValueError, match=r"gates \('open'\) must be one of constant, whole"):
        receptive_fields(net, gates="open")
    with pytest.raises(ValueError, match=r"module \('7'\) gives no map"):
        receptive_fields(net, ["7"], input_size=(1, 8, 8))
    with pytest.raises(ValueError, match=r"input_size .* does not run through the net"):
        receptive_fields(net, input_size=(3, 8, 8))
    with pytest.raises(ValueError, match="a field belongs to a map"):
        receptive_fields(nn.Flatten(), ["features"], input_size=(1, 8, 8))
    with pytest.raises(ValueError, match="does not depend on its image"):
        record(Fixed(), (1, 8, 8))


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_the_analysis_gives_a_table_and_a_picture(tmp_path: Path) -> None:
    outcome = analyse("receptive-field", ["lenet_test", "alexnet_test"], Options(input_size=SIZE))
    assert {row["net"] for row in outcome.shown} == {"lenet_test", "alexnet_test"}
    paths = outcome.write(tmp_path)
    assert [path.name for path in paths] == ["receptive-field.csv", "receptive-field.png", "receptive-field.svg"]
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert len(rows) == len(outcome.rows) > 4
    assert float(rows[1]["MiB_so_far"]) == pytest.approx(float(rows[0]["MiB"]) + float(rows[1]["MiB"]), abs=1e-5)
    assert "$" not in paths[2].read_text()


def test_the_command_line_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyse", "receptive-field", "lenet_test", "--input-size", "3x64x64", "--out", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out) == analyse("receptive-field", ["lenet_test"], Options(input_size=SIZE)).rows
    )
    assert main(["info", "lenet_test"]) == 0
    assert "  field\n" in capsys.readouterr().out


@pytest.mark.only(name=("alexnet", "fabric_test", "fishnet_test", "googlenet_test", "resnet_test", "vgg11"))
@pytest.mark.parametrize("name", zoo.list_models())
def test_known_fields_are_those_that_are_measured(name: str) -> None:
    assert known_fields()[name] == tap_fields(name), "python docs/fields.py"


def test_fields_are_known_of_all_models() -> None:
    assert list(known_fields()) == zoo.list_models()


def test_every_analysis_is_a_word_of_the_command_line() -> None:
    assert list(ANALYSES) == list(zoo_cli.analyse.ANALYSES)
    with pytest.raises(ValueError, match=r"what \('field'\) must be one of receptive-field"):
        analyse("field", [])
    with pytest.raises(ValueError, match=r"is a folder without config.json"):
        analyse("receptive-field", ["."])
