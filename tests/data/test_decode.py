"""Every image format gives the pixels it means."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from resnet_rs.data.decode import EXTENSIONS, decode
from resnet_rs.data.sample import Request, Unreadable

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
ALPHA[0, :3] = 0, 128, 255
WIDE = np.linspace(0, 65_535, 35).round().astype(np.uint16).reshape(7, 5)
# JPEG at its best quality keeps blocks of one color.
BLOCKS = np.kron(np.array([[60, 200, 0], [255, 128, 17]], np.uint8), np.ones((16, 16), np.uint8))
COLOR_BLOCKS = np.kron(
    np.array(
        [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[40, 90, 200], [250, 250, 5], [128, 0, 64]]], np.uint8
    ),
    np.ones((16, 16, 1), np.uint8),
)


def saved(pixels, form, *, mode=None, **options):
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def rgb(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def over_white(pixels, alpha):
    pixels = rgb(pixels) if pixels.ndim == 2 else pixels
    share = alpha[:, :, None] / 255
    return np.rint(pixels * share + 255 * (1 - share))


def with_alpha(pixels, alpha=ALPHA):
    return np.dstack([pixels, alpha])


def png(width, height, *, bits, color, rows):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def wide_png(values, color):
    """16 bits per channel, which Pillow reads but cannot write."""
    rows = [row.astype(">u2").tobytes() for row in values]
    return png(values.shape[1], values.shape[0], bits=16, color=color, rows=rows)


def tiff(width, height, *, bits, data, photometric=1, sample_format=1, has_alpha=False):
    """One strip of grey, for the variants that Pillow reads but cannot write."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format}
    if has_alpha:
        tags |= {277: 2, 338: 1}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    if has_alpha:
        # The one tag with two values: two shorts.
        entries = entries.replace(struct.pack("<HHII", 258, 4, 1, 8), struct.pack("<HHIHH", 258, 3, 2, 8, 8))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def twelve_bits(values):
    pairs = values.reshape(-1, 2).astype(int)
    return b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)


def palette(form, **options):
    image = Image.frombytes("P", (5, 7), (GREY % 4).tobytes())
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 255, 0, 255, 255, 255])
    colors = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 0], [255, 255, 255]], np.uint8)
    return saved(image, form, **options), colors[GREY % 4]


def transparent_palette(form, alphas, **options):
    encoded, colors = palette(form, transparency=options.pop("transparency", bytes(alphas)), **options)
    return encoded, over_white(colors, np.array(alphas, np.uint8)[GREY % 4])


def cmyk():
    inks = np.dstack([COLOR_BLOCKS, BLOCKS])
    return Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes()), inks


def from_inks(inks):
    inks = inks.astype(float)
    return np.rint((255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255)


def ycck_jpeg():
    """CMYK stored as YCC of the inks plus inverted black, which Pillow reads but does not write."""
    inks = cmyk()[1]
    ycc = 255 - np.asarray(Image.fromarray(inks[:, :, :3]).convert("YCbCr"))
    planes = np.dstack([ycc, inks[:, :, 3]])
    encoded = bytearray(
        saved(Image.frombytes("CMYK", planes.shape[1::-1], planes.tobytes()), "JPEG", quality=100)
    )
    encoded[encoded.index(b"Adobe") + 11] = 2
    return bytes(encoded), from_inks(inks)


def arithmetic_jpeg():
    """Blocks of 60 and 200; entropy-coded by libjpeg-turbo's jpegtran, as Pillow only reads it."""
    encoded = bytes.fromhex(
        "ffd8ffe000104a46494600010100000100010000ffdb004300" + "01" * 64 + "ffc9000b080008001001011100"
        "ffcc000600101005ffda0008010100003f00ff00f63dc9ebd240ffd9"
    )
    return encoded, rgb(np.repeat(np.array([[60, 200]], np.uint8), 8, axis=1).repeat(8, axis=0))


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""What EXIF 2.32 says each orientation does to the stored image."""


def jpeg(pixels=COLOR_BLOCKS, **options):
    return saved(pixels, "JPEG", **({"quality": 100, "subsampling": 0} | options))


def damaged_tag_jpeg():
    """A JPEG with orientation 6, and beside it a resolution that is text: Pillow cannot write that again."""
    turned, damaged = b"\x12\x01\3\0\1\0\0\0\6\0\0\0", b"\x1a\x01\2\0\1\0\0\0x\0\0\0"
    return jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\2\0" + turned + damaged + bytes(4))


def broken_exif_jpeg():
    """A whole JPEG whose EXIF block ends in the middle: Pillow warns about it."""
    return jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0\0")


def frames(form, **options):
    later = [Image.fromarray(255 - COLOR), Image.fromarray(COLOR // 2)]
    return saved(COLOR, form, save_all=True, append_images=later, **options)


def transparent_png(mode, pixels, key):
    return saved(Image.frombytes(mode, (5, 7), pixels.tobytes()), "PNG", transparency=key)


def matrix():
    is_first = (COLOR == COLOR[0, 0]).all(axis=2)
    bilevel = np.where(GREY > 99, 255, 0).astype(np.uint8)
    wide_color = RNG.integers(0, 65_536, (7, 5, 3)).astype(np.uint16)
    wide_alpha = np.dstack([wide_color, WIDE])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cmyk_image, inks = cmyk()
    one_color = np.full((31, 17, 3), [40, 90, 200], np.uint8)
    unit = (WIDE / 65_535).astype(np.float32)
    byte_floats = GREY.astype(np.float32)
    multiplied = np.rint(GREY * (ALPHA / 255)).astype(np.uint8)
    twelve = np.linspace(0, 4095, 36).round().astype(np.uint16).reshape(6, 6)
    lab = Image.frombytes("LAB", (5, 7), np.dstack([GREY, np.zeros((7, 5, 2), np.uint8)]).tobytes())
    cases = {
        "png 1": (saved(bilevel, "PNG", mode="1"), rgb(bilevel)),
        "png L": (saved(GREY, "PNG"), rgb(GREY)),
        "png LA": (saved(with_alpha(GREY), "PNG"), over_white(GREY, ALPHA)),
        "png L, one transparent": (
            transparent_png("L", GREY, int(GREY[0, 0])),
            np.where((GREY == GREY[0, 0])[:, :, None], 255, rgb(GREY)),
        ),
        "png RGB": (saved(COLOR, "PNG"), COLOR),
        "png RGB, one transparent": (
            transparent_png("RGB", COLOR, tuple(map(int, COLOR[0, 0]))),
            np.where(is_first[:, :, None], 255, COLOR),
        ),
        "png RGBA": (saved(with_alpha(COLOR), "PNG"), over_white(COLOR, ALPHA)),
        "png P": palette("PNG"),
        "png P, 2 bits": palette("PNG", bits=2),
        "png P, one transparent": transparent_palette("PNG", [255, 0, 255, 255], transparency=1),
        "png P, translucent": transparent_palette("PNG", [255, 0, 77, 200]),
        "png 16-bit L": (saved(WIDE, "PNG"), rgb(np.rint(WIDE / 257))),
        "png 16-bit L, one transparent": (
            saved(WIDE, "PNG", transparency=int(WIDE[2, 2])),
            rgb(np.where(WIDE == WIDE[2, 2], 255, np.rint(WIDE / 257))),
        ),
        "png 16-bit LA": (wide_png(np.dstack([WIDE, WIDE]), 4), over_white(WIDE / 257, WIDE / 257)),
        "png 16-bit RGB": (wide_png(wide_color, 2), np.rint(wide_color / 257)),
        "png 16-bit RGBA": (wide_png(wide_alpha, 6), over_white(wide_color / 257, WIDE / 257)),
        "png animated": (frames("PNG"), COLOR),
        "png turned": (saved(COLOR, "PNG", exif=exif(6)), TURNED[6](COLOR)),
        "png with profile": (saved(COLOR, "PNG", icc_profile=profile), COLOR),
        "jpeg L": (jpeg(BLOCKS), rgb(BLOCKS)),
        "jpeg L progressive": (jpeg(BLOCKS, progressive=True), rgb(BLOCKS)),
        "jpeg 4:4:4": (jpeg(), COLOR_BLOCKS),
        "jpeg 4:2:0": (jpeg(one_color, subsampling=2), one_color),
        "jpeg progressive": (jpeg(progressive=True), COLOR_BLOCKS),
        "jpeg stored as RGB": (jpeg(keep_rgb=True), COLOR_BLOCKS),
        "jpeg with restarts": (jpeg(restart_marker_blocks=1), COLOR_BLOCKS),
        "jpeg CMYK": (jpeg(cmyk_image), from_inks(inks)),
        "jpeg YCCK": ycck_jpeg(),
        "jpeg arithmetic": arithmetic_jpeg(),
        "jpeg with profile": (jpeg(icc_profile=profile), COLOR_BLOCKS),
        "jpeg with broken exif": (broken_exif_jpeg(), COLOR_BLOCKS),
        "jpeg turned, with a damaged tag": (damaged_tag_jpeg(), TURNED[6](COLOR_BLOCKS)),
        "jpeg with an unknown orientation": (jpeg(exif=exif(9)), COLOR_BLOCKS),
        "jpeg with bytes behind it": (jpeg() + b"\xff\xda\0\2" * 20_000, COLOR_BLOCKS),
        "jpeg with markers in a comment": (jpeg(comment=b"\xff\xda" * 300), COLOR_BLOCKS),
        "mpo": (
            saved(
                COLOR_BLOCKS,
                "MPO",
                save_all=True,
                append_images=[Image.new("RGB", (48, 32))],
                quality=100,
                subsampling=0,
            ),
            COLOR_BLOCKS,
        ),
        "gif": palette("GIF"),
        "gif, one transparent": transparent_palette("GIF", [255, 255, 0, 255], transparency=2),
        "gif animated": (
            saved(GREY, "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
            rgb(GREY),
        ),
        "webp": (saved(COLOR, "WEBP", lossless=True), COLOR),
        "webp RGBA": (saved(with_alpha(COLOR), "WEBP", lossless=True, exact=True), over_white(COLOR, ALPHA)),
        "webp animated": (frames("WEBP", lossless=True), COLOR),
        "webp turned": (saved(COLOR, "WEBP", lossless=True, exif=exif(8)), TURNED[8](COLOR)),
        "avif": (saved(BLOCKS, "AVIF", quality=100), rgb(BLOCKS)),
        "avif turned": (saved(BLOCKS, "AVIF", quality=100, exif=exif(6)), TURNED[6](rgb(BLOCKS))),
        "bmp 1": (saved(bilevel, "BMP", mode="1"), rgb(bilevel)),
        "bmp L": (saved(GREY, "BMP"), rgb(GREY)),
        "bmp P": palette("BMP"),
        "bmp RGB": (saved(COLOR, "BMP"), COLOR),
        "tiff 1": (saved(bilevel, "TIFF", mode="1"), rgb(bilevel)),
        "tiff fax": (saved(bilevel, "TIFF", mode="1", compression="group4"), rgb(bilevel)),
        "tiff L": (saved(GREY, "TIFF"), rgb(GREY)),
        "tiff LA": (saved(with_alpha(GREY), "TIFF"), over_white(GREY, ALPHA)),
        "tiff LA, premultiplied": (
            tiff(5, 7, bits=8, has_alpha=True, data=with_alpha(multiplied).tobytes()),
            rgb(multiplied + (255 - ALPHA)),
        ),
        "tiff P": palette("TIFF"),
        "tiff RGB lzw": (saved(COLOR, "TIFF", compression="tiff_lzw"), COLOR),
        "tiff RGB deflate": (saved(COLOR, "TIFF", compression="tiff_adobe_deflate"), COLOR),
        "tiff RGB packbits": (saved(COLOR, "TIFF", compression="packbits"), COLOR),
        "tiff jpeg": (saved(BLOCKS, "TIFF", compression="jpeg", quality=100), rgb(BLOCKS)),
        "tiff RGBA": (saved(with_alpha(COLOR), "TIFF"), over_white(COLOR, ALPHA)),
        "tiff CMYK": (saved(cmyk_image, "TIFF"), from_inks(inks)),
        "tiff LAB grey": (saved(lab, "TIFF"), rgb(lightness(GREY))),
        "tiff turned": (saved(COLOR, "TIFF", tiffinfo={274: 6}), TURNED[6](COLOR)),
        "tiff of pages": (frames("TIFF"), COLOR),
        "tiff 16-bit": (saved(WIDE, "TIFF"), rgb(np.rint(WIDE / 257))),
        "tiff 16-bit big-endian": (
            saved(Image.frombytes("I;16B", (5, 7), WIDE.astype(">u2").tobytes()), "TIFF"),
            rgb(np.rint(WIDE / 257)),
        ),
        "tiff 16-bit, white is zero": (
            tiff(5, 7, bits=16, photometric=0, data=WIDE.astype("<u2").tobytes()),
            rgb(255 - np.rint(WIDE / 257)),
        ),
        "tiff 12-bit": (tiff(6, 6, bits=12, data=twelve_bits(twelve)), rgb(np.rint(twelve * (255 / 4095)))),
        "tiff signed 16-bit": (
            tiff(5, 7, bits=16, sample_format=2, data=(WIDE // 2).astype("<i2").tobytes()),
            rgb(np.rint(WIDE // 2 / 257)),
        ),
        "tiff 32-bit to 255": (saved(GREY.astype(np.int32), "TIFF"), rgb(GREY)),
        "tiff 32-bit to 65,535": (saved(WIDE.astype(np.int32), "TIFF"), rgb(np.rint(WIDE / 257))),
        "tiff float to 1": (saved(unit, "TIFF"), rgb(np.rint(unit * 255))),
        "tiff float to 255": (saved(byte_floats, "TIFF"), rgb(GREY)),
        "tiff float to 65,535": (saved(WIDE.astype(np.float32), "TIFF"), rgb(np.rint(WIDE / 257))),
        "pbm": (saved(bilevel, "PPM", mode="1"), rgb(bilevel)),
        "pgm": (saved(GREY, "PPM"), rgb(GREY)),
        "pgm 16-bit, dark": (saved(WIDE // 256, "PPM"), rgb(np.rint(WIDE // 256 / 257))),
        "pgm to 100": (b"P5 3 1 100\n" + bytes([0, 50, 100]), rgb(np.array([[0, 128, 255]]))),
        "ppm": (saved(COLOR, "PPM"), COLOR),
        "ppm in letters": (b"P3 2 1 255\n1 2 3 40 50 60\n", np.array([[[1, 2, 3], [40, 50, 60]]])),
        "pfm": (saved(unit, "PPM"), rgb(np.rint(unit * 255))),
        "npy H W 3": (npy(COLOR), COLOR),
        "npy H W 1": (npy(GREY[:, :, None]), rgb(GREY)),
        "npy H W": (npy(GREY), rgb(GREY)),
        "npy by columns": (npy(np.asfortranarray(COLOR)), COLOR),
    }
    cases |= {f"jpeg turned {i}": (jpeg(exif=exif(i)), turn(COLOR_BLOCKS)) for i, turn in TURNED.items()}
    return cases


def lightness(values):
    """CIE L* (0-255) as sRGB grey: the definitions of both, one after the other."""
    level = (values / 255 * 100 + 16) / 116
    linear = np.where(level > 6 / 29, level**3, 3 * (6 / 29) ** 2 * (level - 4 / 29))
    return np.rint(255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear))


MATRIX = matrix()


@pytest.mark.parametrize("name", MATRIX)
def test_every_format_gives_the_pixels_it_means_to_within_one(name):
    encoded, expected = MATRIX[name]
    pixels = decode(encoded, key=name, request=Request(3))
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", MATRIX)
def test_one_channel_is_the_luma_of_three(name):
    encoded, _ = MATRIX[name]
    color = decode(encoded, key=name, request=Request(3))
    grey = decode(encoded, key=name, request=Request(1))
    assert grey.shape == (*color.shape[:2], 1)
    assert np.abs(grey[:, :, 0] - color @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "PPM"])
def test_images_of_one_pixel_and_of_one_line_are_images(form, shape):
    pixels = np.full((*shape, 3), 77, np.uint8)
    assert np.abs(decode(saved(pixels, form), key="", request=Request(3)).astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_arrays_keep_any_number_of_channels(channels):
    array = RNG.integers(0, 256, (3, 4, channels), dtype=np.uint8)
    np.testing.assert_array_equal(decode(npy(array), key="", request=Request(channels)), array)


def test_images_have_no_other_channel_counts_than_one_and_three():
    with pytest.raises(Unreadable, match="needs 4 channels; only a `.npy` array"):
        decode(saved(with_alpha(COLOR), "PNG"), key="", request=Request(4))


@pytest.mark.parametrize(
    "name", ["png RGB", "png L", "png RGBA", "tiff float to 1", "npy by columns", "jpeg 4:4:4"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_contiguous_bytes_that_cannot_be_written_to(name, channels):
    pixels = decode(MATRIX[name][0], key=name, request=Request(channels))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous and not pixels.flags.writeable


def test_decoding_leaves_the_warning_filters_as_they_were():
    encoded = broken_exif_jpeg()
    with pytest.warns(UserWarning):
        Image.open(io.BytesIO(encoded)).getexif()
    before = list(warnings.filters)
    decode(encoded, key="", request=Request(3))
    with pytest.raises(Unreadable):
        decode(b"", key="", request=Request(3))
    assert list(warnings.filters) == before


def test_odd_files_are_decoded_without_a_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for encoded, _ in MATRIX.values():
            decode(encoded, key="", request=Request(1))
    assert caught == []


def test_threads_that_decode_together_leave_the_warning_filters_as_they_were():
    encoded = broken_exif_jpeg()
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda _: decode(encoded, key="", request=Request(3)), range(200)))
    assert list(warnings.filters) == before
    assert all(np.array_equal(image, images[0]) for image in images)


def test_endings_are_lower_case_with_their_dot():
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".npy"} <= EXTENSIONS
    assert all(ending == ending.lower() and ending.startswith(".") for ending in EXTENSIONS)
