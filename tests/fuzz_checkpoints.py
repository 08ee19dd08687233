"""Hostile and damaged checkpoint files, made from a seed, and what must hold for each of them.

Run as a script, each file is read in a process of its own, which is timed and weighed. Seconds are those of the
processor, which do not depend on what else runs on the machine.

    python tests/fuzz_checkpoints.py --files 800 --seed 1

The files are shared out among small nets of every family, so that every layout of names is read.

For every file: no code is run, nothing but a `ValueError` of one line that names the file is raised, a net is unchanged
by a file that is refused, and no file takes 10 seconds or 1 GB more than the net's own size.
"""

import argparse
import io
import itertools
import json
import math
import os
import pickle
import random
import re
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safe_bytes
from torch import Tensor, nn

import zoo
from zoo.weights.loading import check_weights

NAME, MARK = "resnet20_cifar", "executed"
OTHERS = (
    *("alexnet_test", "bagnet_test", "densenet_test", "fabric_test", "fishnet_test", "frrn_test", "googlenet_bn_test"),
    *("gridnet_test", "highway_test", "lenet_test", "preresnet_test", "se_bn_inception_test", "vgg_test"),
    "wider_resnet_test",
)
SECONDS, BYTES = 10.0, 1 << 30
TIMES = 3
"""How often the script reads each file."""
WATCHED = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "socket.connect",
)

Made = tuple[str, bytes]


def about(name: str) -> None:
    """Make files of another net from now on."""
    global NAME
    NAME = name
    GOOD.clear()
    foreign_states.cache_clear()


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    own = zoo.create_model(NAME, device="meta").state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else torch.zeros((), dtype=int)
        for key, value in own.items()
    }


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, **options)
    return file.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def around(program: bytes, *records: tuple[str, bytes]) -> bytes:
    """A zip as ``torch.save`` writes it, of a pickle of one's own."""
    return zipped(("net/data.pkl", program), ("net/version", b"3\n"), ("net/byteorder", b"little"), *records, method=0)


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments


def write(value: Any) -> bytes:
    """A pickle of text, numbers, dicts, lists, tuples and calls, without the ends."""
    if isinstance(value, Call):
        module, _, name = value.name.rpartition(".")
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + write(value.arguments) + b"R"
    if isinstance(value, dict):
        return b"}(" + b"".join(write(k) + write(v) for k, v in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(write, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(write, value)) + b"e"
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        digits = pickle.encode_long(value)
        return b"\x8b" + struct.pack("<i", len(digits)) + digits
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    text = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(text)) + text


def program(value: Any) -> bytes:
    return b"\x80\x02" + write(value) + b"."


def tensor(key: str = "0", numel: int = 8, shape: Any = (8,), stride: Any = (1,), offset: int = 0) -> bytes:
    """The pickle of a tensor, by numbers of one's own."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\n" + write(key) + write("cpu") + write(numel) + b"tQ"
    arguments = b"(" + storage + write(offset) + write(shape) + write(stride) + b"\x89" + write({}) + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


GLOBALS = [
    *("os.system", "posix.system", "nt.system", "subprocess.Popen", "subprocess.check_output", "builtins.eval"),
    *("builtins.exec", "builtins.getattr", "builtins.__import__", "builtins.open", "builtins.bytearray"),
    *("builtins.bytes", "builtins.compile", "importlib.import_module", "runpy.run_path", "functools.partial"),
    *("torch.load", "torch.hub.load", "torch.Tensor", "torch.FloatTensor", "torch.empty", "torch.jit.load"),
    *("torch.storage.UntypedStorage", "torch.FloatStorage", "torch.storage._load_from_bytes", "torch.nn.Linear"),
    *("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor", "torch._utils._rebuild_nested_tensor"),
    *("torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_wrapper_subclass", "torch.Size"),
    *("torch._tensor._rebuild_from_type_v2", "torch.nn.parameter.Parameter", "torch.distributed.tensor.DTensor"),
    *("numpy.zeros", "numpy.core.multiarray.scalar", "numpy.load", "numpy.testing._private.utils.runstring"),
    *("pathlib.Path", "pathlib.PosixPath", "argparse.Namespace", "collections.OrderedDict", "collections.Counter"),
    *("zoo.create_model", "zoo.registry.create_model", "_codecs.encode", "codecs.decode", "__builtin__.eval"),
    *("shutil.rmtree", "socket.socket", "torch.zeros"),
]  # fmt: skip
ARGUMENTS: list[tuple[Any, ...]] = [
    (f"touch {MARK}",),
    (f"open('{MARK}', 'w')",),
    (4 << 30,),
    (1 << 61, 8),
    (["touch", MARK],),
    (),
    ("a" * 100_000, "punycode"),
    ("x", "latin1"),
    (MARK, "w"),
    ({},),
    (None,),
]

Recipe = Callable[[random.Random], Made]


def damaged(rng: random.Random) -> Made:
    """A good file with some bytes cut, changed, put in or left out."""
    kind = rng.choice(list(GOOD))
    content = bytearray(GOOD[kind])
    # Half of the damage near what is not numbers: the ends of a file.
    for _ in range(rng.randint(1, 4)):
        at = rng.choice([rng.randrange(len(content) + 1), rng.randrange(2000), len(content) - rng.randrange(12_000)])
        at = min(max(at, 0), len(content))
        more = rng.randbytes(rng.choice([1, 1, 2, 4, 8, 64]))
        what = rng.choice(["cut", "flip", "flip", "put", "drop", "zero", "copy"])
        if what == "cut":
            del content[at:]
        elif what == "drop":
            del content[at : at + len(more)]
        elif what == "put":
            content[at:at] = more
        elif what == "copy":
            content[at:at] = content[at : at + 200]
        else:
            content[at : at + len(more)] = bytes(len(more)) if what == "zero" else more
    return f"damaged {kind}", bytes(content)


def calling(rng: random.Random) -> Made:
    """A file that calls something, alone or beside good weights."""
    name, arguments = rng.choice(GLOBALS), rng.choice(ARGUMENTS)
    called = Call(name, *arguments)
    if rng.random() < 0.3:
        called = Call("collections.OrderedDict", [("a", called)])
    content = program(rng.choice([called, {"a": called}, {"state_dict": {"stem.conv1.weight": called}}]))
    if rng.random() < 0.3:
        content = content.replace(b"\x80\x02", b"\x80\x04").replace(b"c", b"c", 1)
    form = rng.choice(["zip", "older", "bare"])
    if form == "older":
        head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
        head.append(pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2))
        content = b"".join(head) + content + pickle.dumps([], 2)
    elif form == "zip":
        content = around(content)
    return f"calls {name} ({form})", content


def beside(rng: random.Random) -> Made:
    """Good weights, and something beside them whose pickle was written by hand."""
    good = saved({"state_dict": state(), "epoch": 77_777})
    name, arguments = rng.choice(GLOBALS), rng.choice(ARGUMENTS)
    files = zipfile.ZipFile(io.BytesIO(good))
    records = [(member.filename, files.read(member)) for member in files.infolist()]
    epoch = b"J" + struct.pack("<i", 77_777)
    new = write(Call(name, *arguments))
    changed = [(key, content.replace(epoch, new) if key.endswith("data.pkl") else content) for key, content in records]
    return f"{name} beside weights", zipped(*changed, method=0)


def sizes(rng: random.Random) -> Made:
    """Tensors whose numbers of themselves are false."""
    numbers = [0, 1, 8, 9, -1, 1 << 20, 1 << 31, 1 << 40, 1 << 61, 1 << 62, 1 << 63, 1 << 70, 10**400]
    shape = tuple(rng.choice([8, *numbers]) for _ in range(rng.choice([0, 1, 1, 2, 4, 40])))
    stride = tuple(rng.choice([0, 1, *numbers]) for _ in range(rng.choice([len(shape)] * 3 + [1])))
    made = tensor("0", rng.choice([8, 8, *numbers]), rng.choice([shape, (8,), "x", 8.0]), stride, rng.choice(numbers))
    names = rng.choice([("a",), ("stem.conv1.weight", "b"), tuple(state())])
    body = b"}(" + b"".join(write(name) + made for name in names) + b"u"
    return "false sizes", around(b"\x80\x02" + body + b".", ("net/data/0", bytes(rng.choice([0, 8, 32, 64]))))


def nested(rng: random.Random) -> Made:
    """Few bytes that say much: deep, shared, cyclic, or costly to compare."""
    depth = rng.choice([30, 60, 1000, 100_000])
    kind = rng.choice(
        ["tuples", "dicts", "cycle", "lists", "key", "laughs", "sets", "integers", "memo", "calls", "names"]
    )
    if kind == "tuples":  # each holds the one before twice: 2^depth leaves
        body = b"K\1" + b"q\0h\0\x86" * depth
    elif kind == "key":  # the same as a key
        body = b"}(" + b"K\1" + b"q\0h\0\x86" * min(depth, 1000) + b"N" + b"u"
    elif kind == "laughs":  # dicts that share dicts
        body = b"}" + b"".join(b"q\0}(X\1\0\0\0ah\0X\1\0\0\0bh\0u" for _ in range(depth))
    elif kind == "dicts":
        body = b"}X\1\0\0\0a" * depth + b"N" + b"s" * depth
    elif kind == "lists":
        body = b"]" * depth + b"a" * (depth - 1)
    elif kind == "cycle":
        body = b"}q\0(X\1\0\0\0ah\0X\1\0\0\0bh\0u"
    elif kind == "sets":
        body = b"](" + b"\x8f" * 3_000_000 + b"e"
    elif kind == "integers":
        body = b"}(" + write(1 << 8_000_000) + b"q\0N" + b"h\0N" * depth + b"u"
    elif kind == "memo":
        body = b"}" + b"r\xff\xff\xff\x7fj\xff\xff\xff\x7f"
    elif kind == "calls":  # one long list, given to many calls
        body = b"](" + b"N" * 100_000 + b"eq\0" + b"ccollections\nOrderedDict\nh\0\x85R" * min(depth, 5000)
    else:
        one = tensor("0", 432, (16, 3, 3, 3), (27, 9, 3, 1))
        many = b"".join(write(f"n{i}." * 8 + "stem.conv1.weight") + b"h\1" for i in range(min(depth, 50_000)))
        body = b"}(" + write("x") + one + b"q\1" + many + b"u"
    return f"nested: {kind}", around(b"\x80\x02" + body + b".", ("net/data/0", bytes(1728)))


def random_program(rng: random.Random) -> Made:
    """Operations of a pickle in any order."""
    pieces = [
        *(b"(", b"}", b"]", b")", b"N", b"\x88", b"K\1", b"u", b"e", b"a", b"s", b"t", b"\x85", b"\x86", b"R"),
        *(b"b", b"Q"),
        *(b"\x81", b"0", b"2", b"h\0", b"q\0", b"\x94", b"\x8f", b"\x90", b"\x91", b"X\1\0\0\0a", b"\x8c\1a", b"U\1a"),
        *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"\x93"),
        *(b"cos\nsystem\n", tensor(), b"\x8a\1\1", b"G" + bytes(8), b"l", b"d", b"i", b"P0\n", b"I1\n", b"L1L\n", b"."),
    ]  # fmt: skip
    body = b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 60)))
    return "random program", around(b"\x80\x02" + body + b".", ("net/data/0", bytes(32)))


def tensors(rng: random.Random) -> Made:
    """A whole file in which some tensors are not what a net needs."""
    held: dict[str, Any] = state()
    whole, keys = dict(held), list(held)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([keys[0], keys[-1], keys[-2], rng.choice(keys)])
        value = whole[key]
        floats = value.float() if value.dim() else value.float().reshape(1)
        changes: dict[str, Callable[[], Any]] = {
            "nan": lambda v=floats: v * math.nan,
            "inf": lambda v=floats: v + math.inf,
            "1e300": lambda v=floats: v.double() + 1e300,
            "float8": lambda v=floats: v.to(torch.float8_e5m2),
            "float8 e4m3": lambda v=floats: v.to(torch.float8_e4m3fn),
            "complex": lambda v=floats: v.to(torch.complex64),
            "int8": lambda v=floats: v.to(torch.int8),
            "uint32": lambda v=floats: v.to(torch.uint32),
            "bits": lambda v=floats: torch.empty(v.shape, dtype=torch.bits8),
            "sparse": lambda v=floats: v.to_sparse(),
            "meta": lambda v=floats: v.to("meta"),
            "expanded": lambda: torch.ones(1).expand(1 << rng.choice([4, 30, 50])),
            "huge": lambda v=floats: torch.ones(()).expand((*v.shape, 1 << 40)),
            "larger": lambda v=floats: torch.ones(v.shape[0] + 1, *v.shape[1:]),
            "flat": lambda v=floats: v.flatten(),
            "transposed": lambda v=floats: v.transpose(0, -1),
            "one more dimension": lambda v=floats: v[None],
            "a number": lambda: 3.0,
            "text": lambda: "x" * 1000,
            "none": lambda: None,
            "a list": lambda v=floats: [v],
            "a dict": lambda v=floats: {"weight": v},
        }
        change = rng.choice([*changes, "missing", "renamed", "twice", "moved", "shadowed"])
        held.pop(key, None)
        if change in changes:
            held[key] = changes[change]()
        elif change == "renamed":
            odd = ["\x1b[2J", "\n", "", ".", "..", "a" * 10_000, "\u00e9\u202e", "__class__", "a.", ".a", "\0"]
            held[rng.choice(odd) + rng.choice(["", key])] = floats
        elif change == "twice":
            held[key] = floats
            held[f"module.{key}"] = floats
        elif change == "moved":
            held[f"model.{key}"] = floats
        elif change == "shadowed":
            held[key] = floats.clone()
            for name in ("detach", "to", "shape", "read", "is_floating_point"):
                with suppress(AttributeError):
                    setattr(held[key], name, 3)
    wrap = rng.choice([lambda h: h, lambda h: {"state_dict": h}, lambda h: {"a": h, "b": h}, lambda h: [h]])
    try:
        return "tensors", saved(wrap(held), _use_new_zipfile_serialization=rng.random() < 0.7)
    except Exception:  # torch cannot write it
        return "tensors", saved({key: value for key, value in held.items() if isinstance(value, str)})


@cache
def foreign_states() -> list[dict[str, Tensor]]:
    """The tensors under the names of every layout; each name is found by trying digits in the layout's rules."""
    own = state()
    net: Any = zoo.create_model(NAME, device="meta")
    found = []
    for layout in net.layouts.values():
        names: dict[str, Tensor] = {}
        for pattern, _ in layout.rules:
            plain = re.sub(r"\\d\+?|\[\d+\]", "0", pattern).replace("\\.", ".")
            for place in (r"\1", r"\2"):
                text = re.sub(r"[()]", "", re.sub(r"\((\w+)\|(\w+)\)", place, plain))
                parts = text.split("0")
                tried = "01234" if len(parts) > 3 else "0123456789"
                for digits in itertools.product(tried, repeat=min(len(parts) - 1, 3)):
                    name = "".join(map("".join, itertools.zip_longest(parts, digits, fillvalue="")))
                    for end in ("weight", "bias", "running_mean", "running_var"):
                        if (ours := layout.rename(name + end)) in own:
                            names[name + end] = own[ours]
        found.append(names)
    return [names for names in found if names] or [own]


def foreign(rng: random.Random) -> Made:
    """Names of another implementation, some of them wrong."""
    held: dict[str, Any] = dict(rng.choice(foreign_states()))
    for _ in range(rng.randint(0, 4)):
        name = rng.choice(list(held))
        value = held[name]
        what = rng.choice(["lost", "digits", "shape", "twice", "number", "unit", "none"])
        if what == "lost" and len(held) > 1:
            del held[name]
        elif what == "digits":
            held[re.sub(r"\d", lambda _: rng.choice(["9" * 400, "-1", "\u0663", "", "00"]), name, count=2)] = value
        elif what == "shape" and isinstance(value, Tensor):
            held[name] = rng.choice([value[None], value.flatten()[:1], value.flatten()[:0], torch.ones(3, 5, 7)])
        elif what == "twice":
            held[f"module.{name}"] = value
        elif what == "number":
            held[name.rpartition(".")[0] + ".num_batches_tracked"] = rng.choice([1.5, torch.ones(3), torch.tensor(-1)])
        elif what == "unit":
            held[re.sub(r"\d", lambda _: str(rng.randint(0, 9)), name)] = value
        else:
            held[name] = rng.choice([None, "x", 3, [value]])
    return "foreign", saved(rng.choice([held, {"state_dict": held}, {"model": held, "epoch": 3}]))


def archives(rng: random.Random) -> Made:
    """Zips that unpack to much, hold much, or are false."""
    huge = bytes(rng.choice([80, 200]) << 20)
    good = GOOD["pth"]
    many = rng.choice([1000, 70_000])
    kind = rng.choice(
        ["bomb", "bomb in a record", "bomb in a zip", "byteorder", "many", "twice", "names", "lzma", "bz2", "locked",
         "directory", "of a zip of a zip", "false size", "comment", "two", "mac"]
    )  # fmt: skip
    if kind == "bomb":
        content = zipped(("net.pth", huge))
    elif kind == "bomb in a record":
        content = zipped(
            ("net/data.pkl", program({"a": 1})[:-1] + b"0}X\1\0\0\0a" + tensor() + b"s."), ("net/data/0", huge)
        )
    elif kind == "bomb in a zip":
        content = zipped(("net.pth", zipped(("net/data.pkl", b"\x80\x02}."), ("net/data/0", huge))))
    elif kind == "byteorder":
        content = zipped(("net/data.pkl", b"\x80\x02}."), ("net/byteorder", huge))
    elif kind == "many":
        content = zipped(*((f"n{i}", b"") for i in range(many)), method=0)
    elif kind == "twice":
        content = zipped(("net/data.pkl", b"\x80\x02}."), ("net/data.pkl", program({"a": Call("os.system", "id")})))
    elif kind == "names":
        content = zipped(("../../net.pth", good), ("/etc/net.txt", b""))
    elif kind in ("lzma", "bz2"):
        content = zipped(("net.pth", huge), method=zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_BZIP2)
    elif kind == "locked":
        packed = zipped(("net.pth", good))
        at = packed.rindex(b"PK\x01\x02") + 8
        content = packed[:6] + b"\x01" + packed[7:at] + b"\x01" + packed[at + 1 :]
    elif kind == "directory":
        packed = bytearray(zipped(("net.pth", b"x" * 100)))
        packed[-10:-6] = struct.pack("<I", rng.choice([0, 1 << 31, (1 << 32) - 1]))
        content = bytes(packed)
    elif kind == "of a zip of a zip":
        content = zipped(("a.zip", zipped(("b.zip", zipped(("c.pth", good))))))
    elif kind == "false size":
        packed = bytearray(zipped(("net.pth", huge)))
        at = packed.rindex(b"PK\x01\x02")
        packed[at + 24 : at + 28] = struct.pack("<I", 100)
        content = bytes(packed)
    elif kind == "comment":
        content = good + b"PK\5\6" + bytes(18)
    elif kind == "two":
        content = zipped(("a.pth", good), ("b.pth", good))
    else:
        content = zipped(("net.pth", good), ("__MACOSX/._net.pth", rng.randbytes(100)))
    return f"archive: {kind}", content


def headers(rng: random.Random) -> Made:
    """Safetensors whose header is false."""
    shape = rng.choice([[8], [1 << 61, 8], [-8], [8.0], ["8"], [True], [], None, [10**400], [0]])
    offsets = rng.choice([[0, 32], [32, 0], [0, 1 << 62], [-32, 0], [0.0, 32.0], [0], None, [0, 10**30], [16, 48]])
    dtype = rng.choice(["F32", "F32", "F8_E5M2", "F8_E4M3", "F64", "U16", "X", None, 3, "C64"])
    row: Any = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    names = rng.choice([["a"], list(state()), ["a"] * 2, ["\x1b[2J"], ["__metadata__"]])
    rows = {name: rng.choice([row, row, row, None, [], "x", {}]) for name in names}
    text = json.dumps(rng.choice([rows, rows, rows, [], 3, {"__metadata__": 3}, {}])).encode()
    text = rng.choice(
        [text, text, text, text[:-1] + b',"a":' + b"[" * 100_000, b"{" * 1000, b'{"a":' + b"9" * 9999 + b"}"]
    )
    if rng.random() < 0.2:
        text = text.replace(b'"a"', b'"a": 1, "a"')
    size = rng.choice([len(text)] * 6 + [0, 1 << 62, len(text) + 40, 1 << 24])
    return "header", struct.pack("<Q", size) + text + bytes(rng.choice([32, 0, 64]))


def indices(rng: random.Random) -> Made:
    """Indices of sharded checkpoints that name what they must not."""
    places = ["../x", "/etc/passwd", "", ".", "a/b", "x\0y", "net.index.json", "nothing.bin", 3, None, "a" * 5000]
    table: Any = rng.choice([{"a": rng.choice(places)}, {"a": "net.index.json"}, {}, [], None, {"a": {"b": 1}}])
    content = json.dumps(rng.choice([{"weight_map": table}, {"weight_map": table}, [], 3, {}])).encode()
    return "index", rng.choice([content, content, content, b"[" * 200_000, content[:-1], b"\xff\xfe"])


RECIPES: list[Recipe] = [
    *[damaged] * 5,
    *[calling] * 3,
    *[tensors] * 4,
    *[foreign] * 2,
    beside,
    *[sizes] * 2,
    nested,
    random_program,
    archives,
    headers,
    indices,
]
GOOD: dict[str, bytes] = {}


def corpus(files: int, seed: object, first: int = 0) -> Iterator[Made]:
    """As many files, the same for the same seed; the first is made by the recipe of that number."""
    if not GOOD:
        held = state()
        GOOD["pth"] = saved({"state_dict": held, "epoch": 3})
        GOOD["older pth"] = saved({"state_dict": held, "epoch": 3}, _use_new_zipfile_serialization=False)
        GOOD["safetensors"] = safe_bytes(held)
        GOOD["zip"] = zipped(("net.pth", GOOD["pth"]))
        GOOD["small pth"] = saved({key: value[:0] if value.dim() else value for key, value in held.items()})
    for number, recipe in zip(range(files), itertools.islice(itertools.cycle(RECIPES), first, None), strict=False):
        yield recipe(random.Random(f"{seed} {number}"))


def pretrained(net: nn.Module, path: Path) -> None:
    """Make a net with the weights of a file, as `create_model` loads them."""
    zoo.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def problems(net: nn.Module, path: Path, *more: Callable[[nn.Module, Path], Any]) -> tuple[str, list[str]]:
    """Load a file, and say what became of it and what of it is wrong."""
    wrong: list[str] = []
    before = {key: value.clone() for key, value in net.state_dict().items()}
    said = []
    for act in (zoo.load_weights, check_weights, *more):
        try:
            act(net, path)
            said.append("loaded")
        except ValueError as error:
            line = str(error)
            said.append(line)
            if not (line.startswith(f"{path}: ") and line.isprintable() and len(line) < len(str(path)) + 1000):
                wrong.append(f"a message that is no line: {line[:300]!r}")
        except BaseException:
            wrong.append(traceback.format_exc(limit=-3))
            said.append("raised")
    if len(set(said)) > 1:
        wrong.append(f"loading and checking do not agree: {said}")
    after = net.state_dict()
    if said[0] == "loaded":
        wrong += [f"{key} is not finite" for key, value in after.items() if not value.isfinite().all()]
    elif any(not torch.equal(value, before[key]) for key, value in after.items()):
        wrong.append("a refused file changed the net")
    net.load_state_dict(before)
    return "loaded" if said[0] == "loaded" else "refused", wrong


def write_file(made: Made, folder: Path) -> Path:
    path = folder / ("net.index.json" if made[0] == "index" else "net.pth")
    path.write_bytes(made[1])
    return path


def peak(reset: bool = False) -> int:
    """Bytes that this process has held at most, on Linux; from now on, after a reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def in_a_process(net: nn.Module, path: Path, reader: int, writer: int) -> None:
    """Read a file in a child, and send what became of it to the parent."""
    os.close(reader)
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if event in WATCHED else None)
    before = peak(reset=True)
    start = time.process_time()
    outcome, wrong = problems(net, path, pretrained)
    seconds = time.process_time() - start
    taken = peak() - before
    wrong += [f"it ran {event}" for event in sorted(set(events))]
    if Path(MARK).exists():
        wrong.append("it ran code")
    with os.fdopen(writer, "w") as out:
        json.dump({"outcome": outcome, "wrong": wrong, "seconds": seconds, "bytes": taken}, out)


def run(files: int, seed: int) -> int:
    """Try all files, each in a process of its own; print what was found."""
    torch.set_num_threads(1)
    names = (NAME, *OTHERS)
    shares = [files * (i + 1) // len(names) - files * i // len(names) for i in range(len(names))]
    outcomes: Counter[str] = Counter()
    bad, slowest, largest = 0, (0.0, ""), (0, "")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for place, (name, share) in enumerate(zip(names, shares, strict=True)):
            about(name)
            net = zoo.create_model(name)
            own = sum(value.numel() * value.element_size() for value in net.state_dict().values())
            for number, made in enumerate(corpus(share, f"{seed} {name}", place * share)):
                found = answer_of(net, write_file(made, Path(folder)), own)
                kind = f"{name} {number} ({made[0]})"
                outcomes[f"{made[0].split(':')[0].split(' (')[0].split(' ')[0]}: {found['outcome']}"] += 1
                slowest = max(slowest, (found["seconds"] / TIMES, kind))
                largest = max(largest, (found["bytes"], kind))
                bad += bool(found["wrong"])
                for wrong in found["wrong"]:
                    print(f"file {kind}: {wrong}", flush=True)
    print(f"{files} files, seed {seed}, into {len(names)} nets: {bad} wrong")
    print(", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items())))
    print(f"slowest: {slowest[0]:.2f} s ({slowest[1]}); largest: {largest[0] / 1e6:.0f} MB ({largest[1]})")
    return 1 if bad else 0


def answer_of(net: nn.Module, path: Path, own: int) -> dict[str, Any]:
    """Read a file in a process of its own; return what became of it, and remove it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(120)
        in_a_process(net, path, reader, writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    found = json.loads(text) if text else {"outcome": "died", "wrong": ["died"], "seconds": 120, "bytes": 0}
    if found["seconds"] / TIMES > SECONDS:
        found["wrong"].append(f"it took {found['seconds'] / TIMES:.1f} s")
    if found["bytes"] > BYTES + own:
        found["wrong"].append(f"it took {found['bytes'] / 1e6:.0f} MB")
    path.unlink()
    return found


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    return parser


if __name__ == "__main__":
    given = build_parser().parse_args()
    sys.exit(run(given.files, given.seed))
