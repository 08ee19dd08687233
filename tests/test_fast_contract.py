"""The contract, which holds what timm's own tests ask of a net, over fused and over lean nets of each family.

Left out is what such a net is not for. A fused net is made from weights and does not train. A lean net has hooks, which
TorchScript does not take, and keeps little that checkpointing could save.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.testing import PROMISES, Subject, settle_norms

FUSED = (
    *("logits", "taps", "choice_of_taps", "input_channels", "image_sizes", "classifier", "independent_images"),
    *("layouts_and_types", "copies", "torchscript"),
)
LEAN = (
    *(
        "description",
        "logits",
        "taps",
        "choice_of_taps",
        "input_channels",
        "image_sizes",
        "classifier",
        "output_stride",
    ),
    *("gradients", "independent_images", "drop_rates", "what_it_lacks", "layer_types", "meta_device", "layer_groups"),
    *("layouts_and_types", "copies"),
)


def fused(net: Any) -> Any:
    """Return the fused net; the net itself where it has no weights to be fused."""
    return net if next(net.parameters()).is_meta else zoo.fuse(settle_norms(net).eval())


def subject(name: str, change: Callable[[nn.Module], nn.Module]) -> Subject:
    """Return a net that is made in another form."""
    entry = zoo.model_entry(name)

    def make(**arguments: Any) -> Any:
        return change(zoo.create_model(name, **arguments))

    return Subject(f"{change.__name__} {name}", make, entry.spec, entry.input_size, entry.num_classes)


each = pytest.mark.parametrize("name", zoo.list_models("*_test"))
few = pytest.mark.only(name=("densenet_test",))


@few
@each
@pytest.mark.parametrize("promise", FUSED)
def test_fused_nets_keep_the_contract(name: str, promise: str) -> None:
    PROMISES[promise](subject(name, fused))


@few
@each
@pytest.mark.parametrize("promise", LEAN)
def test_lean_nets_keep_the_contract(name: str, promise: str) -> None:
    PROMISES[promise](subject(name, zoo.set_lean))


@few
@each
@pytest.mark.parametrize("change", [fused, zoo.set_lean])
def test_they_say_what_they_are(name: str, change: Callable[[Any], Any]) -> None:
    """The configuration that timm reads is that of the net, and names layers that are there."""
    net = zoo.create_model(name)
    other: Any = change(zoo.create_model(name))
    assert other.pretrained_cfg == net.pretrained_cfg
    assert other.feature_info == net.feature_info
    assert (other.num_classes, other.num_features) == (net.num_classes, net.num_features)
    for layer in ("first_conv", "classifier"):
        assert isinstance(other.get_submodule(other.pretrained_cfg[layer]), nn.Conv2d | nn.Linear)
    assert not {t.device for t in other.state_dict().values()} - {torch.device("cpu")}
