"""What only dense nets claim: who reads what, the printed counts, memory that is recomputed."""

import weakref
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import TIMM_DENSENET, rename
from timm.models.densenet import DenseNet as TimmDenseNet
from torch import Tensor, nn

import zoo
from zoo.backbone import drop_path_rates
from zoo.layers import DropPath
from zoo.testing import settle_norms

pytestmark = pytest.mark.quick

# Millions of parameters, Huang et al. 2017, table 2 (the first digits are all that is printed).
TABLE_2 = {
    "densenet40_k12_cifar": 1.0,
    "densenet100_k12_cifar": 7.0,
    "densenet100_k24_cifar": 27.2,
    "densenet100_k12_bc_cifar": 0.8,
    "densenet250_k24_bc_cifar": 15.3,
    "densenet190_k40_bc_cifar": 25.6,
}


def plain_logits(net: nn.Module, x: Tensor) -> Tensor:
    """A CIFAR net without bottlenecks, from the paper's equations and the state dict alone."""
    state = net.state_dict()

    def activated(x: Tensor, key: str) -> Tensor:
        mean, var, gain, bias = (state[f"{key}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, mean, var, gain, bias))

    x = F.conv2d(x, state["stem.conv1.weight"], padding=1)
    for block in (1, 2, 3):
        if block > 1:
            x = F.conv2d(activated(x, f"transition{block - 1}.norm1"), state[f"transition{block - 1}.conv1.weight"])
            x = F.avg_pool2d(x, 2)
        for layer in range(net.spec.depths[block - 1]):
            key = f"stage{block}.{layer}.branch"
            x = torch.cat([x, F.conv2d(activated(x, f"{key}.norm1"), state[f"{key}.conv1.weight"], padding=1)], 1)
    x = activated(x, "final.norm1").mean((2, 3))
    return F.linear(x, state["classifier.fc.weight"], state["classifier.fc.bias"])


def test_a_net_without_bottlenecks_is_the_equations() -> None:
    """No other implementation of these is installed."""
    torch.manual_seed(0)
    net = settle_norms(zoo.create_model("densenet40_k12_cifar", depths=(4, 3, 2))).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), plain_logits(net, x))


@pytest.mark.parametrize("name", TABLE_2)
def test_counts_are_the_printed_ones(name: str) -> None:
    entry = zoo.model_entry(name)
    assert round(entry.params / 1e6, 1) == TABLE_2[name]
    if not entry.spec.bottleneck:
        doubled = zoo.create_model(name, stem_width=2 * entry.spec.growth_rate, device="meta")
        count = sum(p.numel() for p in doubled.parameters())
        assert round(count / 1e6, 1) != TABLE_2[name], "the first width is 16, not 2 k"


def test_264_layers_have_the_shapes_of_timms_class() -> None:
    """timm has no net of this name, but builds one from the numbers."""
    other = TimmDenseNet(growth_rate=32, block_config=(6, 12, 64, 48), device="meta").state_dict()
    own = zoo.create_model("densenet264", device="meta").state_dict()
    assert {rename(key, TIMM_DENSENET): t.shape for key, t in other.items()} == {k: t.shape for k, t in own.items()}


def test_a_layer_reads_all_maps_before_it() -> None:
    stage = zoo.create_model("densenet_test").eval().stage2
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        out = stage(x)
        assert torch.equal(out[:, :16], x)
        for i, layer in enumerate(stage):
            first, last = 16 + 8 * i, 24 + 8 * i
            assert layer.branch.conv1.in_channels == first
            torch.testing.assert_close(out[:, first:last], layer([out[:, :first]]))


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.7])
def test_recomputing_changes_no_gradient(drop_path_rate: float) -> None:
    """Also with drop path: the second pass must drop what the first has dropped."""
    torch.manual_seed(0)
    net = zoo.create_model("densenet_test", drop_path_rate=drop_path_rate).double().train()
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    runs = []
    for checkpoint in (False, True):
        net.set_grad_checkpointing(checkpoint)
        net.zero_grad()
        torch.manual_seed(1)
        out = net(x)
        torch.rand(7)  # what else draws numbers before the backward pass must not matter
        out.square().sum().backward()
        runs.append((out.detach(), {key: p.grad.clone() for key, p in net.named_parameters()}))
    torch.testing.assert_close(runs[1], runs[0])
    torch.manual_seed(2)
    assert torch.equal(net(x), runs[0][0]) == (drop_path_rate == 0), "the seed decides what is dropped"


def test_a_layer_that_works_in_place_leaves_the_input_of_its_block_alone() -> None:
    torch.manual_seed(0)
    net = zoo.create_model("densenet_test", norm_layer=nn.Identity, act_layer=nn.SiLU).eval()
    overwriting: Any = partial(nn.SiLU, inplace=True)
    twin = zoo.create_model("densenet_test", norm_layer=nn.Identity, act_layer=overwriting).eval()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), net(x))
        torch.testing.assert_close(zoo.fuse(twin)(x), net(x))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_checkpointing_keeps_no_concatenation(checkpoint: bool) -> None:
    """What a layer has read is gone after the forward pass if the backward pass makes it again."""
    stage = zoo.create_model("densenet_test", depths=(5, 1), stem="cifar").stage1
    stage.grad_checkpointing = checkpoint
    read: list[weakref.ref[Tensor]] = []
    for layer in stage:
        layer.branch.register_forward_pre_hook(lambda _, args: read.append(weakref.ref(args[0])))
    out = stage(torch.randn(2, 16, 8, 8, requires_grad=True))
    assert len(read) == 5
    assert [ref() is None for ref in read] == [checkpoint] * 5
    out.sum().backward()
    assert len(read) == (10 if checkpoint else 5)


def test_drop_path_rises_over_all_layers() -> None:
    net = zoo.create_model("densenet_test", drop_path_rate=0.3, device="meta")
    rates = [module.drop_prob for module in net.modules() if isinstance(module, DropPath)]
    assert rates == drop_path_rates(0.3, sum(net.spec.depths))[1:]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("depths", (), "positive whole numbers"),
        ("growth_rate", 0, "positive whole numbers"),
        ("bottleneck", -1, "not be negative"),
        ("compression", 0.0, "above 0"),
        ("compression", 1.5, "not above 1"),
        ("compression", 0.01, "leave channels"),
        ("stem", "deep", "be one of imagenet, cifar"),
    ],
)
def test_numbers_that_make_no_net(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} \(.*\) must .*{rule}"):
        zoo.model_entry("densenet_test").spec.replace(**{field: value})
