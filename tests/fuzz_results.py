"""Hostile result lines, made by chance from good ones, through everything that reads or shows results.

python tests/fuzz_results.py --lines 1500 --seed 0

Every line goes into a file between two good ones. It must be a result, or be passed over with one warning, or be one
error; the last two name file and line. What is a result goes through table, Markdown, CSV, JSON, page and pictures,
which must not fail, must not warn, and must show it as text of one line. The suite runs a small number of lines.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import random
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from result_lines import RUN, SPEED, run

from zoo.report.page import render
from zoo.report.rows import gather
from zoo.report.tables import pictures, to_csv, to_markdown
from zoo.results import Results, append, group, read
from zoo.results.plot import plot_all
from zoo.results.table import footnote, format_table, sort_nets, write_table

FAILURE = {"key": "f", "name": "b", "seed": 3, "error": "the loss is nan"}
TEXTS = (
    *("=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "a\r=1", "a\n=1", "a;=1", " =1", "'=1", '"=1', "\uff1d1"),
    *(
        "|",
        "a|b|c",
        "<script>alert(1)</script>",
        "<b>",
        "`x`",
        "\\",
        "a\\|b",
        "**x**",
        "[a](b)",
        "&lt;",
        "_x_",
        "~~x~~",
    ),
    *(
        "\x1b[31mred",
        "\x1b]0;title\x07",
        "a\x00b",
        "\x85",
        "\u2028",
        "\u202eabc",
        "\ufeff",
        "\ud800",
        "a\udfffb",
        "\x7f",
    ),
    *(
        "$\\frac{",
        "$\\frac{$",
        "$x$",
        "$",
        "^{",
        "\\",
        "_legend",
        "\u4e2d\u6587",
        "\U0001f41f",
        "e\u0301" * 40,
        "%{x}",
        "{0}",
        "%s",
    ),
    *(
        "",
        " ",
        "a" * 900,
        "a" * 2000,
        "x" * 90_000,
        "x" * 200_000,
        "nan",
        "None",
        "__proto__",
        "constructor",
        "../../x",
    ),
)
NUMBERS = (
    *(0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**15, 10**16, 10**400, -(10**400), 0.0, -0.0, 0.5, 1.0, 1.5, 1e-300),
    *(1e15, 1e39, 1e40, 1e308, float("inf"), float("-inf"), float("nan"), True, False),
)
OTHERS: tuple[Any, ...] = (None, [], {}, [1], ["a"], [[1]], [None], {"a": 1}, {"": {}}, [{"a": []}], [{}], {"a": "=1"})


def deep(levels: int) -> Any:
    """Lists within lists."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def hostile_value(chance: random.Random) -> Any:
    """A value that some reader might not expect."""
    kind = chance.choice(("text", "text", "number", "other", "deep"))
    if kind == "deep":
        return deep(chance.choice((3, 20, 31, 32, 50, 400)))
    return chance.choice({"text": TEXTS, "number": NUMBERS, "other": OTHERS}[kind])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a line has values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in items for place in places(part, (*path, key))]


def hostile_line(chance: random.Random) -> bytes:
    """A good line with hostile words in what is shown, or one that was changed in one to three places, or torn."""
    if chance.random() < 0.4:
        return hostile_words(chance)
    line = copy.deepcopy(chance.choice((RUN, RUN, RUN, SPEED, FAILURE)))
    line["key"] = f"k{chance.randrange(10**9)}"
    for _ in range(chance.choice((1, 1, 2, 3))):
        *parents, last = chance.choice(places(line))
        target: Any = line
        for key in parents:
            target = target[key]
        change = chance.choice(("set", "set", "set", "drop", "add"))
        if change == "drop":
            del target[last]
        elif change == "add" and isinstance(target, dict):
            added = (
                "task",
                "head",
                "frozen",
                "overrides",
                "schema",
                "kind",
                "recipe_name",
                "stages",
                "taps",
                "error",
                "x",
            )
            target[chance.choice((*added, *TEXTS[:40]))] = hostile_value(chance)
        else:
            target[last] = hostile_value(chance)
    text = json.dumps(line, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return hostile_text(text, chance) if chance.random() < 0.25 else text


def hostile_words(chance: random.Random) -> bytes:
    """A good line whose words are hostile wherever a reader shows them."""
    words = [text for text in TEXTS if 0 < len(text) <= 900]

    def word() -> str:
        return chance.choice(words)

    line = copy.deepcopy(RUN)
    line |= {"key": f"k{chance.randrange(10**9)}", "name": word(), "family": word(), "seed": chance.randrange(3)}
    line["dataset"] |= {"name": chance.choice((word(), "digits", "digits", "digits")), "fingerprint": word()}
    line["counts"]["uncounted"] = {word(): 1}
    line["recipe"] |= {"lr": chance.choice(words), word(): word()}
    line |= {"overrides": {word(): word()}, "head": chance.choice(("", word())), "recipe_name": word()}
    line |= {"device": {"type": "cpu", "name": word()}, "versions": {word(): word()}, "git_revision": word()}
    line |= {"stages": [{"name": word()}], "taps": [{"module": word()}], "spec": {word(): word()}}
    return json.dumps(line).encode()


def hostile_text(text: bytes, chance: random.Random) -> bytes:
    """The text of a line, damaged."""
    at = chance.randrange(len(text))
    kind = chance.choice(("cut", "flip", "insert", "twice", "raw", "glued", "tail"))
    if kind == "cut":
        return text[:at]
    if kind == "tail":
        return text[at:]
    if kind == "flip":
        return text[:at] + bytes([text[at] ^ 1 << chance.randrange(7)]).replace(b"\n", b" ") + text[at + 1 :]
    if kind == "insert":
        return text[:at] + bytes(chance.randrange(11, 256) for _ in range(3)) + text[at:]
    if kind == "twice":
        return text[:-1] + b',"seed":1,"seed":2}'
    if kind == "glued":
        return text[:at] + text
    raw = (
        b"nonsense",
        b"[" * 100_000,
        b"{" * 50,
        b"\0" * 30,
        b"1" * 5000,
        b"null",
        b'"text"',
        b"[1]",
        b"{}",
        b"\xff\xfe{",
    )
    return chance.choice(
        (*raw, b'{"key":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"key": "a", "n": ' + b"9" * 5000 + b"}")
    )


def judge(folder: Path, content: bytes) -> tuple[str, Results | None]:
    """Return what a line is taken for, ``result``, ``warning`` or ``error``, and the results with it.

    Raises:
        AssertionError: If a warning or an error does not name file and line, or is more than one.
    """
    path = folder / "results.jsonl"
    good = [json.dumps(run("good", seed)).encode() for seed in (0, 1)]
    path.write_bytes(b"\n".join([good[0], content, good[1]]) + b"\n")
    try:
        results = read([path])
    except ValueError as error:
        message = str(error)
        assert message.startswith(f"{path}, line 2: "), message
        assert message.isprintable(), message
        assert len(message) < 1000, message
        return "error", None
    assert len([line for line in results.trainings if line["name"] == "good"]) == 2
    if results.warnings:
        assert results.warnings == [f"{path}, line 2: passed over a line that is cut off"]
        return "warning", results
    append(path, run("later"))  # a file that can be read can be written
    return "result", results


def show(folder: Path, results: Results, drawn: bool) -> None:
    """Show results in every way; drawn: pictures, too.

    Raises:
        AssertionError: If something foreign is shown as anything but text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for comparison in group(results.trainings):
            nets = sort_nets(comparison.nets)
            for text in (format_table(nets), footnote(nets)):
                assert all(line.isprintable() for line in text.split("\n")), text
            assert len(format_table(nets).split("\n")) == len(nets) + 2
            for kind in ("md", "csv", "json"):
                text = write_table(nets, folder / f"table.{kind}").read_text("utf-8")
                {"md": check_markdown, "csv": check_csv, "json": json.loads}[kind](text)
            if drawn:
                for path in plot_all(nets, folder, comparison.dataset):
                    assert path.read_bytes().startswith(b"\x89PNG")
        contents = gather(results, with_published=drawn)
        check_csv(to_csv(contents))
        check_markdown(to_markdown(contents))
        json.dumps(contents, allow_nan=False)
        if drawn:
            names = "".join(str(row["name"]) for row in contents["rows"] if row["kind"] == "measured")
            page = render(contents, names).decode("utf-8")
            assert page.count("</script>") == 3
            assert all(picture.startswith(b"\x89PNG") for _, picture in pictures(results, "png"))


def check_csv(text: str) -> None:
    """Raise AssertionError where a spreadsheet would see a formula, or a reader another number of rows."""
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == len(text.splitlines()) == text.count("\n")
    for cell in (cell for row in rows for cell in row):
        assert re.fullmatch(r"-?[\d.]+(e[-+]\d+)?", cell) or not re.search(r"(^|;)\s*[=+@-]", cell), cell


def check_markdown(text: str) -> None:
    """Raise AssertionError where a table has a broken row, or text would be taken for HTML or for code."""
    table: list[str] = []
    for line in text.splitlines():
        table = [*table, line] if line.startswith("|") else []
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in table}) <= 1, table
        plain = re.sub(r"\\.|\[%\]|marks with \*", "", line)
        assert not re.search(r"[<&~$*\[]", plain), line


def fuzz(folder: Path, number: int, seed: int, batch: int = 10) -> Counter[str]:
    """Try so many hostile lines; return how many were taken for what.

    Args:
        folder: For files.
        number: Of lines.
        seed: Of chance.
        batch: Lines that share a page and pictures.

    Raises:
        AssertionError: With the line, where something fails.
    """
    chance, found = random.Random(seed), Counter[str]()
    together: list[bytes] = []
    for _ in range(number):
        content = hostile_line(chance).replace(b"\n", b" ")
        with named([content]):
            kind, results = judge(folder, content)
            if results is not None and kind == "result":
                show(folder, results, drawn=False)
                together.append(content)
        if len(together) == batch:
            show_together(folder, together)
            together = []
        found[kind] += 1
    show_together(folder, together)
    return found


@contextmanager
def named(contents: Sequence[bytes]) -> Iterator[None]:
    """Turn whatever fails into an AssertionError that holds the lines."""
    try:
        yield
    except Exception as error:
        lines = b"\n".join(content[:2000] for content in contents)
        raise AssertionError(f"{type(error).__name__}: {error}\n{lines!r}") from error


def show_together(folder: Path, contents: Sequence[bytes]) -> None:
    """Show several lines in one page, and in pictures."""
    path = folder / "together.jsonl"
    path.write_bytes(b"".join(content + b"\n" for content in [json.dumps(run("good")).encode(), *contents]))
    with named(contents):
        show(folder, read([path]), drawn=True)


def build_parser() -> argparse.ArgumentParser:
    """Its options."""
    parser = argparse.ArgumentParser(description="Hostile result lines through all that reads or shows results.")
    parser.add_argument("--lines", type=int, default=1500, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


def main() -> int:
    """Run from the command line."""
    args = build_parser().parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), args.lines, args.seed)
    print(f"{args.lines} lines, seed {args.seed}: {dict(found)}; 0 exceptions, {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
