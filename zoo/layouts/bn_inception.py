"""Tensor names of BN-Inception in other implementations."""

from zoo.weights import Layout

_PARTS = (("conv", "conv"), ("bn", "norm"))
_UNIT = r"features\.stage(\d)\.unit(\d)\.branches\."
LAYOUTS = {
    "pytorchcv": Layout(
        [
            *((rf"features\.init_block\.conv1\.{theirs}\.", f"stem.{ours}1.") for theirs, ours in _PARTS),
            *((rf"features\.init_block\.conv2\.conv(\d)\.{theirs}\.", rf"reduce.{ours}\1.") for theirs, ours in _PARTS),
            # The first module of the two later stages halves and has no 1x1 of its own.
            *(
                (
                    rf"features\.stage([23])\.unit1\.branches\.{branch}\.conv(\d)\.{theirs}\.",
                    rf"stage{{1+2}}.0.{name}.{ours}\2.",
                )
                for branch, name in (("branch1", "three"), ("branch2", "pair"))
                for theirs, ours in _PARTS
            ),
            *(
                (rf"{_UNIT}{branch}\.{theirs}\.", f"stage{{1+2}}.{{2-1}}.{name}.{ours}{place}.")
                for theirs, ours in _PARTS
                for branch, name, place in (
                    ("branch1", "one", "1"),
                    (r"branch2\.conv(\d)", "three", r"\3"),
                    (r"branch3\.conv(\d)", "pair", r"\3"),
                    (r"branch4\.conv", "project", "1"),
                )
            ),
            (r"output\.", "classifier.fc."),
        ]
    ),
}
"""State dicts of pytorchcv."""
