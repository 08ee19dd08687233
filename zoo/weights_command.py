"""The verbs `zoo weights`, `zoo convert`, `zoo verify` and `zoo validate`: arguments in, tables and files out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.bench.options import DESCRIPTION, choose_device

WEIGHTS_EXAMPLES = """\
examples:
  zoo weights                                  every tag
  zoo weights fishnet150
  zoo weights '*_cifar' --json"""

CONVERT_EXAMPLES = """\
examples:
  zoo convert fishnet150_ckpt.tar fishnet150.safetensors --model fishnet150
  zoo convert resnet20_cifar100.pth.zip net.safetensors --model resnet20_projection_cifar.osmr_c100"""

VERIFY_EXAMPLES = """\
examples:
  zoo verify fishnet201 fishnet201_ckpt_welltrain.tar
  zoo verify resnet20_projection_cifar net.pth --num-classes 100"""

VALIDATE_EXAMPLES = """\
examples:
  zoo validate fishnet150 --dataset folder --data-dir imagenet
  zoo validate resnet56_projection_cifar.osmr_c100 --dataset torch/cifar100 --data-dir data
  zoo validate resnet20_cifar --checkpoint mine.safetensors --dataset torch/cifar10 --data-dir data"""

COLUMNS = ("weights", "classes", "top1_error", "top5_error", "of", "size", "licence", "source")


def add_verbs(verbs: Any) -> None:
    """Add the four verbs to a parser's."""
    listing = verbs.add_parser(
        "weights",
        help="published weights",
        description="Tags with published errors in percent. A size with ~ is that of the parameters in 32 bits; "
        "without it, that of the file in the cache.",
        epilog=WEIGHTS_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    listing.add_argument("name", nargs="?", default="", metavar="NAME", help="a model, or a pattern such as '*_cifar'")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=run_weights)

    convert = verbs.add_parser(
        "convert",
        help="rewrite a checkpoint under our names",
        description="Read a checkpoint in any layout of the model's family and write it as safetensors, with our names "
        "and a note of where it came from.",
        epilog=CONVERT_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    convert.add_argument("file", type=Path, metavar="IN", help="the checkpoint")
    convert.add_argument("out", type=Path, metavar="OUT.safetensors", help="the file to write")
    convert.add_argument("--model", required=True, metavar="NAME", help="its model, perhaps with a tag")
    _add_shape_options(convert)
    convert.set_defaults(run=run_convert)

    verify = verbs.add_parser(
        "verify",
        help="say whether a checkpoint would load",
        description="Read and check a checkpoint as loading would, and say what was found; nothing is written.",
        epilog=VERIFY_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    verify.add_argument("name", metavar="NAME", help="a model, perhaps with a tag")
    verify.add_argument("file", type=Path, metavar="FILE", help="the checkpoint")
    _add_shape_options(verify)
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=run_verify)

    validate = verbs.add_parser(
        "validate",
        help="measure the error of trained weights",
        description="Top-1 and top-5 error on labelled images, prepared as the weights ask for, beside the published "
        "ones. Data sets are never downloaded.",
        epilog=VALIDATE_EXAMPLES,
        formatter_class=DESCRIPTION,
    )
    validate.add_argument("name", metavar="NAME", help="a model; its first tag, or the one that is named")
    validate.add_argument(
        "--dataset",
        default="folder",
        help="folder, torch/cifar10, torch/svhn, ..., or hfds/NAME (default: %(default)s)",
    )
    validate.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="where the images are")
    validate.add_argument("--split", default="validation", help="part of the data set (default: %(default)s)")
    validate.add_argument("--class-map", default="", metavar="FILE", help="names of the classes in order, for folders")
    validate.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures that cannot be read, and count them"
    )
    validate.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights from a file instead of a tag's")
    _add_shape_options(validate)
    validate.add_argument("--batch-size", type=int, default=64, metavar="N", help="(default: %(default)s)")
    validate.add_argument("--workers", type=int, default=2, metavar="N", help="that read images (default: %(default)s)")
    validate.add_argument("--device", default="auto", help="cpu, cuda, ... (default: cuda if there is one)")
    validate.add_argument("--json", action="store_true", help="print JSON")
    validate.set_defaults(run=run_validate)


def run_weights(args: argparse.Namespace) -> int:
    """Print the tags."""
    from tabulate import tabulate

    from zoo.checkpoint import cached_path
    from zoo.registry import list_models, model_entry

    pattern = any(c in args.name for c in "*?[")
    names = list_models(args.name) if pattern or not args.name else [model_entry(args.name.partition(".")[0]).name]
    rows = []
    for entry in map(model_entry, names):
        for tag, weights in entry.weights.items():
            file = cached_path(weights.url) if weights.url else None
            held = file.stat().st_size if file and file.is_file() else None
            rows.append(
                {
                    "weights": f"{entry.name}.{tag}",
                    "classes": weights.num_classes,
                    "top1_error": weights.top1_error,
                    "top5_error": weights.top5_error,
                    "of": weights.error_source,
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
        print(json.dumps(rows, indent=2))
    elif rows:
        table = [[_cell(row[column]) for column in COLUMNS] for row in rows]
        align = ["left", "right", "right", "right", "left", "right", "left", "left"]
        print(tabulate(table, headers=list(COLUMNS), colalign=align, disable_numparse=True))
    else:
        print(f"no weights are published for {args.name or 'any model'}")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Write a checkpoint under our names."""
    from safetensors.torch import save

    import zoo
    from zoo.files import write_atomically

    if args.out.suffix != ".safetensors":
        raise ValueError(f"out ({str(args.out)!r}) must end in .safetensors")
    tensors, layout = _checked(args.model, args.file, args)
    note = {
        "format": "pt",
        "model": args.model,
        "layout": layout,
        "source": args.file.name.encode("ascii", "replace").decode(),
        "writer": f"backbone-zoo {zoo.__version__}",
    }
    content = save({key: value.contiguous() for key, value in tensors.items()}, metadata=note)
    write_atomically(args.out, content)
    print(f"{args.out}: {len(tensors)} tensors of {args.model}, from layout {layout}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Say what a checkpoint is."""
    tensors, layout = _checked(args.name, args.file, args)
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in tensors.values()})
    head = tensors.get("classifier.fc.weight")
    found = {
        "file": str(args.file),
        "model": args.name,
        "layout": layout,
        "tensors": len(tensors),
        "numbers": sum(value.numel() for value in tensors.values()),
        "types": kinds,
        "classes": 0 if head is None else head.shape[0],
        "channels": tensors["stem.conv1.weight"].shape[1],
    }
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(
            f"{args.file}: loads into {args.name}, layout {layout}: {found['tensors']} tensors, "
            f"{found['numbers']:,} numbers ({', '.join(kinds)}), {found['classes']} classes"
        )
    return 0


def run_validate(args: argparse.Namespace) -> int:
    """Measure errors and print them beside the published ones."""
    from zoo.evaluation import evaluate, open_dataset, preprocessing
    from zoo.registry import create_model, load_weights, model_entry

    for name in ("batch_size", "workers"):
        if getattr(args, name) < (name == "batch_size"):
            raise ValueError(f"{name.replace('_', '-')} ({getattr(args, name)}) is too small")
    device = choose_device(args.device)
    base, _, tag = args.name.partition(".")
    entry = model_entry(base)
    tag = tag or next(iter(entry.weights), "")
    dataset = open_dataset(args.dataset, args.data_dir, split=args.split, class_map=args.class_map)
    model = create_model(args.name, pretrained=args.checkpoint is None, **_shape(args))
    published = None
    if args.checkpoint is not None:
        load_weights(model, args.checkpoint)
    elif tag:
        published = entry.weights[tag]
    prepared = preprocessing(model)
    if len(dataset.classes) != (classes := getattr(model, "num_classes", 0)):
        print(
            f"zoo: the images have {len(dataset.classes)} classes and the net {classes}: labels count the classes in "
            "the order of their names; is --class-map missing?",
            file=sys.stderr,
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
        print(json.dumps(found, indent=2))
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


def _checked(name: str, file: Path, args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """A checkpoint under our names, checked against a model of which only shapes are made."""
    from zoo.registry import check_weights, create_model

    return check_weights(create_model(name, device="meta", **_shape(args)), file)


def _shape(args: argparse.Namespace) -> Mapping[str, Any]:
    return {key: value for key in ("num_classes", "in_chans") if (value := getattr(args, key)) is not None}


def _add_shape_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes of the checkpoint (default: the tag's)")
    parser.add_argument("--in-chans", type=int, metavar="N", help="its channels (default: the model's)")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value in ("", None) else str(value)
