"""Keep part of a net as it is in training: no gradients, and norms and dropout in evaluation mode."""

from __future__ import annotations

from typing import Any

from torch import nn

BODY, UNTIL = "body", "until="
"""Parts that can be frozen: all but the classifier, or all up to the end of a named module."""


def check_freeze(text: str) -> str:
    """Return the name of a part; an empty text for ``none``.

    Raises:
        ValueError: If it has none of the three forms.
    """
    if text in ("", "none"):
        return ""
    if text == BODY or (text.startswith(UNTIL) and len(text) > len(UNTIL)):
        return text
    raise ValueError(f"freeze {text!r} must be body, none, or until=STAGE, such as until=stage3")


def freeze_parts(model: nn.Module, part: str) -> tuple[str, ...]:
    """Take gradients from a part of a net.

    Args:
        model: The net, with timm's ``get_classifier``.
        part: ``body``, or ``until=`` and the name of a module: all that the net lists up to its end are frozen.

    Returns:
        Names of the frozen modules without children, which should stay in evaluation mode.

    Raises:
        ValueError: If the net has no such module, or nothing is left to train.
    """
    leaves = [name for name, module in model.named_modules() if name and not any(module.children())]
    if part == BODY:
        classifier: Any = model.get_classifier()  # ty: ignore[not-callable]
        head = {id(module) for module in classifier.modules()}
        body = [name for name in leaves if id(model.get_submodule(name)) not in head]
        own = [i for i, name in enumerate(leaves) if name in body and model.get_submodule(name).state_dict()]
        chosen = [name for name in leaves[: own[-1] + 1] if name in body]
    else:
        last = part.removeprefix(UNTIL)
        own = [i for i, name in enumerate(leaves) if name == last or name.startswith(f"{last}.")]
        if not own:
            children = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"freeze {part!r}: the net has no such part; it has {children}")
        chosen = leaves[: own[-1] + 1]
    # A parameter beside modules, such as a token, belongs to the first of them.
    owners = {name[:end] for name in chosen for end in range(len(name) + 1) if end == len(name) or name[end] == "."}
    for name, parameter in model.named_parameters():
        if (owner := name.rpartition(".")[0]) in owners or not owner:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze {part!r} leaves nothing of the net to train")
    return tuple(chosen)
