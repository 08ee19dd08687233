r"""Foreign text made harmless for the place where it is shown: terminal, Markdown, CSV, HTML, picture.

Result files come from other people. A name in one may hold a formula for a spreadsheet, a tag for a browser, a control
sequence for a terminal, or mathematics for matplotlib. Whatever writes such text takes the function of its place here.

All of them show what cannot be seen (control characters, line ends, marks that turn the direction of writing, lone
surrogates) as escapes such as ``\x1b``. So a text stays on its line and can be encoded.
"""

from __future__ import annotations

import html
import re

IN_PICTURES = 80
"""Characters of a text that have room in a picture."""

_MARKDOWN = re.compile(r"[\\`*<>|\[\]&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What a spreadsheet takes for a formula, in its common and its full-width forms, at the beginning of a cell. Some read
# a semicolon as the end of a cell, whatever the file is separated by.
_FORMULA = re.compile("(^|;)([ '\"]*[=+@\uff0b\uff0d\uff1d\uff20-])")


def for_terminal(text: str) -> str:
    """Return text that no terminal takes for a command, on one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def for_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, also in a cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", for_terminal(text))


def for_csv(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, and that no reader takes for two rows."""
    return _FORMULA.sub(r"\1'\2", for_terminal(text))


def for_html(text: str) -> str:
    """Return text for the content or the quoted attribute of an HTML element."""
    return html.escape(for_terminal(text))


def for_picture(text: str) -> str:
    """Return text for a label of matplotlib, cut to the room that there is.

    A label that begins with an underscore would be left out of a legend. Dollar signs are no mathematics where the
    figure is drawn with `plot.STYLE`.
    """
    text = cut(for_terminal(text[: IN_PICTURES + 1]), IN_PICTURES)
    return f" {text}" if text.startswith("_") else text


def cut(text: str, longest: int) -> str:
    """Return text of no more characters than that; dots stand for what is left out."""
    return text if len(text) <= longest else text[: longest - 3] + "..."
