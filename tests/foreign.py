"""State dicts of other implementations, renamed to ours: tables of regular expressions, first match wins."""

import re
from collections.abc import Callable, Mapping, Sequence

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
    (r"layer(\d)\.(\d+)\.se\.fc1\.", r"stage\1.\2.gate.squeeze."),
    (r"layer(\d)\.(\d+)\.se\.fc2\.", r"stage\1.\2.gate.excite."),
    (r"layer(\d)\.(\d+)\.downsample\.0\.", r"stage\1.\2.shortcut.conv1."),
    (r"layer(\d)\.(\d+)\.downsample\.1\.", r"stage\1.\2.shortcut.norm1."),
    (r"fc\.", "classifier.fc."),
]


def plain(depths: Sequence[int], norm: bool, wide: Sequence[str], head: str) -> Rules:
    """Numbered layers of a plain net: ``depths`` convolutions in each stage, each stage but the first after a pooling.

    Args:
        depths: Convolutions a stage.
        norm: Each is followed by a norm; by an activation in any case.
        wide: What the other implementation calls the wide layers.
        head: What it calls the classifier.
    """
    rules: Rules = []
    index = 0
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


TORCHVISION_ALEXNET = plain((1, 1, 3), False, ("classifier.1", "classifier.4"), "classifier.6")

_CV_UNIT = r"features\.stage(\d)\.unit(\d+)\."
PYTORCHCV_RESNET: Rules = [
    (r"features\.init_block\.(?:conv\.)?bn\.", "stem.norm1."),
    (r"features\.init_block\.(?:conv\.)?conv\.", "stem.conv1."),
    (_CV_UNIT + r"body\.conv(\d)\.conv\.", one_less("stage{}.{}.branch.conv{}.", 2)),
    (_CV_UNIT + r"body\.conv(\d)\.bn\.", one_less("stage{}.{}.branch.norm{}.", 2)),
    (_CV_UNIT + r"se\.conv1\.", one_less("stage{}.{}.gate.squeeze.", 2)),
    (_CV_UNIT + r"se\.conv2\.", one_less("stage{}.{}.gate.excite.", 2)),
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

TIMM_DENSENET: Rules = [
    (r"features\.conv0\.", "stem.conv1."),
    (r"features\.norm0\.", "stem.norm1."),
    (r"features\.denseblock(\d)\.denselayer(\d+)\.", one_less("stage{}.{}.branch.", 2)),
    (r"features\.transition(\d)\.(norm|conv)\.", r"transition\1.\g<2>1."),
    (r"features\.norm5\.", "final.norm1."),
    (r"classifier\.", "classifier.fc."),
]
PYTORCHCV_DENSENET: Rules = [
    (r"features\.init_block\.", "stem.conv1."),
    (_CV_UNIT + r"conv(\d)\.conv\.", one_less("stage{}.{}.branch.conv{}.", 2)),
    (_CV_UNIT + r"conv(\d)\.bn\.", one_less("stage{}.{}.branch.norm{}.", 2)),
    (r"features\.stage\d\.trans(\d)\.conv\.conv\.", one_less("transition{}.conv1.", 1)),
    (r"features\.stage\d\.trans(\d)\.conv\.bn\.", one_less("transition{}.norm1.", 1)),
    (r"features\.post_activ\.bn\.", "final.norm1."),
    (r"output\.", "classifier.fc."),
]

_INCEPTION_BRANCHES = {"1": "one", "2": "three", "3": "five", "4": "project"}


def _inception(match: re.Match[str]) -> str:
    """The first of a stage is its pooling; the fourth branch begins with one, without weights."""
    stage, module, branch, place, kind = match.groups()
    number = int(place) + 1 if branch in "23" else 1
    return f"stage{stage}.{ord(module) - 96}.{_INCEPTION_BRANCHES[branch]}.{kind.replace('bn', 'norm')}{number}."


TORCHVISION_GOOGLENET: Rules = [
    (r"conv1\.conv\.", "stem.conv1."),
    (r"conv1\.bn\.", "stem.norm1."),
    (r"conv(\d)\.conv\.", one_less("reduce.conv{}.", 1)),
    (r"conv(\d)\.bn\.", one_less("reduce.norm{}.", 1)),
    (r"inception(\d)(\w)\.branch(\d)(?:\.(\d))?\.(conv|bn)\.", _inception),
    *(
        (rf"aux{number}\.{old}\.", f"aux_{letter}.{new}.")
        for number, letter in (("1", "a"), ("2", "b"))
        for old, new in (
            (r"conv\.conv", "reduce.conv1"),
            (r"conv\.bn", "reduce.norm1"),
            ("fc1", "hidden"),
            ("fc2", "fc"),
        )
    ),
    (r"fc\.", "classifier.fc."),
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
    # A convolution over a map of its window's size is a linear layer; nothing else may change its shape.
    renamed = {
        key: value.view_as(own[key]) if re.match(r"(classifier\.fc|wide\..*)\.weight", key) else value
        for key, value in renamed.items()
    }
    assert len(renamed) == len(state_dict), "two foreign keys have one name"
    assert renamed.keys() == own.keys()
    net.load_state_dict(renamed)
