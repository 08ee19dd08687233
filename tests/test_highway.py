"""What highway layers claim: a gate that can be shut leaves nothing but the input, and it begins nearly shut."""

import pytest
import torch
from torch import nn

import zoo
from zoo.layers import Conv, Kit
from zoo.models.highway import Gate, Highway, HighwaySpec

pytestmark = pytest.mark.quick


def gates(net: nn.Module) -> list[Gate]:
    return [module for module in net.modules() if isinstance(module, Gate)]


def test_the_layer_is_the_papers() -> None:
    unit = Highway(Kit(), Conv(out_chs=8, kernel=3, bias=True), -2.0).double()
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        transform, gate = torch.relu(unit.conv1(x)), torch.sigmoid(unit.gate(x))
        torch.testing.assert_close(unit(x), transform * gate + x * (1 - gate))
        assert 0 < gate.mean() < 0.5, "it carries more than it transforms"


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_shut_gate_carries_the_input(kernel: int) -> None:
    """The carry path has no convolution: values and gradients pass unchanged."""
    unit = Highway(Kit(), Conv(out_chs=8, kernel=kernel, bias=True), -1000.0)
    x = torch.randn(2, 8, 7, 7, requires_grad=True)
    y = unit(x)
    assert torch.equal(y, x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope, torch.ones_like(x))


def test_an_open_gate_is_a_plain_layer() -> None:
    unit = Highway(Kit(), Conv(out_chs=8, kernel=3, bias=True), 1000.0)
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(unit(x), torch.relu(unit.conv1(x)))


def test_a_dropped_layer_carries_the_input() -> None:
    unit = Highway(Kit(), Conv(out_chs=8, kernel=3, bias=True), 0.0, drop_path=0.5).train()
    x = torch.randn(64, 8, 3, 3)
    carried = [torch.equal(a, b) for a, b in zip(unit(x), x, strict=True)]
    assert 0 < sum(carried) < 64


@pytest.mark.parametrize("name", ["highway_test", "highway11_cifar"])
def test_gates_begin_at_their_bias_whenever_weights_are_drawn(name: str) -> None:
    net = zoo.create_model(name, gate_bias=-3.0)
    spec = net.spec
    assert len(gates(net)) == sum(spec.depths) - len(spec.depths)
    for _ in range(2):
        for gate in gates(net):
            assert gate.bias is not None
            assert bool((gate.bias == -3.0).all())
            assert float(gate.weight.detach().std()) > 0
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(7.0)
        net.init_weights()
    assert {g.bias[0].item() for g in gates(zoo.create_model(name)) if g.bias is not None} == {-2.0}


def test_maps_keep_their_scale_where_they_widen() -> None:
    net = zoo.create_model("highway19_cifar")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            gain = 1 if isinstance(module, Gate) else 2
            assert module.weight.detach().var().item() == pytest.approx(gain / fan_in, rel=0.15)
            assert module.bias is not None
            assert bool((module.bias == (-2.0 if isinstance(module, Gate) else 0.0)).all())


def test_counts_of_the_released_log() -> None:
    """The authors' log of the 19-layer net, layer by layer; its classifier has 100 outputs on CIFAR-10 too."""
    net = zoo.create_model("highway19_cifar", num_classes=100, device="meta")
    assert sum(p.numel() for p in net.parameters()) == 2_265_928
    assert sum(p.numel() for p in net.classifier.parameters()) == 10_100
    parts = [net.stem, *net.stage1, *net.stage2, *net.stage3, net.final]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [896, *[18_496] * 4, 23_120, *[115_360] * 5, 92_288, *[295_168] * 5, 12_900]


@pytest.mark.parametrize(
    ("name", "layers", "published", "unit"),
    [
        ("highway11_cifar", 11, 236, 1e3),
        ("highway19_cifar", 19, 2.3, 1e6),
        ("highway32_cifar", 32, 1.25, 1e6),
    ],
)
def test_published_layers_and_counts(name: str, layers: int, published: float, unit: float) -> None:
    entry = zoo.model_entry(name)
    assert isinstance(entry.spec, HighwaySpec)
    assert entry.spec.layers == layers
    assert entry.params / unit == pytest.approx(published, rel=0.02)


def test_windows_alternate() -> None:
    net = zoo.create_model("highway32_cifar", device="meta")
    convs = [m for m in net.modules() if type(m) is nn.Conv2d][:-1]
    assert [c.kernel_size[0] for c in convs] == [3, 1] * 15
    assert [g.kernel_size[0] for g in gates(net)] == [1, 3, 1, 3, 1, 3, 1, 3, 1] * 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("gate_bias", float("nan")), ("gate_bias", "-2"), ("depths", (1, 3, 3)), ("kernels", (2,)), ("widths", (8, 8))],
)
def test_nonsense_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} \("):
        zoo.model_entry("highway_test").spec.replace(**{field: value})
