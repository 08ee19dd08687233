"""Entrypoints for torch.hub: every model of the registry, under its name here and under its name in timm.

>>> torch.hub.load("path/to/this/repository", "fishnet99", source="local", num_classes=10)
"""

import zoo as _zoo

dependencies = ["torch", "torchvision", "timm"]

for _entry in map(_zoo.model_entry, _zoo.list_models()):
    globals()[_entry.name] = globals()[_entry.timm_name] = getattr(_zoo, _entry.timm_name)
