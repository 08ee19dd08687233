"""Trained nets in folders of their own, as `zoo bench` keeps them and timm, transformers and zoo open them.

A folder holds ``model.safetensors``, ``config.json`` in timm's layout, the result line as ``run.json``, and a model
card, ``README.md``. timm gives the net by the name ``local-dir:FOLDER`` with ``pretrained=True``, once zoo is imported.
A model with a decoder or detector has no ``config.json``, because timm knows only nets.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from zoo.escape import for_terminal
from zoo.hub import save_for_hf
from zoo.results.card import CURVE, card, curve
from zoo.results.line import parse, task_of
from zoo.results.run import CLASSIFY

WEIGHTS = "weights"
"""Name of the folder beside the results with a folder for each trained net."""
KEEP = "last", "none"
"""Which weights of a run are kept: those after the last epoch, or none."""
TENSORS, CONFIG, LINE, CARD = "model.safetensors", "config.json", "run.json", "README.md"
OWN_SIZE = "bilinear"
"""Interpolation for pictures of another size, if the net was trained on images at their own size."""
OF_TAG, OF_ORIGIN = ("tag", "notes"), ("license", "origin_url")
"""Facts of published weights. The first are never those of a trained net; the second are, if it started from them."""


def folder_name(line: Mapping[str, Any]) -> str:
    """Return the name of a run's folder: head, net, seed and the beginning of the run's key, which tells variants."""
    name = "-".join(filter(None, [line.get("head"), line["name"]]))
    name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80].strip("._")
    return f"{name}-seed{line['seed']}-{line['key'][:8]}"


def keep(model: nn.Module, line: Mapping[str, Any], folder: Path) -> Path:
    """Write the folder of a trained net, completely or not at all; an earlier one of the same run is replaced.

    Args:
        model: The net. For tasks with a decoder or detector it is the whole model.
        line: The result line of the run.
        folder: Folder for the nets of all runs; created if missing.

    Returns:
        The folder of this net.

    Raises:
        OSError: If it cannot be written.
    """
    place = folder / folder_name(line)
    folder.mkdir(parents=True, exist_ok=True)
    for remains in folder.glob(f".{place.name}.*"):  # of a process that was killed; a run has one process at a time
        shutil.rmtree(remains, ignore_errors=True)
    fresh = folder / f".{place.name}.{secrets.token_hex(4)}"
    try:
        _fill(fresh, model, line, place.name)
        former = folder / f".{place.name}.former"
        if place.exists():
            place.rename(former)
        try:
            fresh.rename(place)
        except OSError:
            if former.exists():
                former.rename(place)
            raise
    finally:
        for remains in folder.glob(f".{place.name}.*"):
            shutil.rmtree(remains, ignore_errors=True)
    return place


def _fill(folder: Path, model: nn.Module, line: Mapping[str, Any], name: str) -> None:
    folder.mkdir()
    if task_of(line) == CLASSIFY:
        save_for_hf(model, folder, model_config=_labels(line), data_config=_preparation(line))
        _forget_other_weights(folder / CONFIG, tuned="." in line["name"])
    else:
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        (folder / TENSORS).write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
    (folder / LINE).write_text(json.dumps(line, indent=1) + "\n", encoding="ascii")
    (folder / CARD).write_text(card(line, name), encoding="utf-8")
    (folder / CURVE).write_text(curve(line), encoding="ascii")
    for path in folder.iterdir():  # on disk before the line that tells of it
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _labels(line: Mapping[str, Any]) -> dict[str, Any]:
    classes = line["dataset"].get("classes")
    return {"label_names": list(classes)} if classes else {}


def _preparation(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing of the test images under timm's names."""
    images = line["dataset"]
    return {
        "input_size": tuple(images["input_size"]),
        "mean": tuple(images["mean"]),
        "std": tuple(images["std"]),
        "interpolation": images["interpolation"] or OWN_SIZE,
        "crop_pct": images["crop_pct"],
        "crop_mode": "center",
    }


def _forget_other_weights(path: Path, *, tuned: bool) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in OF_TAG if tuned else (*OF_TAG, *OF_ORIGIN):
        config["pretrained_cfg"].pop(name, None)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def digest_of(weights: Path) -> str:
    """Return a digest of a weights file, or of the tensors in a folder; names and descriptions are left out.

    Raises:
        ValueError: If it cannot be read.
    """
    files = [weights]
    if weights.is_dir():
        files = [weights / TENSORS] if (weights / TENSORS).is_file() else sorted(weights.iterdir())
    elif weights.name.endswith(".index.json"):  # of a sharded checkpoint, whose parts lie beside it
        files = sorted(weights.parent.iterdir())
    digest = hashlib.sha256()
    try:
        for path in files:
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            elif path == weights:
                raise ValueError(f"weights {for_terminal(weights)!r}: there is no such file or folder")
    except OSError as error:
        raise ValueError(f"weights {for_terminal(weights)!r} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def kept_line(folder: str | Path) -> dict[str, Any] | None:
    """Return the result line in a folder that `keep` wrote; None if the path is no such folder.

    Raises:
        ValueError: If the line in it is none.
    """
    path = Path(folder) / LINE
    if not path.is_file():
        return None
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{for_terminal(path)} is no line of results: {error}") from error
