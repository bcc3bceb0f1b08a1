"""Predictions are the same for a file and its Pillow image, and name ImageNet's classes in words."""

import numpy as np
import pytest
from PIL import ExifTags, Image
from weights.sharing import write

import resnet_rs as rs
from resnet_rs.data import imagenet
from resnet_rs.zoo import EXPERIMENTS


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of several modes; one has to be rotated."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(root / "turned.png", exif=exif)
    Image.fromarray(pixels[:, :, 0]).save(root / "grey.png")
    Image.fromarray(np.concatenate([pixels, pixels[:, :, :1]], 2)).save(root / "transparent.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(root / "deep.png")
    return sorted(root.iterdir())


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return rs.load(write(tmp_path_factory.mktemp("weights") / "ours", EXPERIMENTS["resnet-rs-tiny"]))


def test_a_pillow_image_gets_the_same_answer_as_its_file(images, predictor):
    of_files = predictor.predict(images)
    opened = [Image.open(path) for path in images]
    assert [p.answer for p in predictor.predict(opened)] == [p.answer for p in of_files]
    (single,) = predictor.predict(opened[0])
    assert single.key == "image 0"
    assert single.to_plain() == {"key": "image 0", **single.answer.to_plain(), "unreadable": None}


def test_an_unreadable_image_has_a_reason_and_leaves_the_others_as_they_are(images, predictor, tmp_path):
    Image.new("RGB", (90, 90)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-100])
    with Image.open(tmp_path / "cut.jpg") as cut:
        found = predictor.predict([cut, Image.new("RGB", (0, 5)), images[0], tmp_path / "none.png"])
    reasons = [p.unreadable for p in found]
    assert "truncated" in reasons[0] and reasons[1:] == [
        "it has no pixels",
        None,
        "No such file or directory",
    ]
    assert [p.answer is None for p in found] == [True, True, False, True]
    assert found[2].answer == predictor.predict(images[0])[0].answer
    assert found[3].to_plain() == {"key": str(tmp_path / "none.png"), "unreadable": reasons[3]}


def test_identifiers_of_imagenet_are_said_in_words(images, tmp_path, command):
    assert imagenet.title("n01484850") == "great white shark" and imagenet.title("shark") is None
    assert imagenet.title(imagenet.classes()[0]) == "tench"
    classes = ("n01484850", "n01443537", "my shoe")
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"], classes=classes)
    (found,) = rs.load(ours).predict(images[:1])
    assert found.answer.title == imagenet.title(found.answer.name)
    done = command("predict", ours, images[0])
    assert "great white shark (n01484850)" in done.stdout and "my shoe " in done.stdout
