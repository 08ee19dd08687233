"""The verbs `zoo weights`, `zoo convert`, `zoo verify` and `zoo validate`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo_cli.common import Parser, print_json, print_table, printable, tell

COLUMNS = ("weights", "classes", "top1_error", "top5_error", "of", "at", "size", "licence", "source")
NUMBERS = ("classes", "top1_error", "top5_error", "size")
MOST = 1 << 20
"""Largest number of classes or channels that may be requested of a checkpoint."""


def add_weights(parser: Parser) -> None:
    """Add the arguments of `zoo weights`."""
    parser.description = """\
List tags with published errors in percent. A size with ~ is that of the parameters in 32 bits. A size without ~ is that
of the file in the cache."""
    parser.epilog = """\
examples:
  zoo weights                                  every tag
  zoo weights fishnet150
  zoo weights '*_cifar' --json"""
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="a model, or a pattern such as '*_cifar'")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_weights(args: argparse.Namespace) -> int:
    """Print the tags."""
    from zoo.registry import list_models, model_entry
    from zoo.weights.sources import cached_path

    pattern = any(c in args.name for c in "*?[")
    names = list_models(args.name) if pattern or not args.name else [model_entry(args.name.partition(".")[0]).name]
    rows = []
    for entry in map(model_entry, names):
        for tag, weights in entry.weights.items():
            file = cached_path(weights.url) if weights.url else None
            held = file.stat().st_size if file and file.is_file() else None
            side = (weights.test_input_size or weights.input_size or entry.input_size)[-1]
            rows.append(
                {
                    "weights": f"{entry.name}.{tag}",
                    "classes": weights.num_classes,
                    "top1_error": weights.top1_error,
                    "top5_error": weights.top5_error,
                    "of": weights.error_source,
                    "at": f"{side} px" if weights.error_source else "",
                    "size": f"~{4 * entry.params / 1e6:.1f} MB" if held is None else f"{held / 1e6:.1f} MB",
                    "licence": weights.licence,
                    "source": weights.hub_id or weights.url.rpartition("/")[2],
                    "url": weights.url,
                    "hub_id": weights.hub_id,
                    "digest": weights.digest,
                    "params": entry.params,
                    "cached": held is not None,
                }
            )
    if args.json:
        print_json(rows)
    elif rows:
        print_table([{column: _cell(row[column]) for column in COLUMNS} for row in rows], NUMBERS)
    else:
        print(f"no weights are published for {args.name or 'any model'}")
    return 0


def add_convert(parser: Parser) -> None:
    """Add the arguments of `zoo convert`."""
    parser.description = """\
Read a checkpoint in any layout of the model's family and write it as safetensors, with our names and a note of where it
came from."""
    parser.epilog = """\
examples:
  zoo convert fishnet150_ckpt.tar fishnet150.safetensors --model fishnet150
  zoo convert resnet20_cifar100.pth.zip net.safetensors --model resnet20_projection_cifar.osmr_c100"""
    parser.add_argument("file", type=Path, metavar="IN", help="the checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="the file to write")
    parser.add_argument("--model", required=True, metavar="NAME", help="model of the checkpoint, with or without a tag")
    _add_prefix(parser)
    _add_shape_options(parser)


def run_convert(args: argparse.Namespace) -> int:
    """Write a checkpoint under our names."""
    from safetensors.torch import save

    import zoo
    from zoo.files import check_writable, write_atomically

    if args.out.suffix != ".safetensors":
        raise ValueError(f"out ({str(args.out)!r}) must end in .safetensors")
    check_writable("out", args.out)
    tensors, loaded = _checked(args.model, args.file, args, strict=True)
    note = {
        "format": "pt",
        "model": args.model,
        "layout": loaded.layout,
        "source": args.file.name.encode("ascii", "replace").decode(),
        "writer": f"backbone-zoo {zoo.__version__}",
    }
    content = save({key: value.contiguous() for key, value in tensors.items()}, metadata=note)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, content)
    print(printable(f"{args.out}: {args.model}, {_types(tensors, loaded)}: {loaded}"))
    return 0


def add_verify(parser: Parser) -> None:
    """Add the arguments of `zoo verify`."""
    parser.description = "Read and check a checkpoint as loading would, and describe it. Nothing is written."
    parser.epilog = """\
examples:
  zoo verify fishnet201 fishnet201_ckpt_welltrain.tar
  zoo verify resnet20_projection_cifar net.pth --num-classes 100"""
    parser.add_argument("name", metavar="NAME", help="a model, perhaps with a tag")
    parser.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    _add_prefix(parser)
    _add_shape_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_verify(args: argparse.Namespace) -> int:
    """Print what a checkpoint contains."""
    tensors, loaded = _checked(args.name, args.file, args)
    numbers = sum(value.numel() for value in tensors.values())
    if args.json:
        found = {"file": str(args.file), "model": args.name, **dataclasses.asdict(loaded), "numbers": numbers}
        print_json(found)
    else:
        line = f"{args.file}: loads into {args.name}: {loaded}; {numbers:,} numbers ({', '.join(loaded.types)}), "
        print(printable(f"{line}{loaded.classes} classes"))
    return 0


def add_validate(parser: Parser) -> None:
    """Add the arguments of `zoo validate`."""
    parser.description = """\
Measure top-1 and top-5 error on labelled images, with the preprocessing of the weights, beside the published errors.
Data sets are never downloaded."""
    parser.epilog = """\
examples:
  zoo validate fishnet150 --dataset folder --data-dir imagenet
  zoo validate resnet56_projection_cifar.osmr_c100 --dataset torch/cifar100 --data-dir data
  zoo validate resnet20_cifar --checkpoint mine.safetensors --dataset torch/cifar10 --data-dir data"""
    parser.add_argument("name", metavar="NAME", help="a model with or without a tag (default: its first tag)")
    parser.add_argument(
        "--dataset",
        default="folder",
        help="folder, torch/cifar10, torch/svhn, ..., or hfds/NAME (default: %(default)s)",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--split", default="validation", help="part of the data set (default: %(default)s)")
    parser.add_argument("--class-map", default="", metavar="FILE", help="names of the classes in order, for folders")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures that cannot be read, and count them"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights from a file instead of a tag's")
    _add_shape_options(parser)
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that read images (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda if there is one)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_validate(args: argparse.Namespace) -> int:
    """Measure errors and print them beside the published ones."""
    from zoo.environment import choose_device
    from zoo.evaluation import evaluate, open_dataset, preprocessing
    from zoo.registry import create_model, model_entry
    from zoo.weights.loading import load_weights

    for name in ("batch_size", "workers"):
        if getattr(args, name) < (name == "batch_size"):
            raise ValueError(f"{name.replace('_', '-')} ({getattr(args, name)}) is too small")
    device = choose_device(args.device)
    base, _, tag = args.name.partition(".")
    entry = model_entry(base)
    tag = tag or next(iter(entry.weights), "")
    dataset = open_dataset(args.dataset, args.data_dir, split=args.split, class_map=args.class_map)
    if not tag and args.checkpoint is None:
        raise ValueError(f"{base} has no registered weights to measure: give a file of them by --checkpoint")
    model = create_model(args.name, pretrained=args.checkpoint is None, **_shape(args))
    published = None
    if args.checkpoint is not None:
        loaded = load_weights(model, args.checkpoint)
        if loaded.new:
            raise ValueError(f"{args.checkpoint}: has not all weights that are to be measured: {loaded}")
    elif tag:
        published = entry.weights[tag]
    prepared = preprocessing(model)
    if len(dataset.classes) != (classes := getattr(model, "num_classes", 0)):
        tell(
            f"the images have {len(dataset.classes)} classes and the net {classes}: labels count the classes in the "
            "order of their names; is --class-map missing?"
        )
    errors = evaluate(
        model,
        dataset,
        batch_size=args.batch_size,
        workers=args.workers,
        device=device,
        prepared=prepared,
        skip_broken=args.skip_broken,
    )
    found: dict[str, Any] = {
        "model": base,
        "weights": str(args.checkpoint) if args.checkpoint else tag,
        "dataset": args.dataset,
        "preprocessing": prepared,
        **errors.to_dict(),
        "published_top1_error": published.top1_error if published else None,
        "published_top5_error": published.top5_error if published else None,
    }
    if args.json:
        print_json(found)
        return 0
    size = "x".join(map(str, prepared["input_size"]))
    print(f"{args.name} on {errors.images:,} images ({size}, crop {prepared['crop_pct']}, {prepared['interpolation']})")
    for number in ("top1", "top5"):
        line = f"{number} error  {getattr(errors, f'{number}_error'):6.2f} %"
        if number == "top1":
            line += f" +- {errors.standard_error:.2f}"
        quoted = found[f"published_{number}_error"]
        print(line + (f"   published {quoted:.2f} %" if quoted is not None else ""))
    return 0


def _checked(name: str, file: Path, args: argparse.Namespace, *, strict: bool = False) -> tuple[dict[str, Any], Any]:
    """Return a checkpoint under our names, checked against a model that has only shapes."""
    from zoo.registry import create_model, model_entry
    from zoo.weights.loading import check_weights

    model_entry(name.partition(".")[0])  # of other libraries' nets nobody here knows the layout
    model = create_model(name, device="meta", **_shape(args))
    return check_weights(model, file, strict=strict, prefix=args.prefix)


def _shape(args: argparse.Namespace) -> Mapping[str, Any]:
    """Return the requested classes and channels.

    Raises:
        ValueError: If no checkpoint could have as many.
    """
    given = {key: value for key in ("num_classes", "in_chans") if (value := getattr(args, key)) is not None}
    for key, value in given.items():
        if value > MOST:
            raise ValueError(f"{key.replace('_', '-')} ({value}) must be at most {MOST:,}")
    return given


def _types(tensors: Mapping[str, Any], loaded: Any) -> str:
    """Return the type that tensors are written in, and the types in the file if they differ."""
    written = {str(value.dtype).removeprefix("torch.") for value in tensors.values() if value.is_floating_point()}
    read = {name for name in loaded.types if "float" in name}
    return ", ".join(sorted(written)) + (f" from {', '.join(sorted(read))}" if read != written else "")


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", metavar="TEXT", help="prefix of the names to load (default: found)")


def _add_shape_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes of the checkpoint (default: the tag's)")
    parser.add_argument("--in-chans", type=int, metavar="N", help="channels of the checkpoint (default: the model's)")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value in ("", None) else str(value)
