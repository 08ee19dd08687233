"""Write folders in the form of the Hugging Face hub, for timm and for transformers.

timm and zoo read the output of `save_for_hf` by the name ``local-dir:FOLDER`` and, after an upload without changes, by
``hf-hub:OWNER/NAME``. transformers reads it by ``AutoModelForImageClassification.from_pretrained`` once zoo is
imported.
"""

import json
from pathlib import Path
from typing import Any

import timm.models
from torch import nn

from zoo.files import write_atomically


def save_for_hf(model: nn.Module, folder: str | Path, **options: Any) -> Path:
    """Write ``model.safetensors`` and ``config.json``.

    timm 1.0.31 writes the number of classes twice; transformers 5 then passes it twice and fails. Here it is written
    once, where both read it. The rest is timm's.

    Args:
        model: A net from `create_model`. Overrides of its specification are written as well.
        folder: Created if missing.
        **options: Options of timm's function: ``model_config`` (``dict(label_names=[...])``), ``model_args``,
            ``data_config``.

    Returns:
        The folder.

    Raises:
        ValueError: If an override cannot be written as JSON, such as a class; give its name instead.
    """
    if not isinstance(model, nn.Module) or not hasattr(model, "pretrained_cfg"):
        raise TypeError(f"model ({type(model).__name__}) must be a net from create_model")
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
    """Make tensors contiguous, as safetensors requires; tensors of a net in channels_last are not."""
    for key, value in state_dict.items():
        state_dict[key] = value.contiguous()
