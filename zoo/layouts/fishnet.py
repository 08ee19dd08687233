"""Tensor names of FishNets in other implementations."""

import re

from zoo.weights import Layout

# Inside a unit: the released code's name, pytorchcv's, ours.
_UNIT = (
    ("bn1", "body.conv1.bn", "before.norm1"),
    ("conv1", "body.conv1.conv", "branch.conv1"),
    ("bn2", "body.conv2.bn", "branch.norm1"),
    ("conv2", "body.conv2.conv", "branch.conv2"),
    ("bn3", "body.conv3.bn", "branch.norm2"),
    ("conv3", "body.conv3.conv", "branch.conv3"),
    ("shortcut.0", "identity_conv.bn", "shortcut.norm1"),
    ("shortcut.2", "identity_conv.conv", "shortcut.conv1"),
)
# Runs of units: the released code's stage and part, pytorchcv's name, ours.
_RUNS = (
    (r"0\.0", r"down1_seq\.unit1", "tail.stage1"),
    (r"1\.0", r"down1_seq\.unit2", "tail.stage2"),
    (r"2\.0", r"down1_seq\.unit3", "tail.stage3"),
    (r"3\.2", r"skip1_seq\.unit4", "bridge.stage"),
    (r"4\.0", r"up_seq\.unit1", "body.stage1"),
    (r"5\.0", r"up_seq\.unit2", "body.stage2"),
    (r"6\.0", r"up_seq\.unit3", "body.stage3"),
    (r"4\.1", r"skip1_seq\.unit3", "body.lateral1"),
    (r"5\.1", r"skip1_seq\.unit2", "body.lateral2"),
    (r"6\.1", r"skip1_seq\.unit1", "body.lateral3"),
    (r"7\.0", r"down2_seq\.unit1", "head1.stage"),
    (r"8\.0", r"down2_seq\.unit2", "head2.stage"),
    (r"9\.0", r"down2_seq\.unit3", "head3.stage"),
    (r"7\.1", r"skip2_seq\.unit3", "head1.lateral"),
    (r"8\.1", r"skip2_seq\.unit2", "head2.lateral"),
    (r"9\.1", r"skip2_seq\.unit1", "head3.lateral"),
)
_RELEASED = [
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
        (rf"fish\.fish\.{run}\.(\d+)\.{re.escape(old)}\.", rf"{part}.\1.{new}.")
        for run, _, part in _RUNS
        for old, _, new in _UNIT
    ),
]
# Before the release the two score parts were cut in other places: bn-relu | conv-bn-relu-conv.
_OLDER_BRIDGE = [
    (r"fish\.fish\.3\.1\.0\.", "bridge.widen.conv1."),
    (r"fish\.fish\.3\.1\.1\.", "bridge.widen.norm2."),
    (r"fish\.fish\.3\.1\.3\.", "bridge.widen.conv2."),
]
LAYOUTS = {
    "released": Layout(_RELEASED),
    "released_older": Layout(
        [
            *_OLDER_BRIDGE,
            (r"fish\.fish\.9\.4\.0\.", "final.conv1."),
            (r"fish\.fish\.9\.4\.1\.", "final.norm2."),
            (r"fish\.fish\.9\.4\.4\.", "classifier.fc."),
            *_RELEASED,
        ]
    ),
    "released_oldest": Layout(
        [
            *_OLDER_BRIDGE,
            (r"fish\.fish\.9\.2\.0\.", "final.norm1."),
            (r"fish\.fish\.9\.3\.0\.", "final.conv1."),
            (r"fish\.fish\.9\.3\.1\.", "final.norm2."),
            (r"fish\.fish\.9\.3\.4\.", "classifier.fc."),
            (r"fish\.fish\.0\.0\.0\.shortcut\.", "tail.stage1.0.shortcut.conv1."),
            *_RELEASED,
        ],
        # The first shortcut was a bare convolution. What it reads is not negative, so that this norm changes nothing.
        constants={
            "tail.stage1.0.shortcut.norm1.weight": (1 + 1e-5) ** 0.5,
            "tail.stage1.0.shortcut.norm1.bias": 0.0,
            "tail.stage1.0.shortcut.norm1.running_mean": 0.0,
            "tail.stage1.0.shortcut.norm1.running_var": 1.0,
        },
    ),
    "pytorchcv": Layout(
        [
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
                (rf"features\.hg\.{unit}\.blocks\.block(\d+)\.{re.escape(old)}\.", f"{part}.{{1-1}}.{new}.")
                for _, unit, part in _RUNS
                for _, old, new in _UNIT
            ),
        ]
    ),
}
"""The released code's names, two older ones in its well-trained checkpoints (our reading of a conversion script for
them, as no such file was at hand), and pytorchcv's."""
