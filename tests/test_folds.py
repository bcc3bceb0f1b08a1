"""Cross-validation: every image is tested once, by a run that has not seen it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import QUICK, paint

from resnet_rs.data import dataset
from resnet_rs.data.subset import fold_parts

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40)}
EDITS = [edit.replace("batch_size=16", "batch_size=8") for edit in QUICK]


@pytest.fixture
def photos(tmp_path):
    """13 images of two colors, and one of a third."""
    for i in range(13):
        name = ("red", "green")[i % 2]
        paint(tmp_path / "photos" / name / f"{i}.png", COLORS[name], seed=i)
    paint(tmp_path / "photos" / "blue" / "1.png", (40, 40, 200), seed=20)
    return tmp_path / "photos"


def train(command, photos, out, *, folds=3):
    words = ("train", "resnet-rs-tiny", "--data", photos, "--out", out, *EDITS)
    return command(*words, "--folds", folds)


@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.sampled_from("abc"), max_size=2, unique=True)),
    st.integers(2, 6),
)
def test_folds_hold_out_each_sample_at_most_once_and_no_class_whole(classes, count):
    parts = fold_parts(classes, count)
    assert len(parts) == count and sum(map(len, parts)) == len(set().union(*parts))
    for part in parts:
        left = {name for key, present in classes.items() if key not in part for name in present}
        assert left == {name for present in classes.values() for name in present}
    assert fold_parts(dict(reversed(classes.items())), count) == parts


@pytest.mark.parametrize("count", [2, 5, 20])
def test_folds_of_one_label_per_sample_hold_out_all_of_them_evenly(count):
    classes = {f"{name}/{i}": (name,) for name, size in (("a", 20), ("b", 33)) for i in range(size)}
    parts = fold_parts(classes, count)
    assert set().union(*parts) == set(classes)
    for name in "ab":
        sizes = [sum(key[0] == name for key in part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_scores_of_all_folds_are_those_of_the_runs_together(photos, tmp_path, command):
    out = tmp_path / "folds"
    said = train(command, photos, out)
    assert said.returncode == 0, said.stderr
    assert [f"fold {i} of 3:" in said.stdout for i in (1, 2, 3)] == [True] * 3
    runs = [json.loads((out / f"fold-{i}" / "run.json").read_text()) for i in (1, 2, 3)]
    tested = [key for run in runs for key in run["split"]["test"]]
    assert len(tested) == len(set(tested)) == 13  # the only image of a class is never tested
    assert all(len(run["split"]["train"]) == 14 - len(run["split"]["test"]) for run in runs)
    scores = [json.loads((out / f"fold-{i}" / "scores.json").read_text()) for i in (1, 2, 3)]
    pooled = json.loads((out / "scores.json").read_text())
    assert pooled["count"] == 13 and pooled["num_folds"] == 3
    assert pooled["top1"] == pytest.approx(sum(s["top1"] * s["count"] for s in scores) / 13)
    assert pooled["nll"] == pytest.approx(sum(s["nll"] * s["count"] for s in scores) / 13, rel=1e-4)
    assert "all 3 folds:" in said.stdout and "scored 13 images" in said.stdout

    weights = [(out / f"fold-{i}" / "scores.json").read_bytes() for i in (1, 2, 3)]
    paint(photos / "red" / "new.png", COLORS["red"], seed=30)
    again = train(command, photos, out)
    assert again.returncode == 0 and again.stdout.count("continues after update") == 3
    assert weights == [(out / f"fold-{i}" / "scores.json").read_bytes() for i in (1, 2, 3)]
    assert json.loads((out / "scores.json").read_text()) == pooled
    other = train(command, photos, out, folds=4)
    assert other.returncode == 2 and "of another number of folds, or of other images" in other.stderr
    fewer = train(command, photos, out, folds=2)
    assert fewer.returncode == 2 and "holds something else than 2 folds" in fewer.stderr


def test_folds_have_the_plan_of_the_first(photos, tmp_path, command):
    out = tmp_path / "folds"
    said = command(
        "train", "--data", photos, "--out", out, "--from", "none", "--minutes", "0.2", "--folds", "2"
    )
    assert said.returncode == 0, said.stderr
    first, second = (json.loads((out / f"fold-{i}" / "run.json").read_text()) for i in (1, 2))
    assert first["changes"] == second["changes"] and first["minutes"] == second["minutes"] == 0.1
    experiments = [(out / f"fold-{i}" / "experiment.json").read_bytes() for i in (1, 2)]
    assert experiments[0] == experiments[1]


def test_wrong_folds_are_refused(photos, tmp_path, command):
    many = train(command, photos, tmp_path / "a", folds=14)
    assert many.returncode == 2 and "too few for 14 folds. Give at most 13" in many.stderr
    one = train(command, photos, tmp_path / "b", folds=1)
    assert one.returncode == 2 and not (tmp_path / "b").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    used = train(command, photos, tmp_path / "c")
    assert used.returncode == 2 and "holds something else than 3 folds" in used.stderr
    (tmp_path / "parts").mkdir()
    photos.rename(tmp_path / "parts" / "train")
    paint(tmp_path / "parts" / "val" / "red" / "1.png", COLORS["red"], seed=1)
    parts = train(command, tmp_path / "parts", tmp_path / "d")
    assert parts.returncode == 2 and "says itself which images are for testing" in parts.stderr
    with pytest.raises(ValueError, match="says itself which images are for testing"):
        dataset.find("builtin").folds(3)
