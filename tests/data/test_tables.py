"""CSV files become sources with the labels and parts that they name."""

import os
import warnings

import pytest
from PIL import Image

from resnet_rs.data import dataset
from resnet_rs.data.folders import split_record
from resnet_rs.data.sample import Request
from resnet_rs.data.survey import classes_without
from resnet_rs.data.tables import read_table


@pytest.fixture
def table(tmp_path):
    """Writes a table beside ten images `0.png` to `9.png`, whose gray value is ten times their number."""
    for i in range(10):
        Image.new("L", (2, 2), 10 * i).save(tmp_path / f"{i}.png")

    def write(*lines, header="path,label,split", encoding="utf-8", newline="\n"):
        path = tmp_path / "labels.csv"
        path.write_bytes(newline.join([header, *lines]).encode(encoding))
        return str(path)

    return write


def shown(source):
    """The images of a source by their gray values, with their labels."""
    found = {}
    for i in range(len(source)):
        sample = source.read(i, Request(1))
        found[int(sample.input[0, 0, 0]) // 10] = [source.classes[n] for n in sample.target.class_indices]
    return found


def test_rows_are_images_with_their_label_in_the_part_they_name(table):
    path = table("0.png,cat,train", "1.png,dog,Training", "2.png,dog,val", "3.png,cat,test", "4.png,dog,TEST")
    splits = dataset.find(path).open()
    assert shown(splits.train) == {0: ["cat"], 1: ["dog"]}
    assert shown(splits.validation) == {2: ["dog"]} and shown(splits.test) == {3: ["cat"], 4: ["dog"]}
    assert shown(dataset.find(path).open_test()) == shown(splits.test)
    assert dataset.find(path).has_test_part and dataset.find(path).automatic_split(splits) is None


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test", "testing"])
def test_one_part_beside_train_is_the_test_part(table, name):
    splits = read_table(table("0.png,a,train", "1.png,b,train", f"2.png,a,{name}")).splits()
    assert shown(splits.test) == {2: ["a"]} and splits.validation is None
    assert classes_without(splits.test) == ["b"]


def test_without_a_split_a_fifth_of_each_class_is_for_testing_and_recorded(table):
    lines = [f"{i}.png,{'a' if i < 5 else 'b'}" for i in range(10)]
    path = table(*lines, header="path,label")
    splits = dataset.find(path).open()
    record = dataset.find(path).automatic_split(splits)
    assert record == split_record(splits) and len(record["train"]) == 8
    assert classes_without(splits.test) == []
    table(*reversed(lines), header="path,label")
    assert dataset.find(path).open(split=record) == splits
    table(*lines[:-3], header="path,label")
    with pytest.raises(
        FileNotFoundError, match=r"lacks [23] of the 10 files of the recorded split: .*Restore them"
    ):
        dataset.find(path).open(split=record)


def test_other_labels_are_another_digest(table):
    one = read_table(table("0.png,a,train", "1.png,b,train", "2.png,b,test")).splits().train
    other = read_table(table("0.png,b,train", "1.png,a,train", "2.png,b,test")).splits().train
    assert one.files == other.files and one.digest() != other.digest()


def test_several_labels_or_none_make_the_data_multi_label(table):
    splits = read_table(table("0.png,b|a,train", "1.png,,train", '2.png," a | b|a",test', "  ")).splits()
    assert shown(splits.train) == {0: ["a", "b"], 1: []} and shown(splits.test) == {2: ["a", "b"]}


def test_labels_like_numbers_are_names_in_the_order_of_numbers(table):
    rows = [
        f"{i}.png,{label},{part}"
        for i, (label, part) in enumerate([(10, "train"), (2, "train"), (10, "test")])
    ]
    assert read_table(table(*rows)).splits().train.classes == ("2", "10")


def test_absolute_paths_quotes_umlauts_and_windows_line_ends_are_read(table, tmp_path):
    (tmp_path / 'a "b", c').mkdir()
    Image.new("L", (2, 2), 70).save(tmp_path / 'a "b", c' / "Bär.png")
    rows = (f"{tmp_path / '0.png'},cat,train", '"a ""b"", c/Bär.png",Bär,train', "./1.png,cat,test", "")
    path = table(*rows, encoding="utf-8-sig", newline="\r\n")
    splits = read_table(path).splits()
    assert shown(splits.train) == {0: ["cat"], 7: ["Bär"]} and splits.test.key(0) == "1.png"
    assert os.path.isabs(splits.train.key(0))


def test_a_table_for_scoring_needs_one_class_and_no_training_images(table):
    assert shown(read_table(table("0.png,a,test", "1.png,a,test")).for_scoring()) == {0: ["a"], 1: ["a"]}
    assert shown(read_table(table("0.png,a", header="path,label")).for_scoring()) == {0: ["a"]}


def test_rows_that_are_added_later_change_no_recorded_split(table):
    lines = [f"{i}.png,{'a' if i < 4 else 'b'}" for i in range(8)]
    splits = read_table(table(*lines, header="path,label")).splits()
    longer = read_table(table(*lines, "8.png,c", "9.png,a|b", header="path,label"))
    assert longer.splits(split=split_record(splits)) == splits


def test_a_link_to_a_table_lies_where_the_link_lies(table, tmp_path):
    path = table("0.png,a,train", "1.png,b,train", "2.png,b,test")
    (tmp_path / "elsewhere").mkdir()
    os.replace(path, tmp_path / "elsewhere" / "t.csv")
    os.symlink(tmp_path / "elsewhere" / "t.csv", path)
    opened = dataset.find(path)
    assert shown(dataset.find(opened.name).open().train) == shown(opened.open().train) == {0: ["a"], 1: ["b"]}


def test_no_class_of_a_multi_label_table_is_left_out_of_training(table):
    lines = [f"{i}.png,a{'|rare' if i in (3, 7) else ''}" for i in range(10)]
    splits = read_table(table(*lines, header="path,label")).splits()
    assert classes_without(splits.train) == [] and len(splits.test) in (1, 2)


def test_other_columns_are_named_and_ignored(table):
    path = table("x,0.png,a,train", "y,1.png,b,train", "z,2.png,b,test", header="id,Path,LABEL,split")
    with pytest.warns(UserWarning, match=r"has columns that are ignored: 'id'. Known are path, label, split"):
        assert shown(read_table(path).splits().test) == {2: ["b"]}


GOOD = ("0.png,a,train", "1.png,b,train", "2.png,b,test")


@pytest.mark.parametrize(
    ("header", "rows", "parts"),
    [
        ("", GOOD, ["has no column 'path' and no column 'label'", "expected 'path,label'", "Add it"]),
        ("path;label", ("0.png;a",), ["has semicolons or tabs between", "expected commas"]),
        ("path,split", GOOD, ["has no column 'label'", "Add it"]),
        ("path,label,label", GOOD, ["has the column 'label' twice", "Remove"]),
        ("path,label,split", (*GOOD, "3.png,a"), ["line 5", "has 2 values; expected 3", "double quotes"]),
        (
            "path,label,split",
            (*GOOD, '"3.png,a,train'),
            ["are not those of a CSV file", "after line 4", "double quotes"],
        ),
        (
            "path,label,split",
            (*GOOD, '3.png,"a"b,train'),
            ["are not those of a CSV file", "after line 4", "double quotes"],
        ),
        (
            "path,label,split",
            (*GOOD, "3.png,a,holdout"),
            ["line 5", "split 'holdout'; expected train, val or test"],
        ),
        ("path,label,split", (*GOOD, "3.png,a,"), ["line 5", "split ''"]),
        ("path,label,split", (*GOOD, ",a,train"), ["line 5", "has no path"]),
        (
            "path,label,split",
            (*GOOD, "x.png,a,train", "y.png,a,test"),
            ["2 of the 5 files that", "missing or folders: 'x.png', 'y.png'"],
        ),
        ("path,label,split", (*GOOD, "./0.png,a,test"), ["listed once, got", "0.png' more than once"]),
        (
            "path,label,split",
            ("0.png,a,train", "1.png,a,test"),
            ["has only one class, 'a'; expected two or more", "Add"],
        ),
        ("path,label,split", (*GOOD, "3.png,c,test"), ["no training images of 'c'", "Add them"]),
        ("path,label", ("0.png,a", "1.png,b"), ["only one image of every class", "Add images"]),
        ("path,label", (), ["has no rows below its header", "Add"]),
        ("path,label", ("0.png,a", "1.png,b", "2.png,"), ["has no label for '2.png'", "expected one", "Add"]),
        ("path,label", ("0.png,a", ".,b"), ["1 of the 2 files that", "missing or folders: '.'", "Correct"]),
    ],
)
def test_a_wrong_table_is_answered_with_what_is_there_what_is_expected_and_what_to_do(
    table, header, rows, parts
):
    with pytest.raises((ValueError, FileNotFoundError)) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_table(table(*rows, header=header)).splits()
    message = str(caught.value)
    places = [message.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), message
    assert "\n" not in message and message.endswith(".")


def test_a_table_that_is_not_utf8_is_refused(table):
    with pytest.raises(ValueError, match="is not UTF-8 text.*Save it as UTF-8"):
        read_table(table("0.png,Bär,train", encoding="latin-1"))
