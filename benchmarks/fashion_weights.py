"""Kept weights of the comparison: what each net answers to the test images, and the nets that come with the package."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from fashion_plan import RECIPE
from safetensors.torch import load_file, save
from tqdm import tqdm

import zoo
from zoo.bench.distributed import Team
from zoo.bench.one_run import run_of
from zoo.bench.tasks import TASKS
from zoo.bench.train import predictions
from zoo.datasets.built_in import load_dataset
from zoo.datasets.image_set import Dataset
from zoo.evaluation import evaluate, open_dataset
from zoo.files import write_in_folder
from zoo.keeping import OWN_SIZE, TENSORS, folder_name
from zoo.results.card import card
from zoo.results.metrics import standard_error
from zoo.results.run import CLASSIFY

TAG = "fashion"
ANSWERS, TRUTH = "answers.csv", "truth"
"""File of the answers in the folder of the results, and the first column of its row of true classes."""
TRAINED = Path(zoo.__file__).parent / "data" / "trained"
"""Folder of the package with the weights of the tags, their cards, and ``tags.json``."""
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
OPENING = """\
```python
import zoo

net = zoo.create_model("{name}", pretrained=True).eval()
```

The weights come with the package, in half precision; the figure above was measured with them, by
`zoo validate {name} --dataset fashion`. In single precision, at the end of the training, it was {score:.2f} %.
They are small nets of a short training, for analyses, tutorials and tests, and no state of the art."""

Line = Mapping[str, Any]


def kept(out: Path, line: Line, trained: Path = TRAINED) -> Path | None:
    """Return the file with the weights of a run: in the package, or in the folder of the results; None if not kept."""
    packed = [trained / row["file"] for row in read_tags(trained) if row["key"] == line["key"]]
    folder = out / "weights"
    places = [*packed, folder / f"{line['key']}.safetensors", folder / folder_name(line) / TENSORS]
    return next((path for path in places if path.is_file()), None)


def open_kept(line: Line, path: Path) -> torch.nn.Module:
    """Return the net of a run with its kept weights."""
    run = run_of(dict(line))
    net = zoo.create_model(run.name, num_classes=line["dataset"]["num_classes"], **run.overrides)
    loaded = zoo.load_weights(net, path)
    if loaded.new:
        raise ValueError(f"{path}: has not all weights of {line['display']}: {loaded}")
    return net.eval()


# ---------------------------------------------------------------- answers


def read_answers(out: Path) -> dict[str, str]:
    """Return the answers by key of the run, a digit an image; the true classes are those of `TRUTH`."""
    path = out / ANSWERS
    if not path.is_file():
        return {}
    return {row["key"]: row["answers"] for row in csv.DictReader(path.read_text("ascii").splitlines())}


def write_answers(out: Path, lines: Iterable[Line]) -> None:
    """Let every net whose weights are kept answer the test images, unless its answers are there."""
    found = read_answers(out)
    places = [(line, kept(out, line)) for line in lines if line["key"] not in found]
    missing = [(line, path) for line, path in places if path is not None]
    if not missing and found:
        return
    images = load_dataset("fashion")
    for line, path in tqdm(missing, "answering", unit="net"):
        layout = LAYOUTS[line["computed"]["layout"]]
        found[line["key"]] = answers(open_kept(line, path), images, layout)
        found[TRUTH] = _digits(images.test_labels)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("key", "answers"))
        writer.writerows((key, found[key]) for key in sorted(found, key=lambda key: (key != TRUTH, key)))
        write_in_folder(out / ANSWERS, buffer.getvalue().encode("ascii"))


def answers(net: torch.nn.Module, images: Dataset, layout: torch.memory_format) -> str:
    """Return a net's classes of the test images, a digit an image."""
    net = net.to(memory_format=layout)
    return _digits(predictions(net, TASKS[CLASSIFY], images, RECIPE, Team("cpu"), layout))


def _digits(classes: torch.Tensor) -> str:
    return "".join(map(str, classes.tolist()))


# ---------------------------------------------------------------- tags


def read_tags(folder: Path = TRAINED) -> list[dict[str, Any]]:
    """Return the rows of ``tags.json``."""
    path = folder / "tags.json"
    return json.loads(path.read_text("ascii")) if path.is_file() else []


def register(out: Path, lines: Iterable[Line], folder: Path = TRAINED) -> list[str]:
    """Write weights in half precision, card and row of each run whose weights are kept; return the new names.

    Args:
        out: Folder of the results.
        lines: One line of each net.
        folder: Folder of the package for its own weights.
    """
    done = []
    for line in lines:
        rows = read_tags(folder)
        path = kept(out, line, folder)
        if path is None or any(row["key"] == line["key"] for row in rows):
            continue
        row = _pack(line, path, folder)
        rows = [other for other in rows if other["model"] != row["model"]] + [row]
        rows.sort(key=lambda row: row["model"])
        write_in_folder(folder / "tags.json", (json.dumps(rows, indent=1) + "\n").encode("ascii"))
        done.append(f"{row['model']}.{TAG}")
    return done


def _pack(line: Line, path: Path, folder: Path) -> dict[str, Any]:
    """Write the weights of a run and their card; return the row."""
    name, images = f"{line['name']}.{TAG}", line["dataset"]
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in load_file(path).items()}
    content = save({key: value.contiguous() for key, value in tensors.items()}, metadata={"format": "pt"})
    file = folder / f"{name}.safetensors"
    write_in_folder(file, content)
    prepared = {
        "input_size": tuple(images["input_size"]),
        "mean": tuple(images["mean"]),
        "std": tuple(images["std"]),
        "interpolation": images["interpolation"] or OWN_SIZE,
        "crop_pct": images["crop_pct"],
    }
    test = open_dataset("fashion", split="test")
    errors = evaluate(open_kept(line, file), test, prepared={**prepared, "crop_mode": "center"})
    score = 1 - errors.top1_error / 100
    measured = {**line, "test_accuracy": score, "standard_error": standard_error(score, errors.images)}
    opening = OPENING.format(name=name, score=100 * line["test_accuracy"])
    write_in_folder(folder / f"{name}.md", card(measured, name, opening=opening).encode("utf-8"))
    return {
        "model": line["name"],
        "tag": TAG,
        "key": line["key"],
        "file": file.name,
        "overrides": line["overrides"],
        "params": line["counts"]["params"],
        "macs": line["counts"]["macs"],
        "dataset": images["name"],
        "label_names": images["classes"],
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "num_classes": images["num_classes"],
        "top1_error": round(errors.top1_error, 4),
        "top5_error": round(errors.top5_error, 4),
        "error_source": "zoo",
        "licence": "apache-2.0",
        **{key: list(value) if isinstance(value, tuple) else value for key, value in prepared.items()},
    }
