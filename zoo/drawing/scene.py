"""A drawing as a list of shapes, which two writers turn into files: SVG by hand, PNG and PDF by matplotlib."""

from dataclasses import dataclass

GLYPHS = {"ijl'|": 0.28, "ft.,:;() r-/": 0.42, "sczJ_": 0.56, "mwMWO%@+=<>": 0.98}
"""Widths of letters in their font size: a little more than those of the fonts that are asked for."""
OTHERS = 0.66
_WIDTHS = {letter: width for letters, width in GLYPHS.items() for letter in letters}


@dataclass(frozen=True)
class Rectangle:
    """A rectangle; ``title`` is shown to a reader who points at it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str
    dotted: bool = False
    title: str = ""


@dataclass(frozen=True)
class Circle:
    """A circle."""

    x: float
    y: float
    radius: float
    fill: str
    stroke: str
    dotted: bool = False
    title: str = ""


@dataclass(frozen=True)
class Strokes:
    """Lines of one style: corners of straight pieces, or start, two handles and end of curves."""

    ways: tuple[tuple[tuple[float, float], ...], ...]
    colour: str
    width: float
    curved: bool = False
    dotted: bool = False


@dataclass(frozen=True)
class Text:
    """A line of text; ``x`` is its ``start``, ``middle`` or ``end``, ``y`` its baseline."""

    x: float
    y: float
    text: str
    size: float = 12.0
    anchor: str = "start"
    colour: str = "#222222"
    bold: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Rectangle that the text covers at most: x0, y0, x1, y1."""
        width = self.size * sum(_WIDTHS.get(letter, OTHERS) for letter in self.text) * (1.1 if self.bold else 1.0)
        x = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return x, self.y - 0.8 * self.size, x + width, self.y + 0.25 * self.size


Shape = Rectangle | Circle | Strokes | Text


@dataclass(frozen=True)
class Scene:
    """Shapes from back to front, on a white sheet."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
