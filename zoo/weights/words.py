"""Show names of files, tensors and sizes in messages as one line of printable characters, whatever the input is."""

from collections.abc import Iterator, Sequence

from zoo.escape import for_terminal


def short(text: object, length: int = 100) -> str:
    """Return the start of a name in a file, as one line of printable ASCII."""
    safe = for_terminal(str(text)[: 4 * length]).encode("ascii", "backslashreplace").decode()
    return safe if len(safe) <= length else safe[:length] + "..."


def first_line(reason: object, length: int = 160) -> str:
    """Return the start of a message as one line of printable ASCII; the name of its type if it is empty."""
    text = str(reason) or type(reason).__name__
    return short(next(iter(text[: 8 * length].splitlines()), ""), length)


def size(shape: Sequence[int]) -> str:
    """Return a shape as text such as ``64x3x7x7``."""
    return "x".join(map(str, shape)) or "a number"


def number(count: int, what: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def problem(what: str, names: Sequence[str], most: int = 3) -> Iterator[str]:
    """Describe a problem with some tensors: their number and the first few names; yield nothing if there are none."""
    if names:
        first = ", ".join(map(short, names[:most])) + (", ..." if len(names) > most else "")
        yield f"{number(len(names), 'tensor')} {what} ({first})"
