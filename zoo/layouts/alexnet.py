"""Tensor names of AlexNet in other implementations."""

from zoo.weights import Layout

LAYOUTS = {
    "torchvision": Layout(
        [
            (r"features\.0\.", "stem.conv1."),
            (r"features\.3\.", "stage2.1.conv1."),
            (r"features\.6\.", "stage3.1.conv1."),
            (r"features\.8\.", "stage3.2.conv1."),
            (r"features\.10\.", "stage3.3.conv1."),
            (r"classifier\.1\.", "wide.layers.conv1."),
            (r"classifier\.4\.", "wide.layers.conv2."),
            (r"classifier\.6\.", "classifier.fc."),
        ]
    )
}
"""torchvision's state dict."""
