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


def programs() -> list[str]:
    """Code of the page, in order: torch and timm, then onnxruntime."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="ascii")
    return re.findall(r"^```text\n(import .*?)^```$", text, re.MULTILINE | re.DOTALL)


def write_garments(root: Path, train: int, test: int) -> None:
    """Save garments as PNG files, so many a class in each half."""
    for half, source, number in (("train", "train", train), ("validation", "test", test)):
        images = fashion.read(fashion.DEBIAN, source)
        for label, name in enumerate(fashion.CLASSES):
            folder = root / half / re.sub(r"\W+", "_", name).lower()
            folder.mkdir(parents=True)
            for place, i in enumerate((images.labels == label).nonzero().flatten()[:number].tolist(), 1):
                Image.fromarray(images.images[i].numpy()).save(folder / f"{place:04}.png")


@pytest.mark.slow  # each command is asked by the tests of its verb
@pytest.mark.skipif(not fashion.DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_all_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_garments(tmp_path / "data/garments", 45, 5)
    write_garments(tmp_path / "data/more", 4, 2)
    key, printed = "", {}
    for words in commands():
        given = [word.replace("KEY", key) for word in words]
        if given[0] in ("race", "bench"):
            given += [*QUICK, "--workers", "0"]
        assert main(given) == 0, given
        printed[words[0]] = capsys.readouterr().out
        if given[0] == "bench" and not key:
            lines = stored(tmp_path / "results/garments/results.jsonl")
            key = next(line["key"][:8] for line in lines if line["seed"] == 0)
    rows = list(csv.DictReader(io.StringIO(printed["predict"])))
    assert len(rows) == 5
    assert all(row["class1"] and not row["error"] for row in rows)
    assert "in the result line" in printed["validate"]

    # The code of the page, as a reader would run it: plain timm, then ONNX.
    place: dict[str, Any] = {}
    in_timm, in_onnx = programs()
    exec(in_timm.replace("KEY", key), place)
    exec(in_onnx, place)
    net, prepare, session = place["net"], place["prepare"], place["session"]
    assert isinstance(net, type(timm.create_model("lenet5_cifar")))
    names = net.pretrained_cfg["label_names"]
    for row in rows:
        image = prepare(decode(Path(row["picture"]).read_bytes(), row["picture"]))[None]
        with torch.no_grad():
            expected = net(image)
        assert names[int(expected.argmax())] == row["class1"]
        [logits] = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "garments.onnx").is_file()
