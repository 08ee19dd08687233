"""Writers of a scene. SVG needs no library; PNG and PDF are made by matplotlib. Equal scenes give equal bytes."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zoo.drawing.scene import Circle, Rectangle, Scene, Strokes, Text
from zoo.escape import for_html

FONTS = ("DejaVu Sans", "Verdana", "sans-serif")
DOTS = (1.5, 3.0)
PNG_PIXELS = 2.0
"""Pixels of a PNG for one of the scene."""


def to_svg(scene: Scene) -> bytes:
    """Return a scene as SVG."""
    width, height = _number(scene.width), _number(scene.height)
    head = f'<svg xmlns="{_NAMESPACE}" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img"'
    fonts = ", ".join(FONTS)
    lines = [
        f'{head} font-family="{fonts}" aria-label="{for_html(scene.title)}">',
        f"<title>{for_html(scene.title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    lines += [_element(shape) for shape in scene.shapes]
    return ("\n".join([*lines, "</svg>"]) + "\n").encode()


_NAMESPACE = "http://www.w3.org/2000/svg"


def _element(shape: Any) -> str:
    dash = f' stroke-dasharray="{DOTS[0]:g} {DOTS[1]:g}"' if getattr(shape, "dotted", False) else ""
    if isinstance(shape, Text):
        look = f'font-size="{_number(shape.size)}" fill="{shape.colour}"' + ' font-weight="bold"' * shape.bold
        anchor = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
        return f'<text x="{_number(shape.x)}" y="{_number(shape.y)}" {look}{anchor}>{for_html(shape.text)}</text>'
    if isinstance(shape, Strokes):
        way = "".join(_way(points, shape.curved) for points in shape.ways)
        return f'<path d="{way}" fill="none" stroke="{shape.colour}" stroke-width="{_number(shape.width)}"{dash}/>'
    paint = f'fill="{shape.fill}" stroke="{shape.stroke}"{dash}'
    if isinstance(shape, Rectangle):
        tag = "rect"
        where = dict(x=shape.x, y=shape.y, width=shape.width, height=shape.height, rx=min(2.0, shape.width / 4))
    else:
        tag, where = "circle", dict(cx=shape.x, cy=shape.y, r=shape.radius)
    place = " ".join(f'{key}="{_number(value)}"' for key, value in where.items())
    title = f"><title>{for_html(shape.title)}</title></{tag}>" if shape.title else "/>"
    return f"<{tag} {place} {paint}{title}"


def _way(points: Sequence[tuple[float, float]], curved: bool) -> str:
    first, *rest = (f"{_number(x)} {_number(y)}" for x, y in points)
    return f"M{first}" + (f"C{' '.join(rest)}" if curved else "".join(f"L{point}" for point in rest))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def to_picture(scene: Scene, kind: str) -> bytes:
    """Return a scene as ``png`` or ``pdf``. Needs matplotlib, of the extra ``bench``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": FONTS[:1],
        "text.parse_math": False,
        "text.usetex": False,
        "pdf.fonttype": 42,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(scene.width / 72, scene.height / 72), dpi=72 * PNG_PIXELS)
        axes: Any = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, scene.width)
        axes.set_ylim(scene.height, 0)
        axes.axis("off")
        for order, shape in enumerate(scene.shapes):
            for add, artist in _artists(axes, shape):
                artist.set_zorder(order)
                add(artist)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return buffer.getvalue()


def _artists(axes: Any, shape: Any) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """Yield what matplotlib draws for a shape; a font size in points is one in pixels here."""
    from matplotlib import patches
    from matplotlib.path import Path
    from matplotlib.text import Text as Label

    style = (0, DOTS) if getattr(shape, "dotted", False) else "solid"
    if isinstance(shape, Text):
        align = {"start": "left", "middle": "center", "end": "right"}[shape.anchor]
        weight = "bold" if shape.bold else "normal"
        kind: dict[str, Any] = dict(fontsize=shape.size, color=shape.colour, ha=align, va="baseline", weight=weight)
        yield axes.add_artist, Label(shape.x, shape.y, shape.text, **kind)
    elif isinstance(shape, Strokes):
        further = [Path.CURVE4] * 3 if shape.curved else []
        codes = [[Path.MOVETO, *(further or [Path.LINETO] * (len(way) - 1))] for way in shape.ways]
        corners = [point for way in shape.ways for point in way]
        path = Path(corners, [code for way in codes for code in way])
        line = dict(edgecolor=shape.colour, linewidth=shape.width, linestyle=style)
        yield axes.add_patch, patches.PathPatch(path, facecolor="none", **line)
    else:
        paint: dict[str, Any] = dict(facecolor=shape.fill, edgecolor=shape.stroke, linewidth=1.0, linestyle=style)
        if isinstance(shape, Circle):
            yield axes.add_patch, patches.Circle((shape.x, shape.y), shape.radius, **paint)
        else:
            yield axes.add_patch, patches.Rectangle((shape.x, shape.y), shape.width, shape.height, **paint)
