"""The tutorial, command by command, on garments that are saved as a folder of pictures."""

import csv
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from result_lines import stored

from zoo.datasets import fashion
from zoo.datasets.decode import decode
from zoo_cli import main

ROOT = Path(__file__).parents[1]
QUICK = ["--recipe", "epochs=2", "--recipe", "batch_size=16", "--device", "cpu"]


def commands() -> list[list[str]]:
    """Words of the commands of the page."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="ascii")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def write_garments(root: Path, train: int, test: int) -> None:
    """Save garments as PNG files, so many a class in each half."""
    for half, source, number in (("train", "train", train), ("validation", "test", test)):
        images = fashion.read(fashion.DEBIAN, source)
        for label, name in enumerate(fashion.CLASSES):
            folder = root / half / re.sub(r"\W+", "_", name)
            folder.mkdir(parents=True)
            for i in (images.labels == label).nonzero().flatten()[:number].tolist():
                Image.fromarray(images.images[i].numpy()).save(folder / f"{i}.png")


@pytest.mark.slow  # each command is asked by the tests of its verb
@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_every_command_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_garments(tmp_path / "data/garments", 9, 5)
    write_garments(tmp_path / "data/more", 4, 2)
    key, printed = "", {}
    for words in commands():
        given = [word.replace("KEY", key) for word in words]
        if given[0] in ("race", "bench"):
            given += [*QUICK, "--workers", "0"]
        if "data/garments/validation/bag" in given:
            given = [word.replace("/bag", "/Bag") for word in given]
        assert main(given) == 0, given
        printed[words[0]] = capsys.readouterr().out
        if given[0] == "bench" and not key:
            lines = stored(tmp_path / "results/garments/results.jsonl")
            key = next(line["key"][:8] for line in lines if line["seed"] == 0)
    rows = list(csv.DictReader(io.StringIO(printed["predict"])))
    assert len(rows) == 5
    assert all(row["class1"] and not row["error"] for row in rows)
    assert "in the result line" in printed["validate"]

    folder = tmp_path / f"results/garments/weights/lenet5_cifar-seed0-{key}"
    net: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    prepare: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    pictures = [Path(row["picture"]) for row in rows]
    images = torch.stack([prepare(decode(path.read_bytes(), str(path))) for path in pictures])
    with torch.no_grad():
        best = net(images).argmax(1).tolist()
    assert [net.pretrained_cfg["label_names"][i] for i in best] == [row["class1"] for row in rows]
