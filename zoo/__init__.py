"""Interchangeable vision backbones behind timm's contract: created by name, counted, compared like with like.

>>> import zoo
>>> net = zoo.create_model("fishnet99", features_only=True)
>>> net.feature_info.reduction()
[2, 4, 8, 16, 32]

Importing the package registers its models with timm, under the names that `list_models` shows, or with ``zoo_`` in
front where timm has a model of that name. Every entrypoint is also a function here: ``zoo.fishnet99(num_classes=10)``.
"""

__version__ = "0.1.0"
__all__ = [
    "checkpoint_filter_fn",
    "create_model",
    "detection_backbone",
    "draw",
    "families",
    "fuse",
    "list_models",
    "load_weights",
    "model_entry",
    "preprocessing_params",
    "save_for_hf",
    "set_lean",
]

from zoo.detection import detection_backbone
from zoo.drawing import draw
from zoo.fusing import fuse
from zoo.hub import save_for_hf
from zoo.lean import set_lean
from zoo.registry import create_model, families, list_models, model_entry, preprocessing_params
from zoo.weights.loading import checkpoint_filter_fn, load_weights
