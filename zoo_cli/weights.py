"""The verbs `zoo weights`, `zoo convert`, `zoo verify` and `zoo validate`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_cli.common import Parser, print_json, print_table, printable, tell

COLUMNS = ("weights", "classes", "top1_error", "top5_error", "of", "at", "size", "licence", "source")
NUMBERS = ("classes", "top1_error", "top5_error", "size")
MOST = 1 << 20
"""Largest number of classes or channels that may be requested of a checkpoint."""
OF_NAMES: Mapping[str, Any] = {"num_classes": None, "in_chans": None}
OF_IMAGES: Mapping[str, Any] = {"split": "validation", "class_map": "", "batch_size": 64}
"""Options of `zoo validate`, with their defaults, for weights by name or file, and for images by name."""


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
    tag_asked = "" if pattern else args.name.partition(".")[2]
    if tag_asked and tag_asked not in (known := model_entry(names[0]).weights):
        raise ValueError(f"name ({args.name!r}): {names[0]} has {', '.join(known) or 'no registered weights'}")
    rows = []
    for entry in map(model_entry, names):
        for tag, weights in entry.weights.items():
            if tag_asked not in ("", tag):
                continue
            file = Path(weights.path) if weights.file else cached_path(weights.url) if weights.url else None
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
                    "source": weights.hub_id or weights.url.rpartition("/")[2] or "in the package",
                    "url": weights.url,
                    "hub_id": weights.hub_id,
                    "digest": weights.digest,
                    "params": weights.params or entry.params,
                    "overrides": dict(weights.overrides),
                    "card": weights.card,
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
    if args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        raise ValueError(f"out ({str(args.out)!r}) is the file to read, and would be lost: give another")
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
Data sets are never downloaded.

A folder that `zoo bench` has kept in OUT/weights is tested again as its run tested it: on the same images, in the same
batches. The score equals that of the result line. With --dataset it is measured on other images."""
    parser.epilog = """\
examples:
  zoo validate fishnet150 --dataset folder --data-dir imagenet
  zoo validate resnet56_projection_cifar.osmr_c100 --dataset torch/cifar100 --data-dir data
  zoo validate resnet20_cifar.fashion --dataset fashion
  zoo validate resnet20_cifar --checkpoint mine.safetensors --dataset torch/cifar10 --data-dir data
  zoo validate results/digits/weights/resnet20_cifar-seed0-8deb2467
  zoo validate results/folder_flowers/weights/resnet18-seed0-51b0ad9b --data-dir data/flowers"""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a model with or without a tag (default: its first tag), or a folder of a trained net",
    )
    parser.add_argument(
        "--dataset",
        help="folder, torch/cifar10, torch/svhn, ..., hfds/NAME, or fashion, which Debian's package installs "
        "(default: folder; of a trained net that of its run)",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the images")
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
    from zoo.environment import MOST_IMAGES, MOST_THREADS, check_between, choose_device
    from zoo.keeping import kept_line

    check_between("batch-size", args.batch_size, 1, MOST_IMAGES)
    check_between("workers", args.workers, 0, MOST_THREADS)
    device = choose_device(args.device)
    kept = kept_line(args.name)
    if kept is not None and args.checkpoint is not None:
        raise ValueError(f"checkpoint ({str(args.checkpoint)!r}) and a folder of a trained net were given: choose one")
    if kept is not None:
        _check_unused(args, OF_NAMES if args.dataset is not None else {**OF_NAMES, **OF_IMAGES})
    if kept is not None and args.dataset is None:
        return _retest(args, device)
    return _measure(args, device, trained=kept is not None)


def _check_unused(args: argparse.Namespace, unused: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that a folder of a trained net would leave without effect."""
    for name, default in unused.items():
        if (value := getattr(args, name)) != default:
            hint = ", or name other images by --dataset" if name in OF_IMAGES else ""
            raise ValueError(
                f"{name.replace('_', '-')} ({value!r}) was given, but the folder of a trained net tells its own: leave "
                f"it out{hint}"
            )


def _retest(args: argparse.Namespace, device: str) -> int:
    """Test a kept model as its run did, and print the score beside that of the line."""
    from zoo.bench.one_run import retest
    from zoo.datasets.external import DataLocation
    from zoo.results.line import task_of
    from zoo.results.metrics import METRICS

    location = DataLocation(folder=args.data_dir, workers=args.workers, skip_broken=args.skip_broken)
    found = retest(args.name, location, device)
    line, metric = found.line, METRICS[task_of(found.line)]
    if args.json:
        told = {"weights": args.name, "model": line["name"], "key": line["key"], "dataset": line["dataset"]["name"]}
        scores = {metric.key: found.score, "standard_error": found.standard_error, f"stored_{metric.key}": found.stored}
        print_json({**told, **scores})
        return 0
    print(printable(f"{line['display']} on {line['dataset']['test']:,} test images of {line['dataset']['name']}"))
    score = f"{100 * found.score:6.2f} % +- {100 * found.standard_error:.2f}"
    print(f"{metric.title}  {score}   in the result line {100 * found.stored:.2f} %")
    return 0


def _measure(args: argparse.Namespace, device: str, *, trained: bool) -> int:
    """Measure a net on a data set, and print its errors."""
    from zoo.evaluation import evaluate, open_dataset, preprocessing
    from zoo.registry import model_entry

    if not trained:
        model_entry(args.name.partition(".")[0])
    dataset = open_dataset(args.dataset or "folder", args.data_dir, split=args.split, class_map=args.class_map)
    model, published, source = _trained_net(args) if trained else _registered_net(args)
    classes = getattr(model, "num_classes", 0)
    names = getattr(model, "pretrained_cfg", {}).get("label_names")
    if names and args.checkpoint is None and tuple(names) != dataset.classes:
        raise ValueError(
            f"the images have the classes {_listed(dataset.classes)}, and the net was trained on {_listed(names)}: "
            "give its classes in order by --class-map"
        )
    if len(dataset.classes) != classes:
        tell(
            f"the images have {len(dataset.classes)} classes and the net {classes}: labels count the classes in the "
            "order of their names; is --class-map missing?"
        )
    prepared = preprocessing(model)
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
        "model": getattr(model, "pretrained_cfg", {}).get("architecture") if trained else args.name.partition(".")[0],
        "weights": source,
        "dataset": args.dataset or "folder",
        "preprocessing": prepared,
        **errors.to_dict(),
        "published_top1_error": published.top1_error if published else None,
        "published_top5_error": published.top5_error if published else None,
    }
    if args.json:
        print_json(found)
        return 0
    size = "x".join(map(str, prepared["input_size"]))
    crop = f"crop {prepared['crop_pct']}, {prepared['interpolation']}"
    print(printable(f"{args.name} on {errors.images:,} images ({size}, {crop})"))
    for number in ("top1", "top5"):
        line = f"{number} error  {getattr(errors, f'{number}_error'):6.2f} %"
        if number == "top1":
            line += f" +- {errors.standard_error:.2f}"
        quoted = found[f"published_{number}_error"]
        print(line + (f"   published {quoted:.2f} %" if quoted is not None else ""))
    return 0


def _trained_net(args: argparse.Namespace) -> tuple[Any, None, str]:
    """Return the net of a folder that a run has kept, no published figures, and the folder's name."""
    from zoo.registry import create_model

    if not (Path(args.name) / "config.json").is_file():
        raise ValueError(f"{args.name} holds no net alone, but one with a decoder or detector: leave --dataset out")
    return create_model(f"local-dir:{args.name}", pretrained=True), None, args.name


def _registered_net(args: argparse.Namespace) -> tuple[Any, Any, str]:
    """Return a registered net with the weights of a tag or a file, the tag's published figures, and a name for them."""
    from zoo.registry import create_model, model_entry
    from zoo.weights.loading import load_weights

    base, _, tag = args.name.partition(".")
    entry = model_entry(base)
    tag = tag or entry.default_tag
    if not tag and args.checkpoint is None:
        only = f" but {', '.join(f'{base}.{tag}' for tag in entry.weights)}" if entry.weights else ""
        raise ValueError(f"{base} has no registered weights{only} to measure: give a file of them by --checkpoint")
    model = create_model(args.name, pretrained=args.checkpoint is None, **_shape(args))
    if args.checkpoint is None:
        return model, entry.weights[tag], tag
    loaded = load_weights(model, args.checkpoint)
    if loaded.new:
        raise ValueError(f"{args.checkpoint}: has not all weights that are to be measured: {loaded}")
    return model, None, str(args.checkpoint)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


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
