"""Pictures of cameras as a policy sees them: cropped and scaled to its size, and read from JPEG and PNG.

Training fits its pictures by the same function, and a checkpoint's specification says so (`pictures`). Colours are
red, green, blue everywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

MAX_PIXELS = 50_000_000
"""Of a JPEG or PNG, by its header: what says more is not unpacked. No camera of a robot has as many."""


class PictureError(ValueError):
    """A picture, or what is to be done to it, that cannot be; one line with the value and the rule."""


def fit(
    image: Picture,
    height: int,
    width: int,
    crop: Sequence[int] | None = None,
) -> Picture:
    """(height, width, 3) of an image (H, W, 3) uint8: of the crop, what `kept` says, scaled down.

    crop: x, y of the upper left pixel, width and height, in pixels of the image.
    The image itself, or a view of it, where nothing needs scaling. Raises PictureError for an image that is none, a
    crop that leaves it, and a picture that would have to be enlarged: what it lacks is not in it.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise PictureError(f"picture {image.dtype} {image.shape}, uint8 (H, W, 3) expected")
    if crop is not None:
        image = cropped(image, crop)
    if image.shape[:2] == (height, width):
        return image
    x, y, w, h = kept(image.shape[1], image.shape[0], width, height)
    if w < width or h < height:
        raise PictureError(
            f"picture of {image.shape[1]} x {image.shape[0]}{' after the crop' if crop is not None else ''}, at least"
            f" {width} x {height} expected: none is enlarged"
        )
    part = image[y : y + h, x : x + w]
    if (h, w) == (height, width):
        return part
    import cv2  # here: not every node that knows messages has pictures

    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def reduced(image: Picture, longest: int) -> Picture:
    """A picture whose longer side is at most `longest` pixels; the image itself where it is no larger."""
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1.0:
        return image
    import cv2

    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def cropped(image: Picture, crop: Sequence[int]) -> Picture:
    """A view of the crop. Raises PictureError for one that is not inside of the image."""
    if len(crop) != 4 or any(isinstance(n, bool) or not isinstance(n, int) for n in crop):
        raise PictureError(f"crop {list(crop)}, four integers expected: x, y, width, height")
    x, y, w, h = crop
    if min(x, y) < 0 or min(w, h) < 1 or x + w > image.shape[1] or y + h > image.shape[0]:
        raise PictureError(
            f"crop {list(crop)} (x, y, width, height), inside of a picture of {image.shape[1]} x {image.shape[0]}"
            " expected"
        )
    return image[y : y + h, x : x + w]


def kept(source_width: int, source_height: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a source that becomes width x height, as x, y, width, height.

    It is as large as it can be, in the middle, and of the same shape.

    Of a source that is too wide, all rows and w = round(source_height * width / height) columns from
    x = (source_width - w) // 2 on; of one that is too high, the same with rows and columns exchanged. All in integers,
    halves rounded up: so the shape is right to half a pixel of the source, and 640 x 480 for 84 x 84 keeps
    (80, 0, 480, 480).
    """
    if source_width * height >= source_height * width:
        w = max(1, (2 * source_height * width + height) // (2 * height))
        return (source_width - w) // 2, 0, w, source_height
    h = max(1, (2 * source_width * height + width) // (2 * width))
    return 0, (source_height - h) // 2, source_width, h


# -- other colours ----------------------------------------------------------------------------------------------------


def from_grey(pixels: Picture) -> Picture:
    """(H, W, 3) rgb of grey pixels (H, W, 1)."""
    return np.repeat(pixels, 3, axis=2)


def from_uyvy(pixels: Picture) -> Picture:
    """(H, W, 3) rgb of pixels (H, W, 2), W even, of which two have bytes u, y, v, y: ITU-R BT.601 from 16 to 235, as
    cv_bridge reads them."""
    import cv2

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_YUV2RGB_UYVY), np.uint8)


def from_yuyv(pixels: Picture) -> Picture:
    """The same of bytes y, u, y, v."""
    import cv2

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_YUV2RGB_YUY2), np.uint8)


# -- encoded pictures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """What the first bytes of an encoded picture say."""

    width: int
    height: int
    bits: int
    """Of one value."""
    colours: int
    """Components of a pixel; 0 where any number can be read."""
    start: int = 0
    """Where the compressed values begin."""


_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


def decode(content: bytes) -> Picture:
    """(H, W, 3) rgb of a JPEG or PNG of 8 bits, grey ones too; transparency and a turn told by EXIF are left out.

    Raises PictureError for anything else, for a file that is cut short, and, before unpacking, for more than
    MAX_PIXELS. A JPEG in which bits have toppled cannot be told from another picture.
    """
    if content.startswith(_PNG):
        kind, header = "PNG", _png_header(content)
        whole = content.rfind(b"IEND") > 0
    elif content.startswith(_JPEG):
        kind, header = "JPEG", _jpeg_header(content)
        # Compressed values never look like the end, and what a thumbnail ends with lies before them.
        whole = content.find(b"\xff\xd9", header.start) > 0
    else:
        raise PictureError(
            f"{len(content)} bytes that begin with {content[:4].hex() or 'nothing'}, JPEG or PNG expected"
        )
    if header.width < 1 or header.height < 1 or header.width * header.height > MAX_PIXELS:
        raise PictureError(f"{kind} of {header.width} x {header.height}, 1 to {MAX_PIXELS} pixels expected")
    if header.bits > 8:
        raise PictureError(f"{kind} of {header.bits} bits, 8 expected")
    if header.colours not in (0, 1, 3):
        raise PictureError(f"{kind} of {header.colours} components, 1 or 3 expected")
    if not whole:
        raise PictureError(f"{kind} of {header.width} x {header.height} in {len(content)} bytes: cut short")
    import cv2

    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        bgr = None
    if bgr is None or bgr.shape != (header.height, header.width, 3):
        raise PictureError(f"{kind} of {header.width} x {header.height} in {len(content)} bytes: damaged")
    return np.asarray(bgr[..., ::-1], np.uint8)


def encode(image: Picture, kind: str, quality: int = 95) -> bytes:
    """A JPEG or PNG (kind jpeg, png) of rgb (H, W, 3); quality: of a JPEG, 1 to 100. A PNG is the picture, bit for
    bit. Raises PictureError for one that is larger than such a file can be."""
    import cv2

    # The least that shrinks a PNG at all: more takes longer than a picture lasts.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    written, content = cv2.imencode(".jpg" if kind == "jpeg" else ".png", image[..., ::-1], options)
    if not written:
        raise PictureError(f"picture of {image.shape[1]} x {image.shape[0]}: too large for a {kind.upper()}")
    return content.tobytes()


def _png_header(content: bytes) -> _Header:
    if len(content) < 33 or content[8:16] != b"\0\0\0\rIHDR":
        raise PictureError(f"PNG of {len(content)} bytes without a header: cut short or damaged")
    width, height, bits = struct.unpack(">IIB", content[16:25])
    return _Header(width, height, bits, 0)


def _jpeg_header(content: bytes) -> _Header:
    """Of the frame (SOF); `start` is behind the first SOS. ITU T.81, annex B."""
    at, frame = 2, None
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, (length,) = content[at + 1], struct.unpack(">H", content[at + 2 : at + 4])
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD9 or length < 2:  # none of which stands before a frame
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 10 <= len(content) and frame is None:
            bits, height, width, colours = struct.unpack(">BHHB", content[at + 4 : at + 10])
            frame = _Header(width, height, bits, colours)
        at += 2 + length
        if marker == 0xDA and frame is not None:
            return _Header(frame.width, frame.height, frame.bits, frame.colours, at)
    raise PictureError(f"JPEG of {len(content)} bytes without a header: cut short or damaged")
