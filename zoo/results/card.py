"""Model card of a trained net: its result line for a reader, as Markdown with a picture of the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.escape import for_markdown
from zoo.results.classes import by_class
from zoo.results.line import score_key, task_of
from zoo.results.metrics import METRICS
from zoo.results.recipe import Recipe
from zoo.results.run import CLASSIFY

CURVE = "curve.svg"
"""Name of the picture beside the card."""
WIDTH, HEIGHT, EDGE = 480, 240, 30
"""Size of the picture, and of the space around the curves, in pixels."""
SHOWN = 20
"""Largest number of class names in a card."""

OPENING = """\
```python
import zoo  # registers the architecture with timm
from timm import create_model

net = create_model("local-dir:{folder}", pretrained=True).eval()
```

`zoo predict PICTURES --weights {folder}` names the classes of pictures, `zoo validate {folder}` tests the net again."""
DENSE = """\
The tensors are those of the whole model, net and {head} together. timm has no name for it; this builds it:

```python
from zoo.bench.one_run import open_model

model = open_model("{folder}")
```"""


def card(line: Mapping[str, Any], folder: str, *, opening: str = "") -> str:
    """Return the card of a finished run.

    Args:
        line: The result line.
        folder: Name of the folder that holds the weights.
        opening: How to open the weights, if they stand alone: without a folder, its picture and its line.
    """
    alone = bool(opening)
    task, images = task_of(line), line["dataset"]
    metric, score = METRICS[task].title, 100 * line[score_key(line)]
    error = line.get("standard_error")
    within = f" +- {100 * error:.2f} (standard error)" if error is not None else ""
    size = "x".join(map(str, images.get("input_size", ())))
    names = [for_markdown(name) for name in images.get("classes") or ()]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    opening = opening or (OPENING if task == CLASSIFY else DENSE).format(folder=folder, head=line.get("head") or "head")
    parts = [
        f"---\nlibrary_name: {'timm' if task == CLASSIFY else 'zoo'}\n---",
        f"# {for_markdown(line['display'])}, trained on {for_markdown(images['name'])}",
        f"{metric} **{score:.2f} %**{within} on {images['test']:,} test images, after the last epoch "
        f"of {len(line['epochs'])}. No epoch was chosen by its score.",
        opening,
        "## Images",
        _list(
            f"{for_markdown(images['name'])}, fingerprint `{images.get('fingerprint') or 'none'}`: "
            f"{images.get('train', 0):,} to train, {images['test']:,} to test"
            + (f", {images['validation']:,} to validate" if line.get("validation") else ""),
            f"input {size}; mean {_numbers(images.get('mean'))}, deviation {_numbers(images.get('std'))}",
            f"resized ({images['interpolation']}), of which the central {100 * images['crop_pct']:g} % are taken"
            if images.get("interpolation")
            else "used at their own size",
            *([f"classes: {', '.join(names[:SHOWN])}{more}"] if names else []),
        ),
        "## Training",
        _list(*map(for_markdown, Recipe(**line["recipe"]).describe()), f"seed {line['seed']}"),
        *([] if alone else [f"![Training loss and {metric} by epoch]({CURVE})"]),
        "## Net and machine",
        _list(
            f"{line['counts']['params']:,} parameters, {line['counts']['macs']:,} multiply-adds an image",
            ", ".join(f"{name} {version}" for name, version in line["versions"].items()),
            f"{for_markdown(str(line['device'].get('name')))}; {line['seconds']:.0f} s; finished {line['finished_at']}",
            f"git revision {line.get('git_revision') or 'unknown'}; run {line['key']}",
        ),
        *_classes(line),
        *([] if alone else ["The whole line of results is in `run.json`."]),
    ]
    return "\n\n".join(parts) + "\n"


def _classes(line: Mapping[str, Any]) -> list[str]:
    """Return the section on the classes: their accuracies, the worst first, and what is confused most often."""
    found = by_class(line)
    if found is None:
        return []
    known = [(share, name) for share, name in zip(found.accuracies, found.names, strict=True) if share is not None]
    rows = [f"| {for_markdown(name)} | {100 * share:.1f} |" for share, name in sorted(known)[:SHOWN]]
    worst = f"the {len(rows)} worst of {len(known)} classes" if len(rows) < len(known) else "the worst class first"
    mean = f"Macro F1 {100 * found.macro_f1:.2f} %; " if found.macro_f1 is not None else ""
    confused = [f"{for_markdown(a)} as {for_markdown(b)} ({number})" for a, b, number in found.confusions()]
    return [
        "## Classes",
        f"{mean}accuracies on the test images, {worst}:",
        "\n".join(["| class | accuracy [%] |", "|---|---:|", *rows]),
        *([f"Most frequent confusions, with numbers of test images: {', '.join(confused)}."] if confused else []),
    ]


def curve(line: Mapping[str, Any]) -> str:
    """Return a picture of training loss and score by epoch, as SVG."""
    epochs = line["epochs"]
    losses = [epoch["train_loss"] for epoch in epochs]
    key = score_key(line).replace("test_", "validation_") if line.get("validation") else score_key(line)
    highest = max(losses) or 1.0
    title = METRICS[task_of(line)].title
    labels = [f"training loss, up to {highest:.3g}", f"{title} in {key.partition('_')[0]}, up to 1"]
    colours = ["#b04030", "#3060a0"]
    curves = [[loss / highest for loss in losses], [epoch[key] for epoch in epochs]]
    lines = [
        f'<polyline points="{_points(values)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for values, colour in zip(curves, colours, strict=True)
    ]
    texts = [
        f'<text x="{EDGE + 220 * i}" y="20" fill="{colour}">{label}</text>'
        for i, (label, colour) in enumerate(zip(labels, colours, strict=True))
    ]
    frame = f'<path d="M{EDGE} {EDGE}V{HEIGHT - EDGE}H{WIDTH - EDGE}" fill="none" stroke="#888"/>'
    ends = f'<text x="{EDGE}" y="{HEIGHT - 10}">epoch 1</text>'
    ends += f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 10}" text-anchor="end">{len(epochs)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([frame, *lines, *texts, ends])
        + "\n</svg>\n"
    )


def _points(shares: Sequence[float]) -> str:
    """Return a curve of shares in [0, 1] as coordinates; a single value is drawn as a level line."""
    if len(shares) == 1:
        shares = [*shares, *shares]
    across, down = (WIDTH - 2 * EDGE) / (len(shares) - 1), HEIGHT - 2 * EDGE
    return " ".join(f"{EDGE + i * across:.1f},{HEIGHT - EDGE - share * down:.1f}" for i, share in enumerate(shares))


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values or ()) or "unknown"


def _list(*items: str) -> str:
    return "\n".join(f"- {item}" for item in items)
