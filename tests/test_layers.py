"""The units, one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from zoo.layers import (
    ORDERS,
    UPS,
    ChannelSum,
    Conv,
    DilatedAvgPool,
    DilatedMaxPool,
    Kit,
    PadShortcut,
    Residual,
    Resize,
    Skippable,
    SqueezeGate,
    Stage,
    Wide,
    WideHead,
    basic,
    bottleneck,
    local_norm,
    max_pool_halving,
    run_checkpointed,
    sequence,
    upsample_like,
)

pytestmark = pytest.mark.quick

KIT = Kit()


def test_sequence_names_and_order() -> None:
    layers = sequence(KIT, 3, "cna nac", [Conv(out_chs=4, kernel=3, stride=2), Conv(out_chs=5, kernel=1, bias=True)])
    assert list(dict(layers.named_children())) == ["conv1", "norm1", "act1", "norm2", "act2", "conv2"]
    assert layers.norm1.num_features == layers.norm2.num_features == 4
    assert layers.conv1.bias is None
    assert layers.conv2.bias is not None
    assert layers(torch.randn(1, 3, 9, 9)).shape == (1, 5, 5, 5)
    assert isinstance(sequence(KIT, 3, ""), nn.Identity)


@pytest.mark.parametrize(("ops", "convs"), [("cb", 1), ("cc", 1), ("n", 1), ("cna", 0)])
def test_sequence_rejects_words(ops: str, convs: int) -> None:
    with pytest.raises(ValueError, match=rf"ops \('{ops}'\)"):
        sequence(KIT, 3, ops, [Conv(out_chs=4, kernel=1)] * convs)


def test_an_activation_spares_its_input() -> None:
    """What a layer returns belongs to whoever hooks into it, wherever the activation stands."""
    returned = []
    layers = sequence(KIT, 1, "cnaa", [Conv(out_chs=1, kernel=1)])
    for layer in layers:
        layer.register_forward_hook(lambda *args: returned.append((args[-1], args[-1].clone())))
    layers(torch.randn(1, 1, 2, 2))
    assert all(torch.equal(kept, copied) for kept, copied in returned)


def test_kit_errors() -> None:
    with pytest.raises(ValueError, match=r"kernel \(2\)"):
        KIT.conv(4, Conv(out_chs=4, kernel=2))
    with pytest.raises(ValueError, match=r"groups \(3\) must divide in_chs \(4\)"):
        KIT.conv(4, Conv(out_chs=6, kernel=1, groups=3))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_channel_sum_adds_neighbours(out_chs: int, run: int, side: int) -> None:
    x = torch.randn(2, out_chs * run, side, side, dtype=torch.float64)
    want = x.view(2, out_chs, run, side, side).sum(2)
    torch.testing.assert_close(ChannelSum(out_chs * run, out_chs)(x), want)


def test_channel_sum_rejects() -> None:
    with pytest.raises(ValueError, match=r"out_chs \(3\) must divide in_chs \(8\)"):
        ChannelSum(8, 3)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 3))
def test_pad_shortcut(height: int, width: int, stride: int, extra: int) -> None:
    x = torch.randn(1, 2, height, width)
    y = PadShortcut(2, 2 + extra, stride)(x)
    assert y.shape == (1, 2 + extra, -(-height // stride), -(-width // stride))
    assert torch.equal(y[:, :2], x[:, :, ::stride, ::stride])
    assert not y[:, 2:].any()


def test_pad_shortcut_rejects() -> None:
    with pytest.raises(ValueError, match=r"out_chs \(2\) must be at least in_chs \(4\)"):
        PadShortcut(4, 2, 1)


@given(st.integers(1, 4), st.integers(1, 4))
def test_dilated_pool_contains_the_strided_one(dilation: int, half: int) -> None:
    """Pooling a map whose pixels were spread apart finds the pooled map at every second of its positions."""
    coarse = torch.randn(1, 2, 2 * half, 2 * half)
    spread = torch.randn(1, 2, 2 * half * dilation, 2 * half * dilation)
    spread[..., ::dilation, ::dilation] = coarse
    for pool, plain in ((DilatedMaxPool, nn.functional.max_pool2d), (DilatedAvgPool, nn.functional.avg_pool2d)):
        pooled = pool(dilation)(spread)
        assert pooled.shape == spread.shape
        torch.testing.assert_close(pooled[..., :: 2 * dilation, :: 2 * dilation], plain(coarse, 2))


@pytest.mark.parametrize("dilation", [1, 2, 3, 5])
def test_dilated_average_at_the_border(dilation: int) -> None:
    """What lies outside is left out: ones stay ones, the last pixel stays itself, also on maps that are too small."""
    pool = DilatedAvgPool(dilation)
    torch.testing.assert_close(pool(torch.ones(1, 2, 3, 4)), torch.ones(1, 2, 3, 4))
    x = torch.randn(1, 2, 3, 4).to(memory_format=torch.channels_last)
    assert torch.equal(pool(x)[..., -1, -1], x[..., -1, -1])
    assert pool(x).is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 4), st.integers(2, 4), st.integers(2, 8), st.integers(0, 1))
def test_dilated_pools_of_any_window(dilation: int, kernel: int, side: int, before: int) -> None:
    """The strided one whose last window may reach over the border, and the one of stride 1 around its pixel."""
    coarse = torch.randn(1, 2, side + 2, side + 2)
    spread = torch.randn(1, 2, dilation * (side + 2), dilation * (side + 2))
    spread[..., ::dilation, ::dilation] = coarse
    pooled = DilatedMaxPool(dilation, kernel)(spread)
    assert pooled.shape == spread.shape
    want = max_pool_halving(stride=2, dilation=1, kernel=kernel, ceil=True)(coarse)
    have = pooled[..., :: 2 * dilation, :: 2 * dilation]
    assert torch.equal(have[..., : want.shape[2], : want.shape[3]], want)
    odd = 2 * before + 1
    centred = DilatedMaxPool(dilation, odd, centred=True)(spread)
    assert centred.shape == spread.shape
    want = nn.functional.max_pool2d(coarse, odd, stride=1, padding=before)
    assert torch.equal(centred[..., ::dilation, ::dilation], want)


@pytest.mark.parametrize("k", [1.0, 2.0])
def test_local_norm(k: float) -> None:
    """The formula of the paper, channel by channel; torch's own module."""
    norm = local_norm(k)
    x = 30 * torch.randn(2, 7, 3, 4, dtype=torch.float64)
    want = torch.empty_like(x)
    for i in range(7):
        window = x[:, max(0, i - 2) : i + 3]
        want[:, i] = x[:, i] / (k + 1e-4 * window.square().sum(1)) ** 0.75
    torch.testing.assert_close(norm(x), want)
    torch.testing.assert_close(norm(x), nn.LocalResponseNorm(5, norm.alpha, norm.beta, norm.k)(x))
    assert norm(x.to(torch.bfloat16)).dtype == torch.bfloat16


@given(st.integers(1, 6), st.integers(1, 13))
def test_upsample_like(side: int, target: int) -> None:
    x = torch.randn(1, 2, side, side)
    assert upsample_like(x, torch.empty(1, 1, target, target + 1)).shape[-2:] == (target, target + 1)
    twice = upsample_like(x, torch.empty(1, 1, 2 * side, 2 * side))
    assert torch.equal(twice, x.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_squeeze_gate() -> None:
    gate = SqueezeGate(KIT, 8, 2, 4)
    x = torch.randn(3, 8, 5, 5)
    y = gate(x)
    assert y.shape == (3, 4, 1, 1)
    assert ((y > 0) & (y < 1)).all()
    torch.testing.assert_close(gate(x.mean((2, 3), keepdim=True)), y)


@pytest.mark.parametrize("order", ORDERS)
def test_residual_is_the_sum_of_two_paths(order: str) -> None:
    unit = Residual(KIT, 4, basic(4), ORDERS[order]).eval()
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(unit(x), unit.after(unit.branch(unit.before(x)) + x))
    unit.zero_init_last()
    torch.testing.assert_close(unit(x), unit.after(x.clone()))


def test_scaled_paths_keep_the_names_of_their_layers() -> None:
    shortcut = sequence(KIT, 4, "cn", [Conv(out_chs=4, kernel=1)])
    for path in (shortcut, None, PadShortcut(4, 4, 1)):
        unit = Residual(KIT, 4, basic(4), ORDERS["post"], shortcut=path, drop_path=0.3).eval()
        scaled = Residual(KIT, 4, basic(4), ORDERS["post"], shortcut=path, drop_path=0.3, scales=(0.5, 3.0)).eval()
        scaled.load_state_dict(unit.state_dict())
        x = torch.randn(2, 4, 6, 6)
        torch.testing.assert_close(scaled(x), unit.after(3 * unit.branch(x) + unit.shortcut(x) / 2))


def test_shared_shortcut_leaves_after_the_activation() -> None:
    shortcut = sequence(KIT, 4, "c", [Conv(out_chs=6, kernel=1)])
    unit = Residual(KIT, 4, basic(6), ORDERS["pre"], shortcut=shortcut, shared=True).eval()
    x = torch.randn(2, 4, 6, 6)
    activated = unit.before(x)
    torch.testing.assert_close(unit(x), unit.branch(activated) + shortcut(activated))


def test_where_strides_and_dilations_go() -> None:
    first, second = basic(8, stride=2, dilation=(1, 2))
    assert (first.stride, second.stride, first.dilation, second.dilation) == (2, 1, 1, 2)
    reduce, spatial, expand = bottleneck(4, 8, stride=2, dilation=3, groups=2)
    assert (reduce.stride, spatial.stride, expand.stride) == (1, 2, 1)
    assert (spatial.dilation, spatial.groups, reduce.groups, expand.groups) == (3, 2, 1, 1)
    reduce, spatial, _ = bottleneck(4, 8, stride=2, stride_first=True)
    assert (reduce.stride, spatial.stride) == (2, 1)


def test_drop_path_keeps_the_mean() -> None:
    unit = Residual(KIT, 2, basic(2), ORDERS["act_before_add"], drop_path=0.5)
    unit.branch.norm1.eval()  # batch statistics of a batch of copies would be trivial
    x = torch.randn(1, 2, 4, 4).expand(4096, -1, -1, -1)
    unit.eval()
    want = unit(x[:1]).detach()
    unit.drop_path.train()
    assert (unit(x).mean(0) - want[0]).abs().max() < 0.2 * want.std()


def test_stage_recomputes_the_same() -> None:
    stage = Stage(*(Residual(KIT, 4, basic(4), ORDERS["pre"]) for _ in range(3)))
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    plain = stage(x)
    stage.grad_checkpointing = True
    torch.testing.assert_close(stage(x), plain)


def test_wide_head_is_the_linear_layers() -> None:
    """At the window's size equal to linear layers on the flattened map; larger and smaller maps work as well."""
    head = WideHead(Kit(), 4, Wide(widths=(6, 5), kernel=3)).eval()
    assert head.out_chs == 4
    head.reset(True)
    first, second = head.layers.conv1, head.layers.conv2
    x = torch.randn(2, 4, 3, 3)
    hidden = torch.relu(x.flatten(1) @ first.weight.flatten(1).T + first.bias)
    want = torch.relu(hidden @ second.weight.flatten(1).T + second.bias)
    torch.testing.assert_close(head(x).flatten(1), want)
    assert head(torch.randn(2, 4, 5, 4)).shape == (2, 5, 3, 2)
    assert head(torch.randn(2, 4, 2, 7)).shape == (2, 5, 1, 5)
    head.same = True
    assert head(torch.randn(2, 4, 5, 4)).shape == (2, 5, 5, 4)
    head.reset(False)
    assert torch.equal(head(x), x)
    assert not list(head.parameters())


def test_wide_head_dilates() -> None:
    """Every second position of a map at twice the resolution is that of the coarse map."""
    fine, coarse = (WideHead(Kit(), 4, Wide(widths=(6,), kernel=3, dilation=d)).eval() for d in (2, 1))
    fine.reset(True)
    coarse.reset(True)
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, 4, 10, 10)
    torch.testing.assert_close(fine(x)[:, :, ::2, ::2], coarse(x[:, :, ::2, ::2]))


def test_skippable_layers_are_left_out_sample_by_sample() -> None:
    """Evaluation runs them; in training a sample gets its input back, or the change scaled up to keep the mean."""
    plain = sequence(Kit(), 4, "ca", [Conv(out_chs=4, kernel=3)])
    unit = Skippable(plain, 0.5)
    assert list(unit.state_dict()) == list(plain.state_dict())
    x = torch.randn(64, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(unit.eval()(x), plain(x))
        torch.manual_seed(0)
        out = unit.train()(x)
    kept = (out != x).flatten(1).any(1)
    assert 10 < kept.sum() < 54
    torch.testing.assert_close(out[kept], (x + 2 * (plain(x) - x))[kept])
    assert torch.equal(out[~kept], x[~kept])


def test_a_second_run_leaves_no_trace() -> None:
    """A checkpointed unit moves running statistics once, in the modes of its first run, however often it runs back."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    results = []
    for checkpointed in (False, True):
        unit = sequence(Kit(dtype=torch.float64), 3, "cna cna", [Conv(out_chs=3, kernel=3)] * 2).train()
        unit.norm2.eval()
        torch.manual_seed(1)
        for parameter in unit.parameters():
            nn.init.uniform_(parameter, -1, 1)
        out = run_checkpointed(unit, x) if checkpointed else unit(x)
        unit.eval()  # between the two passes
        out.square().sum().backward(retain_graph=True)
        out.square().sum().backward()
        assert not any(module.training for module in unit.modules())
        results.append({key: p.grad for key, p in unit.named_parameters()} | unit.state_dict())
        assert int(unit.norm1.num_batches_tracked) == 1
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("up", ["", *UPS])
def test_resize(up: str) -> None:
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    size = (5, 8) if up else (3, 4)
    have = Resize(up)(x, size)
    if up == "zero":
        assert torch.equal(have[:, :, ::2, ::2], x)
        assert have.count_nonzero() == x.numel()
    elif up == "nearest":
        assert torch.equal(have, x[:, :, [0, 0, 1, 1, 2]][:, :, :, [0, 0, 1, 1, 2, 2, 3, 3]])
    elif up == "bilinear":
        assert torch.equal(have[:, :, [0, 2, 4]][:, :, :, [0, 7]], x[:, :, :, [0, 3]]), "the corners are aligned"
    else:
        assert have is x
    assert have.shape[2:] == size


def test_torchscript_tells_the_order_of_layers() -> None:
    """Children of one name and type in two orders are one type for TorchScript, if nothing else tells them apart."""
    torch.manual_seed(0)
    kit, conv, x = Kit(), Conv(out_chs=4, kernel=3), torch.randn(2, 4, 8, 8)
    chains = [sequence(kit, 4, ops, [conv]).eval() for ops in ("cna", "nac", "anc")]
    chains[0].add_module("conv1", chains[0]._modules.pop("conv1"))  # the order is that of the call, not of the making
    chains.append(sequence(kit, 4, "cna", [conv]).eval())
    for layers in chains:
        torch.testing.assert_close(torch.jit.script(layers)(x), layers(x))
