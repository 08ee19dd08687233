"""Tensor names of VGG in other implementations."""

import re
from collections.abc import Mapping, Sequence

from zoo.weights import Layout


def numbered(depths: Sequence[int], norm: bool, wide: Sequence[str], head: str) -> list[tuple[str, str]]:
    """Return rules for an implementation that numbers all layers of a plain net consecutively.

    Args:
        depths: Convolutions in each stage; each stage but the first comes after a pooling.
        norm: Each convolution is followed by a norm; an activation follows in any case.
        wide: Foreign names of the wide layers.
        head: Foreign name of the classifier.
    """
    rules, index = [], 0
    for stage, depth in enumerate(depths, 1):
        index += stage > 1
        for i in range(depth):
            ours = f"stage{stage}.{i - 1 if stage == 1 else i + 1}" if index else "stem"
            for kind in ("conv", "norm") if norm else ("conv",):
                rules.append((rf"features\.{index}\.", f"{ours}.{kind}1."))
                index += 1
            index += 1
    rules += [(re.escape(name) + r"\.", f"wide.layers.conv{i}.") for i, name in enumerate(wide, 1)]
    return [*rules, (re.escape(head) + r"\.", "classifier.fc.")]


_HEADS = {
    "timm": (("pre_logits.fc1", "pre_logits.fc2"), "head.fc"),
    "torchvision": (("classifier.0", "classifier.3"), "classifier.6"),
}
_PYTORCHCV = {
    "pytorchcv": Layout(
        [
            (r"features\.stage1\.unit1\.conv\.", "stem.conv1."),
            (r"features\.stage1\.unit1\.bn\.", "stem.norm1."),
            (r"features\.stage1\.unit(\d)\.conv\.", "stage1.{1-2}.conv1."),
            (r"features\.stage1\.unit(\d)\.bn\.", "stage1.{1-2}.norm1."),
            (r"features\.stage(\d)\.unit(\d)\.conv\.", "stage{1}.{2}.conv1."),
            (r"features\.stage(\d)\.unit(\d)\.bn\.", "stage{1}.{2}.norm1."),
            (r"output\.fc(\d)\.fc\.", "wide.layers.conv{1}."),
            (r"output\.fc3\.", "classifier.fc."),
        ]
    ),
}


def layouts(depths: Mapping[int, Sequence[int]]) -> dict[str, Layout]:
    """Return the layouts of state dicts of timm and torchvision, which number their layers, and of pytorchcv.

    pytorchcv's ``b`` nets with batch norm have biases, too, as ours do.

    Args:
        depths: Convolutions a stage, by the depth of the net.
    """
    counted = {
        f"{source}_vgg{depth}{'_bn' * norm}": Layout(numbered(stages, norm, wide, head))
        for source, (wide, head) in _HEADS.items()
        for depth, stages in depths.items()
        for norm in (False, True)
    }
    return counted | _PYTORCHCV
