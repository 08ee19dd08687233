"""Probes: how well the classes can be read from each map of a frozen net, by a linear classifier and by neighbours.

Zhang, Isola, Efros 2017 (arXiv:1611.09842, section 4.1): maps are averaged down to about 9,600 numbers each, and one
softmax layer is trained on them. Neighbours vote with the weight exp(cosine / T), as Wu et al. 2018 (arXiv:1805.01978).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.analysis.nets import Options, expand, open_images, sample, twins, untouched
from zoo.analysis.outcome import Outcome, finish, styles
from zoo.analysis.progress import told

MOST_NUMBERS = 9600
"""Numbers of a map after averaging, at most (the paper's)."""
WEIGHT_DECAY = 1e-4
STEPS = 100
"""Steps of the classifier's solver, at most."""
NEIGHBOURS = 20
TEMPERATURE = 0.07
BATCH = 100
IMAGE, POOLED = "image", "pooled"
"""Names of two maps that no module gives: the pixels, and what the last layer reads."""

Halves = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Training images with their classes, and test images with theirs."""


@dataclass(frozen=True)
class Probe:
    """Accuracies of classifiers that read one map.

    Attributes:
        tap: Name of the map: a module, ``image`` or ``pooled``.
        channels: Channels of the map.
        side: Height (and width) of the map after averaging.
        linear: Test accuracy of the linear classifier, in percent.
        nearest: Test accuracy of the vote of neighbours, in percent.
    """

    tap: str
    channels: int
    side: int
    linear: float
    nearest: float


def probes(net: nn.Module, halves: Halves, modules: Sequence[str] | None = None) -> list[Probe]:
    """Return the probes of a net's maps, from the image to the input of its last layer.

    Args:
        net: The net. It runs in evaluation and stays as it is.
        halves: Training images and classes, test images and classes.
        modules: Modules whose maps are read. Default: the taps that the net names.

    Raises:
        ValueError: If a module is unknown.
    """
    (x, labels), (test_x, test_labels) = halves
    train, test = maps(net, x, modules), maps(net, test_x, modules)
    found = []
    for tap, pixels in told(train.items(), "probing maps"):
        mean, std = pixels.mean(0), pixels.std(0).clamp(min=1e-6)
        flat, test_flat = (((half - mean) / std).flatten(1) for half in (pixels, test[tap]))
        best = linear_probe(flat, labels, test_flat), nearest_probe(flat, labels, test_flat)
        shares = [100 * float((answers == test_labels).float().mean()) for answers in best]
        found.append(Probe(tap, pixels.shape[1], pixels.shape[2], *shares))
    return found


def maps(net: Any, images: Tensor, modules: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return the maps of images, averaged as the paper averages them, in the order of the pass.

    Args:
        net: The net. It runs in evaluation and stays as it is.
        images: Images (N, C, H, W).
        modules: Modules whose maps are read; those of the taps by default. What the pass does not run is left out.
    """
    named = dict(net.named_modules())
    if modules is None:
        modules = [tap["module"] for tap in getattr(net, "feature_info", None) or []]
    unknown = [name for name in modules if name not in named]
    if unknown:
        raise ValueError(f"modules ({unknown[0]!r}) is not a module of the net; named_modules() lists them")
    kept: dict[str, list[Tensor]] = {IMAGE: []}
    with torch.inference_mode(), untouched(net):
        hooks = [
            named[name].register_forward_hook(
                lambda _m, _i, out, name=name: kept.setdefault(name, []).append(averaged(out))
            )
            for name in modules
        ]
        try:
            for batch in images.split(BATCH):
                kept[IMAGE].append(averaged(batch))
                if not hasattr(net, "forward_head"):
                    net(batch)
                    continue
                pooled = net.forward_head(net.forward_features(batch), pre_logits=True)
                kept.setdefault(POOLED, []).append(averaged(pooled))
        finally:
            for hook in hooks:
                hook.remove()
    found = {name: torch.cat(parts) for name, parts in kept.items()}
    return {name: found[name] for name in (IMAGE, *modules, POOLED) if name in found}


def averaged(pixels: Tensor) -> Tensor:
    """Average a map (N, C, H, W) down to ``MOST_NUMBERS``, and at least one number a channel; (N, C) becomes a map."""
    if pixels.dim() == 2:
        return pixels[:, :, None, None]
    side = max(1, isqrt(MOST_NUMBERS // pixels.shape[1]))
    return F.adaptive_avg_pool2d(pixels, (min(side, pixels.shape[2]), min(side, pixels.shape[3])))


def linear_probe(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Return the classes that a softmax layer gives; it is trained on rows of numbers with their classes."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning  # optional dependency: the `bench` extra
    from sklearn.linear_model import LogisticRegression

    layer = LogisticRegression(C=1 / (WEIGHT_DECAY * len(train)), max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is a limit, as in the paper
        layer.fit(train.numpy(), labels.numpy())
    return torch.from_numpy(layer.predict(test.numpy()))


def nearest_probe(train: Tensor, labels: Tensor, test: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Return the classes for which the nearest training rows vote, each with exp(cosine / temperature)."""
    cosines = F.normalize(test) @ F.normalize(train).T
    near = cosines.topk(min(neighbours, len(train)))
    votes = F.one_hot(labels[near.indices]) * (near.values / TEMPERATURE).exp()[:, :, None]
    return votes.sum(1).argmax(1)


def analyse(names: Sequence[str], options: Options) -> Outcome:
    """Probe the maps of nets; a trained net stands beside the same net with fresh weights.

    Args:
        names: Models, patterns, or folders of trained nets.
        options: ``dataset``, ``data_dir``, ``images`` and ``seed``.
    """
    found: dict[tuple[str, str], list[Probe]] = {}
    for name, title in expand(names).items():
        images = open_images(name, options)
        halves = sample(images, "train", options.images), sample(images, "test", options.images)
        for weights, net in twins(name, options):
            found[title, weights] = probes(net, halves)
    rows = list(_rows(found))
    shown = [
        row | {"dims": f"{row['channels']}x{row['side']}x{row['side']}"} | {"linear": f"{row['linear']:.2f}"}
        | {"nearest": f"{row['nearest']:.2f}"}
        for row in rows
    ]  # fmt: skip
    return Outcome(
        what="probes",
        rows=rows,
        shown=shown,
        draw=lambda figure: _draw(figure, found),
        notes=("linear, nearest: accuracy [%] on test images of classifiers that read the map.",),
    )


def _rows(found: Mapping[tuple[str, str], Sequence[Probe]]) -> Iterator[dict[str, Any]]:
    for (name, weights), taps in found.items():
        for probe in taps:
            sizes = {"channels": probe.channels, "side": probe.side, "dims": probe.channels * probe.side**2}
            scores = {"linear": round(probe.linear, 3), "nearest": round(probe.nearest, 3)}
            yield {"net": name, "weights": weights, "tap": probe.tap, **sizes, **scores}


def _draw(figure: Any, found: Mapping[tuple[str, str], Sequence[Probe]]) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    looks = dict(styles(list(dict.fromkeys(name for name, _ in found))))
    for axes, score in zip(panels, ("linear", "nearest"), strict=True):
        for (name, weights), taps in found.items():
            line = looks[name] | {"label": f"{looks[name]['label']}, {weights}"}
            dashed = {"linestyle": (0, (3, 2)), "markerfacecolor": "white"} if weights == "fresh" else {}
            axes.plot(range(len(taps)), [getattr(probe, score) for probe in taps], **line | dashed)
        orders = {tuple(probe.tap for probe in taps) for taps in found.values()}
        if len(orders) == 1:
            [order] = orders
            axes.set_xticks(range(len(order)), order, rotation=30, ha="right", fontsize=7)
    finish(panels[0], "map, in the order of the pass", "accuracy of a linear probe [%]")
    finish(panels[1], "map, in the order of the pass", "accuracy of nearest neighbours [%]", legend=False)
