"""Same weights, same outputs: every entry with a reference against it, in evaluation and (one a family) in training."""

import re
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from foreign import (
    PYTORCHCV_BAGNET,
    PYTORCHCV_BN_INCEPTION,
    PYTORCHCV_DENSENET,
    PYTORCHCV_FISHNET,
    PYTORCHCV_PRERESNET,
    PYTORCHCV_RESNET,
    TIMM_DENSENET,
    TIMM_RESNET,
    TORCHVISION_ALEXNET,
    TORCHVISION_GOOGLENET,
    Rules,
    load_foreign,
    plain,
    rename,
)
from pytorchcv.model_provider import get_model
from pytorchcv.models.resnet_cifar import get_resnet_cifar
from pytorchcv.models.resnext_cifar import get_resnext_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from torch import Tensor, nn

import zoo
from zoo.models.vgg import VGGSpec
from zoo.testing import settle_norms

RULES: list[tuple[str, Rules]] = [
    (r"pytorchcv:densenet", PYTORCHCV_DENSENET),
    (r"pytorchcv:fishnet", PYTORCHCV_FISHNET),
    (r"pytorchcv:bagnet", PYTORCHCV_BAGNET),
    (r"pytorchcv:bninception", PYTORCHCV_BN_INCEPTION),
    (r"pytorchcv:(preresnet|wrn|get_wrn)", PYTORCHCV_PRERESNET),
    (r"pytorchcv:", PYTORCHCV_RESNET),
    (r"timm:densenet", TIMM_DENSENET),
    (r"timm:", TIMM_RESNET),
    (r"torchvision:alexnet", TORCHVISION_ALEXNET),
    (r"torchvision:googlenet", TORCHVISION_GOOGLENET),
]
"""Which table renames the state dict of a reference (with timm, of the net of our name); first match wins."""

# pytorchcv names only some sizes of what its constructors can build; torchvision warns of its slow initialisation.
BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet32_projection_cifar": lambda: get_resnet_cifar(10, blocks=32, bottleneck=False),
    "resnet44_projection_cifar": lambda: get_resnet_cifar(10, blocks=44, bottleneck=False),
    "wide_resnet16_8_cifar": lambda: get_wrn_cifar(10, blocks=16, width_factor=8),
    "wide_resnet40_4_cifar": lambda: get_wrn_cifar(10, blocks=40, width_factor=4),
    "wide_resnet16_2_cifar": lambda: get_wrn_cifar(10, blocks=16, width_factor=2),
    "googlenet_bn": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False, dropout=0.0),
    "resnext29_8x64d_cifar": lambda: get_resnext_cifar(10, blocks=29, cardinality=8, bottleneck_width=64),
}

REFERENCED = [
    name for name in zoo.list_models() if re.match("timm$|torchvision|pytorchcv:", zoo.model_entry(name).reference)
]

# The wide layers hold most of a VGG's weights: all but one net are held against timm's with narrow ones, to save time.
NARROW = [name for name in REFERENCED if re.fullmatch(r"vgg\d+(_bn)?", name) and name != "vgg11"]


def rules_of(name: str) -> Rules:
    spec = zoo.model_entry(name).spec
    if isinstance(spec, VGGSpec):
        return plain(spec.depths, spec.norm, ("pre_logits.fc1", "pre_logits.fc2"), "head.fc")
    source = zoo.model_entry(name).reference
    source = f"timm:{name}" if source == "timm" else source
    return next(rules for pattern, rules in RULES if re.match(pattern, source))


def reference(name: str) -> nn.Module:
    """The other implementation with random weights and non-trivial batch statistics."""
    source, _, twin = zoo.model_entry(name).reference.partition(":")
    if source == "timm":
        net = timm.create_model(name, mlp_ratio=1 / 64) if name in NARROW else timm.create_model(name)
    elif source == "torchvision":
        net = BUILDERS[name]() if name in BUILDERS else torchvision.models.get_model(twin or name)
    else:
        net = BUILDERS[name]() if name in BUILDERS else get_model(twin)
        net.features.final_pool = nn.AdaptiveAvgPool2d(1)  # a fixed window would pin the input size
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    return settle_norms(net, scale=0.3 if norms > 500 else 1.0)  # a sum of so many branches would overflow


def twin(name: str, net: nn.Module) -> nn.Module:
    """Ours with the reference's weights."""
    options = {"wide": (64, 4096)} if name in NARROW else {}
    ours = zoo.create_model(name, device="meta", dtype=next(net.parameters()).dtype, **options).to_empty(device="cpu")
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


@pytest.mark.rows
# vgg11 has a hundred million parameters in wide layers like those of alexnet.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "vgg11" else []) for name in REFERENCED]
)
def test_evaluation(name: str) -> None:
    net = reference(name).eval()
    ours = twin(name, net).eval()
    x = images(name)
    with torch.no_grad():
        assert_same(ours(x), net(x))


@pytest.mark.parametrize("name", [pytest.param("vgg11", marks=pytest.mark.slow), "alexnet"])
def test_wide_layers_at_full_size(name: str) -> None:
    """At 224 px the first wide layer's window fits the map as it is, without the pooling of a smaller one."""
    net = reference(name).eval()
    ours = twin(name, net).eval()
    x = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert ours.forward_features(x).shape[-1] == ours.wide.wide.kernel
        assert_same(ours(x), net(x))


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        pytest.param("preresnet50", marks=pytest.mark.slow),  # as resnet164_cifar
        pytest.param("resnext50_32x4d", marks=pytest.mark.slow),  # its sister with groups
        "resnet164_cifar",
        "fishnet99",
        "densenet121",
        "googlenet_bn",
        "bn_inception",
        pytest.param("vgg11_bn", marks=pytest.mark.slow),  # chains of the same units as these
        pytest.param("bagnet9", marks=pytest.mark.slow),
    ],
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


def test_auxiliary_classifiers() -> None:
    """torchvision's second and first come after ours; outputs, gradients and statistics, in double precision."""
    options = dict(aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0)
    net = torchvision.models.googlenet(**options).double()
    ours = zoo.create_model("googlenet_bn", auxiliary=True, dtype=torch.float64)
    load_foreign(ours, net.state_dict(), TORCHVISION_GOOGLENET)
    for drop in (ours.aux_a.drop, ours.aux_b.drop):
        assert drop.p == 0.7
        drop.p = 0.0
    x = images("googlenet_bn").double()
    logits, aux_b, aux_a = net(x)
    have = ours(x)
    assert isinstance(have, tuple)
    for mine, theirs in zip(have, (logits, aux_a, aux_b), strict=True):
        assert_same(mine, theirs, 1e-9)
    target = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    for main, first, second in ((logits, aux_a, aux_b), have):
        ((main + 0.3 * first - 0.2 * second) * target).sum().backward()
    grads = {key: p.grad for key, p in ours.named_parameters()}
    largest = max(float(p.grad.abs().max()) for p in net.parameters())
    for key, p in net.named_parameters():
        have_grad = grads[rename(key, TORCHVISION_GOOGLENET)]
        torch.testing.assert_close(have_grad, p.grad, rtol=1e-6, atol=1e-10 * largest)
    buffers = dict(ours.named_buffers())
    for key, t in net.named_buffers():
        torch.testing.assert_close(buffers[rename(key, TORCHVISION_GOOGLENET)], t)
    with torch.no_grad():
        assert_same(ours.eval()(x), net.eval()(x), 1e-9)


def test_a_wrong_net_is_noticed() -> None:
    """The comparison itself: one dilated convolution, one pooled average instead of a maximum."""
    net = reference("resnet18").eval()
    ours = twin("resnet18", net).eval()
    ours.stage3[1].branch.conv1.dilation = ours.stage3[1].branch.conv1.padding = (2, 2)
    x = images("resnet18")
    with torch.no_grad(), pytest.raises(AssertionError):
        assert_same(ours(x), net(x))


def test_timm_counts() -> None:
    for name in zoo.list_models(family="vgg"):
        if timm.is_model(name) and name != zoo.model_entry(name).timm_name:
            net = timm.create_model(name, device="meta")
            assert zoo.model_entry(name).params == sum(p.numel() for p in net.parameters()), name


def test_torchvision_counts() -> None:
    """torchvision publishes the counts of its nets with their weights."""
    from torchvision.models import get_model_weights, list_models

    # torchvision's googlenet is our googlenet_bn.
    shared = {name: name for name in list_models() if name in zoo.list_models()} | {"googlenet": "googlenet_bn"}
    assert len(shared) >= 10
    for name, ours in shared.items():
        assert zoo.model_entry(ours).params == next(iter(get_model_weights(name))).meta["num_params"], name
