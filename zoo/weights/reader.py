"""Read checkpoint files as data: names, shapes and types first, the numbers of a tensor only when they are needed.

`opened` gives the tensors of a file under the names that they have there. Keys of enclosing dicts are joined to one
dotted name per tensor. A checkpoint is a file written by ``torch.save`` (today's zip or the older stream of pickles), a
safetensors file, the index of a sharded checkpoint, a folder with one of these, or a zip that holds one. No code in a
file is ever run, and no part of a file reaches Python's unpickler (`zoo.weights.pickles`). A file costs no more memory
than the largest of its tensors that fits the net. Any fault of a file is one `ValueError` of one line that names it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from zoo.escape import for_terminal
from zoo.weights.formats import CHUNK, IN_MEMORY, INSIDE, Stored, open_zip, read_file, zip_members
from zoo.weights.pickles import BYTES, Refused
from zoo.weights.words import first_line, short

LIMIT = 8 << 30
"""Default limit on the bytes that a checkpoint may unpack to; far more than any net here needs."""

STORED = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Names that timm and transformers use for the weights in a folder or repository, best first."""

SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".pkl", ".zip")
"""Endings of checkpoints, used to tell one from other files beside it."""


class Unreadable(ValueError):
    """Error for a file that is no checkpoint, or a damaged one, or not the published one."""


@contextmanager
def opened(path: str | os.PathLike[str], *, digest: str = "", limit: int = LIMIT) -> Generator[dict[str, Stored]]:
    """Open a checkpoint.

    Args:
        path: The file, or a folder with one. Its content decides, not its name.
        digest: Known start of the checkpoint's hash, such as ``sha1:93e26daa``.
        limit: Bytes that a zip, or one run of numbers, may unpack to.

    Yields:
        The tensors under the names that they have in the file, with dots between the keys of dicts. They can be read
        until the file is closed.

    Raises:
        ValueError: If it is no such file, or not the one with that hash; the message is one line. Also raised for
            damage that is found while tensors are read.
        TypeError: If ``path`` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path ({type(path).__name__}) must be the path of a file or folder")
    path = Path(path)
    with ExitStack() as files:
        try:
            try:
                if path.is_dir():
                    path = find_in_folder(path)
                found = _opened(path, digest, limit, files)
            except OSError as error:
                raise Refused(f"cannot be read ({first_line(error.strerror or error)})") from error
            yield found
        except Refused as refused:
            raise Unreadable(f"{for_terminal(path)}: {refused}") from refused.__cause__


def read(path: str | os.PathLike[str], *, digest: str = "", limit: int = LIMIT) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, under the names that they have in the file.

    Args:
        path: As in `opened`.
        digest: As in `opened`.
        limit: As in `opened`.

    Raises:
        ValueError: As in `opened`; also if one of the tensors is not a plain one.
    """
    with opened(path, digest=digest, limit=limit) as stored:
        for name, tensor in stored.items():
            if tensor.odd:
                raise Refused(f"its tensor {short(name)} is {tensor.odd}")
        return {name: tensor.read() for name, tensor in stored.items()}


def _opened(path: Path, digest: str, limit: int, files: ExitStack) -> dict[str, Stored]:
    """Return the tensors of a file; files that must stay open are entered into ``files``."""
    if not path.is_file():
        raise Refused("it is no regular file" if path.exists() else "there is no such file")
    file: BinaryIO = files.enter_context(path.open("rb"))
    if path.suffix == ".json":
        return _sharded(path, file, limit, files)
    file = _unpacked(file, limit, files)
    _check_digest(file, digest)
    return read_file(file, limit, files)


def find_in_folder(folder: str | os.PathLike[str]) -> Path:
    """Find the weights in a folder: a file with a name that the hub uses, or the only checkpoint there.

    Raises:
        Refused: If there are no checkpoints, or several.
    """
    folder = Path(folder)
    for name in STORED:
        if (path := folder / name).is_file():
            return path
    held = sorted(p for p in folder.iterdir() if p.name.endswith((*SUFFIXES, ".index.json")) and p.is_file())
    indices = [p for p in held if p.suffix == ".json"]
    if len(held) == 1 or len(indices) == 1:
        return (indices or held)[0]
    if (folder / ".metadata").is_file():
        raise Refused(
            "it is a folder of torch.distributed.checkpoint; make a file of it by "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    names = ", ".join(short(p.name) for p in held[:3]) + (", ..." if len(held) > 3 else "")
    raise Refused(
        f"it is a folder with {len(held)} checkpoints ({names}); name one"
        if held
        else "it is a folder without a checkpoint: there is no model.safetensors or pytorch_model.bin in it"
    )


def shards(index: Any) -> list[str]:
    """Return the names of the files of a sharded checkpoint.

    Args:
        index: Content of the index.

    Raises:
        Refused: If it is no index, or names files elsewhere.
    """
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise Refused("it is no index of a sharded checkpoint (it has no weight_map)")
    names = list(dict.fromkeys(table.values()))
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name or "\0" in name:
            raise Refused(f"it names a file outside its folder ({short(name)})")
    return names


def _sharded(path: Path, file: BinaryIO, limit: int, files: ExitStack) -> dict[str, Stored]:
    """Return the tensors of all files that an index names."""
    try:
        index = json.loads(file.read(BYTES))
    except (ValueError, RecursionError) as error:
        raise Refused("it is no index of a sharded checkpoint (it is no JSON)") from error
    found: dict[str, Stored] = {}
    for name in shards(index):
        part = path.with_name(name)
        if not part.is_file():
            raise Refused(f"its part {short(name)} is not beside it")
        try:
            held = read_file(files.enter_context(part.open("rb")), limit, files)
        except Refused as refused:
            raise Refused(f"{refused} ({short(name)})") from refused
        for key, value in held.items():
            if key in found:
                raise Refused(f"its parts hold {short(key)} twice")
            found[key] = value
    if absent := [key for key in index["weight_map"] if not any(key.replace(i, "") in found for i in ("", *INSIDE))]:
        raise Refused(f"its parts lack {short(absent[0])}")
    return found


def _unpacked(file: BinaryIO, limit: int, files: ExitStack) -> BinaryIO:
    """Return the one checkpoint in a zip, unpacked; a file that is a checkpoint itself is returned as it is."""
    if file.read(2) != b"PK":
        return file
    try:
        with open_zip(file) as archive:
            members = zip_members(archive, limit)
            if any(m.filename.endswith("data.pkl") for m in members):
                return file
            named = [m for m in members if m.filename.endswith(SUFFIXES)] if len(members) > 1 else members
            if len(named) != 1:
                raise Refused(f"it is a zip of {len(members)} files, not of one checkpoint")
            held = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
            files.enter_context(held)
            with archive.open(named[0]) as member:
                while chunk := member.read(CHUNK):
                    held.write(chunk)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"it is a damaged zip ({first_line(error)})") from error
    return held  # ty: ignore[invalid-explicit-return]


def _check_digest(file: BinaryIO, digest: str) -> None:
    """Raise Refused if the hash of a file does not start with the known digest."""
    if not digest:
        return
    file.seek(0)
    kind, _, want = digest.partition(":")
    hashed = hashlib.new(kind)
    while chunk := file.read(CHUNK):
        hashed.update(chunk)
    have = hashed.hexdigest()
    if not want or not have.startswith(want):
        raise Refused(f"it is not the published file: its {kind} starts with {have[:8]}, not {want[:8]}")
