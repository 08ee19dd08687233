r"""Escape foreign text for the place where it is shown: terminal, Markdown, CSV, HTML or picture.

Result files come from other people. A name in one may hold a formula for a spreadsheet, a tag for a browser, a control
sequence for a terminal, or mathematics for matplotlib. Code that writes such text uses the function for its place here.

All functions show invisible characters (control characters, line ends, marks that change the direction of writing, lone
surrogates) as escapes such as ``\x1b``. A text therefore stays on its line and can be encoded.
"""

from __future__ import annotations

import html
import re

IN_PICTURES = 80
"""Largest number of characters of a text in a picture."""

_MARKDOWN = re.compile(r"[\\`*<>|\[\]&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What a spreadsheet takes for a formula, in its common and its full-width forms, at the beginning of a cell. Some read
# a semicolon as the end of a cell, whatever the file is separated by.
_FORMULA = re.compile("(^|;)([ '\"]*[=+@\uff0b\uff0d\uff1d\uff20-])")


def for_terminal(text: object) -> str:
    """Return text, or that of a path, on one line that no terminal reads as a command."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def for_markdown(text: str) -> str:
    """Return text that Markdown shows unchanged, also in a cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", for_terminal(text))


def for_csv(text: str) -> str:
    """Return text that no spreadsheet reads as a formula, and no reader as two rows."""
    return _FORMULA.sub(r"\1'\2", for_terminal(text))


def for_html(text: str) -> str:
    """Return text for the content or the quoted attribute of an HTML element."""
    return html.escape(for_terminal(text))


def for_picture(text: str) -> str:
    """Return text for a label of matplotlib, cut to `IN_PICTURES` characters.

    Labels that begin with an underscore would be missing from a legend, so a space is put in front. Dollar signs are
    not read as mathematics in figures that use `plot.STYLE`.
    """
    text = cut(for_terminal(text[: IN_PICTURES + 1]), IN_PICTURES)
    return f" {text}" if text.startswith("_") else text


def cut(text: str, longest: int) -> str:
    """Return text cut to the given number of characters; dots mark a cut."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
