"""Predictions: of Pillow's pictures as of files, and in words where classes are ImageNet's."""

import numpy as np
import pytest
from PIL import ExifTags, Image
from weights.sharing import write

import resnet_rs as rs
from resnet_rs.data import imagenet
from resnet_rs.zoo import EXPERIMENTS


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of several modes; the first is to be turned."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(root / "turned.png", exif=exif)
    Image.fromarray(pixels[:, :, 0]).save(root / "grey.png")
    Image.fromarray(np.concatenate([pixels, pixels[:, :, :1]], 2)).save(root / "transparent.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(root / "deep.png")
    return sorted(root.iterdir())


def test_a_picture_of_pillows_is_what_its_file_is(pictures, tmp_path):
    predictor = rs.load(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]))
    of_files = predictor.predict(pictures)
    opened = [Image.open(path) for path in pictures]
    assert [p.probabilities for p in predictor.predict(opened)] == [p.probabilities for p in of_files]
    assert predictor.predict(opened[0])[0].key == "picture 0"
    assert {p.title for p in of_files} == {None}


def test_a_picture_of_pillows_that_cannot_be_read_is_said_to_be_so(pictures, tmp_path):
    predictor = rs.load(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]))
    Image.new("RGB", (90, 90)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-100])
    with Image.open(tmp_path / "cut.jpg") as cut:
        found = predictor.predict([cut, Image.new("RGB", (0, 5)), Image.new("L", (8, 8))])
    assert "truncated" in found[0].unreadable and found[1].unreadable == "it has no pixels"
    assert found[2].probabilities and found[2].unreadable is None


def test_identifiers_of_imagenet_are_said_in_words(pictures, tmp_path, command):
    assert imagenet.title("n01484850") == "great white shark" and imagenet.title("shark") is None
    assert imagenet.title(imagenet.classes()[0]) == "tench"
    ours = write(
        tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"], classes=("n01484850", "n01443537", "my shoe")
    )
    (found,) = rs.load(ours).predict(pictures[:1])
    assert found.title == imagenet.title(found.name)
    done = command("predict", ours, pictures[0])
    assert "great white shark (n01484850)" in done.stdout and "my shoe " in done.stdout
