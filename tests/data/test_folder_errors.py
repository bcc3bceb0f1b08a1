"""Folders that cannot become sources are refused in one line: what is there, what is expected, what to do."""

import os

import pytest
from PIL import Image

from resnet_rs.data.files import ImageFiles
from resnet_rs.data.folders import ClassFolders, split_record


def fill(folder, num_images=2, *, grey=0):
    """Tiny images of one grey value, so that a sample shows where it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num_images):
        Image.new("L", (2, 3), grey).save(folder / f"{i}.png")
    return folder


def fill_splits(root, *splits, classes=("cat", "dog")):
    for split in splits:
        for name in classes:
            fill(root / split / name)
    return root


def no_root(root):
    pass


def root_is_a_file(root):
    root.touch()


def empty(root):
    root.mkdir()


def only_hidden(root):
    fill(root / ".git")


def one_class(root):
    fill(root / "cat")


def one_class_in_train(root):
    fill(root / "train" / "cat")


def empty_class(root):
    for name in ("cat", "dog"):
        fill(root / name)
    (root / "eel" / "deep").mkdir(parents=True)
    (root / "eel" / "notes.txt").touch()


def empty_class_in_val(root):
    fill_splits(root, "train", "val")
    (root / "train" / "eel").mkdir()
    fill(root / "val" / "eel")


def single_images(root):
    for name in "bcdefgh":
        fill(root / name, 1)


def class_not_in_train(root):
    fill_splits(root, "train", "val")
    fill(root / "val" / "eel")


def images_in_root(root):
    fill(root)


def images_in_train(root):
    fill(root / "train")
    fill(root / "test")


def images_in_val(root):
    fill_splits(root, "train")
    fill(root / "val")


def no_train(root):
    fill_splits(root, "val", "test")


def train_beside_others(root):
    fill_splits(root, "train")
    fill(root / "annotations")


def val_and_validation(root):
    fill_splits(root, "train", "val", "validation")


def empty_train(root):
    fill_splits(root, "val")
    (root / "train").mkdir()


@pytest.mark.parametrize(
    ("build", "kind", "parts"),
    [
        (no_root, FileNotFoundError, ["data' does not exist", "expected a folder of class folders", "Check"]),
        (root_is_a_file, ValueError, ["data' is a file", "expected a folder of class folders", "Give"]),
        (empty, ValueError, ["data' has no class folders", "expected one folder per class", "Add them"]),
        (
            only_hidden,
            ValueError,
            ["data' has no class folders", "expected one folder per class", "Add them"],
        ),
        (one_class, ValueError, ["data' has only one class, 'cat'", "expected two or more", "Add"]),
        (one_class_in_train, ValueError, ["data' has only one class, 'cat'", "expected two or more", "Add"]),
        (empty_class, ValueError, ["data' has no images in 'eel'", "expected some in every class", "Add"]),
        (empty_class_in_val, ValueError, ["train' has no images in 'eel'", "expected some", "Add"]),
        (
            single_images,
            ValueError,
            ["only one image of every class", "expected two or more", "Add"],
        ),
        (
            class_not_in_train,
            ValueError,
            ["data' has no training images of 'eel'", "expected some of every class", "Add"],
        ),
        (
            images_in_root,
            ValueError,
            ["data' has no class folders", "expected one folder per class", "move"],
        ),
        (
            images_in_train,
            ValueError,
            ["train' has no class folders", "expected one folder per class", "move"],
        ),
        (
            images_in_val,
            ValueError,
            ["val' has no class folders", "expected one folder per class", "move"],
        ),
        (no_train, ValueError, ["has 'test', 'val' but no 'train'", "expected both", "Add"]),
        (
            train_beside_others,
            ValueError,
            ["has 'train' beside 'annotations'", "expected either", "Rename"],
        ),
        (val_and_validation, ValueError, ["has 'val' and 'validation'", "expected one of them", "Rename"]),
        (
            empty_train,
            ValueError,
            ["train' has no class folders", "expected one folder per class", "Add them"],
        ),
    ],
)
def test_a_wrong_folder_is_answered_with_what_is_there_what_is_expected_and_what_to_do(
    tmp_path, build, kind, parts
):
    build(tmp_path / "data")
    with pytest.raises(kind) as caught:
        ClassFolders(tmp_path / "data").splits()
    message = str(caught.value)
    places = [message.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), message
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": (0,)}, "every file needs one label"),
        ({"labels": (0, 2)}, "labels must be class indices from 0 to 1, got 2"),
        ({"labels": (-1, 0)}, "got -1"),
        ({"files": ("a/1.png", "a/1.png")}, "every file must be listed once, got 'a/1.png' more than once"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(fields, message):
    good = {"root": "/", "files": ("a/1.png", "b/1.png"), "labels": (0, 1), "class_names": ("a", "b")}
    assert len(ImageFiles(**good)) == 2
    with pytest.raises(ValueError, match=message):
        ImageFiles(**(good | fields))


def test_images_that_are_gone_from_a_recorded_split_are_named(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 10)
    record = split_record(ClassFolders(tmp_path).splits())
    for i in range(7):
        (tmp_path / "cat" / f"{i}.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks 7 of the 20 files.*'cat/\d.png'.* and 2 more\. Restore"
    ):
        ClassFolders(tmp_path).splits(split=record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": []}, "must list files under 'train' and 'test'"),
        ({"val": ["cat/0.png"]}, "got 'test', 'train', 'val'"),
        (
            {"test": ["cat/0.png", "cat/0.png"]},
            "every file must be listed once, got 'cat/0.png' more than once",
        ),
        ({"test": ["dog/1.png"]}, "every file must be listed once, got 'dog/1.png' more than once"),
        ({"test": ["../cat/0.png"]}, "paths of the form class/image below the root, got '../cat/0.png'"),
        ({"test": ["/cat/0.png"]}, "got '/cat/0.png'"),
        ({"test": ["0.png"]}, "got '0.png'"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path, change, message):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
    record = {"train": ["cat/1.png", "dog/1.png"], "test": ["cat/0.png", "dog/0.png"]}
    assert split_record(ClassFolders(tmp_path).splits(split=record)) == record
    with pytest.raises(ValueError, match=message):
        ClassFolders(tmp_path).splits(split=record | change)


def test_errors_show_odd_names_in_one_printable_line(tmp_path):
    fill(tmp_path / "cat")
    (tmp_path / os.fsdecode(b"new\n\xff")).mkdir()
    with pytest.raises(ValueError) as caught:
        ClassFolders(tmp_path).splits()
    assert r"'new\n\udcff'" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("link", "target", "named"),
    [
        ("train/kitty", "train/cat", "'train/cat' and 'train/kitty'"),
        ("train/kitty", "train/cat/young", "'train/cat' and 'train/kitty'"),
        ("val", "train", "'train/cat' and 'val/cat'"),
    ],
)
def test_links_that_give_two_class_folders_the_same_images_are_refused(tmp_path, link, target, named):
    fill_splits(tmp_path, "train")
    fill(tmp_path / "train" / "cat" / "young")
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=f"{named}, and a link gives both the same images"):
        ClassFolders(tmp_path).splits()
