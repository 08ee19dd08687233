"""Tensor names of other implementations, as tables of regular expressions."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

Table = Sequence[tuple[str, str]]

LONGEST = 500
"""Characters of the longest foreign name that is matched; our names have less than 100."""


@dataclass(frozen=True)
class Layout:
    r"""Names that another implementation uses for the tensors of a family.

    A rule is a regular expression for the start of a foreign name, and its replacement. A replacement is text with
    ``\1`` for the first group, or ``{1-1}`` for the number in the first group minus one. The first rule that matches
    applies. All names of a state dict are replaced at once, so old and new names may overlap.

    Attributes:
        rules: Patterns and replacements.
        constants: Value that fills a tensor which this layout lacks, by our name of the tensor.
        dropped: Patterns of foreign names without a counterpart here, such as those of auxiliary classifiers.
        arrange: Reorders a tensor where the other implementation has another order of channels. It takes our name of
            the tensor, the tensor, and all names of the net.
    """

    rules: Table
    constants: Mapping[str, float] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    arrange: Callable[[str, Tensor, Collection[str]], Tensor] | None = None

    def rename(self, key: str) -> str | None:
        """Return our name for a foreign one; None if no rule matches."""
        if len(key) > LONGEST:
            return None
        for pattern, replacement in self.rules:
            match = _compiled(pattern).match(key)
            if match:
                return _fill(match, replacement) + key[match.end() :]
        return None

    def drops(self, key: str) -> bool:
        """Return True if a foreign name has no counterpart here."""
        return any(_compiled(pattern).match(key) for pattern in self.dropped)


# re's own cache holds fewer patterns than the tables.
_compiled = cache(re.compile)


def _fill(match: re.Match[str], replacement: str) -> str:
    counted = re.sub(
        r"\{(\d)([+-]\d+)?\}",
        lambda m: match.group(int(m[1])) if m[2] is None else str(int(match.group(int(m[1]))) + int(m[2])),
        replacement,
    )
    return match.expand(counted)
