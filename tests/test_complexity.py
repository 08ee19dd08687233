"""Counting: numbers by hand, torch's own counter, and that the counted net is left alone."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from fvcore.nn import ActivationCountAnalysis
from processes import FORK
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo import catalogue
from zoo.complexity import Complexity, count

# Every kind of arithmetic that nets are made of. (3, 8, 8) -> 8x8 -> 4x4 -> 4x4 -> 10.
BY_HAND = {  # child: parameters, multiply-adds, activations
    "conv": (3 * 3 * 3 * 8 + 8, 8 * 8 * 8 * 27, 8 * 8 * 8),
    "grouped": (2 * 3 * 3 * 16, 4 * 4 * 16 * 2 * 9, 4 * 4 * 16),
    "dilated": (16 * 3 * 3 * 4, 4 * 4 * 4 * 16 * 9, 4 * 4 * 4),
    "norm": (2 * 4, 0, 0),
    "fc": (4 * 10 + 10, 4 * 10, 10),
    "(root)": (10 * 5, 10 * 5, 5),
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4, bias=False)
        self.dilated = nn.Conv2d(16, 4, 3, padding=2, dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)
        self.matrix = nn.Parameter(torch.randn(10, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.dilated(self.grouped(self.conv(x)))).mean((2, 3))
        return torch.sigmoid(self.fc(x)) @ self.matrix


def torch_macs(model: nn.Module, size: tuple[int, ...]) -> int:
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).eval()(torch.zeros(1, *size, device=device))
    return counter.get_total_flops() // 2


def test_a_net_counted_by_hand() -> None:
    result = count(Small(), (3, 8, 8))
    assert {s.name: (s.params, s.macs, s.activations) for s in result.stages} == BY_HAND
    params, macs, activations = (sum(column) for column in zip(*BY_HAND.values(), strict=True))
    assert (result.params, result.macs, result.activations) == (params, macs, activations)
    assert result.fvcore_flops == macs + 2 * 4 * 4 * 4  # batch norm: two an element
    assert result.uncounted == {"aten::mean": 1, "aten::sigmoid": 1}


@pytest.mark.parametrize(
    ("forward", "macs"),
    [
        (lambda x: torch.einsum("nchw,ndhw->ncd", x, x), 3 * 3 * 64),
        (lambda x: torch.bmm(x[:, 0], x[:, 1]), 8**3),
        (lambda x: torch.mm(x[0, 0], x[0, 1]), 8**3),
        (lambda x: torch.addmm(x[0, 2], x[0, 0], x[0, 1]), 8**3),
    ],
    ids=["einsum", "bmm", "mm", "addmm"],
)
def test_matrix_products_count(forward: Callable[[Tensor], Tensor], macs: int) -> None:
    model = nn.Module()
    model.forward = forward
    result = count(model, (3, 8, 8))
    assert (result.macs, result.fvcore_flops, result.uncounted) == (macs, macs, {})
    assert result.activations == forward(torch.zeros(1, 3, 8, 8)).numel()


def test_resnet50_has_the_published_figures() -> None:
    result = count(timm.create_model("resnet50", device="meta"))
    assert result.input_size == (3, 224, 224)
    assert result.params == 25_557_032
    assert result.macs == 4_089_184_256
    assert result.fvcore_flops == 4_111_512_576
    assert result.uncounted == {"aten::add_": 16, "aten::max_pool2d": 1}
    conv = result.macs - next(s.macs for s in result.stages if s.name == "fc")
    assert conv == 4_087_136_256


@pytest.mark.parametrize("name", ["resnext50_32x4d", "densenet121", "seresnet50", "mixer_s16_224", "hrnet_w18_small"])
def test_torch_counts_the_same_in_nets_of_timm(name: str) -> None:
    model = timm.create_model(name, device="meta")
    result = count(model)
    assert result.macs == torch_macs(model, result.input_size)
    check_sums(result)


@pytest.mark.rows(families=True)
@pytest.mark.parametrize("name", ["resnet50", "fishnet99", *zoo.list_models("*_test")])
def test_torch_counts_the_same_in_ours(name: str) -> None:
    model = zoo.create_model(name, device="meta")
    result = count(model)
    assert result.macs == torch_macs(model, result.input_size)
    assert result.input_size == zoo.model_entry(name).input_size
    check_sums(result)


def check_sums(result: Complexity) -> None:
    for column in ("params", "macs", "activations"):
        assert sum(getattr(stage, column) for stage in result.stages) == getattr(result, column)


@pytest.mark.parametrize("name", ["resnet18", "seresnet50"])
def test_activations_are_those_of_fvcore(name: str) -> None:
    model = timm.create_model(name).eval()
    analysis = ActivationCountAnalysis(model, torch.zeros(1, 3, 64, 64)).unsupported_ops_warnings(False)
    assert count(model, (3, 64, 64)).activations == analysis.total()


def test_the_net_is_left_as_it_was() -> None:
    model = timm.create_model("resnet18")
    model.layer2.eval()  # a frozen stage must not wake up
    flags = [m.training for m in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, (3, 32, 32))
    with pytest.raises(ValueError, match="does not run"):
        count(nn.Sequential(model.conv1, nn.Conv2d(8, 8, 1)), (3, 32, 32))
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_meta_and_real_nets_cost_the_same() -> None:
    assert count(timm.create_model("resnet18", device="meta")) == count(timm.create_model("resnet18"))


def test_a_net_on_the_meta_device_is_left_there() -> None:
    model = timm.create_model("resnet18", device="meta")
    tied = nn.Sequential(model.conv1, nn.Conv2d(8, 8, 1, device="meta"))
    before = {id(t) for t in (*model.parameters(), *model.buffers())}
    count(model)
    with pytest.raises(ValueError, match="does not run"):
        count(tied, (3, 32, 32))
    assert {id(t) for t in (*model.parameters(), *model.buffers())} == before
    assert all(t.is_meta for t in tied.parameters())
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*model.modules(), *tied.modules()))


@pytest.mark.parametrize(
    "conv",
    [
        dict(kernel_size=3, stride=2, padding=1, bias=False),
        dict(kernel_size=(3, 5), stride=(1, 2), padding=(0, 2), dilation=(2, 1), groups=2),
        dict(kernel_size=3, padding="same"),
        dict(kernel_size=3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_convolutions_cost_the_same_on_the_meta_device(conv: dict[str, Any]) -> None:
    size = (4, 19, 22)
    nets = [nn.Sequential(nn.Conv2d(4, 6, **conv, device=d), nn.ReLU(), nn.Flatten()) for d in ("meta", "cpu")]
    assert count(nets[0], size) == count(nets[1], size)


def test_weights_that_are_made_on_the_way_cost_the_same_on_the_meta_device() -> None:
    nets = [zoo.create_model("fabric_test", unit="sparse", gate="none", device=d) for d in ("meta", "cpu")]
    counts = [count(net, (3, 64, 64)) for net in nets]
    assert counts[0] == counts[1]
    assert counts[0].uncounted["aten::index_select"] > 10


def test_channels_come_from_the_configuration_of_a_net_that_does_not_say_them() -> None:
    net: Any = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten())
    net.pretrained_cfg = {"input_size": (2, 8, 9)}
    assert count(net).input_size == (2, 8, 9)


def test_counting_says_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """fvcore would warn of every operator that costs nothing, and of every layer that the pass leaves out."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten())
    net.unused = nn.Conv2d(3, 4, 3)
    net.forward = lambda x: net[2](net[1](net[0](x)))
    assert count(net, (3, 8, 8)).macs == 3 * 9 * 4 * 36
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_processes_count_what_one_counts_in_the_order_of_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "SHORT", 1)
    monkeypatch.setattr(catalogue, "get_context", lambda _: FORK)  # a fifth of the time
    names = ["resnet_test", "timm:test_resnet", "fabric_test", "frrn_test"]
    size = (3, 160, 192)  # large enough for oneDNN, whose convolutions the processes do not compute
    alone = list(catalogue.count_names(names, size))
    together = catalogue.count_names([*names, "no_such_net"], size, workers=2)
    assert [next(together) for _ in names] == alone
    with pytest.raises(ValueError, match="no_such_net"):
        next(together)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((1, 7), (2, 3), (0, 3), (1, 1), 2),
        ((3, 3), (2, 2), (4, 4), (4, 4), 4),
        ((5, 2), (3, 1), (0, 1), (2, 3), 1),
    ],
)
def test_an_idle_convolution_has_the_shape_of_a_real_one(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    x, weight = torch.ones(1, 8, 23, 30), torch.ones(12, 8 // groups, *kernel)
    real = nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    idle = catalogue._shaped_convolution(x, weight, None, padding, stride, dilation, groups)
    assert idle.shape == real.shape
    assert not idle.any()


def test_half_precision_costs_the_same() -> None:
    assert count(Small().bfloat16(), (3, 8, 8)) == count(Small(), (3, 8, 8))


@pytest.mark.parametrize("in_chans", [1, 5])
def test_feature_extractors_count_without_the_head(in_chans: int) -> None:
    whole = timm.create_model("resnet18", in_chans=in_chans)
    features = timm.create_model("resnet18", features_only=True, in_chans=in_chans)
    assert count(features).input_size == (in_chans, 224, 224)
    assert count(whole).macs - count(features).macs == 512 * 1000


def test_shared_weights_count_once_and_their_work_every_time() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    twin = nn.Conv2d(3, 3, 1, bias=False)
    twin.weight = conv.weight
    result = count(nn.Sequential(conv, twin, nn.Sequential(conv)), (3, 4, 4))
    assert (result.params, result.macs) == (9, 3 * 9 * 16)
    # The third call runs the first module again, and is booked where that module lives.
    assert [(s.params, s.macs) for s in result.stages] == [(9, 2 * 9 * 16), (0, 9 * 16), (0, 0)]


def test_a_child_that_lives_in_an_earlier_one_is_booked_there() -> None:
    conv = nn.Conv2d(3, 3, 1, bias=False)
    result = count(nn.Sequential(nn.Sequential(conv), conv), (3, 4, 4))
    assert [(s.params, s.macs) for s in result.stages] == [(9, 2 * 9 * 16), (0, 0)]
    check_sums(result)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        count(Small(), (3, 8, 8))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_to_dict_survives_json() -> None:
    result = count(Small(), (3, 8, 8))
    read = json.loads(json.dumps(result.to_dict()))
    assert read == result.to_dict()
    assert read["uncounted"] == {"aten::mean": 1, "aten::sigmoid": 1}
    assert read["stages"][0] == {"name": "conv", "params": 224, "macs": 13824, "activations": 512}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (None, "states none; pass"),
        ((3, 8), "three positive integers"),
        ((3, 8, 0), "three positive integers"),
        ((3, 8.0, 8), "three positive integers"),
        ((4, 8, 8), "does not run through Small"),
    ],
)
def test_a_wrong_size_is_named(size: tuple[int, int, int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        count(Small(), size)


def test_wrong_channels_are_named_before_the_net_runs() -> None:
    with pytest.raises(ValueError, match="has 3 channels, the model takes 1"):
        count(timm.create_model("resnet18", in_chans=1), (3, 64, 64))


def test_deformable_convolutions_are_counted() -> None:
    """As the plain ones, plus those that compute the offsets."""
    plain = count(zoo.create_model("resnet_test"), (3, 64, 64))
    deformed = count(zoo.create_model("resnet_test", deform_stages=(4,)), (3, 64, 64))
    assert deformed.macs - plain.macs == 2 * 2 * 18 * 24 * 9
    assert not any("deform" in operator for operator in deformed.uncounted)


class Wrapped(nn.Module):
    """A net whose output something else is made of."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = zoo.create_model("resnet_test")
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.net(x))


@dataclass
class Output:
    logits: Tensor
    loss: float = 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda y: {"out": y, "n": 3, "name": "x", 5: [y, None]},
        lambda y: (y, 1.5, "text"),
        lambda y: [{"a": (y,)}, 7],
        Output,
    ],
)
def test_outputs_may_hold_more_than_tensors(make: Callable[[Tensor], Any]) -> None:
    assert count(Wrapped(make), (3, 64, 64)).macs == count(zoo.create_model("resnet_test")).macs


def test_a_net_without_a_tensor_is_named() -> None:
    for make in (lambda y: 3, lambda y: None):
        with pytest.raises(ValueError, match=r"model \(Wrapped\) returns no tensor but a (int|NoneType)"):
            count(Wrapped(make), (3, 64, 64))


def test_compiled_nets_count_as_what_was_compiled() -> None:
    net = zoo.create_model("resnet_test")
    want = count(net)
    compiled: Any = torch.compile(net, backend="eager")
    assert count(compiled) == want
    inside = nn.Sequential(compiled)
    assert count(inside, (3, 64, 64)).macs == want.macs
    assert inside[0] is compiled
    net.compile(backend="eager")
    assert count(net) == want
    assert net._compiled_call_impl is not None


def test_scripted_nets_count_by_their_operators() -> None:
    net = zoo.create_model("resnet_test").train()
    want = count(net)
    for other in (torch.jit.script(net), torch.jit.trace(net.eval(), torch.zeros(1, 3, 64, 64))):
        cost = count(other, (3, 64, 64))
        assert (cost.macs, cost.activations, cost.params) == (want.macs, want.activations, want.params)
        assert "aten::native_batch_norm" in cost.uncounted, "what fvcore knows by another name is said"
        assert [stage.name for stage in cost.stages] == ["(root)"]
    scripted = torch.jit.script(net.train())
    count(scripted, (3, 64, 64))
    assert scripted.training


@pytest.mark.parametrize("size", [(3, 99_999_999, 99_999_999), (3, 2**40, 1), (10**30, 1, 1), (2**20, 16, 16)])
def test_an_image_that_fills_the_memory_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"input_size \(.*\) must have at most 134,217,728 numbers"):
        count(nn.Conv2d(3, 1, 1), size)


def test_a_net_that_knows_its_smallest_image_says_so() -> None:
    for device in ("cpu", "meta"):
        net = zoo.create_model("vgg_test", device=device)
        with pytest.raises(
            ValueError, match=r"does not run through VGG: .*\(31x40\) must be at least 32x32 for this net"
        ):
            count(net, (3, 31, 40))
        assert not any(module._forward_hooks for module in net.modules())
        assert next(net.parameters()).device.type == device


def test_what_takes_no_image_is_named() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(ValueError, match=r"model \(Two\) does not take an image of \(3, 8, 8\): TypeError: .*'y'"):
        count(Two(), (3, 8, 8))
    with pytest.raises(TypeError, match=r"model \(str\) must be a net"):
        count("resnet_test")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ValueError, match=r"must be three positive integers"):
        count(Two(), (True, 8, 8))
