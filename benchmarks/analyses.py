"""Trains the small nets of docs/analyses.md and repeats its experiments: ``python benchmarks/analyses.py``.

Pictures and CSVs go to docs/images, named after the analysis.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.analysis.nets import Options
from zoo.analysis.run import analyse
from zoo_cli import main as zoo

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DECAY = ("--recipe", "decay_all=True", "--recipe", "weight_decay=0.01")
"""Weight decay on norms, too, as in the papers, and stronger because training is short: it makes responses small."""
NETS: Mapping[str, Sequence[str]] = {
    "plain20": ("plain20_cifar",),
    "resnet20": ("resnet20_cifar",),
    "preresnet20": ("preresnet20_cifar",),
    "preresnet110": ("preresnet110_cifar",),
    "vgg11": ("vgg11_c32_bn_cifar",),
    "densenet40": ("densenet40_k12_bc_cifar",),
    "fishnet58": ("fishnet58_cifar",),
    "fabric": ("fabric_a_l3_s3_c32x2_post_cifar",),
    "highway11": ("highway11_cifar",),
    **{f"{net}_decayed": (f"{net}_cifar", *DECAY) for net in ("plain20", "resnet20", "resnet56")},
    "gated": ("fabric_a_l3_s3_c32x2_post_cifar", "--set", "gate=gated"),
    **{
        f"{net}_cues": (net, "--dataset", "cues")
        for net in ("resnet20_cifar", "plain20_cifar", "lenet5_cifar", "bagnet17_cifar")
    },
}
"""Trained nets: arguments of `zoo bench` by a word for each. All train on digits by its recipe, some with textures."""
RUNS: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]] = {
    "effective-field": (
        ("plain20", "resnet20", "plain56_cifar", "resnet56_cifar"),
        {"input_size": (3, 128, 128), "images": 20},
    ),
    "lesion": (("plain20", "vgg11", "resnet20", "preresnet110"), {"images": 150, "draws": 3}),
    "lesion of others": (("plain20", "densenet40", "highway11", "fishnet58", "fabric"), {"images": 150, "draws": 3}),
    "path-gradients": (("resnet20", "preresnet110"), {"images": 16, "draws": 4}),
    "responses": (("plain20_decayed", "resnet20_decayed", "resnet56_decayed"), {"images": 300}),
    "gradients": (("plain20", "resnet20", "preresnet20"), {}),
    "gates": (("gated",), {"images": 300, "threshold": 0.5}),
    "units": (("resnet20",), {}),
    "shape-or-texture": (tuple(word for word in NETS if word.endswith("_cues")), {}),
    "probes": (("plain20", "resnet20"), {}),
}
"""Nets (words of the table above, or models with fresh weights) and options, by analysis and words that tell pictures
of one analysis apart."""


def trained(word: str, folder: Path) -> str:
    """Return the folder of a net of ``NETS``, trained if it is not there; other words unchanged."""
    if word not in NETS:
        return word
    out = folder / word
    if not (out / "weights").is_dir() and zoo(["bench", *NETS[word], "--out", str(out), "--threads", "1"]):
        raise SystemExit(f"{word} was not trained")
    [place] = (out / "weights").iterdir()
    return str(place.rename(place.with_name(word)))  # pictures name a net by its folder


def publish(what: str, folder: Path) -> None:
    """Run an analysis and put its picture and its CSV where the page shows them."""
    words, options = RUNS[what]
    outcome = analyse(what.partition(" ")[0], [trained(word, folder) for word in words], Options(**options))
    name = f"analysis_{what.replace('-', '_').replace(' ', '_')}"
    (IMAGES / f"{name}.png").write_bytes(outcome.picture("png"))
    (IMAGES / f"{name}.csv").write_text(outcome.csv(), encoding="ascii")
    print(f"{what}: written")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", help="analyses (default: all)")
    parser.add_argument("--nets", type=Path, default=Path("results") / "analyses" / "nets", help="folder of the nets")
    return parser


if __name__ == "__main__":
    args = build_parser().parse_args()
    for what in args.what or RUNS:
        publish(what, args.nets)
