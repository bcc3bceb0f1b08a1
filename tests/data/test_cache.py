"""The cache of decoded images: exactly the pixels of the source, whatever happens to its files."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from resnet_rs.data.cache import Cached, cached
from resnet_rs.data.folders import ClassFolders
from resnet_rs.data.sample import Frames, Request, Unreadable

SIDE = 200


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (SIDE, SIDE + 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def source(photos, tmp_path):
    return cached(ClassFolders(photos).splits().train, tmp_path / "cache")


RGB = Request(3)


def read_all(source, request=RGB):
    return [source.read(i, request).input for i in range(len(source))]


def all_equal(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def decoded(source, monkeypatch):
    """The keys that are decoded from now on."""
    keys, read = [], type(source.source).read
    monkeypatch.setattr(
        type(source.source),
        "read",
        lambda self, i, request: keys.append(self.key(i)) or read(self, i, request),
    )
    return keys


@pytest.mark.parametrize("request_", [Request(3), Request(1), Request(3, None, 64 + 90)])
def test_images_are_decoded_once_and_stay_the_same(source, request_, monkeypatch):
    expected = read_all(source.source, request_)
    keys = decoded(source, monkeypatch)
    for _ in range(3):
        assert all_equal(read_all(source, request_), expected)
    is_large = expected[0].nbytes >= 1 << 16
    assert len(keys) == len(source) * (1 if is_large else 3)


def test_another_request_never_gets_the_pixels_of_the_first(source):
    requests = [Request(3), Request(3, None, 180), Request(3, None, 160)]
    for request in requests * 2:
        assert all_equal(read_all(source, request), read_all(source.source, request))


@pytest.mark.parametrize("place", ["header", "pixels", "end", "empty"])
def test_a_damaged_file_is_made_anew(source, place, monkeypatch):
    expected = read_all(source)
    path = source.folder / "0"
    content = bytearray(path.read_bytes())
    if place == "end":
        del content[-1:]
    elif place == "empty":
        content.clear()
    else:
        content[5 if place == "header" else len(content) // 2] ^= 1
    path.write_bytes(content)
    keys = decoded(source, monkeypatch)
    assert all_equal(read_all(source), expected)
    assert keys == [source.key(0)]
    assert all_equal(read_all(source), expected) and len(keys) == 1


def test_the_file_of_another_image_is_not_taken(source):
    expected = read_all(source)
    os.replace(source.folder / "0", source.folder / "1")
    assert all_equal(read_all(source), expected)


def test_a_changed_image_is_decoded_again(source, photos):
    read_all(source)
    path = photos / source.key(0)
    Image.fromarray(np.zeros((SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    assert not source.read(0, Request(3)).input.any()


def test_an_unreadable_image_is_unreadable_each_time(source, photos):
    (photos / source.key(0)).write_bytes(b"\xff\xd8 no image")
    for _ in range(2):
        with pytest.raises(Unreadable):
            source.read(0, Request(3))
    assert not (source.folder / "0").exists()


def test_a_folder_that_cannot_be_written_costs_one_warning_and_no_image(source, monkeypatch, recwarn):
    def full(*_):
        tried.append(1)
        raise OSError(28, "No space left on device")

    tried = []
    monkeypatch.setattr("resnet_rs.storage.disk.write", full)
    for _ in range(2):
        assert all_equal(read_all(source), read_all(source.source))
    (warned,) = recwarn
    assert re.search("No space left on device.*decoded anew", str(warned.message)) and len(tried) == 1
    assert not list(source.folder.iterdir())


def test_no_folder_no_cache(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be kept"):
        source = cached(ClassFolders(photos).splits().train, tmp_path / "file" / "cache")
    assert not isinstance(source, Cached)


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_the_cache_is_bounded(source, share, tmp_path):
    """An image is kept only where as many of its size as there are samples are within the limit."""
    whole = len(source) * source.source.read(0, RGB).input.nbytes
    bounded = Cached(source=source.source, folder=tmp_path / "bounded", num_bytes=int(share * whole))
    bounded.folder.mkdir()
    read_all(bounded)
    assert len(list(bounded.folder.iterdir())) == (len(source) if share == 1 else 0)


def test_frames_are_not_cached(source):
    clip = Request(3, Frames(count=1))
    assert all_equal(read_all(source, clip), read_all(source.source, clip))
    assert not list(source.folder.iterdir())
