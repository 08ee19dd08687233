"""Tensor names of BagNets in other implementations."""

from zoo.weights import Layout

_CV_UNIT = r"features\.stage(\d)\.unit(\d+)\."
_OURS = "stage{1}.{2-1}."
LAYOUTS = {
    "pytorchcv": Layout(
        [
            (r"features\.init_block\.conv1\.", "stem.conv1."),
            (r"features\.init_block\.conv2\.conv\.", "stem.conv2."),
            (r"features\.init_block\.conv2\.bn\.", "stem.norm1."),
            (_CV_UNIT + r"body\.conv(\d)\.conv\.", _OURS + "branch.conv{3}."),
            (_CV_UNIT + r"body\.conv(\d)\.bn\.", _OURS + "branch.norm{3}."),
            (_CV_UNIT + r"identity_conv\.conv\.", _OURS + "shortcut.conv1."),
            (_CV_UNIT + r"identity_conv\.bn\.", _OURS + "shortcut.norm1."),
            (r"output\.", "classifier.fc."),
        ]
    ),
}
"""State dicts of pytorchcv."""
