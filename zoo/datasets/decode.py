"""Decode one picture from a foreign file to RGB, or raise an error that names the file and the fault."""

from __future__ import annotations

import io
import os
import stat
import warnings
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from zoo.escape import for_terminal

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, whatever the name of the file. Pillow knows more; each is one more parser of foreign bytes."""
ENDINGS = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
"""Endings of file names, in lower case, that are treated as pictures."""
MAX_BYTES = 2**30
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Largest number of pixels. A larger picture is refused before it is unpacked."""
MAX_RATIO = 100
"""Largest ratio of the longer to the shorter side. Resized by its shorter side, a longer strip would fill memory."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that brings a picture upright, by the orientation in its EXIF data."""
ORIENTATION, BITS_PER_SAMPLE, BLACK_OR_WHITE, SAMPLE_FORMAT = 0x0112, 258, 262, 339
"""Tags of EXIF and TIFF."""
SIGNED, WHITE_IS_ZERO = 2, 0
"""Values of the last two."""
REASON_LENGTH = 200


class PictureError(ValueError):
    """Error for a picture that cannot be read. The message begins with the name of the picture."""


def read_file(path: Path, name: str) -> bytes:
    """Return the content of a regular file.

    Raises:
        PictureError: If it is no regular file (a pipe would never end), is empty, too large or cannot be read. The
            message begins with the name.
    """
    try:
        # A pipe without a writer lets nobody open it, unless it is asked not to wait.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is no regular file")
            if status.st_size > MAX_BYTES:
                raise ValueError(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
            content = file.read(MAX_BYTES + 1)
        if not content:
            raise ValueError("is empty")
    except (OSError, ValueError) as error:
        raise PictureError(f"{for_terminal(name)}: {_reason(error)}") from error
    return content


def is_turned(content: bytes) -> bool:
    """Return True if a picture's EXIF orientation turns or mirrors it; False for what is no picture."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _orientation(image) in TURNS
    except Exception:  # reading it tells
        return False


def decode(source: bytes | IO[bytes] | Image.Image, name: str) -> Image.Image:
    """Return a picture in RGB, upright. If a file has several, the first is taken.

    Grey becomes three equal channels. 16 bits are scaled to 8. Transparency is dropped, so that the colours beneath
    show. 32-bit and floating-point pixels are refused, because their white level is unknown.

    Args:
        source: Content of a file, an open file, or a picture that a library has opened.
        name: Name at the beginning of an error.

    Raises:
        PictureError: If it is no picture, is damaged, too large, or of a kind that cannot be shown in RGB.
    """
    try:
        # Pillow warns of odd metadata, which change nothing here; and of a size that is refused below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, Image.Image):
                return _upright(source)
            content = source if isinstance(source, bytes) else source.read()
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                picture = _upright(image)
                if image.format == "PNG":
                    _check_sums(content)
                return picture
    except Exception as error:  # Pillow's parsers raise nearly anything for damaged bytes
        raise PictureError(f"{for_terminal(name)}: {_reason(error)}") from error


def _check_sums(png: bytes) -> None:
    """Raise ValueError if the pixels of a PNG are not those that its checksums were made of; Pillow does not look."""
    start, kind = 8, b""
    while kind != b"IEND" and start < len(png):
        end, kind = start + 8 + int.from_bytes(png[start : start + 4]), png[start + 4 : start + 8]
        if kind == b"IDAT" and zlib.crc32(png[start + 4 : end]) != int.from_bytes(png[end : end + 4]):
            raise ValueError("is damaged: its pixels do not fit their checksum")
        start = end + 4


def _upright(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels, more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"has {width} x {height} pixels: one side is over {MAX_RATIO} times the other")
    image.load()
    turn = TURNS.get(_orientation(image))
    image = _rgb(image)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata of a picture that is whole
        return 1
    return found if isinstance(found, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow inverts such pictures where they have 8 bits, and not where they have 16.
        inverted = _tag(image, BLACK_OR_WHITE, 1) == WHITE_IS_ZERO
        image = _eight_bits(image, _tag(image, BITS_PER_SAMPLE, 16), inverted=inverted)
    elif image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits in Pillow's only other integers
        image = _eight_bits(image, 16)
    elif image.mode in ("I", "F"):
        kind = "32-bit" if image.mode == "I" else "floating-point"
        raise ValueError(f"has {kind} pixels, of which nobody tells what white is: save it with 8 or 16 bits")
    elif _tag(image, SAMPLE_FORMAT, 1) == SIGNED:
        raise ValueError("has signed pixels, of which nobody tells what white is: save it with 8 or 16 bits")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _tag(image: Image.Image, number: int, default: int) -> int:
    """Return the (first) value of a tag of a TIFF; the default for other pictures."""
    told = getattr(image, "tag_v2", {}).get(number, default)
    return int(told[0] if isinstance(told, tuple) else told)


def _eight_bits(image: Image.Image, bits: int, *, inverted: bool = False) -> Image.Image:
    white = 2**bits - 1
    values = np.asarray(image).astype(np.uint32).clip(0, white)
    values = white - values if inverted else values
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"is no picture of a kind that is read ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = next(iter(str(error).splitlines()), "")
    text = f"cannot be read: {text or type(error).__name__}" if not text.startswith(("has ", "is ")) else text
    return for_terminal(text[:REASON_LENGTH].rstrip("."))
