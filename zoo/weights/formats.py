"""Forms of a checkpoint file: where a tensor's numbers are. The numbers are read only when they are needed.

Three forms are known: the zip that ``torch.save`` writes, the stream of pickles that it wrote before PyTorch 1.6, and
safetensors. Each becomes names and `Stored` tensors. Names inside nested dicts are joined by dots.
"""

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from zoo.weights.pickles import BYTES, STEPS, Refused, Storage, View, parse
from zoo.weights.words import first_line, short

CHUNK = 1 << 20
IN_MEMORY = 64 << 20
"""Largest checkpoint, in bytes, that is unpacked from a zip in memory; larger ones go to a temporary file."""

DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
"""Number types that can be read."""

INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts that torch's compiler and wrappers of single layers insert into names, at any position."""

HEADER = 16 << 20
"""Largest header of a safetensors file, or directory of a zip, in bytes."""

DEPTH, NAMES = 5, 200_000
"""Largest depth of nested dicts that is searched, and largest number of tensors in a file."""

_SAFE = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
}


FOREIGN = {
    b"version ": "it is a pointer of git-lfs, not the file; fetch the file by git lfs pull",
    b"<": "it is a page of the web, not the file; look at what it says, and fetch the file again",
    b"\x1f\x8b": "it is packed by gzip; unpack it first",
    b"\x89HDF": "it is a file of HDF5, as Keras writes it",
}
"""Reasons why other files are no checkpoints, by the first bytes of such files."""

BIG_ENDIAN = "it was written on a big-endian machine; load and save it on one that is not"


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that has not been read yet.

    Attributes:
        shape: Sizes of the tensor.
        dtype: Type of its numbers.
        read: Returns the tensor; raises `Refused` if the file is damaged there.
        odd: Reason why it is no plain tensor of a listed type, in words; empty for a plain tensor.
    """

    shape: torch.Size
    dtype: torch.dtype | None
    read: Callable[[], Tensor]
    odd: str = ""

    @staticmethod
    def of(tensor: Tensor) -> "Stored":
        """Wrap a tensor that is in memory."""
        odd = ""
        if type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            odd = f"a tensor of the subclass {short(type(tensor).__qualname__)}"
        elif tensor.layout != torch.strided or tensor.is_nested:
            odd = f"a {'nested' if tensor.is_nested else 'sparse'} tensor"
        elif tensor.is_meta:
            odd = "a tensor without numbers (meta device)"
        elif tensor.dtype not in DTYPES:
            odd = _kind(tensor.dtype)
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            odd = "a view of more numbers than it holds"
        shape = torch.Size() if odd.startswith("a ") else tensor.shape
        return Stored(shape, tensor.dtype, lambda: Tensor.detach(tensor), odd)


def flat(content: Any) -> dict[str, Any]:
    """Return the tensors in nested dicts, by dotted names.

    Args:
        content: Dicts of anything. Values that are no tensor (`Stored`, `View` or torch's) or have no text as key are
            left out.

    Raises:
        Refused: If it holds no dict, no tensors, two tensors of one name, or more than `NAMES`.
    """
    if not isinstance(content, Mapping):
        kind = "tensor" if isinstance(content, (Tensor, View)) else getattr(content, "name", type(content).__name__)
        raise Refused(f"it holds a {short(kind)}, not a state dict")
    found: dict[str, Any] = {}
    others: list[str] = []
    seen: set[int] = set()
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        prefix, held, depth = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        inner = []
        for key, value in held.items():
            name = f"{prefix}{key}"
            if not isinstance(key, str):
                others.append("a key that is no text")
            elif isinstance(value, (Stored, View, Tensor)):
                for infix in INSIDE:
                    name = name.replace(infix, "")
                if name in found:
                    raise Refused(f"it holds {short(name)} twice")
                found[name] = value
                if len(found) > NAMES:
                    raise Refused(f"it holds more than {NAMES:,} tensors")
            elif isinstance(value, Mapping) and depth < DEPTH and len(name) < 500:
                inner.append((f"{name}.", value, depth + 1))
            else:
                others.append(f"{short(name)}, which is no tensor")
        waiting += inner[::-1]
    if not found:
        raise Refused("it holds no tensors under names" + (f" (only {others[0]})" if others else ""))
    return found


def read_file(file: BinaryIO, limit: int, files: ExitStack) -> dict[str, Stored]:
    """Return the tensors of a file that is a checkpoint itself."""
    file.seek(0)
    head = file.read(9)
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not length:
        raise Refused("it is empty")
    if head[:2] == b"PK":
        return _saved(file, limit, files)
    for start, what in FOREIGN.items():
        if head.startswith(start):
            raise Refused(f"it is no checkpoint: {what}")
    if len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= length - 8:
        return _safe(file, length)
    return _saved_before(file, length, limit)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip after checking the length of its directory, all of which Python keeps in memory.

    Raises:
        Refused: If the directory is longer than `HEADER`.
        zipfile.BadZipFile: If it is no zip.
    """
    file.seek(-min(file.seek(0, io.SEEK_END), 1 << 16), io.SEEK_END)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\6\7":  # more than 4 GB: the true size stands before
        size = int.from_bytes(tail[at - 36 : at - 28], "little")
    if at >= 0 and size > HEADER:
        raise Refused(f"its directory has {size:,} bytes, more than the {HEADER:,} that are plausible")
    file.seek(0)
    return zipfile.ZipFile(file)


def zip_members(archive: zipfile.ZipFile, limit: int) -> list[zipfile.ZipInfo]:
    """Return the files in a zip, without those that macOS adds. Python reads no more of a file than its entry says."""
    members = [m for m in archive.infolist() if not m.is_dir()]
    members = [m for m in members if "__MACOSX" not in m.filename and not Path(m.filename).name.startswith("._")]
    total = sum(m.file_size for m in members)
    if total > max(limit, archive.start_dir):  # a plain file's length is no surprise
        raise Refused(f"it unpacks to {total:,} bytes, more than the {limit:,} that are plausible")
    return members


def _saved(file: BinaryIO, limit: int, files: ExitStack) -> dict[str, Stored]:
    """Return the tensors of a zip that ``torch.save`` wrote."""
    try:
        archive = files.enter_context(open_zip(file))
        held = zip_members(archive, limit)
        members = {m.filename: m for m in held}
        if len(members) != len(held):
            raise Refused("two files in it have one name")
        [name] = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        root = name.removesuffix("data.pkl")
        if f"{root}constants.pkl" in members:
            raise Refused("it is a TorchScript archive, which is code; save its state_dict instead")
        if members[name].file_size > BYTES:
            raise Refused(f"its pickle has more than {BYTES:,} bytes")
        if (order := members.get(f"{root}byteorder")) and (order.file_size > 9 or archive.read(order) != b"little"):
            raise Refused(BIG_ENDIAN)
        content = archive.read(name)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"it is no checkpoint, or a damaged one ({first_line(error)})") from error

    def raw(key: str) -> bytearray:
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise Refused(f"the numbers {short(key)} are not in it")
        _check_size(member.file_size, limit)
        content = bytearray()
        with archive.open(member) as source:
            while chunk := source.read(CHUNK):
                content += chunk
        return content

    return _views(parse(io.BytesIO(content)), raw, limit)


def _saved_before(file: BinaryIO, length: int, limit: int) -> dict[str, Stored]:
    """Return the tensors of a stream of pickles, as ``torch.save`` wrote it before PyTorch 1.6."""
    start = io.BytesIO(file.read(BYTES))
    other = "it is no checkpoint, or a damaged one (it does not begin as one: torch.save did not write it)"
    if parse(start, 100, excess=other) != 0x1950A86A20F9469CFC6C:
        raise Refused(other)
    version, system = (parse(start, 100, excess=other) for _ in range(2))
    if version != 1001 or not isinstance(system, dict):
        raise Refused(other)
    if system.get("little_endian") is not True:
        raise Refused(BIG_ENDIAN)
    storages: dict[str, Storage] = {}
    content = parse(start, storages=storages)
    order = parse(start, STEPS // 4)
    if not isinstance(order, list):
        raise Refused("it is no checkpoint, or a damaged one (it does not say where the numbers are)")
    places = _places(file, start.tell(), length, [str(key) for key in order[:NAMES]], storages)

    def raw(key: str) -> bytearray:
        if key not in places:
            raise Refused(f"the numbers {short(key)} are not in it")
        where, count = places[key]
        _check_size(count, limit)
        file.seek(where)
        return bytearray(file.read(count))

    return _views(content, raw, limit)


def _places(
    file: BinaryIO, at: int, length: int, order: list[str], storages: Mapping[str, Storage]
) -> dict[str, tuple[int, int]]:
    """Return the position of the numbers of an older checkpoint, by key: first byte and number of bytes."""
    places = {}
    for key in order:
        width = 0 if key not in storages else 1 if (dtype := storages[key].dtype) is None else dtype.itemsize
        file.seek(at)
        head = file.read(8)
        count = struct.unpack("<q", head)[0] * width if width and len(head) == 8 else -1
        at += 8 + count
        if count < 0 or at > length:
            raise Refused("it is no checkpoint, or a damaged one (it ends too early)")
        places[key] = (at - count, count)
    return places


def _check_size(count: int, limit: int) -> None:
    """Raise Refused for a storage too large for any tensor of the net. A quarter of the limit is twice the net."""
    if count > (most := IN_MEMORY + limit // 4):
        raise Refused(f"{count:,} bytes for one tensor are more than the {most:,} that are plausible")


def _views(content: Any, raw: Callable[[str], bytearray], limit: int) -> dict[str, Stored]:
    """Return the tensors that a pickle describes.

    Args:
        content: The parsed pickle.
        raw: Returns the bytes of a storage by its key.
        limit: Largest number of bytes to read in total.
    """
    last: tuple[str, bytearray] = ("", bytearray())
    total = 0

    def bytes_of(key: str) -> bytearray:
        """Return the bytes of a storage. Tensors that share one are usually adjacent; it is then read once."""
        nonlocal last, total
        if last[0] != key:
            try:
                last = (key, raw(key))
            except Refused:
                raise
            except Exception as error:
                raise Refused(f"it is damaged ({first_line(error)})") from error
            total += len(last[1])
            if total > limit:
                raise Refused(f"its tensors take more than the {limit:,} bytes that are plausible")
        return last[1]

    return {name: _stored(view, bytes_of) for name, view in flat(content).items()}


def _stored(view: View, bytes_of: Callable[[str], bytearray]) -> Stored:
    """Return a tensor of a pickle in readable form."""
    shape, dtype, storage = torch.Size(view.shape), view.dtype, view.storage
    if view.odd or storage is None or dtype not in DTYPES:
        return Stored(torch.Size(), dtype, _unread, view.odd or _kind(dtype))
    held = storage.numel if storage.dtype is not None else storage.numel // dtype.itemsize
    first = storage.offset + view.offset
    end = first + sum((n - 1) * step for n, step in zip(shape, view.strides, strict=True)) + 1
    if (
        storage.dtype not in (None, dtype)
        or math.prod(shape) > held
        or (math.prod(shape) and end > storage.offset + held)
    ):
        return Stored(torch.Size(), dtype, _unread, "a view of more numbers than it holds")

    def read() -> Tensor:
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        content = bytes_of(storage.key)
        if len(content) < end * dtype.itemsize:
            raise Refused(f"it is damaged (the numbers {short(storage.key)} end too early)")
        tensor = torch.frombuffer(content, dtype=dtype, count=len(content) // dtype.itemsize)
        part = tensor.as_strided(shape, view.strides, first)
        return part if part.numel() == tensor.numel() else part.clone()

    return Stored(shape, dtype, read)


def _safe(file: BinaryIO, length: int) -> dict[str, Stored]:
    """Return the tensors of a safetensors file."""
    size = int.from_bytes(file.read(8), "little")
    if size > HEADER:
        raise Refused(f"its header has {size:,} bytes, more than the {HEADER:,} that are plausible")
    try:
        rows = json.loads(file.read(size), object_pairs_hook=_once)
        rows.pop("__metadata__", None)
        if not rows:
            raise Refused("it holds no tensors")
        return flat({name: _safe_tensor(file, row, 8 + size, length) for name, row in rows.items()})
    except Refused:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise Refused(f"it is a damaged safetensors file ({first_line(error, 80)})") from error


def _safe_tensor(file: BinaryIO, row: Mapping[str, Any], start: int, length: int) -> Stored:
    """Return a tensor that the header of a safetensors file describes."""
    shape, (begin, end) = torch.Size(map(_whole, row["shape"])), map(_whole, row["data_offsets"])
    if start + end > length:
        raise ValueError("it ends too early")
    dtype = _SAFE.get(row["dtype"])
    if dtype is None:
        return Stored(torch.Size(), None, _unread, f"of type {short(row['dtype'], 20)}")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise ValueError("a tensor has not the bytes of its sizes")

    def read() -> Tensor:
        if begin == end:
            return torch.empty(shape, dtype=dtype)
        file.seek(start + begin)
        content = bytearray(file.read(end - begin))
        if len(content) != end - begin:
            raise Refused("it is damaged (it ends too early)")
        return torch.frombuffer(content, dtype=dtype).view(shape)

    return Stored(shape, dtype, read)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from JSON pairs; raise ValueError if a key occurs twice."""
    held = dict(pairs)
    if len(held) != len(pairs):
        raise ValueError("a name stands there twice")
    return held


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a size is no whole number")
    return value


def _kind(dtype: torch.dtype | None) -> str:
    return f"{dtype}".removeprefix("torch.") if dtype is not None else "of an unknown type"


def _unread() -> Tensor:
    raise Refused("it holds a tensor that cannot be read")
