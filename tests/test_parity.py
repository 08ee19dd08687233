"""Same weights, same outputs: every entry with a reference against it, in evaluation and (one a family) in training."""

import re
from collections.abc import Callable

import pytest
import timm
import torch
from foreign import (
    PYTORCHCV_BAGNET,
    PYTORCHCV_FISHNET,
    PYTORCHCV_PRERESNET,
    PYTORCHCV_RESNET,
    TIMM_RESNET,
    Rules,
    load_foreign,
    rename,
)
from pytorchcv.model_provider import get_model
from pytorchcv.models.resnet_cifar import get_resnet_cifar
from pytorchcv.models.resnext_cifar import get_resnext_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from torch import Tensor, nn

import zoo

RULES: list[tuple[str, Rules]] = [
    (r"pytorchcv:fishnet", PYTORCHCV_FISHNET),
    (r"pytorchcv:bagnet", PYTORCHCV_BAGNET),
    (r"pytorchcv:(preresnet|wrn|get_wrn)", PYTORCHCV_PRERESNET),
    (r"pytorchcv:", PYTORCHCV_RESNET),
    (r"timm$", TIMM_RESNET),
]
"""Which table renames the state dict of a reference; first match wins."""

# pytorchcv names only some sizes of what its constructors can build.
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet32_projection_cifar": lambda: get_resnet_cifar(10, blocks=32, bottleneck=False),
    "resnet44_projection_cifar": lambda: get_resnet_cifar(10, blocks=44, bottleneck=False),
    "wide_resnet16_8_cifar": lambda: get_wrn_cifar(10, blocks=16, width_factor=8),
    "wide_resnet40_4_cifar": lambda: get_wrn_cifar(10, blocks=40, width_factor=4),
    "wide_resnet16_2_cifar": lambda: get_wrn_cifar(10, blocks=16, width_factor=2),
    "resnext29_8x64d_cifar": lambda: get_resnext_cifar(10, blocks=29, cardinality=8, bottleneck_width=64),
}

REFERENCED = [name for name in zoo.list_models() if re.match("timm$|pytorchcv:", zoo.model_entry(name).reference)]


def rules_of(name: str) -> Rules:
    return next(rules for pattern, rules in RULES if re.match(pattern, zoo.model_entry(name).reference))


def reference(name: str) -> nn.Module:
    """The other implementation with random weights and non-trivial batch statistics."""
    source, _, twin = zoo.model_entry(name).reference.partition(":")
    if source == "timm":
        net = timm.create_model(name)
    else:
        net = BUILDERS[name]() if name in BUILDERS else get_model(twin)
        net.features.final_pool = nn.AdaptiveAvgPool2d(1)  # a fixed window would pin the input size
    generator = torch.Generator().manual_seed(3)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    scale = 0.3 if len(norms) > 500 else 1.0  # a sum of so many branches would overflow
    for norm in norms:
        for t, low, high in (
            (norm.running_mean, -0.2, 0.2),
            (norm.running_var, 0.6, 1.4),
            (norm.weight.data, 0.75 * scale, 1.25 * scale),
            (norm.bias.data, -0.2, 0.2),
        ):
            t.uniform_(low, high, generator=generator)
    return net


def twin(name: str, net: nn.Module) -> nn.Module:
    """Ours with the reference's weights."""
    ours = zoo.create_model(name, device="meta", dtype=next(net.parameters()).dtype).to_empty(device="cpu")
    load_foreign(ours, net.state_dict(), rules_of(name))
    return ours


def images(name: str) -> Tensor:
    side = min(zoo.model_entry(name).input_size[-1], 64)
    return torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(4))


def assert_same(have: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """At most ``tolerance`` of the spread apart."""
    assert want.isfinite().all()
    assert want.std() > 0
    assert (have - want).abs().max() <= tolerance * want.std()


@pytest.mark.parametrize("name", REFERENCED)
def test_evaluation(name: str) -> None:
    net = reference(name).eval()
    ours = twin(name, net).eval()
    x = images(name)
    with torch.no_grad():
        assert_same(ours(x), net(x))


@pytest.mark.parametrize(
    "name", ["resnet50", "preresnet50", "resnext50_32x4d", "resnet164_cifar", "fishnet99", "bagnet9"]
)
def test_training(name: str) -> None:
    """Outputs, gradients and updated batch statistics, in double precision."""
    net = reference(name).double().train()
    ours = twin(name, net).train()
    x = images(name).double()
    want, have = net(x), ours(x)
    assert_same(have, want)
    target = torch.linspace(-1, 1, want.numel(), dtype=want.dtype).view_as(want)
    for out in (want, have):
        (out * target).sum().backward()
    rules = rules_of(name)
    grads = {key: p.grad for key, p in ours.named_parameters()}
    largest = max(float(p.grad.abs().max()) for p in net.parameters())
    for key, p in net.named_parameters():
        # What a following norm cancels has a gradient of rounding errors only; those are measured by the largest one.
        torch.testing.assert_close(grads[rename(key, rules)].view_as(p), p.grad, rtol=1e-6, atol=1e-10 * largest)
    buffers = dict(ours.named_buffers())
    for key, t in net.named_buffers():
        torch.testing.assert_close(buffers[rename(key, rules)], t)


def test_a_wrong_net_is_noticed() -> None:
    """The comparison itself: one dilated convolution, one pooled average instead of a maximum."""
    net = reference("resnet18").eval()
    ours = twin("resnet18", net).eval()
    ours.stage3[1].branch.conv1.dilation = ours.stage3[1].branch.conv1.padding = (2, 2)
    x = images("resnet18")
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_same(ours(x), net(x))


def test_torchvision_counts() -> None:
    """torchvision publishes the counts of its nets with their weights."""
    from torchvision.models import get_model_weights, list_models

    shared = [name for name in list_models() if name in zoo.list_models()]
    assert len(shared) >= 10
    for name in shared:
        assert zoo.model_entry(name).params == next(iter(get_model_weights(name))).meta["num_params"], name
