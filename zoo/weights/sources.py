"""Fetch checkpoints: from addresses, downloaded once, and from the Hugging Face hub."""

import hashlib
import http.client
import io
import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from zoo.escape import for_terminal
from zoo.files import replacing
from zoo.weights.formats import CHUNK, Stored
from zoo.weights.pickles import Refused
from zoo.weights.reader import LIMIT, STORED, Unreadable, opened, shards
from zoo.weights.words import first_line

SECONDS = "ZOO_DOWNLOAD_SECONDS"
"""Environment variable: seconds that a whole download may take. Default: one hour."""

SILENCE, SLOWEST = 60.0, 10_000
"""Seconds that a server may be silent, and the least mean of bytes per second over that time."""

HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.FileHandler,
    urllib.request.UnknownHandler,
)

KEPT = 100
"""Characters of an address's last part that the name of a cached file keeps."""


def cached_path(url: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of a cached download. Two addresses never share a file."""
    name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2], flags=re.ASCII)[-KEPT:] or "weights"
    mark = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Path(folder or Path(torch.hub.get_dir()) / "checkpoints") / f"zoo-{mark}-{name}"


@contextmanager
def fetched(
    url: str, *, folder: str | os.PathLike[str] | None = None, digest: str = "", limit: int = LIMIT
) -> Generator[dict[str, Stored]]:
    """Open the checkpoint at an address, downloading it once.

    Args:
        url: Address with http, https or file.
        folder: Cache folder. Default: torch's own.
        digest: As in `opened`. A cached file with another digest is downloaded again.
        limit: As in `opened`, and the largest download in bytes.

    Yields:
        The tensors by name, as `opened` does.

    Raises:
        OSError: If the download fails; nothing is kept.
        ValueError: If the download is no checkpoint, or a damaged one; nothing is kept.
    """
    path = cached_path(url, folder)
    try:
        with ExitStack() as files:
            try:
                found = files.enter_context(opened(path, digest=digest, limit=limit))
            except Unreadable:
                path.unlink(missing_ok=True)
                download(url, path, limit)
                found = files.enter_context(opened(path, digest=digest, limit=limit))
            yield found
    except Unreadable as error:
        path.unlink(missing_ok=True)
        raise Unreadable(str(error).replace(for_terminal(path), for_terminal(url))) from error


def download(url: str, path: Path, limit: int = LIMIT) -> None:
    """Download an address to a file, completely or not at all.

    Args:
        url: Address with http, https or file. Characters that are not allowed in an address are quoted.
        path: The file. Its folder is created.
        limit: Largest number of bytes.

    Raises:
        OSError: If it cannot be downloaded, is too large, or takes too long.
    """
    try:
        clock = _Clock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as out, _open(url, clock) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            name, hidden = path.name[13:], not sys.stderr.isatty()
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=name, disable=hidden) as bar:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
                    if out.tell() > limit:
                        raise OSError(f"more than {limit:,} bytes came")
            if size and out.tell() != size:
                raise OSError(f"the connection ended after {out.tell():,} of {size:,} bytes")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise OSError(f"{for_terminal(url)}: cannot be downloaded ({first_line(error)})") from error


class _Clock:
    """Remaining time of a download: in total, and without a sufficient number of bytes."""

    def __init__(self) -> None:
        told = os.environ.get(SECONDS) or "3600"
        self.most = float(told)
        if not 0 < self.most < float("inf"):
            raise ValueError(f"{SECONDS} ({told}) must be a number of seconds")
        self.start = self.since = time.monotonic()
        self.bytes = 0

    def left(self) -> float:
        """Return the seconds that the next read may wait.

        Raises:
            TimeoutError: If no time is left.
        """
        left = self.start + self.most - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took more than {self.most:g} s; {SECONDS} allows more")
        return min(left, SILENCE)

    def came(self, count: int) -> None:
        """Count received bytes.

        Raises:
            TimeoutError: If too few have come in the last `SILENCE` seconds.
        """
        self.bytes += count
        if (passed := time.monotonic() - self.since) >= SILENCE:
            if self.bytes < SLOWEST * passed:
                raise TimeoutError(f"only {self.bytes:,} bytes came in {passed:.0f} s")
            self.since, self.bytes = time.monotonic(), 0


class _Timed(io.RawIOBase):
    """Bytes of a connection. A clock limits every wait, because a server can also send headers slowly."""

    def __init__(self, raw: io.RawIOBase, sock: Any, clock: _Clock) -> None:
        self.raw, self.sock, self.clock = raw, sock, clock

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read the bytes that have arrived."""
        self.sock.settimeout(self.clock.left())
        try:
            count = self.raw.readinto(buffer)
        except TimeoutError as error:
            self.clock.left()
            raise TimeoutError(f"the server was silent for {SILENCE:g} s") from error
        self.clock.came(count or 0)
        return count

    def close(self) -> None:
        """Close the connection's file."""
        self.raw.close()
        super().close()


def _open(url: str, clock: _Clock) -> Any:
    """Open the answer of a server, or a file.

    Raises:
        ValueError: If the address is not http, https or file.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https", "file"):
        raise ValueError("its address begins with none of http, https, file")

    class Answer(http.client.HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, clock))

    def connect(kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        def make(host: str, **options: Any) -> http.client.HTTPConnection:
            options["timeout"] = clock.left()
            connection = kind(host, **options)
            connection.response_class = Answer
            return connection

        return make

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request: Any) -> Any:
            return self.do_open(connect(http.client.HTTPConnection), request)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, request: Any) -> Any:
            context = ssl.create_default_context()
            kind = connect(http.client.HTTPSConnection)
            return self.do_open(kind, request, context=context)

    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    opener = urllib.request.OpenerDirector()  # not the usual one, which also knows ftp, without a clock
    for handler in (Plain, Secure, *HANDLERS):
        opener.add_handler(handler())
    return opener.open(quoted, timeout=clock.left())


def find_in_hub(repository: str, name: str | None = None, folder: str | os.PathLike[str] | None = None) -> Path:
    """Find the weights of a repository of the Hugging Face hub, downloaded once.

    Args:
        repository: ``owner/name``, optionally with ``@revision``.
        name: Name of the file. Default: the first of `STORED` that exists.
        folder: Cache folder. Default: the hub's own.

    Returns:
        Path of the file. For a sharded checkpoint it is the index; the parts are in the same folder.

    Raises:
        OSError: If it cannot be downloaded.
        ValueError: If the index of a sharded checkpoint is not valid.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    owner, _, revision = repository.partition("@")
    cache = Path(folder) if folder else None

    def get(file: str) -> Path:
        return Path(hf_hub_download(owner, file, revision=revision or None, cache_dir=cache))

    reason: Exception | None = None
    for candidate in (name,) if name else STORED:
        try:
            path = get(candidate)
            if path.name.endswith(".index.json"):
                for part in shards(json.loads(path.read_bytes())):
                    get(part)
            return path
        except EntryNotFoundError as error:
            reason = error
        except Refused as error:
            raise Unreadable(f"{for_terminal(repository)}: {candidate}: {error}") from error
        except (OSError, HfHubHTTPError, ValueError) as error:
            reason = error
            break
    raise OSError(f"{for_terminal(repository)}: cannot be fetched from the hub ({first_line(reason)})") from reason
