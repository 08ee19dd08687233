"""State dicts of other implementations under our names: the tables of the families, and a strict loader of its own."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.layouts import alexnet, bagnet, bn_inception, densenet, fishnet, googlenet, resnet, vgg
from zoo.weights import Layout

Rules = Sequence[tuple[str, str]]


def one_less(template: str, *groups: int) -> str:
    """A replacement that fills the template with the match's groups, some of them counted down from 1-based."""
    return template.format(*(f"{{{i}-1}}" if i in groups else f"{{{i}}}" for i in range(1, template.count("{}") + 1)))


TIMM_RESNET = resnet.LAYOUTS["timm"].rules
PYTORCHCV_RESNET = resnet.LAYOUTS["pytorchcv"].rules
PYTORCHCV_PRERESNET = resnet.LAYOUTS["pytorchcv_pre"].rules
PYTORCHCV_BAGNET = bagnet.LAYOUTS["pytorchcv"].rules
PYTORCHCV_BN_INCEPTION = bn_inception.LAYOUTS["pytorchcv"].rules
TIMM_DENSENET = densenet.LAYOUTS["timm"].rules
PYTORCHCV_DENSENET = densenet.LAYOUTS["pytorchcv"].rules
TORCHVISION_GOOGLENET = googlenet.LAYOUTS["torchvision"].rules
TORCHVISION_ALEXNET = alexnet.LAYOUTS["torchvision"].rules
RELEASED_FISHNET = fishnet.LAYOUTS["released"].rules
PYTORCHCV_FISHNET = fishnet.LAYOUTS["pytorchcv"].rules
plain = vgg.numbered


def rename(key: str, rules: Rules) -> str:
    """Our name of a foreign key."""
    new = Layout(rules).rename(key)
    if new is None:
        raise KeyError(f"no rule for {key}")
    return new


@torch.no_grad()
def load_foreign(net: nn.Module, state_dict: Mapping[str, Tensor], rules: Rules) -> None:
    """Load another implementation's weights, all of them, into a net of ours."""
    own = net.state_dict()
    renamed = {rename(key, rules): value for key, value in state_dict.items()}
    # A convolution over a map of its window's size is a linear layer; nothing else may change its shape.
    renamed = {
        key: value.view_as(own[key]) if re.match(r"(classifier\.fc|wide\..*)\.weight", key) else value
        for key, value in renamed.items()
    }
    assert len(renamed) == len(state_dict), "two foreign keys have one name"
    assert renamed.keys() == own.keys()
    net.load_state_dict(renamed)
