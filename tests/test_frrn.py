"""FRRN against its equations, written out plainly, and what only this family claims."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.analysis.paths import reached_directly
from zoo.testing import settle_norms


class PlainFRRN:
    """The released net in terms of weights alone: convolutions are taken in the order in which they were made."""

    def __init__(self, net: nn.Module) -> None:
        self.spec = net.spec
        self.state = [t for key, t in net.state_dict().items() if not key.endswith("num_batches_tracked")]

    def conv(self, x: Tensor, ops: str) -> Tensor:
        """One convolution; b = its bias, n = a norm, a = an activation."""
        weight = self.state.pop(0)
        x = F.conv2d(x, weight, self.state.pop(0) if "b" in ops else None, padding=weight.shape[-1] // 2)
        if "n" in ops:
            gamma, beta, mean, var = (self.state.pop(0)[:, None, None] for _ in range(4))
            x = (x - mean) / (var + 1e-5).sqrt() * gamma + beta
        return x.clamp(min=0) if "a" in ops else x

    def ru(self, x: Tensor) -> Tensor:
        y = self.conv(self.conv(x, "na"), "n")
        return y + (x if x.shape == y.shape else self.conv(x, ""))

    def frru(self, y: Tensor, z: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        y = self.conv(self.conv(torch.cat([y, F.max_pool2d(z, stride)], 1), "na"), "na")
        more = self.conv(y, "b")
        return y, z + more.repeat_interleave(stride, 2).repeat_interleave(stride, 3)

    @staticmethod
    def enlarge(x: Tensor) -> Tensor:
        """The edges repeated, the kernel (1/2, 1, 1/2) put on every pixel, the borders cut off."""
        kernel = torch.tensor([0.5, 1.0, 0.5], dtype=x.dtype)
        kernel = (kernel[:, None] * kernel).expand(x.shape[1], 1, 3, 3)
        x = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])
        return x[:, :, 3:-2, 3:-2]

    def __call__(self, x: Tensor) -> Tensor:
        spec = self.spec
        y = self.conv(x, "na")
        for _ in range(spec.end_units):
            y = self.ru(y)
        z = self.conv(y, "n")
        stride = 1
        for units in spec.down_units:
            y, stride = F.max_pool2d(y, 2), stride * 2
            for _ in range(units):
                y, z = self.frru(y, z, stride)
        for units in spec.up_units:
            y, stride = self.enlarge(y), stride // 2
            for _ in range(units):
                y, z = self.frru(y, z, stride)
        x = torch.cat([self.enlarge(y), z], 1)
        for _ in range(spec.end_units):
            x = self.ru(x)
        x = self.conv(x, "b")
        assert not self.state, "every weight has been used"
        return x


@pytest.mark.parametrize("name", ["frrn_test", "frrn_a", "frrn_b"])
def test_the_net_is_its_equations(name: str) -> None:
    net = settle_norms(zoo.create_model(name)).double().eval()
    x = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), PlainFRRN(net)(x))


def test_the_residual_stream_is_never_interrupted() -> None:
    net = zoo.create_model("frrn_test")
    assert "join" in reached_directly(net, "split")
    assert "join" not in reached_directly(net, "enter"), "before it there is one stream, behind it a convolution"


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_held_maps_are_exact_up_to_the_first_unit_at_the_cap(stride: int) -> None:
    native = settle_norms(zoo.create_model("frrn_test", down_units=(1, 1, 1))).double().eval()
    held = zoo.create_model("frrn_test", down_units=(1, 1, 1), output_stride=stride).double().eval()
    held.load_state_dict(native.state_dict())
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        coarse = native.forward_intermediates(x, intermediates_only=True)
        fine = held.forward_intermediates(x, intermediates_only=True)
        assert held(x).shape == native(x).shape
    exact = 0
    for want, have, full in zip(coarse, fine, native.spec.tap_strides, strict=True):
        every = full // min(full, stride)
        assert have.shape[-1] == every * want.shape[-1]
        inside = (..., slice(2, -2), slice(2, -2))
        if full <= 2 * stride:
            torch.testing.assert_close(have[..., ::every, ::every][inside], want[inside])
            exact += 1
    assert exact == min(len(coarse), 2 + stride.bit_length() - 1)


def test_pruning_to_the_last_tap_drops_the_way_up() -> None:
    net = settle_norms(zoo.create_model("frrn_test")).double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    tap = net.forward_intermediates(x, intermediates_only=True)[-1]
    net.prune_intermediate_layers([-1], prune_head=False)
    assert net.leave is not None
    assert net(x).shape == (1, 10, 64, 64)
    net.prune_intermediate_layers([-1])
    assert net.leave is None
    assert torch.equal(net.forward_features(x), tap)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_units": (1, 1)}, r"down_units \(\(1, 1\)\) must have 3 numbers"),
        ({"up_widths": (1, 1, 1)}, r"up_widths \(\(1, 1, 1\)\) must have 2 numbers"),
        ({"down_widths": (4,)}, r"down_widths \(\(4,\)\) must have at least two numbers"),
        ({"lanes": 0}, r"lanes \(0\) must hold positive"),
    ],
)
def test_wrong_numbers_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.model_entry("frrn_test").spec.replace(**change)
