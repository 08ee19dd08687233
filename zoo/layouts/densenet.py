"""Tensor names of DenseNets in other implementations."""

from zoo.weights import Layout

_CV_UNIT = r"features\.stage(\d)\.unit(\d+)\."
LAYOUTS = {
    "timm": Layout(
        [
            (r"features\.conv0\.", "stem.conv1."),
            (r"features\.norm0\.", "stem.norm1."),
            # torchvision's published files have a dot where its nets have none.
            (r"features\.denseblock(\d)\.denselayer(\d+)\.(norm|conv)\.(\d)\.", "stage{1}.{2-1}.branch.{3}{4}."),
            (r"features\.denseblock(\d)\.denselayer(\d+)\.", "stage{1}.{2-1}.branch."),
            (r"features\.transition(\d)\.(norm|conv)\.", "transition{1}.{2}1."),
            (r"features\.norm5\.", "final.norm1."),
            (r"classifier\.", "classifier.fc."),
        ]
    ),
    "pytorchcv": Layout(
        [
            (r"features\.init_block\.conv\.", "stem.conv1."),
            (r"features\.init_block\.bn\.", "stem.norm1."),
            (r"features\.init_block\.", "stem.conv1."),
            (_CV_UNIT + r"conv(\d)\.conv\.", "stage{1}.{2-1}.branch.conv{3}."),
            (_CV_UNIT + r"conv(\d)\.bn\.", "stage{1}.{2-1}.branch.norm{3}."),
            (r"features\.stage\d\.trans(\d)\.conv\.conv\.", "transition{1-1}.conv1."),
            (r"features\.stage\d\.trans(\d)\.conv\.bn\.", "transition{1-1}.norm1."),
            (r"features\.post_activ\.bn\.", "final.norm1."),
            (r"output\.", "classifier.fc."),
        ]
    ),
}
"""State dicts of timm (and torchvision, which has the same names, in its files also ``norm.1``) and of pytorchcv.

pytorchcv's CIFAR nets without "bc" are other nets than the paper's of the same name: theirs are no tags here."""
