"""Tensor names of GoogLeNets in other implementations."""

from zoo.weights import Layout

_MODULES = tuple((letter, number) for number, letter in enumerate("abcde", 1))
_TORCHVISION = [
    (r"conv1\.conv\.", "stem.conv1."),
    (r"conv1\.bn\.", "stem.norm1."),
    (r"conv(\d)\.conv\.", "reduce.conv{1-1}."),
    (r"conv(\d)\.bn\.", "reduce.norm{1-1}."),
    # The first of a stage is its pooling; the fourth branch begins with one, without weights.
    *(
        (rf"inception(\d){letter}\.{branch}\.{theirs}\.", f"stage{{1}}.{number}.{name}.{ours}{place}.")
        for letter, number in _MODULES
        for theirs, ours in (("conv", "conv"), ("bn", "norm"))
        for branch, name, place in (
            ("branch1", "one", "1"),
            (r"branch2\.(\d)", "three", "{2+1}"),
            (r"branch3\.(\d)", "five", "{2+1}"),
            (r"branch4\.1", "project", "1"),
        )
    ),
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
LAYOUTS = {
    "torchvision": Layout(_TORCHVISION),
    "torchvision_with_auxiliaries": Layout(_TORCHVISION, dropped=[r"aux\d\."]),
}
"""torchvision's state dict. The published one has auxiliary classifiers, for which most nets have no place."""
