"""State dicts of other implementations, renamed to ours: tables of regular expressions, first match wins."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]


def one_less(template: str, *groups: int) -> Callable[[re.Match[str]], str]:
    """A replacement that fills the template with the match's groups, some of them counted down from 1-based."""
    return lambda m: template.format(*(int(g) - 1 if i in groups else g for i, g in enumerate(m.groups(), 1)))


TIMM_RESNET: Rules = [
    (r"conv1\.", "stem.conv1."),
    (r"bn1\.", "stem.norm1."),
    (r"layer(\d)\.(\d+)\.conv(\d)\.", r"stage\1.\2.branch.conv\3."),
    (r"layer(\d)\.(\d+)\.bn(\d)\.", r"stage\1.\2.branch.norm\3."),
    (r"layer(\d)\.(\d+)\.downsample\.0\.", r"stage\1.\2.shortcut.conv1."),
    (r"layer(\d)\.(\d+)\.downsample\.1\.", r"stage\1.\2.shortcut.norm1."),
    (r"fc\.", "classifier.fc."),
]

_CV_UNIT = r"features\.stage(\d)\.unit(\d+)\."
PYTORCHCV_RESNET: Rules = [
    (r"features\.init_block\.(?:conv\.)?bn\.", "stem.norm1."),
    (r"features\.init_block\.(?:conv\.)?conv\.", "stem.conv1."),
    (_CV_UNIT + r"body\.conv(\d)\.conv\.", one_less("stage{}.{}.branch.conv{}.", 2)),
    (_CV_UNIT + r"body\.conv(\d)\.bn\.", one_less("stage{}.{}.branch.norm{}.", 2)),
    (_CV_UNIT + r"identity_conv\.conv\.", one_less("stage{}.{}.shortcut.conv1.", 2)),
    (_CV_UNIT + r"identity_conv\.bn\.", one_less("stage{}.{}.shortcut.norm1.", 2)),
    (r"output\.", "classifier.fc."),
]
PYTORCHCV_PRERESNET: Rules = [
    (r"features\.init_block\.(?:conv\.)?weight", "stem.conv1.weight"),
    (r"features\.init_block\.bn\.", "stem.norm1."),
    (_CV_UNIT + r"body\.conv(\d)\.conv\.", one_less("stage{}.{}.branch.conv{}.", 2)),
    (_CV_UNIT + r"body\.conv1\.bn\.", one_less("stage{}.{}.before.norm1.", 2)),
    (_CV_UNIT + r"body\.conv(\d)\.bn\.", one_less("stage{}.{}.branch.norm{}.", 2, 3)),
    (_CV_UNIT + r"identity_conv\.", one_less("stage{}.{}.shortcut.conv1.", 2)),
    (r"features\.post_activ\.bn\.", "final.norm1."),
    (r"output\.", "classifier.fc."),
]
PYTORCHCV_BAGNET: Rules = [
    (r"features\.init_block\.conv1\.", "stem.conv1."),
    (r"features\.init_block\.conv2\.conv\.", "stem.conv2."),
    (r"features\.init_block\.conv2\.bn\.", "stem.norm1."),
    *PYTORCHCV_RESNET,
]

# Inside a unit: the released code's name, pytorchcv's, ours.
_FISH_UNIT = [
    ("bn1", "body.conv1.bn", "before.norm1"),
    ("conv1", "body.conv1.conv", "branch.conv1"),
    ("bn2", "body.conv2.bn", "branch.norm1"),
    ("conv2", "body.conv2.conv", "branch.conv2"),
    ("bn3", "body.conv3.bn", "branch.norm2"),
    ("conv3", "body.conv3.conv", "branch.conv3"),
    ("shortcut.0", "identity_conv.bn", "shortcut.norm1"),
    ("shortcut.2", "identity_conv.conv", "shortcut.conv1"),
]
# What the released code calls stage i (0 to 9) and what pytorchcv calls the same part.
_FISH_PARTS = [
    ("0.0", "down1_seq.unit1", "tail.stage1"),
    ("1.0", "down1_seq.unit2", "tail.stage2"),
    ("2.0", "down1_seq.unit3", "tail.stage3"),
    ("3.2", "skip1_seq.unit4", "bridge.stage"),
    ("4.0", "up_seq.unit1", "body.stage1"),
    ("5.0", "up_seq.unit2", "body.stage2"),
    ("6.0", "up_seq.unit3", "body.stage3"),
    ("4.1", "skip1_seq.unit3", "body.lateral1"),
    ("5.1", "skip1_seq.unit2", "body.lateral2"),
    ("6.1", "skip1_seq.unit1", "body.lateral3"),
    ("7.0", "down2_seq.unit1", "head1.stage"),
    ("8.0", "down2_seq.unit2", "head2.stage"),
    ("9.0", "down2_seq.unit3", "head3.stage"),
    ("7.1", "skip2_seq.unit3", "head1.lateral"),
    ("8.1", "skip2_seq.unit2", "head2.lateral"),
    ("9.1", "skip2_seq.unit1", "head3.lateral"),
]
RELEASED_FISHNET: Rules = [
    (r"conv(\d)\.0\.", r"stem.conv\1."),
    (r"conv(\d)\.1\.", r"stem.norm\1."),
    (r"fish\.fish\.3\.0\.0\.", "bridge.widen.norm1."),
    (r"fish\.fish\.3\.0\.2\.", "bridge.widen.conv1."),
    (r"fish\.fish\.3\.0\.3\.", "bridge.widen.norm2."),
    (r"fish\.fish\.3\.1\.", "bridge.widen.conv2."),
    (r"fish\.fish\.3\.3\.0\.0\.", "bridge.gate_norm.norm1."),
    (r"fish\.fish\.3\.3\.0\.3\.", "bridge.gate.squeeze."),
    (r"fish\.fish\.3\.3\.0\.5\.", "bridge.gate.excite."),
    (r"fish\.fish\.9\.3\.0\.", "final.norm1."),
    (r"fish\.fish\.9\.3\.2\.", "final.conv1."),
    (r"fish\.fish\.9\.3\.3\.", "final.norm2."),
    (r"fish\.fish\.9\.4\.1\.", "classifier.fc."),
    *(
        (rf"fish\.fish\.{re.escape(stage)}\.(\d+)\.{re.escape(old)}\.", rf"{part}.\1.{new}.")
        for stage, _, part in _FISH_PARTS
        for old, _, new in _FISH_UNIT
    ),
]
PYTORCHCV_FISHNET: Rules = [
    (r"features\.init_block\.conv(\d)\.conv\.", r"stem.conv\1."),
    (r"features\.init_block\.conv(\d)\.bn\.", r"stem.norm\1."),
    (r"features\.hg\.skip1_seq\.unit4\.conv(\d)\.bn\.", r"bridge.widen.norm\1."),
    (r"features\.hg\.skip1_seq\.unit4\.conv(\d)\.conv\.", r"bridge.widen.conv\1."),
    (r"features\.hg\.skip1_seq\.unit4\.se\.bn\.", "bridge.gate_norm.norm1."),
    (r"features\.hg\.skip1_seq\.unit4\.se\.conv1\.", "bridge.gate.squeeze."),
    (r"features\.hg\.skip1_seq\.unit4\.se\.conv2\.", "bridge.gate.excite."),
    (r"features\.final_block\.conv1\.bn\.", "final.norm1."),
    (r"features\.final_block\.conv1\.conv\.", "final.conv1."),
    (r"features\.final_block\.preactiv\.bn\.", "final.norm2."),
    (r"output\.final_conv\.", "classifier.fc."),
    *(
        (
            rf"features\.hg\.{re.escape(unit)}\.blocks\.block(\d+)\.{re.escape(old)}\.",
            one_less(f"{part}.{{}}.{new}.", 1),
        )
        for _, unit, part in _FISH_PARTS
        for _, old, new in _FISH_UNIT
    ),
]


def rename(key: str, rules: Rules) -> str:
    """Our name of a foreign key."""
    for pattern, new in rules:
        match = re.match(pattern, key)
        if match:
            return (match.expand(new) if isinstance(new, str) else new(match)) + key[match.end() :]
    raise KeyError(f"no rule for {key}")


@torch.no_grad()
def load_foreign(net: nn.Module, state_dict: Mapping[str, Tensor], rules: Rules) -> None:
    """Load another implementation's weights, all of them, into a net of ours."""
    own = net.state_dict()
    renamed = {rename(key, rules): value for key, value in state_dict.items()}
    # A 1x1 convolution over a pooled map is a linear layer; nothing else may change its shape.
    renamed = {
        key: value.flatten(1) if key == "classifier.fc.weight" and value.ndim == 4 else value
        for key, value in renamed.items()
    }
    assert len(renamed) == len(state_dict), "two foreign keys have one name"
    assert renamed.keys() == own.keys()
    net.load_state_dict(renamed)
