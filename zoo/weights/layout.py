"""How other implementations name the tensors of a family, as tables of regular expressions."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor

Table = Sequence[tuple[str, str]]

LONGEST = 500
"""Characters of the longest name that is looked at; ours have less than 100."""


@dataclass(frozen=True)
class Layout:
    r"""How another implementation names the tensors of a family.

    A rule is a regular expression for the start of a foreign name and what replaces it: text with ``\1`` for the
    first group, or ``{1-1}`` for the number in it less one. The first rule that matches decides; all names of a state
    dict are replaced at once, so that old and new names may overlap.

    Attributes:
        rules: Patterns and replacements.
        constants: By our name, the value that fills a tensor which this layout has not.
        dropped: Patterns of foreign names that have no place with us, such as those of auxiliary classifiers.
        arrange: Puts the numbers of a tensor in our order, where the other implementation has another order of
            channels. It takes our name of the tensor, the tensor, and all names of the net.
    """

    rules: Table
    constants: Mapping[str, float] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    arrange: Callable[[str, Tensor, Collection[str]], Tensor] | None = None

    def rename(self, key: str) -> str | None:
        """Return our name of a foreign one; None if no rule matches."""
        if len(key) > LONGEST:
            return None
        for pattern, replacement in self.rules:
            match = _compiled(pattern).match(key)
            if match:
                return _fill(match, replacement) + key[match.end() :]
        return None

    def drops(self, key: str) -> bool:
        """Whether a foreign name has no place with us."""
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
