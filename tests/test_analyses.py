"""All analyses: none changes a net, whether it ends well or with an error."""

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.analysis.nets import Options
from zoo.analysis.run import ANALYSES, analyse
from zoo.datasets.built_in import load_dataset

OPTIONS = Options(input_size=(3, 32, 32), images=10, draws=1)


def facts(net: nn.Module) -> list[Any]:
    """All that an analysis could change: tensors, their gradients, modes, hooks, modules and random numbers."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(name, id(t), t._version, t.requires_grad, t.grad) for name, t in net.state_dict(keep_vars=True).items()],
        [(name, id(m), m.training, *(len(getattr(m, hook)) for hook in hooks)) for name, m in net.named_modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        repr(np.random.get_state()),  # noqa: NPY002 - the state that an analysis could move
    ]


class Broken(Exception):
    pass


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A net that every analysis opens, whatever it asks for: partly in training, with a hook of its own."""
    load_dataset("digits")  # importing scikit-learn draws a number of Python's own
    torch.manual_seed(0)
    net = zoo.create_model("resnet_test", depths=(2, 1), widths=(8, 8), mid_widths=())
    net.get_submodule("stage1").eval()
    for name, module in list(sys.modules.items()):
        if name.startswith("zoo.analysis.") and hasattr(module, "open_net"):
            monkeypatch.setattr(module, "open_net", lambda *_, **__: net)
    return net


@pytest.mark.parametrize("what", ANALYSES)
def test_no_analysis_changes_a_net(what: str, net: nn.Module) -> None:
    before = facts(net)
    assert analyse(what, ["resnet_test"], OPTIONS).rows
    assert facts(net) == before


@pytest.mark.parametrize("what", ANALYSES)
def test_no_analysis_changes_a_net_that_fails(what: str, net: nn.Module) -> None:
    """The net fails in its first pass, or in a later one, so that an analysis is caught at several of its steps."""
    passes = iter(range(10**6))
    failing = 0

    def fail(*_: Any) -> None:
        if next(passes) == failing:
            raise Broken

    net.get_submodule("stage2").register_forward_hook(fail)
    before = facts(net)
    for failing in (0, 1, 3, 7):
        passes = iter(range(10**6))
        try:
            analyse(what, ["resnet_test"], OPTIONS)
        except Broken:
            assert facts(net) == before
        else:
            assert failing, "every analysis runs the net"
