"""What is no whole image is refused with a reason, and hostile files before they cost anything."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from resnet_rs.cli import options
from resnet_rs.data.decode import MAX_PIXELS, check_max_pixels, decode
from resnet_rs.data.sample import Request, Unreadable

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
BLOCKS = np.kron(np.array([[60, 200, 0], [255, 128, 17]], np.uint8), np.ones((16, 16), np.uint8))


def saved(pixels, form, *, mode=None, **options):
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(pixels, **options):
    return saved(pixels, "JPEG", **({"quality": 100} | options))


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


START_OF_SCAN = b"\xff\xda"

TRUNCATED = {
    "jpeg": jpeg(COLOR),
    "jpeg progressive": jpeg(COLOR, progressive=True),
    "mpo": saved(COLOR, "MPO", save_all=True, append_images=[Image.fromarray(255 - COLOR)]),
    "png": saved(COLOR, "PNG"),
    "gif": saved(GREY, "GIF"),
    "webp": saved(COLOR, "WEBP"),
    "webp lossless": saved(COLOR, "WEBP", lossless=True),
    "avif": saved(BLOCKS, "AVIF"),
    "bmp": saved(COLOR, "BMP"),
    "tiff": saved(COLOR, "TIFF"),
    "tiff lzw": saved(COLOR, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": saved(COLOR, "TIFF", compression="jpeg"),
    "tiff fax": saved(GREY, "TIFF", mode="1", compression="group4"),
    "ppm": saved(COLOR, "PPM"),
    "npy": npy(COLOR),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_image_is_refused_unless_all_of_its_pixels_are_there(name):
    encoded = TRUNCATED[name]
    whole = decode(encoded, key=name, request=Request(3))
    refused = 0
    for cut in np.linspace(0, len(encoded) - 1, 40).astype(int):
        try:
            pixels = decode(encoded[:cut], key=name, request=Request(3))
        except Unreadable:
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole, err_msg=f"cut at {cut} of {len(encoded)}")
    # The second image of an MPO is half of the file; all others lose their pixels at once.
    assert refused >= (15 if name == "mpo" else 35)


def jpeg_of_scans(count):
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    encoded = jpeg(BLOCKS, progressive=True)
    last = encoded.rindex(START_OF_SCAN)
    missing = count - encoded.count(START_OF_SCAN)
    return encoded[:-2] + encoded[last:-2] * missing + encoded[-2:]


def claimed_png(width, height):
    """A PNG that claims a size and has the pixels of one line."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + width))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def text_bomb():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "\0" * 5_000_000, zip=True)
    return saved(GREY, "PNG", pnginfo=notes)


def floats(*values):
    return saved(np.array([values], np.float32), "TIFF")


def claimed_npy(*shape):
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(105)


REFUSED = {
    "empty": (b"", "the file is empty"),
    "text": (b"no image at all\n", "begins with b'no image at all"),
    "html": (b"<!DOCTYPE html><html></html>", "begins with b'<!DOCTYPE html><'"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in a known format"),
    "pdf": (b"%PDF-1.7\n", "not an image in a known format"),
    "zip": (b"PK\3\4" + bytes(100), "not an image in a known format"),
    "zeros": (bytes(1000), "not an image in a known format"),
    "header only": (jpeg(BLOCKS)[:20], "it is cut off"),
    "wrong magic": (b"\xff\xd9" + jpeg(BLOCKS)[2:], "not an image in a known format"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "convert it to JPEG or PNG"),
    "jpeg 2000": (saved(COLOR, "JPEG2000"), "not an image in a known format"),
    "icon": (saved(Image.new("RGB", (16, 16)), "ICO"), "not an image in a known format"),
    "too many pixels": (
        claimed_png(10_000, 5_001),
        "10,000 x 5,001 pixels, more than the limit of 50,000,000; raise it with --max-pixels",
    ),
    "too many for Pillow": (
        claimed_png(20_000, 20_000),
        "more than 178,956,970 pixels, the most that Pillow decodes",
    ),
    "scan bomb": (jpeg_of_scans(101), "more than 100 scans"),
    "text bomb": (text_bomb(), "too large"),
    "float nan": (floats(0, float("nan")), "range from nan to nan"),
    "float infinite": (floats(0, float("inf")), "range from 0 to inf"),
    "float negative": (floats(-1, 1), "range from -1 to 1; expected 0 to 1, 0 to 255 or 0 to 65,535"),
    "int too large": (saved(np.array([[0, 70_000]], np.int32), "TIFF"), "range from 0 to 70000"),
    "npy of floats": (npy(COLOR.astype(float)), "float64 array of shape [7, 5, 3]; expected uint8 [H, W, C]"),
    "npy of objects": (npy(np.array([[{}]], object), allow_pickle=True), "object array"),
    "npy of clips": (npy(COLOR[None]), "uint8 array of shape [1, 7, 5, 3]"),
    "npy without pixels": (npy(COLOR[:0]), "claims 0 bytes"),
    "npy too short": (claimed_npy(7, 9, 3), "claims 189 bytes of pixels, and 105 follow"),
    "npy too large": (
        claimed_npy(70_000, 75_000, 3),
        "more than the limit of 50,000,000; make the image smaller",
    ),
    "npy of a huge depth": (claimed_npy(7, 5, 10**15), "claims 35,000,000,000,000,000 bytes"),
    "npy of five channels": (npy(np.zeros((2, 2, 5), np.uint8)), "it has 5 channels, and the model needs 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_in_one_line_that_says_why(name):
    encoded, reason = REFUSED[name]
    with pytest.raises(Unreadable) as caught:
        decode(encoded, key=f"photos/{name}.jpg", request=Request(3))
    assert caught.value.key == f"photos/{name}.jpg"
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason and " at 0x" not in caught.value.reason


def test_images_are_measured_before_they_are_decoded():
    size = (5, 7)
    assert decode(saved(COLOR, "PNG"), key="", request=Request(3), max_pixels=35).shape == (7, 5, 3)
    for encoded in (saved(COLOR, "PNG"), jpeg(COLOR), npy(COLOR), saved(COLOR, "TIFF"), saved(COLOR, "GIF")):
        # The last byte of pixels is gone, so the reason tells which of the two came first.
        with pytest.raises(Unreadable, match=f"{size[0]} x {size[1]} pixels, more than the limit of 34"):
            decode(encoded[:-1], key="", request=Request(3), max_pixels=34)


def test_a_permitted_size_is_never_called_a_bomb():
    pixels = Image.MAX_IMAGE_PIXELS
    assert pixels is not None
    with pytest.raises(Unreadable, match="truncated"):
        decode(
            claimed_png(10_000, pixels // 10_000 + 1)[:-20], key="", request=Request(1), max_pixels=2 * pixels
        )


def test_one_hundred_scans_are_allowed():
    encoded = jpeg_of_scans(100)
    assert encoded.count(START_OF_SCAN) == 100
    assert np.abs(decode(encoded, key="", request=Request(1))[:, :, 0].astype(int) - BLOCKS).max() <= 1


def test_an_unreadable_sample_survives_the_way_out_of_a_worker():
    with pytest.raises(Unreadable) as caught:
        decode(b"", key="a/b.jpg", request=Request(3))
    assert str(pickle.loads(pickle.dumps(caught.value))) == "cannot read 'a/b.jpg': the file is empty"


@pytest.mark.parametrize("max_pixels", [0, -1, 178_956_971])
def test_limits_of_pixels_that_cannot_be_used_are_refused(max_pixels):
    with pytest.raises(ValueError, match=r"max_pixels must be 1 to 178,956,970"):
        check_max_pixels(max_pixels)


def test_the_default_limit_of_the_command_line_is_that_of_the_decoder():
    assert options.MAX_PIXELS == MAX_PIXELS
