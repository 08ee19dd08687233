"""Run a script that uses timm's models, with the models of the zoo registered: ``python -m zoo.timm train.py ...``.

timm looks models up by name when they are created, but imports no other package. Its own ``train.py`` has an option for
imports (``--device-modules zoo``); ``validate.py``, ``inference.py``, ``benchmark.py`` and ``onnx_export.py`` have
none.
"""

import argparse
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm.layers
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.backbone import Backbone

EXAMPLES = """\
examples:
  python -m zoo.timm train.py data --model fishnet99 --amp
  python -m zoo.timm validate.py data --model zoo_resnet50 --checkpoint last.pth.tar
  python -m zoo.timm benchmark.py --model fabric_a_l8_s4_c64x2_post
  torchrun --nproc-per-node 2 -m zoo.timm train.py data --model preresnet50

The scripts lie in timm's repository. `zoo list` shows the models; where timm owns a name, ours begins with zoo_.
A folder that holds the sources of timm is preferred to the installed timm if it is the current one."""


class PooledLogits(nn.Module):
    """Test-time pooling of a net with wide layers: its logits at every position of their window, pooled.

    timm's own pools the features by their size at the published input. For these nets that is the whole window of the
    wide layers. It also takes the classifier's input for features.

    Args:
        base: The net, with its classifier.
    """

    def __init__(self, base: Backbone) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes), half mean and half maximum over all positions, from images (N, C, H, W)."""
        wide: Any = self.base.wide
        fc: Any = self.base.get_classifier()
        places = F.conv2d(wide(self.base.forward_features(x)), fc.weight[:, :, None, None], fc.bias)
        return timm.layers.adaptive_avgmax_pool2d(places, 1).flatten(1)


def pool_at_test_time(timms: Callable[..., tuple[nn.Module, bool]]) -> Callable[..., tuple[nn.Module, bool]]:
    """Return a replacement for ``timm.layers.apply_test_time_pool`` that also handles nets with wide layers."""

    def apply(model: Any, config: Mapping[str, Any], use_test_size: bool = False) -> tuple[nn.Module, bool]:
        fc = model.get_classifier() if isinstance(model, Backbone) and model.wide is not None else None
        if not isinstance(fc, nn.Linear) or fc.in_features != model.wide.out_chs:
            return timms(model, config, use_test_size)
        cfg = model.pretrained_cfg
        published = (cfg.get("test_input_size") if use_test_size else None) or cfg["input_size"]
        larger = all(given > own for given, own in zip(config["input_size"][1:], published[1:], strict=True))
        return (PooledLogits(model), True) if larger else (model, False)

    return apply


def build_parser() -> argparse.ArgumentParser:
    """Make the parser. Arguments after the script are the script's own."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo.timm",
        description="Run a Python script in a process in which timm knows the models of the zoo.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", help="path of a Python script that creates models through timm")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script as ``python script args`` would, with ``zoo`` imported."""
    parser = build_parser()
    given = parser.parse_args(argv)
    script = Path(given.script)
    if not script.is_file():
        parser.error(f"script ({given.script}) is not a file; give the path of a Python script, then its arguments")
    assert zoo.list_models(), "importing the package registers its models"
    ours: Any = pool_at_test_time(timm.layers.apply_test_time_pool)
    timm.layers.apply_test_time_pool = ours
    sys.argv = [given.script, *given.args]
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(given.script, run_name="__main__")


if __name__ == "__main__":
    main()
