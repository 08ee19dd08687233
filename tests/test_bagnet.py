"""What BagNets claim: a position sees a patch of the image, as large as the name says, and the logits are a mean."""

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.models.bagnet import BagNetSpec

pytestmark = pytest.mark.quick


def seen(net: nn.Module, x: Tensor, row: int, column: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the image that one position of the last map depends on."""
    x = x.clone().requires_grad_()
    net.forward_features(x)[:, :, row, column].sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(0) > 0
    return reached.any(1).nonzero().flatten(), reached.any(0).nonzero().flatten()


@pytest.mark.parametrize(
    ("name", "patch"), [("bagnet9", 9), ("bagnet17", 17), ("bagnet33", 33), ("bagnet17_cifar", 17), ("bagnet_test", 29)]
)
def test_a_position_sees_its_patch(name: str, patch: int) -> None:
    """With positive weights and images nothing cancels and no activation is cut off: the gradient shows all paths."""
    full = zoo.model_entry(name).spec
    thin = full.replace(widths=tuple(8 * (i + 1) for i in range(len(full.depths))), stem_width=4)
    assert full.patch == thin.patch == patch
    net = zoo.create_model(name, widths=thin.widths, stem_width=4).double().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.abs_()
    stride = full.head_stride
    side = patch + 2 * stride + 3
    x = torch.rand(1, 3, side, side + stride, dtype=torch.float64) + 0.1
    height, width = net.forward_features(x).shape[-2:]
    assert (height, width) == (full.head_size(side), full.head_size(side + stride)) == (3, 4)
    for row, column in ((0, 0), (1, 2), (2, 3)):
        rows, columns = seen(net, x, row, column)
        assert rows.tolist() == list(range(stride * row, stride * row + patch))
        assert columns.tolist() == list(range(stride * column, stride * column + patch))


@pytest.mark.parametrize("output_stride", [1, 2, 4])
def test_dilation_is_exact_to_the_border(output_stride: int) -> None:
    """Where no stage strides the patches lie pixel by pixel; every n-th is one of the native net."""
    native = zoo.create_model("bagnet_test").double().eval()
    held = zoo.create_model("bagnet_test", output_stride=output_stride).double().eval()
    held.load_state_dict(native.state_dict())
    spec = native.spec
    x = torch.randn(1, 3, 61, 64, dtype=torch.float64)
    with torch.no_grad():
        coarse = native.forward_intermediates(x, intermediates_only=True)
        fine = held.forward_intermediates(x, intermediates_only=True)
    for want, have, stride in zip(coarse, fine, spec.tap_strides, strict=True):
        every = max(stride // output_stride, 1)
        torch.testing.assert_close(have[..., ::every, ::every], want)
    finest = ((61 - spec.patch) // output_stride + 1, (64 - spec.patch) // output_stride + 1)
    assert tuple(fine[-1].shape[-2:]) == finest


def test_logits_are_the_mean_of_the_patches() -> None:
    net = zoo.create_model("bagnet_test").double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    patch, stride = net.spec.patch, net.spec.head_stride
    with torch.no_grad():
        places = range(0, 64 - patch + 1, stride)
        alone = [net(x[:, :, i : i + patch, j : j + patch]) for i in places for j in places]
        assert len(alone) == net.spec.head_size(64) ** 2
        torch.testing.assert_close(net(x), torch.stack(alone).mean(0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("windows", (2, 1, 0, 0)), ("windows", (0, 0, -1, 0)), ("windows", (1, 1)), ("strides", (2, 2, 3, 1))],
)
def test_nonsense_names_the_field(field: str, value: tuple[int, ...]) -> None:
    spec = BagNetSpec(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8), windows=(1, 1, 0, 0))
    with pytest.raises(ValueError, match=rf"^{field} \("):
        spec.replace(**{field: value})
