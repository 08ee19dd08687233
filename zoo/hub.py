"""Folders in the form of the Hugging Face hub, for timm and for transformers alike.

timm and zoo read what `save_for_hf` writes by the name ``local-dir:FOLDER``, and, uploaded as it is, by
``hf-hub:OWNER/NAME``; transformers by ``AutoModelForImageClassification.from_pretrained``, once zoo is imported.
"""

import json
from pathlib import Path
from typing import Any

import timm.models
from torch import nn

from zoo.files import write_atomically


def save_for_hf(model: nn.Module, folder: str | Path, **options: Any) -> Path:
    """Write ``model.safetensors`` and ``config.json``.

    timm 1.0.31 writes the number of classes twice, and transformers 5 then passes it twice and fails; here it stands
    once, where both read it. The rest is timm's.

    Args:
        model: A net that `create_model` made; overrides of its specification are written, too.
        folder: Made if it is not there.
        **options: Of timm's function: ``model_config`` (``dict(label_names=[...])``), ``model_args``, ``data_config``.

    Returns:
        The folder.

    Raises:
        ValueError: If an override cannot be written as JSON, such as a class; give its name instead.
    """
    folder = Path(folder)
    hook = model.register_state_dict_post_hook(_contiguous)
    try:
        timm.models.save_for_hf(model, str(folder), safe_serialization=True, **options)
    finally:
        hook.remove()
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())
    return folder


def _contiguous(_: nn.Module, state_dict: dict[str, Any], *__: Any) -> None:
    """Bring tensors into the order that safetensors asks for; those of a net in channels_last are in another."""
    for key, value in state_dict.items():
        state_dict[key] = value.contiguous()
