"""Encoded bytes -> pixels. This is the only module that knows image formats.

Training, evaluation and prediction all use `decode`, so the same bytes always give the same pixels. The rules, from the
file to [H, W, C] in 0-255:

- The first bytes decide the format, not the file name. In animations and multi-page files the first image counts.
- The EXIF orientation is applied. A damaged EXIF block is ignored, because the pixels are complete.
- Transparent images are composited over white, including images with a transparent palette entry or color.
- 16-bit gray is divided by 257, and 12-bit gray is scaled accordingly. 16-bit color becomes 8-bit to within 1.
- Other integers and floats have no defined white. White is the smallest of 1 (floats only), 255 and 65,535 that is not
  below the largest value. Images with negative, larger or non-finite values are refused.
- CMYK becomes RGB by `(255 - c) * (255 - k) / 255`. JPEG stores CMYK inverted, as Adobe does. Color becomes gray by the
  luma of ITU-R 601. Color profiles (ICC) are ignored.
- A `.npy` array [H, W, C] or [H, W] of uint8 is also an image, and the only kind with other than 1 or 3 channels.
- With `max_short_side` the image is shrunk, antialiased, until its shorter side has that many pixels. A much larger
  JPEG is decoded at 1/2, 1/4 or 1/8 of its size first, which is several times faster.

JPEG 2000 is not supported: its decoder returns a gray image for a file that ends after the header.
Source: ours; the formats are read by Pillow.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock

import numpy as np
from jaxtyping import Num, UInt8
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from resnet_rs.data.resample import resize
from resnet_rs.data.sample import Request, Unreadable

EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .pfm .avif "
    ".npy .heic .heif".split()
)
"""Lower-case extensions of the files that count as images.

HEIC is included although it cannot be decoded, so that such files are reported and not silently left out.
"""

MAX_PIXELS = 50_000_000
"""Default limit for the pixels of an image."""

PillowImage = Image.Image
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_MAX_JPEG_SCANS = 100
_NPY_MAGIC = b"\x93NUMPY"
_START_OF_SCAN = re.compile(rb"\xff\xda")
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_NUMERIC_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HARD_LIMIT = 178_956_970
"""Most pixels that Pillow decodes. It refuses larger images as a possible attack on memory."""


def decode(
    encoded: bytes, request: Request, *, key: str, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W C"]:
    """The upright image in `encoded`, read-only, as `request` says: with 1 channel it is gray, with 3 RGB.

    Raises `Unreadable`, with `key`, for anything that is not a complete image. Images with more than `max_pixels`
    pixels and JPEGs with more than 100 scans are refused before any pixel is decoded.
    """
    with _errors_as_unreadable(key):
        if encoded.startswith(_NPY_MAGIC):
            pixels = _decode_array(encoded, channels=request.channels, max_pixels=max_pixels)
            return shrunk(pixels, request.max_short_side)
        with _opened(encoded, channels=request.channels) as image:
            if request.max_short_side is not None:
                _check_size(image.width, image.height, max_pixels=max_pixels)
                # No side gets shorter than this, and only JPEGs change.
                image.draft(None, (request.max_short_side, request.max_short_side))
            return _pixels(image, request, max_pixels=max_pixels)


def pixels_of(
    image: PillowImage, request: Request, *, key: str, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W C"]:
    """The pixels of a Pillow image by the rules of `decode`, with 1 or 3 channels. Raises `Unreadable`."""
    with _errors_as_unreadable(key):
        return _pixels(image, request, max_pixels=max_pixels)


def shrunk(pixels: UInt8[np.ndarray, "H W C"], max_short_side: int | None) -> UInt8[np.ndarray, "h w C"]:
    """`pixels`, shrunk until the shorter side has at most `max_short_side` pixels; None keeps them."""
    height, width = pixels.shape[:2]
    if max_short_side is None or min(height, width) <= max_short_side:
        return pixels
    height, width = (max(1, round(n * max_short_side / min(height, width))) for n in (height, width))
    smaller = resize(pixels, height=height, width=width, resampling="bicubic")
    smaller.flags.writeable = False
    return smaller


def check_max_pixels(max_pixels: int) -> None:
    """Raise `ValueError` for a limit of pixels that cannot be used."""
    if not 1 <= max_pixels <= _HARD_LIMIT:
        raise ValueError(
            f"max_pixels must be 1 to {_HARD_LIMIT:,}, above which Pillow decodes no image, got {max_pixels:,}."
        )


@contextmanager
def _errors_as_unreadable(key: str) -> Generator[None]:
    """Raise any error as `Unreadable`, since Pillow raises almost any kind for damaged bytes; suppress warnings."""
    try:
        with _no_warnings():
            yield
    except Image.DecompressionBombError as error:
        reason = f"it has more than {_HARD_LIMIT:,} pixels, the most that Pillow decodes; make it smaller"
        raise Unreadable(key, reason) from error
    except Exception as error:
        raise Unreadable(key, " ".join(str(error).split()) or type(error).__name__) from error


def _opened(encoded: bytes, *, channels: int) -> PillowImage:
    if not encoded:
        raise ValueError("the file is empty")
    if channels not in (1, 3):
        raise ValueError(f"the model needs {channels} channels; only a `.npy` array has other than 1 or 3")
    if encoded.startswith(b"\xff\xd8") and _has_too_many_scans(encoded):
        raise ValueError(
            f"it is a JPEG with more than {_MAX_JPEG_SCANS} scans, which no camera or program writes"
        )
    try:
        return Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(_unidentified(encoded)) from None


def _pixels(image: PillowImage, request: Request, *, max_pixels: int) -> UInt8[np.ndarray, "H W C"]:
    if not image.width * image.height:
        raise ValueError("it has no pixels")
    _check_size(image.width, image.height, max_pixels=max_pixels)
    image.load()
    opaque = _from_numbers(image) if image.mode in _NUMERIC_MODES else _flattened(image)
    return shrunk(_as_channels(_upright(opaque, image), channels=request.channels), request.max_short_side)


def _upright(pixels: PillowImage, image: PillowImage) -> PillowImage:
    """`pixels`, rotated as the EXIF block of `image` says.

    `ImageOps.exif_transpose` also rewrites the block. That fails for some damaged tags beside a readable orientation.
    """
    turn = None
    with suppress(Exception):  # a damaged block can raise almost any kind of exception
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else pixels.transpose(turn)


def _as_channels(image: PillowImage, *, channels: int) -> UInt8[np.ndarray, "H W C"]:
    mode = "RGB" if channels == 3 else "L"
    # `np.array` would copy once more, which takes half as long as decoding a 500x375 JPEG.
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if channels == 3 else pixels[:, :, None]


def _flattened(image: PillowImage) -> PillowImage:
    """An 8-bit image in mode L or RGB, without transparency."""
    if image.has_transparency_data:
        # Pillow converts premultiplied gray only to straight gray.
        straight = image.convert("LA") if image.mode == "La" else image
        colors = straight.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colors).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _from_numbers(image: PillowImage) -> PillowImage:
    """A gray image with 16 or 32 bits per pixel in mode L."""
    values = np.asarray(image)
    white = _white(image, values)
    scaled = np.rint(values * np.float32(255 / white)).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0:
        # TIFF may store negatives ("white is zero"). Pillow inverts them only up to 8 bits.
        scaled = 255 - scaled
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return Image.fromarray(scaled)


def _white(image: PillowImage, values: Num[np.ndarray, "H W"]) -> int:
    """The value of white in `image`."""
    if image.mode.startswith("I;16"):
        is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
        return 4095 if is_tiff and image.tag_v2.get(_TIFF_BITS) == (12,) else 65_535
    if image.mode == "I" and image.format == "PPM":
        return 65_535
    low, high = float(values.min()), float(values.max())
    for white in (255, 65_535) if image.mode == "I" else (1, 255, 65_535):
        if low >= 0 and high <= white:
            return white
    raise ValueError(
        f"its values range from {low:g} to {high:g}; expected 0 to 1, 0 to 255 or 0 to 65,535. Rescale them"
    )


def _decode_array(encoded: bytes, *, channels: int, max_pixels: int) -> UInt8[np.ndarray, "H W C"]:
    """The array in a `.npy` file. NumPy's own loader would allocate as much memory as the header claims."""
    stream = io.BytesIO(encoded)
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read_header(stream)
    if dtype != np.uint8 or len(shape) not in (2, 3):
        raise ValueError(f"it is a {dtype} array of shape {list(shape)}; expected uint8 [H, W, C]")
    height, width, depth = (*shape, 1)[:3]
    _check_size(width, height, max_pixels=max_pixels)
    start, count = stream.tell(), height * width * depth
    if not count or len(encoded) < start + count:
        raise ValueError(f"its header claims {count:,} bytes of pixels, and {len(encoded) - start:,} follow")
    flat = np.frombuffer(encoded, dtype=np.uint8, count=count, offset=start)
    pixels = np.ascontiguousarray(flat.reshape((height, width, depth), order="F" if fortran_order else "C"))
    pixels.flags.writeable = False
    if depth == channels:
        return pixels
    if {depth, channels} == {1, 3}:
        return _as_channels(Image.fromarray(pixels[:, :, 0] if depth == 1 else pixels), channels=channels)
    raise ValueError(f"it has {depth} channels, and the model needs {channels}")


def _check_size(width: int, height: int, *, max_pixels: int) -> None:
    if width * height > max_pixels:
        advice = "raise it with --max-pixels" if width * height <= _HARD_LIMIT else "make the image smaller"
        raise ValueError(
            f"it has {width:,} x {height:,} pixels, more than the limit of {max_pixels:,}; {advice}"
        )


def _has_too_many_scans(encoded: bytes) -> bool:
    """Whether the first JPEG image in `encoded` has more scans than any normal one.

    Each scan is a pass over all pixels, so a small file with many scans can take minutes.
    """
    # Counting the bytes of the marker is fast and never too low. Only files above the limit are parsed.
    if len(_START_OF_SCAN.findall(encoded)) <= _MAX_JPEG_SCANS:
        return False
    scans, position = 0, 2
    while (found := _NEXT_MARKER.search(encoded, position)) and scans <= _MAX_JPEG_SCANS:
        marker, position = found[1][0], found.end()
        if marker == 0xD9:
            break
        if marker not in (0x01, 0xD8):
            # A segment has its length, which includes itself, and then bytes that may look like markers.
            position += int.from_bytes(encoded[position : position + 2], "big")
        scans += marker == 0xDA
    return scans > _MAX_JPEG_SCANS


def _unidentified(encoded: bytes) -> str:
    if encoded[4:8] == b"ftyp" and encoded[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "it is a HEIC image, which cannot be decoded; convert it to JPEG or PNG"
    return f"it is not an image in a known format, or it is cut off; it begins with {encoded[:16]!r}"


_lock = Lock()
_num_inside = 0
_filters = ExitStack()


@contextmanager
def _no_warnings() -> Generator[None]:
    """Suppress the warnings of Pillow and NumPy about unusual files: a file is either complete or `Unreadable`.

    All threads share the filters of `warnings`. The first thread to enter changes them and the last one to leave
    restores them, so threads that decode at the same time do not restore each other's.
    """
    global _num_inside
    with _lock:
        if not _num_inside:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"(PIL|numpy)\.")
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if not _num_inside:
                _filters.close()
