"""Images in a table, validation images and imbalanced classes, on the command line."""

import json
import shutil
import warnings

import pytest
from PIL import Image
from test_cli import QUICK, paint

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture
def photos(tmp_path):
    """36 images, of three colors; of blue only a few."""
    rows = []
    for i in range(36):
        name = "blue" if i % 9 == 8 else ("red", "green")[i % 2]
        paint(tmp_path / "photos" / f"{i}.png", COLORS[name], seed=i)
        rows.append((f"photos/{i}.png", name))
    return tmp_path, rows


def write(folder, rows, header="path,label"):
    table = folder / "labels.csv"
    table.write_text("\n".join([header, *(",".join(row) for row in rows)]))
    return table


def test_a_table_is_trained_continued_scored_and_predicted(photos, command):
    folder, rows = photos
    table, out = write(folder, rows), folder / "run"
    words = (
        "train",
        "resnet-rs-tiny",
        "--data",
        table,
        "--out",
        out,
        *QUICK,
        "recipe.class_balance=sampling",
    )
    first = command(*words)
    assert first.returncode == 0, first.stderr
    assert "balanced accuracy: " in first.stdout and (out / "results.csv").is_file()
    record = json.loads((out / "run.json").read_text())
    assert (record["num_train"], record["num_test"], record["data_title"]) == (29, 7, "labels.csv")
    again = command(*words)
    assert again.returncode == 0 and "continues after update" in again.stdout
    scored = command("evaluate", out, "--data", table, "--json")
    assert json.loads(scored.stdout)["count"] == 7  # not those that were trained
    shutil.copytree(out / "checkpoints", folder / "moved")
    moved = next((folder / "moved").iterdir())
    assert json.loads(command("evaluate", moved, "--data", table, "--json").stdout)["count"] == 7
    write(folder, [*rows[:-1], (rows[-1][0], "red")])
    changed = command(*words)
    assert changed.returncode == 2 and "or their labels, are others than when the" in changed.stderr


def test_several_labels_make_the_run_multi_label(photos, command):
    folder, rows = photos
    for i in range(12):  # half red, half blue
        both = Image.new("RGB", (20, 20), COLORS["red"])
        both.paste(COLORS["blue"], (0, 0, 10, 20))
        both.save(folder / "photos" / f"both-{i}.png")
        rows.append((f"photos/both-{i}.png", "red|blue"))
    table, out = write(folder, rows), folder / "run"
    edits = (*QUICK[1:], "recipe.epochs=20", "task.dropout=0")
    trained = command("train", "resnet-rs-tiny", "--data", table, "--out", out, *edits)
    assert trained.returncode == 0 and "mean average precision: " in trained.stdout, trained.stderr
    assert json.loads((out / "scores.json").read_text())["mean_ap"] > 0.8
    page = (out / "page.html").read_text()
    assert "average precision" in page and "binary cross-entropy" in page
    said = command("predict", out, folder / "photos" / "both-3.png", "--json")
    probabilities = json.loads(said.stdout)[0]["probabilities"]
    assert set(probabilities) == {"red", "green", "blue"} and probabilities["green"] < probabilities["red"]
    assert command("train", "resnet-rs-tiny", "--data", table, "--out", out, *edits).returncode == 0
    tuned = command(
        "train", "resnet-rs-tiny", "--data", table, "--out", folder / "tuned", "--from", out, *edits
    )
    assert tuned.returncode == 0 and "backbone and head" in tuned.stdout, tuned.stderr


def test_validation_images_are_kept_apart_and_the_result_is_calibrated(photos, command):
    folder, rows = photos
    table, out = write(folder, rows), folder / "run"
    edits = (*QUICK, "recipe.validation=0.2", "recipe.patience=2", "recipe.class_balance=loss")
    trained = command("train", "resnet-rs-tiny", "--data", table, "--out", out, *edits)
    assert trained.returncode == 0 and "validation   ema: " in trained.stdout, trained.stderr
    record = json.loads((out / "run.json").read_text())
    assert (record["num_train"], record["num_validation"], record["num_test"]) == (22, 7, 7)
    assert (out / "results.csv").read_text().splitlines()[0].endswith("validation/nll/model")
    scores = json.loads((out / "scores.json").read_text())
    scored = json.loads(command("evaluate", out, "--data", table, "--json").stdout)
    assert (
        scored["nll"] == scores["nll"] and scored["task"]["temperature"] == scores["task"]["temperature"] != 1
    )
    assert "Validation top-1" in (out / "page.html").read_text()
    before = (out / "page.html").read_bytes()
    assert command("report", out).returncode == 0 and (out / "page.html").read_bytes() == before
    card = pushed(command, out, folder / "card")
    assert "22 images for training, 7 for validation, 7 for testing" in card and "| top-1 |" in card
    assert f"Divide them by {scores['task']['temperature']}" in card and "task.temperature" not in card
    (out / "final" / "ema.safetensors").write_bytes(b"damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # shown, as for a user
        assert "## Scores" not in pushed(command, out, folder / "other")
    planned = command("plan", "resnet-rs-tiny", "--data", table, *edits)
    assert "22 to train, 7 for validation and 7 to test, 3 classes" in planned.stdout


def pushed(command, run, out):
    """The model card of a run."""
    assert command("push", run, "--out", out).returncode == 0
    return (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("recipe.validation=1", "validation must be in [0, 1), got 1"),
        ("recipe.validation=-0.1", "validation must be in [0, 1), got -0.1"),
        ("recipe.patience=1", "recipe.patience=1 needs validation images, and there are none"),
        ("recipe.patience=0", "patience must be 1 evaluation or more, or none, got 0"),
        ("recipe.class_balance=focal", "'focal': it must be none or sampling or loss"),
        ("task.temperature=0", "temperature must be in (0, 1000], got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(photos, command, edit, said):
    folder, rows = photos
    out = folder / "run"
    result = command("train", "resnet-rs-tiny", "--data", write(folder, rows), "--out", out, *QUICK, edit)
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and not out.exists()


def test_classes_without_test_images_are_named_and_a_missing_table_is_refused(photos, command):
    folder, rows = photos
    split = [(*row, "train" if row[1] == "blue" or i % 5 else "test") for i, row in enumerate(rows)]
    table = write(folder, split, header="path,label,split")
    trained = command("train", "resnet-rs-tiny", "--data", table, "--out", folder / "run", *QUICK)
    assert trained.returncode == 0, trained.stderr
    assert (
        "note: 1 of 3 classes have no test images: 'blue'. They are trained, but the scores" in trained.stdout
    )
    missing = command("train", "resnet-rs-tiny", "--data", folder / "no.csv", "--out", folder / "run")
    assert missing.returncode == 2 and "no.csv' does not exist; expected" in missing.stderr
