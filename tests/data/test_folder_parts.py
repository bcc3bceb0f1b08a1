"""Which images of a folder are for training, validation and testing."""

import pytest
from data.test_folders import fill, fill_splits

from resnet_rs.data import dataset
from resnet_rs.data.folders import ClassFolders, split_record
from resnet_rs.data.subset import with_validation
from resnet_rs.data.survey import classes_without


@pytest.mark.parametrize(
    ("folders", "tested"),
    [
        (["validation"], "validation"),
        (["test"], "test"),
        (["test", "val"], "test"),
        (["testing", "validation"], "testing"),
    ],
)
def test_with_a_test_folder_the_validation_folder_is_for_choosing(tmp_path, folders, tested):
    splits = ClassFolders(fill_splits(tmp_path, "train", *folders)).splits()
    assert {path.split("/")[0] for path in split_record(splits)["test"]} == {tested}
    assert {path.split("/")[0] for path in ClassFolders(tmp_path).for_scoring().files} == {tested}
    held = set() if splits.validation is None else {path.split("/")[0] for path in splits.validation.files}
    assert held == set(folders) - {tested}


def test_classes_without_test_images_are_trained_and_not_scored(tmp_path):
    fill_splits(tmp_path, "train", "val")
    fill(tmp_path / "train" / "eel")
    (tmp_path / "val" / "dog" / "0.png").unlink()
    (tmp_path / "val" / "dog" / "1.png").unlink()
    splits = ClassFolders(tmp_path).splits()
    assert splits.test.classes == ("cat", "dog", "eel") and set(splits.test.labels) == {0}
    assert classes_without(splits.test) == ["dog", "eel"] and classes_without(splits.train) == []


def test_a_single_image_of_a_class_is_for_training(tmp_path):
    fill(tmp_path / "cat", 4)
    fill(tmp_path / "dog", 1)
    splits = ClassFolders(tmp_path).splits()
    assert "dog/0.png" in splits.train.files and classes_without(splits.test) == ["dog"]
    assert ClassFolders(tmp_path).splits(split=split_record(splits)) == splits


def test_classes_may_be_called_like_splits_and_their_split_is_recorded(tmp_path):
    for name in ("valid", "invalid"):
        fill(tmp_path / name, 5)
    found = dataset.find(str(tmp_path))
    assert not found.has_test_part and found.automatic_split(found.open()) == split_record(
        ClassFolders(tmp_path).splits()
    )
    assert len(found.open_test()) == 10


def test_a_validation_part_of_recorded_files_is_the_same_again(tmp_path):
    for name in ("cat", "dog"):
        fill(tmp_path / name, 20)
    splits = with_validation(ClassFolders(tmp_path).splits(), 0.2)
    record = split_record(splits)
    assert len(record["train"]) == 32 and len(splits.train) == 26
    fill(tmp_path / "cat", 30)  # new images are ignored
    assert with_validation(ClassFolders(tmp_path).splits(split=record), 0.2) == splits
