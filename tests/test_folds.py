"""Cross-validation: every image is tested once, by a run that has not seen it."""

import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import QUICK, paint

from resnet_rs.data import dataset
from resnet_rs.data.subset import fold_parts
from resnet_rs.verbs import cross_validation, experiment, plans

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40)}
EDITS = [edit.replace("batch_size=16", "batch_size=4") for edit in QUICK]


@pytest.fixture
def photos(tmp_path):
    """13 images of two colors, and one of a third."""
    for i in range(13):
        name = ("red", "green")[i % 2]
        paint(tmp_path / "photos" / name / f"{i}.png", COLORS[name], seed=i)
    paint(tmp_path / "photos" / "blue" / "1.png", (40, 40, 200), seed=20)
    return tmp_path / "photos"


def train(command, photos, out, *more, folds=3):
    words = ("train", "resnet-rs-tiny", "--data", photos, "--out", out, *EDITS, *more)
    return command(*words, "--folds", folds)


def scores_of(out, count=3):
    return [json.loads((out / f"fold-{i}" / "scores.json").read_text()) for i in range(1, count + 1)]


@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.sampled_from("abc"), max_size=2, unique=True)),
    st.integers(2, 6),
)
def test_folds_hold_out_each_sample_once_except_the_last_of_a_class(classes, count):
    parts = fold_parts(classes, count)
    held = set().union(*parts)
    assert len(parts) == count and sum(map(len, parts)) == len(held)
    names = {name for present in classes.values() for name in present}
    for part in parts:
        assert names == {name for key, present in classes.items() if key not in part for name in present}
    if all(len(present) < 2 for present in classes.values()):
        only = [key for key in classes if classes[key] and list(classes.values()).count(classes[key]) == 1]
        assert classes.keys() - held == set(only)
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


def test_the_scores_of_all_folds_are_those_of_the_runs_together(photos, tmp_path, command, monkeypatch):
    """Also after a signal between two folds, and with new images and classes."""
    out, resolve = tmp_path / "folds", cross_validation.resolve
    kill = lambda *args, **options: os.kill(os.getpid(), signal.SIGTERM) or resolve(*args, **options)  # noqa: E731
    monkeypatch.setattr(cross_validation, "resolve", kill)
    stopped = train(command, photos, out)
    assert stopped.returncode == 75 and "the same command continues" in stopped.stderr
    assert not (out / "scores.json").exists() and not (out / "fold-3").exists()
    monkeypatch.undo()
    paint(photos / "red" / "new.png", COLORS["red"], seed=30)
    paint(photos / "violet" / "new.png", (200, 40, 200), seed=31)
    said = train(command, photos, out)
    assert said.returncode == 0, said.stderr
    assert [f"fold {i} of 3:" in said.stdout for i in (1, 2, 3)] == [True] * 3
    runs = [json.loads((out / f"fold-{i}" / "run.json").read_text()) for i in (1, 2, 3)]
    tested = [key for run in runs for key in run["split"]["test"]]
    assert len(tested) == len(set(tested)) == 13  # the only image of a class is never tested
    assert all(len(run["split"]["train"]) == 14 - len(run["split"]["test"]) for run in runs)
    pooled, scores = json.loads((out / "scores.json").read_text()), scores_of(out)
    assert pooled["count"] == 13 and pooled["num_folds"] == 3
    assert pooled["top1"] == pytest.approx(sum(s["top1"] * s["count"] for s in scores) / 13)
    assert pooled["nll"] == pytest.approx(sum(s["nll"] * s["count"] for s in scores) / 13, rel=1e-4)
    assert "all 3 folds:" in said.stdout and "scored 13 images" in said.stdout
    other = train(command, photos, out, folds=4)
    assert other.returncode == 2 and "of another number of folds, or of other images" in other.stderr


def test_folds_of_a_table_with_several_labels_validation_images_and_a_damaged_one(photos, tmp_path, command):
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    rows[1] += "|blue"
    (tmp_path / rows[4].partition(",")[0]).write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    said = train(command, tmp_path / "labels.csv", tmp_path / "out", "recipe.validation=0.3", folds=2)
    assert said.returncode == 0, said.stderr
    pooled = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert pooled["count"] == sum(s["count"] for s in scores_of(tmp_path / "out", 2))
    assert [item["key"] for item in pooled["unreadable"]] == [rows[4].partition(",")[0]]
    assert "calibrated with a temperature" not in said.stdout.partition("all 2 folds")[2]


def test_folds_have_the_plan_of_the_first(photos, tmp_path, command, monkeypatch):
    """Here the machine seems to become faster all the time."""
    speeds = iter(range(1, 1000))
    monkeypatch.setattr(plans, "measure_speed", lambda *args, **options: (float(next(speeds)), 0.0))
    (tmp_path / "parts").mkdir()
    photos.rename(tmp_path / "parts" / "train")  # a folder `train` alone is split automatically, too
    words = ("--data", tmp_path / "parts", "--out", tmp_path / "out", "--minutes", "0.6", "--folds", "2")
    said = command("train", "resnet-rs-tiny", *words)
    assert said.returncode == 0, said.stderr
    runs = [json.loads((tmp_path / "out" / f"fold-{i}" / "run.json").read_text()) for i in (1, 2)]
    assert runs[0]["changes"] == runs[1]["changes"] and [run["minutes"] for run in runs] == [0.6, 0.6]
    experiments = [(tmp_path / "out" / f"fold-{i}" / "experiment.json").read_bytes() for i in (1, 2)]
    assert experiments[0] == experiments[1]
    assert json.loads(experiments[0])["recipe"]["epochs"] != experiment("resnet-rs-tiny").recipe.epochs


def test_wrong_folds_are_refused(photos, tmp_path, command):
    many = train(command, photos, tmp_path / "a", folds=8)
    assert many.returncode == 2 and "too few for 8 folds; each needs 2" in many.stderr
    one = train(command, photos, tmp_path / "b", folds=1)
    assert one.returncode == 2 and not (tmp_path / "b").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    used = train(command, photos, tmp_path / "c")
    assert used.returncode == 2 and "is not empty and contains no folds" in used.stderr
    (tmp_path / "parts").mkdir()
    photos.rename(tmp_path / "parts" / "train")
    paint(tmp_path / "parts" / "val" / "red" / "1.png", COLORS["red"], seed=1)
    parts = train(command, tmp_path / "parts", tmp_path / "d")
    assert parts.returncode == 2 and "says itself which images are for testing" in parts.stderr
    with pytest.raises(ValueError, match="says itself which images are for testing"):
        dataset.find("builtin").folds(3)
