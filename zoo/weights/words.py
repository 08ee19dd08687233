"""How messages name files, tensors and sizes: one line of printable characters, whatever a stranger wrote there."""

from collections.abc import Iterator, Sequence


def shown(text: object) -> str:
    """A name as it may be printed: what moves a cursor or breaks a line is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def short(text: object, length: int = 100) -> str:
    """The start of a name in a file, as one line of printable ASCII."""
    safe = shown(str(text)[: 4 * length]).encode("ascii", "backslashreplace").decode()
    return safe if len(safe) <= length else safe[:length] + "..."


def first_line(reason: object, length: int = 160) -> str:
    """The start of a message as one line of printable ASCII; the name of its type if it is empty."""
    text = str(reason) or type(reason).__name__
    return short(next(iter(text[: 8 * length].splitlines()), ""), length)


def size(shape: Sequence[int]) -> str:
    """A shape as ``64x3x7x7``."""
    return "x".join(map(str, shape)) or "a number"


def number(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def problem(what: str, names: Sequence[str], most: int = 3) -> Iterator[str]:
    """What is wrong with some tensors: how many, and the first few by name; nothing if there are none."""
    if names:
        first = ", ".join(map(short, names[:most])) + (", ..." if len(names) > most else "")
        yield f"{number(len(names), 'tensor')} {what} ({first})"
