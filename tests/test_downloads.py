"""Downloads from servers that misbehave: one OSError of one line in bounded time, and nothing kept."""

import io
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import torch

import zoo
from zoo.weights import sources

NAME = "resnet_test"


def content() -> bytes:
    held = io.BytesIO()
    torch.save(zoo.create_model(NAME).state_dict(), held)
    return held.getvalue()


GOOD = content()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode() + body


def sized(body: bytes) -> bytes:
    return answer(body, f"Content-Length: {len(body)}")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of a server that sends what it is told, and asks no questions; and what it sends and was asked."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    plan: dict[str, Any] = {"parts": [], "asked": [], "drip": False, "hold": False}
    server = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                plan["asked"].append(connection.recv(65536).split(b"\r\n")[0].decode("latin1"))
                try:
                    for part in plan["parts"]:
                        connection.sendall(part)
                    while plan["drip"] and not done.wait(0.02):
                        connection.sendall(b"x")
                    if plan["hold"]:
                        done.wait(2)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"{'http'}://127.0.0.1:{server.getsockname()[1]}", plan
    done.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def get(url: str) -> zoo.weights.fit.Loaded | None:
    net = zoo.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(url=url))
    return net


def kept() -> list[Path]:
    return list(sources.cached_path("x").parent.glob("*"))


BROKEN: dict[str, tuple[list[bytes], str]] = {
    "no answer": ([b""], "cannot be downloaded"),
    "no status line": ([b"hello\r\n\r\n"], "cannot be downloaded"),
    "a status that is none": ([b"HTTP/1.1 abc\r\n\r\n"], "cannot be downloaded"),
    "a header without end": ([b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000], "cannot be downloaded"),
    "too many headers": ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200], "cannot be downloaded"),
    "not found": ([answer(b"", status="404 Not Found")], "HTTP Error 404"),
    "a redirection without end": ([answer(b"", "Location: /again", status="302 Found")], "cannot be downloaded"),
    "a redirection to another kind": (
        [answer(b"", "Location: ftp://127.0.0.1/net", status="302 Found")],
        "unknown url",
    ),
    "a redirection to a file": ([answer(b"", "Location: file:///etc/hostname", status="302 Found")], "cannot be"),
    "a cut chunk": ([answer(b"ffff\r\nabc", "Transfer-Encoding: chunked")], "cannot be downloaded"),
    "a chunk of no size": ([answer(b"zz\r\nabc", "Transfer-Encoding: chunked")], "cannot be downloaded"),
    "a length that is none": ([answer(GOOD, "Content-Length: many")], "cannot be downloaded"),
    "too short": ([answer(GOOD[:100], f"Content-Length: {len(GOOD)}")], "the connection ended after 100 of"),
    "too long": ([sized(bytes(70 << 20))], r"more than 68,\d+,\d+ bytes came"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_one_line(kind: str, served: tuple[str, dict[str, Any]]) -> None:
    address, plan = served
    plan["parts"], message = BROKEN[kind]
    with pytest.raises(OSError, match=message) as caught:
        get(f"{address}/net.pth")
    assert str(caught.value).startswith(f"{address}/net.pth: ")
    assert str(caught.value).isprintable()
    assert not kept()
    cause = caught.value.__cause__
    assert not isinstance(cause, HTTPError) or cause.closed, "the connection was left open"


def test_what_is_no_checkpoint_is_not_kept(served: tuple[str, dict[str, Any]]) -> None:
    address, plan = served
    for body in (b"<html>", GOOD[:-500], b""):
        plan["parts"] = [sized(body)]
        with pytest.raises(ValueError, match=r"/net\.pth: it is "):
            get(f"{address}/net.pth")
        assert not kept()


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-Slow: ", answer(b"")], ids=["headers", "body"])
def test_a_dripping_server_is_left(
    start: bytes, served: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server never stops; each byte comes before the wait for it is over."""
    address, plan = served
    plan["parts"], plan["drip"] = [start], True
    monkeypatch.setenv(sources.SECONDS, "0.3")
    with pytest.raises(OSError, match=r"it took more than 0\.3 s; ZOO_DOWNLOAD_SECONDS allows more"):
        get(f"{address}/net.pth")
    monkeypatch.delenv(sources.SECONDS)
    monkeypatch.setattr(sources, "SILENCE", 0.3)
    with pytest.raises(OSError, match=r"only [\d,]+ bytes came in \d+ s"):
        get(f"{address}/net.pth")
    plan["drip"] = False
    plan["parts"], plan["hold"] = [start], True
    with pytest.raises(OSError, match=r"the server was silent for 0\.3 s"):
        get(f"{address}/net.pth")
    assert not kept()
    monkeypatch.setenv(sources.SECONDS, "soon")
    with pytest.raises(OSError, match=r"could not convert string to float|ZOO_DOWNLOAD_SECONDS"):
        get(f"{address}/net.pth")


@pytest.mark.parametrize(
    ("last", "asked"),
    [
        ("net.pth", "net.pth"),
        ("my net.pth", "my%20net.pth"),
        ("my%20net.pth", "my%20net.pth"),
        ("n\u00e9t.pth?download=1", "n%C3%A9t.pth?download=1"),
        ("n" * 400 + ".pth", "n" * 400 + ".pth"),
        ("\u00e9" * 300, "%C3%A9" * 300),
        ("", ""),
        ("..", ".."),
    ],
)
def test_addresses(last: str, asked: str, served: tuple[str, dict[str, Any]]) -> None:
    address, plan = served
    plan["parts"] = [sized(GOOD)]
    for _ in range(2):
        get(f"{address}/{last}")
    assert plan["asked"] == [f"GET /{asked} HTTP/1.1"], "the second time it comes from the cache"
    [file] = kept()
    assert file == sources.cached_path(f"{address}/{last}")
    assert len(file.name) <= 120
    assert file.name.isascii()


@pytest.mark.parametrize("url", ["net.pth", "ftp:%host/net.pth", "data:,x", "http:%", "http:%[::1", "http:%a b/c"])
def test_addresses_of_no_known_kind(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = url.replace("%", "//")  # so that no file names a host
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError, match="cannot be downloaded"):
        get(url)
    assert not kept()


def test_permissions_are_those_of_the_umask(served: tuple[str, dict[str, Any]]) -> None:
    address, plan = served
    plan["parts"] = [sized(GOOD)]
    before = os.umask(0o027)
    try:
        get(f"{address}/net.pth")
    finally:
        os.umask(before)
    [file] = kept()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_damage_that_shows_when_tensors_are_read(served: tuple[str, dict[str, Any]]) -> None:
    """The names are whole, the numbers are not: the file is not kept, and the next try gets another."""
    address, plan = served
    middle = GOOD.rindex(b"PK\1\2") // 2
    plan["parts"] = [sized(GOOD[:middle] + b"\xff" * 64 + GOOD[middle + 64 :])]
    with pytest.raises(ValueError, match=r"/net\.pth: it is damaged \(Bad CRC-32"):
        get(f"{address}/net.pth")
    assert not kept()
    plan["parts"] = [sized(GOOD)]
    get(f"{address}/net.pth")
    assert len(kept()) == 1


def test_a_good_file_that_does_not_fit_is_kept(served: tuple[str, dict[str, Any]]) -> None:
    address, plan = served
    plan["parts"] = [sized(GOOD)]
    with pytest.raises(ValueError, match="does not fit"):
        zoo.create_model("fishnet_test", pretrained=True, pretrained_cfg_overlay=dict(url=f"{address}/net.pth"))
    assert len(kept()) == 1
