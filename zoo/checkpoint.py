"""Checkpoint files: fetched, checked against their hash, and read as data; no code in them is ever run.

What comes out of `read` is a plain mapping of names to tensors, or one `ValueError` of one line that names the file.
A checkpoint is what ``torch.save`` wrote (today's zip or the older stream of pickles), a safetensors file, or a zip
that holds one such file; around the tensors there may be a dict of a training run, and ``module.`` before every name.
"""

import argparse
import hashlib
import io
import os
import re
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor
from tqdm import tqdm

LIMIT = 8 << 30
"""Bytes that a checkpoint may hold unless told otherwise; more than any net here has by far."""

CHUNK = 1 << 20
INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts keep the tensors in what they save, best first; the order is timm's."""

WRAPPED = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


def read(path: str | os.PathLike[str], *, digest: str = "", limit: int = LIMIT) -> dict[str, Tensor]:
    """Names and tensors of a checkpoint file.

    Args:
        path: The file; its name says nothing, its content decides.
        digest: Known start of the checkpoint's hash, such as ``sha1:93e26daa``.
        limit: Bytes that the checkpoint may have at most, packed or unpacked.

    Returns:
        The tensors on the CPU, without what a training run or a wrapper put around them.

    Raises:
        ValueError: If it is no such file, or not the one that the hash belongs to; the message is one line.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise _Refused("it is a folder, not a checkpoint")
        if not path.is_file():
            raise _Refused("it is no regular file" if path.exists() else "there is no such file")
        with path.open("rb") as file:
            held = _unwrapped(file, limit) or file
            _check_digest(held, digest)
            return _tensors(_parsed(held, limit))
    except _Refused as refused:
        raise ValueError(f"{path}: {refused}") from refused.__cause__
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({_line(error.strerror or error)})") from error


_File = io.BufferedReader | io.BytesIO


class _Refused(Exception):
    """Why a file is not taken, in half a line."""


def _unwrapped(file: _File, limit: int) -> io.BytesIO | None:
    """The one checkpoint in a zip, unpacked; None if the file itself is the checkpoint."""
    if file.read(2) != b"PK":
        return None
    held = io.BytesIO()
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, limit)
            if any(m.filename.endswith("data.pkl") for m in members):
                return None
            if len(members) != 1:
                raise _Refused(f"it is a zip of {len(members)} files, not of one checkpoint")
            with archive.open(members[0]) as member:
                while chunk := member.read(CHUNK):
                    held.write(chunk)
        if held.getbuffer()[:2] == b"PK":
            with zipfile.ZipFile(held) as inner:
                _members(inner, limit)
    except _Refused:
        raise
    except Exception as error:
        raise _Refused(f"it is a damaged zip ({_line(error)})") from error
    return held


def _members(archive: zipfile.ZipFile, limit: int) -> list[zipfile.ZipInfo]:
    """The files in a zip. Python and torch take no more from one than the directory says, so its sum is a bound."""
    members = [m for m in archive.infolist() if not m.is_dir()]
    total = sum(m.file_size for m in members)
    if total > limit:
        raise _Refused(f"it unpacks to {total:,} bytes, more than the {limit:,} that are plausible")
    return members


def _check_digest(file: _File, digest: str) -> None:
    """Raise if a file is not the one that a known hash, or its start, belongs to."""
    if not digest:
        return
    file.seek(0)
    kind, _, want = digest.partition(":")
    have = hashlib.file_digest(file, kind).hexdigest()
    if not want or not have.startswith(want):
        raise _Refused(f"it is not the published file: its {kind} starts with {have[:8]}, not {want[:8]}")


def _parsed(file: _File, limit: int) -> Any:
    """What a checkpoint says, read without running it."""
    file.seek(0)
    head = file.read(9)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not size:
        raise _Refused("it is empty")
    if size > limit:
        raise _Refused(f"it has {size:,} bytes, more than the {limit:,} that are plausible")
    if len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        try:
            return load_safetensors(file.read())
        except Exception as error:
            raise _Refused(f"it is a damaged safetensors file ({_line(error)})") from error
    try:
        # timm's training script keeps its arguments beside the weights; a Namespace is data.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except (Exception, RecursionError) as error:
        # torch's message tells at length how to switch the protection off; what was found stands at its end.
        text = str(error)
        if asked := re.search(r"GLOBAL ([\w.]+)", text):
            raise _Refused(f"it asks for code ({asked[1]}), which is not run; save its state_dict alone") from None
        found = text.rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
        raise _Refused(f"it is no checkpoint, or a damaged one ({_line(found)})") from error


def _tensors(content: Any) -> dict[str, Tensor]:
    """The state dict in what a file says."""
    if not isinstance(content, Mapping):
        raise _Refused(f"it holds a {type(content).__name__}, not a state dict")
    for key in INSIDE:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            name = _line(key) if isinstance(key, str) else f"a key of type {type(key).__name__}"
            raise _Refused(f"its entry {name} is a {type(value).__name__}, not a tensor under a name")
        short = key
        for _ in WRAPPED:
            for prefix in WRAPPED:
                short = short.removeprefix(prefix)
        if short in tensors:
            raise _Refused(f"it holds {_line(short)} twice")
        tensors[short] = value.detach()
    if not tensors:
        raise _Refused("it holds no tensors")
    return tensors


def _line(reason: object, length: int = 160) -> str:
    """The start of a message as one line of printable ASCII."""
    text = reason if isinstance(reason, str) else str(reason) or type(reason).__name__
    text = next(iter(text.splitlines()), "").encode("ascii", "replace").decode()
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= length else text[:length] + "..."


STORED = ("model.safetensors", "pytorch_model.bin")
"""What timm and transformers call the weights in a folder or a repository, best first."""


def find_in_folder(folder: str | os.PathLike[str]) -> Path:
    """The weights in a folder of the hub's form.

    Raises:
        ValueError: If there are none.
    """
    for name in STORED:
        if (path := Path(folder) / name).is_file():
            return path
    raise ValueError(f"{folder}: there is no {' or '.join(STORED)} in it")


def find_in_hub(repository: str, name: str | None = None, folder: str | os.PathLike[str] | None = None) -> Path:
    """The weights of a repository of the Hugging Face hub, downloaded once.

    Args:
        repository: ``owner/name``, and perhaps ``@revision``.
        name: Of the file, if it is not one of `STORED`.
        folder: Of the cache; the hub's own, if none is given.

    Raises:
        OSError: If it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    owner, _, revision = repository.partition("@")
    reason: Exception | None = None
    for candidate in (name,) if name else STORED:
        try:
            cache = Path(folder) if folder else None
            return Path(hf_hub_download(owner, candidate, revision=revision or None, cache_dir=cache))
        except EntryNotFoundError as error:
            reason = error
        except (OSError, HfHubHTTPError, ValueError) as error:
            reason = error
            break
    raise OSError(f"{repository}: cannot be fetched from the hub ({_line(reason)})") from reason


def cached_path(url: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Where a download is kept; two addresses never share a file."""
    name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2]) or "weights"
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Path(folder or Path(torch.hub.get_dir()) / "checkpoints") / f"zoo-{mark}-{name}"


def fetch(
    url: str, *, folder: str | os.PathLike[str] | None = None, digest: str = "", limit: int = LIMIT
) -> dict[str, Tensor]:
    """Names and tensors of a checkpoint at an address, which is downloaded once.

    Args:
        url: http or https (a file address works, too).
        folder: Of the cache; torch's own, if none is given.
        digest: As in `read`; a cached file that does not fit is downloaded again.
        limit: As in `read`.

    Raises:
        OSError: If the download fails; nothing is kept then.
        ValueError: If what came is no checkpoint; nothing is kept then either.
    """
    path = cached_path(url, folder)
    if path.exists():
        try:
            return read(path, digest=digest, limit=limit)
        except ValueError:
            path.unlink()
    _download(url, path, limit)
    try:
        return read(path, digest=digest, limit=limit)
    except ValueError as error:
        path.unlink(missing_ok=True)
        raise ValueError(str(error).replace(str(path), url)) from error


def _download(url: str, path: Path, limit: int) -> None:
    """Write an address to a file, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=60) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            hidden = not sys.stderr.isatty()
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name[13:], disable=hidden) as bar:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
                    if out.tell() > limit:
                        raise OSError(f"more than {limit:,} bytes came")
            if size and out.tell() != size:
                raise OSError(f"the connection ended after {out.tell():,} of {size:,} bytes")
        Path(part).replace(path)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise OSError(f"{url}: cannot be downloaded ({_line(error)})") from error
    finally:
        Path(part).unlink(missing_ok=True)
