"""Read pickles of tensors as data: nothing is imported or called, and only plain objects are made.

A checkpoint's pickle is a program for a small stack machine. The machine here knows only the operations that
``torch.save`` writes. A name in the program (`GLOBAL`) stays a word. A call that rebuilds a tensor becomes a `View` of
a `Storage`. A call of something harmless beside the weights becomes a `Note`. Any other name is refused before a byte
of the weights is read. Therefore the machine cannot be made to run, import or allocate anything.
"""

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import torch

from zoo.weights.words import short

STEPS = 2_000_000
"""Largest number of operations in a pickle. A net of 10,000 tensors with its optimizer has 500,000."""

ARGUMENTS = 32
"""Largest number of arguments of a call, of sizes of a tensor, and of its metadata."""

BYTES = 64 << 20
"""Largest size of a pickle in bytes. The numbers of the tensors are stored outside it."""


class Refused(Exception):
    """Reason why a file is rejected, in half a line."""


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of numbers in a file.

    Attributes:
        dtype: Type of the numbers; None for bytes whose type is given by the tensor.
        key: Name in the file.
        numel: Number of elements, according to the pickle.
        offset: First element within the storage that the file holds (views in the oldest files).
    """

    dtype: torch.dtype | None
    key: str
    numel: int
    offset: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """A tensor in a pickle: part of a storage.

    Attributes:
        storage: Storage of the numbers.
        offset: First element.
        shape: Sizes of the tensor.
        strides: Steps between elements along each dimension.
        dtype: Type of the tensor; None if torch has no such type.
        odd: Reason why it is no plain tensor, in words; empty for a plain tensor.
    """

    storage: Storage | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype | None
    odd: str = ""


@dataclass(frozen=True, eq=False)
class Note:
    """Uninspected object beside the weights, by the name of its type."""

    name: str


@dataclass(frozen=True)
class Name:
    """A global that a pickle names. It is never looked up."""

    name: str


# What is harmless beside the weights. None of it is imported or called; the list says what a file may mention.
_NOTED = re.compile(
    r"(numpy|pathlib|datetime|decimal|fractions|uuid|typing|omegaconf|yacs\.config|easydict|addict|mmengine|mmcv)\."
    r"|argparse\.Namespace$|types\.SimpleNamespace$|collections\.(defaultdict|deque|Counter)$"
    r"|(pytorch_lightning|lightning_fabric|lightning)\.([a-z_]+\.)*AttributeDict$"
    r"|builtins\.(set|frozenset|slice|range|complex|dict|list|tuple|int|float|str|bool|bytes)$"
    r"|torch\.(Size|device|serialization\._get_layout|torch_version\.TorchVersion|random\.Generator|Generator)$"
)
# What makes tensors that are not plain, and what to call them.
_ODD = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without numbers (meta device)",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a subclass",
    "torch._utils._rebuild_xla_tensor": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "torch.nested._internal.nested_tensor._rebuild_njt": "a nested tensor",
}
# Parts of those; they stay words.
_PARTS = re.compile(
    r"torch\.(distributed\.|nested\._internal\.nested_tensor\.|_dynamo\.decorators\.)"
    r"|torch\.(per_(tensor|channel)_\w+|strided|sparse_\w+|contiguous_format|preserve_format|channels_last(_3d)?)$"
    r"|torch\.(_tensor|tensor)\._rebuild_from_type(_v2)?$"
)
_STORAGE = re.compile(r"torch\.(cuda\.|storage\.)?(\w+)Storage$")
_NUMBERS = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QUInt8": torch.quint8,
    "QInt8": torch.qint8,
    "QInt32": torch.qint32,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
}
_PLAIN = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
_WRAPPED = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
}
_DICTS = {"collections.OrderedDict", "builtins.dict"}
_SUBCLASSABLE = {"torch.Tensor", "torch._C.TensorBase", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
_DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_WORDS = {*_PLAIN, *_WRAPPED, *_DICTS, *_SUBCLASSABLE, *_ODD, *_DTYPES, "_codecs.encode"}
_OLD = {"__builtin__": "builtins", "torch.tensor": "torch._tensor", "copy_reg": "copyreg"}


@lru_cache(maxsize=1024)
def _listed(name: str) -> bool:
    """Return True if a pickle may mention a global."""
    return name in _WORDS or bool(_STORAGE.match(name) or _NOTED.match(name) or _PARTS.match(name))


def parse(file: BinaryIO, steps: int = STEPS, *, storages: dict[str, "Storage"] | None = None, excess: str = "") -> Any:
    """Read one pickle as data, from the position of the file to the end mark.

    Args:
        file: File in memory; afterwards it is positioned after the pickle.
        steps: Largest number of operations.
        storages: Collects the storages that the pickle names, by key.
        excess: Reason for the error if there are more operations.

    Returns:
        Dicts, lists, tuples, text, numbers, `View` and `Note`.

    Raises:
        Refused: If it names a global that is not listed, or is no pickle that ``torch.save`` writes.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for step, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if step >= steps:
                raise Refused(excess or f"its pickle has more than {steps:,} operations")
            if operation.name == "STOP":
                return machine.stack.pop()
            if operation.name not in _OPERATIONS:
                raise Refused(f"it is no checkpoint, or a damaged one (its pickle asks for {operation.name})")
            _OPERATIONS[operation.name](machine, argument)
    except Refused:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise Refused(f"it is no checkpoint, or a damaged one (its pickle is broken: {short(error, 80)})") from error
    raise Refused("it is no checkpoint, or a damaged one (its pickle has no end)")


class _Machine:
    """Stack of a pickle, with its marks and its memo."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pack(self, count: int) -> None:
        """Replace the topmost values by one tuple."""
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError("nothing to pack")
        self.stack[-count:] = [items]

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Note):
            raise TypeError("a list was expected")

    def put(self, items: list[Any]) -> None:
        """Add alternating keys and values to a dict. Keys other than text and whole numbers are left out."""
        held = self.stack[-1]
        if isinstance(held, dict):
            held.update({k: v for k, v in zip(items[::2], items[1::2], strict=True) if _is_key(k)})
        elif not isinstance(held, Note):
            raise TypeError("a dict was expected")

    def name(self, module: str, name: str) -> None:
        """Push a global as a word.

        Raises:
            Refused: If the global is not listed.
        """
        full = f"{_OLD.get(module, module)}.{name}"
        if not _listed(full):
            raise Refused(f"it asks for code ({short(full)}), which is not run; save its state_dict alone")
        self.push(Name(full))

    def call(self) -> None:
        """Replace a word and its arguments by the meaning of the call."""
        arguments, called = self.stack.pop(), self.stack[-1]
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise TypeError("something that is no function is called")
        # A list that a thousand calls share must not be copied a thousand times.
        self.copied += sum(len(a) for a in arguments[:ARGUMENTS] if isinstance(a, list))
        if len(arguments) > ARGUMENTS or self.copied > STEPS:
            raise ValueError("a call has too many arguments")
        self.stack[-1] = _meaning(called.name, arguments)

    def state(self) -> None:
        """Give an object its state. The state of a dict, a tensor or a note is ignored."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (dict, View, Note)):
            raise TypeError("something that is no object gets a state")

    def storage(self) -> None:
        """Replace the description of a run of numbers by a `Storage`."""
        told = self.stack.pop()
        if not isinstance(told, tuple) or len(told) not in (5, 6) or _text(told[0]) != "storage":
            raise Refused("it asks for something that is no run of numbers")
        _, kind, key, _, numel, *rest = told
        offset = 0
        if rest and rest[0] is not None:
            _, offset, numel = rest[0]
        if not isinstance(kind, Name) or not (named := _STORAGE.match(kind.name)):
            raise TypeError("a storage of no type")
        held = Storage(_NUMBERS.get(named[2]), _text(key), _count(numel), _count(offset))
        self.storages[held.key] = held
        self.push(held)


def _meaning(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return the meaning of a call in a pickle."""
    if name in _PLAIN:
        return _view(name, arguments)
    if name in _WRAPPED:
        return arguments[0] if arguments and isinstance(arguments[0], View) else Note(name)
    if name in _DICTS:
        return {k: v for k, v in (arguments[0] if arguments else ()) if _is_key(k)}
    if name.endswith(("._rebuild_from_type_v2", "._rebuild_from_type")):
        function, kind, inner = arguments[:3]
        if isinstance(kind, Name) and kind.name in _SUBCLASSABLE and isinstance(function, Name):
            return _meaning(function.name, inner)
        return _odd(f"a tensor of the subclass {short(kind.name) if isinstance(kind, Name) else 'of no name'}")
    if name in _ODD:
        return _odd(_ODD[name])
    if name == "_codecs.encode" and arguments[1:] != ("latin1",):
        raise Refused("it asks for code (_codecs.encode), which is not run; save its state_dict alone")
    if _PARTS.match(name) or name in _SUBCLASSABLE:
        return _odd(f"a {short(name)}")
    return Note(name)


def _view(name: str, arguments: tuple[Any, ...]) -> View:
    """Return a plain tensor from the arguments of one of torch's three functions that rebuild one."""
    storage, offset, shape, strides, *rest = arguments
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    dtype, metadata = storage.dtype, rest[2] if len(rest) > 2 else None
    if name.endswith("_v3"):
        dtype, metadata = _DTYPES.get(rest[2].name), rest[3] if len(rest) > 3 else None
    if len(shape) > ARGUMENTS or len(strides) > ARGUMENTS:
        raise ValueError("a tensor of too many dimensions")
    sizes, steps = tuple(map(_count, shape)), tuple(map(_count, strides))
    if len(sizes) != len(steps):
        raise ValueError("a tensor with other strides than sizes")
    odd = "a conjugated or negated view" if metadata else ""
    return View(storage, _count(offset), sizes, steps, dtype, odd)


def _odd(what: str) -> View:
    return View(None, 0, (), (), None, what)


_SET, _BYTES = Note("builtins.set"), Note("builtins.bytearray")


def _is_key(value: Any) -> bool:
    """Return True for a key that is cheap to hash."""
    return type(value) is str or (type(value) is int and abs(value) < 1 << 63)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a size that is none")
    return value


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value) if isinstance(value, (str, int)) else ""


def _literal(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a global without a name")
    machine.name(module, name)


def _memoize(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _frozenset(machine: _Machine, _: Any) -> None:
    machine.since_mark()
    machine.push(_SET)


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.mark(),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "EMPTY_SET": lambda m, a: m.push(_SET),
    "BYTEARRAY8": lambda m, a: m.push(_BYTES),
    "FROZENSET": _frozenset,
    "LIST": lambda m, a: m.push(m.since_mark()),
    "TUPLE": lambda m, a: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, a: m.pack(1),
    "TUPLE2": lambda m, a: m.pack(2),
    "TUPLE3": lambda m, a: m.pack(3),
    "APPEND": lambda m, a: m.append([m.stack.pop()]),
    "APPENDS": lambda m, a: m.append(m.since_mark()),
    "ADDITEMS": lambda m, a: m.append(m.since_mark()),
    "SETITEM": lambda m, a: m.put([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, a: m.put(m.since_mark()),
    "BUILD": lambda m, a: m.state(),
    "REDUCE": lambda m, a: m.call(),
    "NEWOBJ": lambda m, a: m.call(),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": lambda m, a: m.storage(),
    "MEMOIZE": _memoize,
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "BINGET": lambda m, a: m.push(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.push(m.memo[a]),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
            *("BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
        ),
        _literal,
    ),
}
"""All operations that ``torch.save`` writes in protocols 2 to 5."""
