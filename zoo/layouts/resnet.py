"""Tensor names of residual nets in other implementations."""

import re
from collections.abc import Collection

from torch import Tensor

from zoo.weights import Layout

_UNIT = r"layer(\d)\.(\d+)\."
_CV_UNIT = r"features\.stage(\d)\.unit(\d+)\."
_OURS = r"stage\1.{2-1}."
_TIMM = [
    (r"conv1\.", "stem.conv1."),
    (r"bn1\.", "stem.norm1."),
    (_UNIT + r"conv(\d)\.", r"stage\1.\2.branch.conv\3."),
    (_UNIT + r"bn(\d)\.", r"stage\1.\2.branch.norm\3."),
    (_UNIT + r"se\.fc1\.", r"stage\1.\2.gate.squeeze."),
    (_UNIT + r"se\.fc2\.", r"stage\1.\2.gate.excite."),
    (_UNIT + r"downsample\.0\.", r"stage\1.\2.shortcut.conv1."),
    (_UNIT + r"downsample\.1\.", r"stage\1.\2.shortcut.norm1."),
    (r"fc\.", "classifier.fc."),
]
_LINEAR = [
    (r"linear\.", "classifier.fc."),
    (_UNIT + r"shortcut\.0\.", r"stage\1.\2.shortcut.conv1."),
    (_UNIT + r"shortcut\.1\.", r"stage\1.\2.shortcut.norm1."),
]


def _as_padded_at_the_end(name: str, value: Tensor, names: Collection[str]) -> Tensor:
    """Reorder the channels of a net whose shortcuts A pad before and behind, to the order of one that pads behind.

    Both are the same function: only the order of channels between the units of a stage differs.

    Args:
        name: Our name of the tensor.
        value: The tensor.
        names: Our names of all tensors; nets with projections need no new order.
    """
    place = re.match(r"stage(\d)\.(\d+)\.branch\.(conv1|conv2|norm2)\.", name)
    if any(".shortcut." in n for n in names) or not value.dim():
        return value
    if name == "classifier.fc.weight":
        return value[:, _order(value.shape[1], 3)]
    if place is None:
        return value
    stage, unit, layer = int(place[1]), int(place[2]), place[3]
    if layer == "conv1":
        return value[:, _order(value.shape[1], stage - 1 if unit == 0 else stage)]
    return value[_order(value.shape[0], stage)]


def _order(chs: int, stage: int) -> list[int]:
    """Return the positions of our channels in a net that doubles its width by padding before and behind."""
    if stage <= 1:
        return list(range(chs))
    inner = [chs // 4 + i for i in _order(chs // 2, stage - 1)]
    return [*inner, *(i for i in range(chs) if not chs // 4 <= i < chs - chs // 4)]


LAYOUTS = {
    "timm": Layout(_TIMM),
    "pytorchcv": Layout(
        [
            (r"features\.init_block\.(?:conv\.)?bn\.", "stem.norm1."),
            (r"features\.init_block\.(?:conv\.)?conv\.", "stem.conv1."),
            (_CV_UNIT + r"body\.conv(\d)\.conv\.", _OURS + r"branch.conv\3."),
            (_CV_UNIT + r"body\.conv(\d)\.bn\.", _OURS + r"branch.norm\3."),
            (_CV_UNIT + r"se\.conv1\.", _OURS + "gate.squeeze."),
            (_CV_UNIT + r"se\.conv2\.", _OURS + "gate.excite."),
            (_CV_UNIT + r"identity_conv\.conv\.", _OURS + "shortcut.conv1."),
            (_CV_UNIT + r"identity_conv\.bn\.", _OURS + "shortcut.norm1."),
            (r"output\.", "classifier.fc."),
        ]
    ),
    "pytorchcv_pre": Layout(
        [
            (r"features\.init_block\.(?:conv\.)?weight", "stem.conv1.weight"),
            (r"features\.init_block\.bn\.", "stem.norm1."),
            (_CV_UNIT + r"body\.conv(\d)\.conv\.", _OURS + r"branch.conv\3."),
            (_CV_UNIT + r"body\.conv1\.bn\.", _OURS + "before.norm1."),
            (_CV_UNIT + r"body\.conv(\d)\.bn\.", _OURS + "branch.norm{3-1}."),
            (_CV_UNIT + r"identity_conv\.", _OURS + "shortcut.conv1."),
            (r"features\.post_activ\.bn\.", "final.norm1."),
            (r"output\.", "classifier.fc."),
        ]
    ),
    "pytorch_resnet_cifar10": Layout([*_LINEAR, *_TIMM], arrange=_as_padded_at_the_end),
}
"""State dicts of timm (and torchvision, which has the same names), of pytorchcv's two orders, and of Idelbayev's nets
for CIFAR-10 (and Liu's, which have the same names), whose shortcuts A put half of the zeros before the channels.

pytorchcv's ``b`` nets stride on the 3x3, as ours do without ``_v1``; its CIFAR ResNets have projection shortcuts,
Idelbayev's those of the paper."""
