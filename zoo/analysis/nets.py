"""Nets and images that an analysis is asked for: nets by name with fresh weights, or trained ones in a folder."""

import copy
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import arguments, registry
from zoo.datasets.built_in import dataset_row, load_dataset
from zoo.datasets.external import DataLocation, is_external, open_set
from zoo.datasets.image_set import Dataset, ImageSet
from zoo.escape import for_terminal
from zoo.evaluation import pooled
from zoo.keeping import CONFIG, folder_name, kept_line
from zoo.results.group import display_of
from zoo.results.recipe import Recipe

DIGITS = "digits"
"""The image set of nets that were not trained on one that comes with the package."""
HALVES = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the analyses; each reads those that it needs.

    Attributes:
        input_size: Channels, height and width of the image. Default: each net's own.
        gates: Treatment of gates in receptive fields, see `zoo.analysis.field.GATES`.
        counted: Steps of a path, see `zoo.analysis.paths.LENGTHS`.
        seed: Seed of fresh weights, and of what is drawn.
        dataset: Image set, as in ``zoo bench``. Default: the one that the net was trained on, or digits.
        data_dir: Folder of the set, if it is not built in.
        images: Largest number of images that are taken from each half of the set, evenly.
        module: Module whose map is looked at. Default: the analysis chooses.
        draws: Number of random choices: of units for each number of units, of vectors for gains.
        threshold: Accuracy in points that an edge of a fabric must be worth, or it is pruned.
        units: Number of units that are looked at in each map, evenly spaced among its channels.

    Raises:
        ValueError: If a number is out of range, or no number.
    """

    input_size: tuple[int, int, int] | None = None
    gates: str = "constant"
    counted: str = "units"
    seed: int = 0
    dataset: str = ""
    data_dir: Path | None = None
    images: int = 1000
    module: str = ""
    draws: int = 5
    threshold: float = 0.5
    units: int = 3

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("units", 1), ("draws", 0)):
            arguments.whole(name, getattr(self, name), least)
        arguments.whole("seed", self.seed, -(2**63), 2**63 - 1)
        if self.input_size is not None:
            arguments.image_size("input_size", self.input_size)
        arguments.finite("threshold", self.threshold)
        for name in ("gates", "counted", "dataset", "module"):
            arguments.text(name, getattr(self, name))


@contextmanager
def untouched(net: nn.Module) -> Generator[None]:
    """Run a net in evaluation; restore the mode of every module and the random state afterwards."""
    modes = {module: module.training for module in net.modules()}
    with torch.random.fork_rng(devices=[]):
        try:
            net.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 100) -> float:
    """Return the right answers of a net in percent. It runs in evaluation and stays as it is."""
    with untouched(net):
        answers = torch.cat([pooled(net(batch)).argmax(1) for batch in images.split(batch_size)])
    return 100 * int((answers == labels).sum()) / len(labels)


def expand(names: Iterable[str]) -> dict[str, str]:
    """Return names and folders, with the names that a pattern matches in its place, each with its title.

    Titles are what tables and pictures show. A net by name has its name, a folder that a user has named its own name. A
    folder that ``zoo bench`` has named has the name of its net, with the seed, and then the key of its run, where other
    nets have the same title.

    Raises:
        ValueError: If a name is no model, a folder holds no net that ``zoo bench`` has kept, or two different nets have
            one title nonetheless.
    """
    found: dict[str | Path, str] = {}
    for name in names:
        if not Path(name).is_dir():
            found |= {each: each for each in registry.expand_names([name])}
        elif (Path(name) / CONFIG).is_file():
            found.setdefault(Path(name).resolve(), name)
        else:
            raise ValueError(f"{for_terminal(name)!r} is a folder without {CONFIG}: zoo bench keeps such ones")
    titles = _titles(list(found.values()))
    shown: dict[str, str] = {}
    for name, title in titles.items():
        if (other := shown.setdefault(title, name)) != name:
            raise ValueError(
                f"{for_terminal(other)!r} and {for_terminal(name)!r} would both be shown as "
                f"{for_terminal(title)!r}: rename one of the folders"
            )
    return titles


def _titles(names: Sequence[str]) -> dict[str, str]:
    """Return the shortest titles that tell nets apart, as far as any do."""
    words = {name: _title_words(name) for name in names}
    titles = {name: own[0] for name, own in words.items()}
    for number in (2, 3):
        often = Counter(titles.values())
        titles |= {name: ", ".join(own[:number]) for name, own in words.items() if often[titles[name]] > 1}
    return titles


def _title_words(name: str) -> list[str]:
    """Return the parts of a net's title, the first of which is needed most."""
    line = kept_line(name) if Path(name).is_dir() else None
    if line is None or own_name(name) != folder_name(line):
        return [own_name(name)]
    return [display_of(line), f"seed {line['seed']}", line["key"][:8]]


def own_name(name: str) -> str:
    """Return the name of a model, or that of a folder without the folders around it."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def is_fresh(name: str) -> bool:
    """Return True if a net of this name has random weights: no folder, and no tag of published weights."""
    return not Path(name).is_dir() and not registry.has_tag(name)


def trained_on(name: str) -> str:
    """Return the name of the image set that a net in a folder, or of a tag, was trained on; nothing if unknown."""
    if Path(name).is_dir():
        line = kept_line(name)
        return line["dataset"]["name"] if line else ""
    weights = registry.weights_of(name)
    return weights.dataset if weights else ""


def open_net(name: str, *, seed: int = 0, meta: bool = False, fresh: bool = False, **overrides: Any) -> Any:
    """Return a net in evaluation mode.

    Args:
        name: Model of the zoo or of timm, with fresh weights or those of its tag, or the folder of a trained net.
        seed: Seed of fresh weights. The random state of the caller stays as it is.
        meta: Make a net of the zoo without memory for its weights.
        fresh: Make the net of a folder, or of a name with a tag, with fresh weights.
        overrides: Arguments of the net.
    """
    if Path(name).is_dir() and not fresh:
        return registry.create_model(f"local-dir:{name}", pretrained=True, **overrides).eval()
    place: dict[str, Any] = {"device": "meta"} if meta and name in registry.list_models() else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = f"local-dir:{name}" if Path(name).is_dir() else name
        tagged = registry.has_tag(name) and not (meta or fresh or Path(name).is_dir())
        return registry.create_model(source, pretrained=tagged, **place, **overrides).eval()


def fresh_note(names: Iterable[str]) -> tuple[str, ...]:
    """Return a note that names the nets with random weights, if there are any."""
    fresh = ", ".join(name for name in expand(names) if is_fresh(name))
    return (f"Random weights, which tell little here: {fresh}.",) if fresh else ()


def settled(net: nn.Module, images: Tensor, *, batch_size: int = 100) -> nn.Module:
    """Return a copy of a net, in evaluation mode, whose batch norms have the statistics of some images.

    Without training the norms of a net keep their first statistics, mean 0 and variance 1, and so normalise nothing.

    Args:
        net: The net.
        images: Images (N, C, H, W), two at least.
        batch_size: Images per batch.
    """
    copied = copy.deepcopy(net).eval()
    for norm in copied.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and norm.track_running_stats:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all batches
            norm.train()
    with torch.no_grad():
        for x in images.tensor_split(-(-len(images) // batch_size)):  # in equal parts: a norm cannot take one image
            copied(x)
    return copied.eval()


FRESH, TRAINED = "fresh", "trained"
"""Words for the weights of a net."""


def twins(name: str, options: Options, **overrides: Any) -> Iterator[tuple[str, Any]]:
    """Yield a word for the weights and a net: with fresh weights, and with trained ones if there are any.

    Args:
        name: Model, or folder of a trained net.
        options: ``seed``.
        overrides: Arguments of the net.
    """
    yield FRESH, open_net(name, seed=options.seed, fresh=True, **overrides)
    if not is_fresh(name):
        yield TRAINED, open_net(name, **overrides)


def own_size(net: Any) -> tuple[int, int, int]:
    """Return the image size that a net was made for: channels, height, width."""
    _, height, width = getattr(net, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    return getattr(net, "in_chans", 3), height, width


def open_images(name: str, options: Options) -> ImageSet:
    """Return the image set for a net.

    Images that are read from disk have the size of the recipe that a trained net was trained by.

    Args:
        name: Model, or folder of a trained net, whose set is the default.
        options: ``dataset`` and ``data_dir``.

    Raises:
        ValueError: If the set does not exist, needs a folder, or has other images than those that the net was trained
            on although no other set was asked for.
    """
    line = kept_line(name) if Path(name).is_dir() else None
    dataset = options.dataset or trained_on(name) or DIGITS
    if is_external(dataset):
        images: ImageSet = open_set(dataset, DataLocation(folder=options.data_dir))
        images = images.for_recipe(Recipe.of_line(line["recipe"])) if line else images
    elif options.data_dir is not None and not dataset_row(dataset).located:
        raise ValueError(f"data-dir was given, but {dataset} is built in: leave it out, or name another --dataset")
    else:
        images = load_dataset(dataset, options.data_dir)
    known = line["dataset"].get("fingerprint") if line and not options.dataset else None
    if known and known != images.fingerprint:
        raise ValueError(
            f"the images of {for_terminal(dataset)} are not those that {for_terminal(own_name(name))!r} was trained on"
            f": fingerprint {images.fingerprint} instead of {known}; name a set by --dataset to take others"
        )
    return images


def check_classes(name: str, net: Any, images: ImageSet) -> None:
    """Refuse images whose classes are not those that a trained net answers with.

    Args:
        name: Model, or folder of a trained net. A net with fresh weights answers with any class.
        net: The net.
        images: Images on which its answers are judged.

    Raises:
        ValueError: If the number of classes differs, or their names, if both are known.
    """
    if is_fresh(name):
        return
    line = kept_line(name) if Path(name).is_dir() else None
    names = tuple(line["dataset"].get("classes") or ()) if line else ()
    if net.num_classes != images.num_classes or (names and images.classes and names != images.classes):
        ours, theirs = _listed(names, net.num_classes), _listed(images.classes, images.num_classes)
        raise ValueError(
            f"{for_terminal(own_name(name))!r} was trained on {ours}, and the images of {for_terminal(images.name)} "
            f"have {theirs}: its answers mean nothing there; name a set with its classes by --dataset"
        )


def _listed(names: Sequence[str], number: int) -> str:
    few = f" ({', '.join(for_terminal(name) for name in names[:3])}{', ...' if len(names) > 3 else ''})"
    return f"{number} classes{few if names else ''}"


def sample(images: Any, half: str, count: int) -> tuple[Tensor, Tensor]:
    """Return images of a half, normalised as in a test, and their classes.

    Args:
        images: The set.
        half: One of ``HALVES``.
        count: Largest number of images; fewer are taken evenly.

    Returns:
        Images (n, C, H, W) and classes (n,).

    Raises:
        ValueError: If the half is unknown, or ``count`` is below 1.
    """
    if half not in HALVES:
        raise ValueError(f"half ({half!r}) must be one of {', '.join(HALVES)}")
    if count < 1:
        raise ValueError(f"images ({count}) must be at least 1")
    if half == "train" and isinstance(images, Dataset):
        images = replace(images, test_images=images.train_images, test_labels=images.train_labels)
    elif half == "train":
        images = replace(images, test=images.train, test_labels=torch.from_numpy(images.train.labels))
    batches = list(images.test_batches(of=-(-images.test_size // count)))
    return torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])
