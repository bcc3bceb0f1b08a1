"""Folders become sources with the labels that their names say."""

import hashlib
import json
import os
import pickle
import random
import unicodedata

import numpy as np
import pytest
from PIL import Image

from resnet_rs.data.folders import ClassFolders, split_record
from resnet_rs.data.sample import Request, Unreadable


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


def labels_by_name(source):
    return {(source.key(i), source.classes[source.labels[i]]) for i in range(len(source))}


def all_files(splits):
    record = split_record(splits)
    return sorted(record["train"] + record["test"])


def test_class_folders_give_images_with_the_label_of_their_folder(tmp_path):
    fill(tmp_path / "dog", 3, grey=200)
    fill(tmp_path / "cat", 2, grey=50)
    splits = ClassFolders(tmp_path).splits()
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.test)) == (3, 2)
    for half in (splits.train, splits.test):
        for i in range(len(half)):
            sample = half.read(i, Request(3))
            assert sample.key == half.key(i)
            assert half.classes[sample.target.index] == sample.key.split("/")[0]
            np.testing.assert_array_equal(sample.input, np.full((3, 2, 3), [50, 200][sample.target.index]))


def test_train_and_val_folders_are_the_splits(tmp_path):
    splits = ClassFolders(fill_splits(tmp_path, "train", "val")).splits()
    assert split_record(splits) == {
        "train": ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"],
        "test": ["val/cat/0.png", "val/cat/1.png", "val/dog/0.png", "val/dog/1.png"],
    }
    assert splits.train.labels == splits.test.labels == (0, 0, 1, 1)


def test_a_lone_train_folder_is_split(tmp_path):
    splits = ClassFolders(fill_splits(tmp_path, "train")).splits()
    assert all_files(splits) == ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"]
    assert splits.train.labels == splits.test.labels == (0, 1)


def test_train_may_be_a_class_among_others(tmp_path):
    for name in ("bus", "train", "tram"):
        fill(tmp_path / name)
    assert ClassFolders(tmp_path).splits().train.classes == ("bus", "train", "tram")


@pytest.mark.parametrize("num_images", [2, 3, 7, 8, 13, 40])
def test_a_fifth_of_each_class_with_the_smallest_hashes_is_tested(tmp_path, num_images):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(num_images):
            (tmp_path / name / f"{i}.jpg").touch()
    expected = []
    for name in ("cat", "dog"):
        files = [f"{name}/{i}.jpg" for i in range(num_images)]
        files.sort(key=lambda path: hashlib.sha256(path.encode()).hexdigest())
        expected += sorted(files[: max(1, round(num_images / 5))])
    splits = ClassFolders(tmp_path).splits()
    assert split_record(splits)["test"] == expected
    assert len(all_files(splits)) == len(set(all_files(splits))) == 2 * num_images


def test_the_order_of_the_listing_changes_nothing(tmp_path, monkeypatch):
    for name in ("cat", "dog", "eel"):
        fill(tmp_path / name, 9)
        fill(tmp_path / name / "more", 3)
    expected = ClassFolders(tmp_path).splits()
    real = os.scandir

    class Shuffled:
        def __init__(self, path):
            with real(path) as entries:
                found = list(entries)
            self.entries = random.sample(found, len(found))

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    for _ in range(5):
        assert ClassFolders(tmp_path).splits() == expected


def test_the_place_of_the_root_changes_neither_split_nor_digest(tmp_path):
    roots = [tmp_path / "here", tmp_path / "over" / "there"]
    for root in roots:
        for name in ("cat", "dog"):
            fill(root / name, 10)
    here, there = (ClassFolders(root).splits() for root in roots)
    assert split_record(here) == split_record(there)
    assert here.train.digest() == there.train.digest()


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["010", "2", "1"], ("1", "2", "010")),
        (["-1", "0", "-10"], ("-10", "-1", "0")),
        (["10", "2", "a"], ("10", "2", "a")),
        (["class10", "class2"], ("class10", "class2")),
        (["1", "01"], ("01", "1")),
        (["b", "B", "a", "ä"], ("B", "a", "b", "ä")),
        (["²", "1"], ("1", "²")),
    ],
)
def test_classes_are_sorted_as_numbers_only_if_all_are_integers(tmp_path, names, ordered):
    for name in names:
        fill(tmp_path / name)
    assert ClassFolders(tmp_path).splits().test.classes == ordered


def test_a_record_restores_exactly_the_split_it_was_made_of(tmp_path):
    for name in ("2", "10", "1"):
        fill(tmp_path / name, 9)
    splits = ClassFolders(tmp_path).splits()
    record = json.loads(json.dumps(split_record(splits)))
    assert ClassFolders(tmp_path).splits(split=record) == splits
    other = {"train": record["test"] + record["train"][5:], "test": record["train"][:5]}
    restored = split_record(ClassFolders(tmp_path).splits(split=other))
    assert {half: sorted(files) for half, files in restored.items()} == {
        half: sorted(files) for half, files in other.items()
    }


@pytest.mark.parametrize("splits", [["train", "val"], ["train", "test"], ["train"]])
def test_a_record_restores_split_folders_too(tmp_path, splits):
    opened = ClassFolders(fill_splits(tmp_path, *splits)).splits()
    assert ClassFolders(tmp_path).splits(split=split_record(opened)) == opened


def test_a_record_with_a_class_called_train_keeps_the_classes(tmp_path):
    for name in ("bus", "train"):
        fill(tmp_path / name)
    splits = ClassFolders(tmp_path).splits()
    assert ClassFolders(tmp_path).splits(split=split_record(splits)) == splits


def test_images_and_classes_that_come_later_do_not_join_a_recorded_split(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 5)
    splits = ClassFolders(tmp_path).splits()
    fill(tmp_path / "cat", 9)
    fill(tmp_path / "ant", 3)
    (tmp_path / "bee").mkdir()
    assert ClassFolders(tmp_path).splits(split=split_record(splits)) == splits


def test_images_below_a_class_folder_belong_to_the_class(tmp_path):
    fill(tmp_path / "cat" / "2019" / "may")
    fill(tmp_path / "cat" / "dog", 1)
    fill(tmp_path / "dog")
    files = all_files(ClassFolders(tmp_path).splits())
    assert [path for path in files if path.startswith("cat/")] == [
        "cat/2019/may/0.png",
        "cat/2019/may/1.png",
        "cat/dog/0.png",
    ]


def test_three_hundred_folders_inside_each_other_are_walked(tmp_path):
    deep = tmp_path / "cat" / "/".join("d" * 300)
    fill(tmp_path / "dog")
    fill(tmp_path / "cat", 1)
    deep.mkdir(parents=True)
    (deep / "x.png").touch()
    assert f"cat/{'d/' * 300}x.png" in all_files(ClassFolders(tmp_path).splits())


def test_hidden_names_and_what_is_no_image_are_left_out(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
        for other in (".0.png", "._1.png", "notes.txt", "Thumbs.db", "png", "x.png.part", ".DS_Store"):
            (tmp_path / name / other).touch()
        fill(tmp_path / name / ".thumbnails")
        fill(tmp_path / name / "__MACOSX")
    fill(tmp_path / ".ipynb_checkpoints")
    fill(tmp_path / "__MACOSX" / "cat")
    (tmp_path / "loose.png").touch()
    splits = ClassFolders(tmp_path).splits()
    assert splits.train.classes == ("cat", "dog")
    assert all_files(splits) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


def test_endings_count_in_any_case(tmp_path):
    fill(tmp_path / "dog")
    (tmp_path / "cat").mkdir()
    for name in ("a.JPG", "b.Jpeg", "c.TIFF", "d.webp", "e.npy", "f.HEIC"):
        (tmp_path / "cat" / name).touch()
    files = [path for path in all_files(ClassFolders(tmp_path).splits()) if path.startswith("cat/")]
    assert files == ["cat/a.JPG", "cat/b.Jpeg", "cat/c.TIFF", "cat/d.webp", "cat/e.npy", "cat/f.HEIC"]


ODD_NAMES = [
    "a b",
    " lead",
    "trail ",
    "new\nline",
    "tab\ttab",
    "it's",
    'say "x"',
    "#1",
    "100%",
    "%2e%2e",
    "back\\slash",
    "🐈‍⬛",
    "חתול",
    "\u202egnp.tac",
    unicodedata.normalize("NFC", "é"),
    unicodedata.normalize("NFD", "é"),
    "CASE",
    "case",
    "-rf",
    "~",
    "*",
    "con",
    os.fsdecode(b"\xff\xfe raw"),
    "x" * 255,
]


def test_odd_names_of_classes_and_files_are_read_and_restored(tmp_path):
    for i, name in enumerate(ODD_NAMES):
        fill(tmp_path / name, 2, grey=i)
        # Cut from the front, as 255 bytes are all that a file system allows.
        Image.new("L", (1, 1), i).save(tmp_path / name / f"{name[-200:]}.png")
    splits = ClassFolders(tmp_path).splits()
    assert splits.train.classes == tuple(sorted(ODD_NAMES))
    for half in (splits.train, splits.test):
        for i in range(len(half)):
            sample = half.read(i, Request(1))
            assert ODD_NAMES[int(sample.input[0, 0, 0])] == half.classes[sample.target.index]
    record = json.loads(json.dumps(split_record(splits)))
    assert ClassFolders(tmp_path).splits(split=record) == splits
    assert len({splits.train.digest(), splits.test.digest()}) == 2


def test_links_in_circles_end(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
        (tmp_path / name / "up").symlink_to(tmp_path)
        (tmp_path / name / "self").symlink_to(tmp_path / name)
        (tmp_path / name / "loop.png").symlink_to("loop.png")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "root").symlink_to(tmp_path)
    (tmp_path / "above").symlink_to("/")
    splits = ClassFolders(tmp_path).splits()
    assert splits.train.classes == ("cat", "dog")
    assert len(all_files(splits)) == 6


def test_links_to_folders_are_followed_for_root_splits_and_classes(tmp_path):
    fill_splits(tmp_path / "real", "train", "val")
    fill(tmp_path / "real" / "extra", 3)
    linked = tmp_path / "linked"
    (linked / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (linked / "train" / name).symlink_to(tmp_path / "real" / "train" / name)
    (linked / "val").symlink_to(tmp_path / "real" / "val")
    (linked / "train" / "cat" / "extra").symlink_to(tmp_path / "real" / "extra")
    (tmp_path / "root").symlink_to(linked)
    splits = ClassFolders(tmp_path / "root").splits()
    assert labels_by_name(splits.train) == {
        (f"train/{name}/{i}.png", name) for name in ("cat", "dog") for i in range(2)
    }
    assert splits.test.read(3, Request(1)).key == "val/dog/1.png"


def test_a_linked_image_is_an_image_and_a_dangling_one_is_unreadable(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 1)
    fill(tmp_path / ".store", 1, grey=99)
    (tmp_path / "cat" / "linked.png").symlink_to(tmp_path / ".store" / "0.png")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    record = {"train": ["cat/linked.png", "dog/gone.png"], "test": ["cat/0.png", "dog/0.png"]}
    assert all_files(ClassFolders(tmp_path).splits()) == sorted(record["train"] + record["test"])
    source = ClassFolders(tmp_path).splits(split=record).train
    assert source.read(0, Request(1)).input[0, 0, 0] == 99
    with pytest.raises(
        Unreadable, match="cannot read 'dog/gone.png': there is no regular file with this name"
    ):
        source.read(1, Request(1))


def test_pipes_are_left_out_and_never_waited_for(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
        os.mkfifo(tmp_path / name / "pipe.png")
    splits = ClassFolders(tmp_path).splits()
    assert len(all_files(splits)) == 4
    (tmp_path / splits.train.key(0)).unlink()
    os.mkfifo(tmp_path / splits.train.key(0))
    with pytest.raises(Unreadable, match="no regular file"):
        splits.train.read(0, Request(1))


def test_damaged_and_vanished_images_are_unreadable_under_their_keys(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name)
    source = ClassFolders(tmp_path).splits().train
    (tmp_path / source.key(0)).unlink()
    (tmp_path / source.key(1)).write_bytes(b"<html>")
    for index, reason in ((0, "there is no regular file"), (1, "begins with b'<html>'")):
        with pytest.raises(Unreadable, match=reason) as caught:
            source.read(index, Request(3))
        assert caught.value.key == source.key(index)


def test_a_source_is_read_alike_in_another_folder_and_process(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        fill(tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    source = ClassFolders("data").splits().train
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    np.testing.assert_array_equal(copy.read(0, Request(3)).input, source.read(0, Request(3)).input)


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Val"), ("training", "testing"), ("TRAIN", "valid"), ("train", "Validation")],
)
def test_other_usual_names_of_splits_are_known(tmp_path, train, test):
    for split in (train, test):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("L", (3, 3)).save(folder / "1.png")
    splits = ClassFolders(tmp_path).splits()
    assert splits.train.classes == ("cat", "dog")
    assert splits.test.key(0) == f"{test}/cat/1.png"


def test_the_limit_of_pixels_is_set_for_both_splits_and_named_as_the_cure(tmp_path):
    splits = ClassFolders(fill_splits(tmp_path, "train", "val"), max_pixels=5).splits()
    for source in (splits.train, splits.test, ClassFolders(tmp_path, max_pixels=5).for_scoring()):
        with pytest.raises(
            Unreadable, match=r"2 x 3 pixels, more than the limit of 5; raise it with --max-pixels"
        ):
            source.read(0, Request(1))
    assert ClassFolders(tmp_path, max_pixels=6).splits().train.read(0, Request(1)).input.shape == (3, 2, 1)
