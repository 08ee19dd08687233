"""Files that are no checkpoint, or not this net's: one clear line each, nothing run, nothing written."""

import io
import os
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fuzz_checkpoints import Call, around, program
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_zoo
from safetensors.torch import save as safe_bytes
from torch import Tensor, nn

import zoo
from zoo.weights import pickles, reader
from zoo_cli import main

NAME = "resnet20_projection_cifar"


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return zoo.create_model(NAME)


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    own = zoo.create_model(NAME, device="meta").state_dict()
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.zeros((), dtype=int)
        for key, value in own.items()
    }


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def before_1_6(content: bytes) -> bytes:
    """A pickle in the older stream."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    heads = [pickle.dumps(head, 2) for head in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join([*heads, content, pickle.dumps([], 2)])


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def changed(**tensors: Any) -> dict[str, Any]:
    """The good checkpoint with some entries replaced, or without those that are None; ``__`` stands for a dot."""
    new = {key.replace("__", "."): value for key, value in tensors.items()}
    return {key: value for key, value in (state() | new).items() if value is not None}


def locked(content: bytes) -> bytes:
    """The same zip with the flag of an encrypted member."""
    at = content.rindex(b"PK\x01\x02") + 8
    return content[:6] + b"\x01" + content[7:at] + b"\x01" + content[at + 1 :]


def belied(content: bytes) -> bytes:
    """A zip whose directory claims that its member is small."""
    packed = bytearray(zipped(("net.pth", content)))
    at = packed.rindex(b"PK\x01\x02")
    packed[at + 24 : at + 28] = struct.pack("<I", 100)
    return bytes(packed)


def inflated() -> bytes:
    """An older checkpoint that claims two gigabytes for one tensor."""
    content = saved({"conv1.weight": torch.zeros(70_000)}, _use_new_zipfile_serialization=False)
    return content.replace(b"J" + struct.pack("<i", 70_000), b"J" + struct.pack("<i", 1 << 29))


PTH, LEGACY = saved(state()), saved(state(), _use_new_zipfile_serialization=False)
SAFE = safe_bytes(state())
PACKED = zipped(("net.pth", PTH))
MARK = "zoo_was_executed"
HUGE = bytes(100 << 20)

BAD: dict[str, Callable[[], bytes | None]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"P",
    "two bytes": lambda: b"PK",
    "text": lambda: b"these are not the weights you are looking for\n",
    "html": lambda: b"<html><title>404</title></html>",
    "json": lambda: b'{"conv1.weight": [1, 2, 3]}',
    "utf-16": lambda: "weights".encode("utf-16"),
    "zeros": lambda: bytes(4096),
    "image": lambda: b"\x89PNG\r\n\x1a\n" + bytes(100),
    **{
        f"random {seed}": lambda seed=seed: (
            torch.randint(0, 256, (5000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
            .numpy()
            .tobytes()
        )
        for seed in range(4)
    },
    **{f"pth cut at {share} %": lambda share=share: PTH[: len(PTH) * share // 100] for share in (1, 25, 50, 75, 99)},
    **{
        f"older pth cut at {share} %": lambda share=share: LEGACY[: len(LEGACY) * share // 100] for share in (1, 50, 99)
    },
    **{f"zip cut at {share} %": lambda share=share: PACKED[: len(PACKED) * share // 100] for share in (1, 50, 99)},
    **{f"safetensors cut at {share} %": lambda share=share: SAFE[: len(SAFE) * share // 100] for share in (1, 50, 99)},
    "safetensors with a wrong header": lambda: SAFE[:8] + b"{" + b"x" * 100 + SAFE[109:],
    "safetensors with a huge header": lambda: struct.pack("<Q", 1 << 62) + SAFE[8:],
    "safetensors of an unknown type": lambda: SAFE.replace(b'"F32"', b'"F99"', 1),
    "damaged inside": lambda: PACKED[: len(PACKED) // 2] + b"\xff" * 64 + PACKED[len(PACKED) // 2 + 64 :],
    "pickle that runs a command": lambda: pickle.dumps({"a": Command(os.system, f"touch {MARK}")}),
    "pth that runs a command": lambda: saved({"a": Command(os.system, f"touch {MARK}")}),
    "pth that evaluates": lambda: saved({"a": Command(eval, f"open('{MARK}', 'w')")}),
    "older pth that runs a command": lambda: saved(
        {"a": Command(os.system, f"touch {MARK}")}, _use_new_zipfile_serialization=False
    ),
    "zip of a pth that runs a command": lambda: zipped(("net.pth", saved(Command(os.mkdir, MARK)))),
    "pth of a whole net": lambda: saved(zoo.create_model("resnet_test")),
    "pth of a partial function": lambda: saved({"a": Command(getattr, "a", "b")}),
    "gigabytes of bytearray": lambda: around(program({"a": Call("builtins.bytearray", 4 << 30)})),
    "gigabytes of a tensor": lambda: around(program({"a": Call("torch.Tensor", 4 << 30)})),
    "gigabytes of a storage": lambda: around(program({"a": Call("torch.FloatStorage", 4 << 30)})),
    "minutes of punycode": lambda: around(program({"a": Call("_codecs.encode", "\u00e9" * 100_000, "punycode")})),
    "minutes of punycode, older": lambda: before_1_6(program({"a": Call("_codecs.encode", "x", "punycode")})),
    "gigabytes of bytearray, older": lambda: before_1_6(program({"a": Call("builtins.bytearray", 4 << 30)})),
    "pth of a list": lambda: saved([torch.ones(2)]),
    "pth of a tensor": lambda: saved(torch.ones(2)),
    "pth of numbers": lambda: saved({"conv1.weight": 3}),
    "pth of an empty dict": lambda: saved({}),
    "pth of an empty state dict": lambda: saved({"state_dict": {}, "epoch": 3}),
    "numbered tensors": lambda: saved({0: torch.ones(2)}),
    "one name twice": lambda: saved(changed(**{"module.stem__conv1__weight": torch.ones(16, 3, 3, 3)})),
    "another family": lambda: saved(zoo.create_model("fishnet_test").state_dict()),
    "another depth": lambda: saved(zoo.create_model("resnet32_projection_cifar").state_dict()),
    "another shortcut": lambda: saved(zoo.create_model("resnet20_cifar").state_dict()),
    "another order": lambda: saved(zoo.create_model("preresnet20_cifar").state_dict()),
    "another number of channels": lambda: saved(zoo.create_model(NAME, in_chans=1).state_dict()),
    "another library's net": lambda: saved(timm.create_model("test_resnet").state_dict()),
    "a missing tensor": lambda: saved(changed(classifier__fc__bias=None)),
    "a tensor too many": lambda: saved(changed(surprise=torch.ones(1))),
    "a wrong shape": lambda: saved(changed(classifier__fc__bias=torch.ones(11))),
    "a transposed tensor": lambda: saved(changed(classifier__fc__weight=torch.ones(64, 10))),
    "a wrong kind": lambda: saved(changed(classifier__fc__bias=torch.ones(10, dtype=torch.int64))),
    "complex numbers": lambda: saved(changed(classifier__fc__bias=torch.ones(10, dtype=torch.complex64))),
    "a sparse tensor": lambda: saved(changed(classifier__fc__bias=torch.ones(10).to_sparse())),
    "a tensor without data": lambda: saved(changed(classifier__fc__bias=torch.ones(10, device="meta"))),
    "an enormous view": lambda: saved(changed(classifier__fc__bias=torch.ones(1).expand(1 << 40))),
    "one nan": lambda: saved(changed(classifier__fc__bias=torch.tensor([0.0] * 9 + [float("nan")]))),
    "all nan": lambda: saved({k: v * float("nan") if v.is_floating_point() else v for k, v in state().items()}),
    "one infinity": lambda: safe_bytes(changed(classifier__fc__bias=torch.tensor([0.0] * 9 + [float("inf")]))),
    "a zip of two": lambda: zipped(("a.pth", PTH), ("b.pth", PTH)),
    "a zip of nothing": lambda: zipped(),
    "a zip of text": lambda: zipped(("readme.txt", b"hello")),
    "a zip of a zip": lambda: zipped(("a.zip", PACKED)),
    "a zip with a password": lambda: locked(PACKED),
    "a zip bomb": lambda: zipped(("net.pth", HUGE)),
    "a zip bomb in a pth": lambda: zipped(("net/data.pkl", b"\x80\x02}."), ("net/data/0", HUGE), ("net/version", b"3")),
    "a zip bomb in a zip": lambda: zipped(("net.pth", zipped(("net/data.pkl", b"\x80\x02}."), ("net/data/0", HUGE)))),
    "a zip that belies its size": lambda: belied(HUGE),
    "a claim of gigabytes": inflated,
    "more bytes than plausible": lambda: bytes(80 << 20),
    "a folder": lambda: None,
}


def test_the_corpus_is_large_enough() -> None:
    assert len(BAD) >= 40


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_and_changes_nothing(
    kind: str, net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    content = BAD[kind]()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"bad\.pth: ") as caught:
        zoo.load_weights(net, path)
    line = str(caught.value)
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < 700
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert main(["verify", NAME, str(path)]) == 2
    assert capsys.readouterr() == ("", f"zoo: error: {line}\n")
    assert main(["convert", str(path), str(tmp_path / "out.safetensors"), "--model", NAME]) == 2
    assert capsys.readouterr() == ("", f"zoo: error: {line}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.pth"], "nothing was run and nothing written"


def test_the_commands_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hostile files are hostile: a reader that trusts them runs what they say."""
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(BAD["pth that runs a command"]()), weights_only=False)
    assert (tmp_path / MARK).exists()


def test_a_missing_file_is_one_line(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: there is no such file"):
        zoo.load_weights(net, tmp_path / "none.pth")
    overlay = dict(file=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match=r"none\.pth: there is no such file"):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay)


def test_the_reason_is_told(tmp_path: Path) -> None:
    for kind, reason in {
        "empty": "it is empty",
        "a folder": "it is a folder without a checkpoint",
        "pth that runs a command": r"it asks for code \((posix|nt)\.system\), which is not run",
        "gigabytes of bytearray": r"it asks for code \(builtins\.bytearray\), which is not run",
        "gigabytes of bytearray, older": r"it asks for code \(builtins\.bytearray\), which is not run",
        "minutes of punycode": r"it asks for code \(_codecs\.encode\), which is not run",
        "pth of a whole net": r"it asks for code \(zoo\.models\.resnet\.ResNet\)",
        "a zip bomb": r"it unpacks to 104,857,600 bytes",
        "a zip of two": "it is a zip of 2 files",
        "another number of channels": "stem.conv1.weight is 16x1x3x3 and not 16x3x3x3",
        "a wrong shape": "classifier.fc.bias is 11 and not 10",
        "all nan": r"tensors not finite \(stem\.conv1\.weight, ",
        "pth of a list": "it holds a list, not a state dict",
        "one nan": r"1 tensor not finite \(classifier\.fc\.bias\)",
    }.items():
        path = tmp_path / kind.replace(" ", "-")
        content = BAD[kind]()
        path.mkdir() if content is None else path.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            zoo.load_weights(zoo.create_model(NAME), path)


@pytest.mark.parametrize("content", [PTH, LEGACY, SAFE, PACKED], ids=["pth", "older pth", "safetensors", "zip"])
def test_the_good_file_loads(content: bytes, net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(content)
    zoo.load_weights(net, tmp_path / "good")
    want = state()
    assert all(torch.equal(value, want[key]) for key, value in net.state_dict().items())


SMALL = {f"{part}.weight": torch.arange(6.0).view(2, 3) for part in ("one", "two")}
KINDS = (saved(SMALL), saved(SMALL, _use_new_zipfile_serialization=False), safe_bytes(SMALL))
EDIT = st.tuples(st.integers(0, 1 << 30), st.sampled_from(["cut", "flip", "put", "drop"]), st.binary(max_size=9))


@given(st.sampled_from([*KINDS, zipped(("a.pth", KINDS[0]))]), st.lists(EDIT, max_size=4))
@settings(max_examples=400)
def test_no_damage_gets_through(content: bytes, edits: list[tuple[int, str, bytes]]) -> None:
    """Whatever happens to a file, it reads as tensors under names, or as one line that names the file."""
    for where, what, more in edits:
        at = where % (len(content) + 1)
        if what == "cut":
            content = content[:at]
        elif what == "put":
            content = content[:at] + more + content[at:]
        else:
            content = content[:at] + (more if what == "flip" else b"") + content[at + len(more) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        path.write_bytes(content)
        tensors: dict[str, Tensor] = {}
        message = ""
        try:
            tensors = reader.read(path, limit=1 << 20)
        except ValueError as error:
            message = str(error)
        if message:
            assert message.startswith(f"{path}: ")
            assert message.isprintable()
        else:
            assert tensors
            assert all(isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items())


def test_a_call_in_a_pickle_takes_as_many_arguments_as_a_checkpoint_needs() -> None:
    def call(arguments: int) -> Any:
        return pickles.parse(io.BytesIO(b"\x80\x02cargparse\nNamespace\n(" + b"N" * arguments + b"tR."))

    assert call(pickles.ARGUMENTS).name == "argparse.Namespace"
    with pytest.raises(pickles.Refused, match="a call has too many arguments"):
        call(pickles.ARGUMENTS + 1)


def test_no_traceback_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(BAD["pth that evaluates"]())
    done = run_zoo("verify", NAME, str(path), folder=tmp_path, prepare=partial(os.chdir, tmp_path))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"zoo: error: {path}: it asks for code (")
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / MARK).exists()
