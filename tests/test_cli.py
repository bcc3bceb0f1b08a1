"""The command line as a person meets it: what it prints, what it refuses, and its exit codes."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from warm import resnet_rs

QUICK = [
    "recipe.epochs=4",
    "recipe.batch_size=16",
    "recipe.ema_decay=0.7",
    "data.size=16",
    "arch.width=0.125",
    "data.mean=[0.5,0.5,0.5]",
    "data.std=[0.25,0.25,0.25]",
]


def paint(path, color, *, size=(24, 20), seed=0):
    """A noisy image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes by color in a folder with a space in its name; one image is truncated, one is a text."""
    root = tmp_path_factory.mktemp("my photos")
    for i in range(24):
        paint(root / "röd" / f"{i}.png", (200, 40, 40), seed=i)
        paint(root / "blå himmel" / f"{i}.jpg", (40, 40, 200), seed=i)
    broken = root / "röd" / "5.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (root / "blå himmel" / "notes.jpg").write_text("these are not pixels")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    result = resnet_rs("train", "resnet-rs-tiny", "--data", photos, "--out", out, *QUICK)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


@pytest.mark.parametrize(
    "verb",
    [[], *([verb] for verb in "list show train plan evaluate predict report convert pull study".split())],
    ids=lambda verb: " ".join(verb) or "none",
)
def test_help_answers_at_once(verb):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "resnet_rs", *verb, "--help"]
    result = subprocess.run(words, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0 and "Usage" in result.stdout
    # Processor time, since tests share the cores with each other.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_list_names_the_zoo_with_its_sizes(command):
    rows = json.loads(command("list", "resnet-rs-*", "--json").stdout)
    assert {"name": "resnet-rs-50-i160", "size": 160, "params": 35_691_912}.items() <= rows[0].items()
    assert len(rows) == 13


def test_show_tells_what_a_published_configuration_is(command):
    shown = json.loads(command("show", "resnet-rs-50-i160", "--json").stdout)
    assert (shown["params"], shown["steps"], shown["peak_lr"]) == (35_691_912, 109_475, 1.6)
    assert abs(shown["macs"] / 2.28e9 - 1) < 0.005
    assert shown["data"]["randaugment"]["magnitude"] == 10
    assert shown["recipe"]["ema_decay"] == 0.9999
    assert {"arch", "data", "task", "recipe"} <= shown.keys()


def test_show_takes_edits(command):
    shown = json.loads(command("show", "resnet-rs-50-i160", "arch.se_ratio=none", "--json").stdout)
    assert shown["edits"] == {"arch.se_ratio": None}
    assert shown["params"] < 35_691_912


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "resnet-rs-50"], "'resnet-rs-50' is not in the zoo. Closest: resnet-rs-50-i160"),
        (["show", "resnet-rs-50-i160", "arch.se_rate=1"], "has no field 'se_rate'. Closest: arch.se_ratio."),
        (
            ["show", "resnet-rs-50-i160", "recipe.epochs=x"],
            "cannot set 'recipe.epochs' to 'x': it must be a number.",
        ),
        (
            ["show", "resnet-rs-50-i160", "recipe.epochs"],
            "an edit is written field=value, got 'recipe.epochs'",
        ),
        (["show", "resnet-rs-50-i160", "arch.width=1", "arch.width=2"], "'arch.width' is set twice"),
        (["list", "vgg*"], "nothing in the zoo matches 'vgg*'"),
        (["train", "resnet-rs-tiny", "--data", "nowhere", "--out", "x"], "nowhere' does not exist"),
        (
            ["train", "resnet-rs-50-i160", "--data", "builtin", "--out", "x", "recipe.batch_size=20000"],
            "more than the 10000",
        ),
        (
            ["train", "resnet-rs-50-i160", "--data", "builtin", "--out", "x"],
            "half-life of 6,931 updates, longer than",
        ),
        (
            ["train", "recipe.batch_size=32", "--data", "builtin", "--out", "x"],
            "no experiment is named. Add `--minutes 10`",
        ),
        (
            ["train", "resnet-rs-tiny", "--data", "builtin", "--out", "x", "--device", "cuda:9"],
            "is not available here",
        ),
        (
            ["train", "resnet-rs-tiny", "--data", "builtin", "--out", "x", "task.num_classes=7"],
            "the data has 10 classes",
        ),
        (
            ["train", "resnet-rs-tiny", "--data", "builtin", "--out", "x", "--precision", "fp8"],
            "precision must be float32",
        ),
        (
            ["plan", "resnet-rs-tiny", "recipe.epochs=3", "--data", "builtin", "--minutes", "3"],
            "Leave one of the two out",
        ),
        (["plan", "--data", "builtin"], "no experiment is named. Add `--minutes 10`"),
        (["plan", "--data", "builtin", "--minutes", "nan"], "minutes must be in (0, inf) or none, got nan"),
        (
            ["plan", "--data", "builtin", "--latency-ms", "-1"],
            "latency_ms must be in (0, inf) or none, got -1",
        ),
        (
            ["plan", "--data", "builtin", "--minutes", "1", "--from", "run"],
            "with --from run the experiment must be named",
        ),
        (["show", "resnet-rs-tiny", "arch={" + '"blocks":[' * 10_000], "this is not valid JSON"),
        (["train", "resnet-rs-tiny", "--data", "builtin"], "Missing option '--out'"),
        (["evaluate", "nothing", "--data", "builtin"], "nothing is no folder"),
        (["predict", "nothing", "x.jpg"], "nothing is no folder; expected a run folder"),
        (["predict", "resnet-rs-5O-i160", "x.jpg"], "Closest: resnet-rs-50-i160."),
        (["report", "nothing"], "nothing is no folder"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_wrong_input_gets_one_message_and_exit_code_2(arguments, said, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    result = command(*arguments)
    assert result.returncode == 2
    assert said in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_training_on_a_folder_of_photos_works_and_names_what_it_could_not_read(trained):
    out, printed = trained
    assert "left out, unreadable: 'röd/5.png'" in printed
    assert "'blå himmel/notes.jpg'" in printed
    scores = json.loads((out / "scores.json").read_text())
    assert scores["count"] + len(scores["unreadable"]) == 10
    assert scores["top1"] > 0.8
    assert (out / "page.html").stat().st_size > 100_000
    assert {"experiment.json", "run.json", "log.jsonl", "checkpoints"} <= {f.name for f in out.iterdir()}


def test_the_automatic_split_is_written_down_and_stratified(trained):
    info = json.loads((trained[0] / "run.json").read_text())
    assert len(info["split"]["train"]) == 39 and len(info["split"]["test"]) == 10
    assert sum(key.startswith("röd/") for key in info["split"]["test"]) == 5
    assert info["classes"] == ["blå himmel", "röd"]


def test_the_same_command_again_changes_nothing(trained, photos, command):
    out, _ = trained
    before = (out / "scores.json").read_bytes()
    result = command("train", "resnet-rs-tiny", "--data", photos, "--out", out, *QUICK)
    assert result.returncode == 0
    assert (out / "scores.json").read_bytes() == before


def test_a_signal_saves_and_exits_with_code_75_and_a_second_command_is_refused_meanwhile(tmp_path):
    edits = ["recipe.epochs=3", "recipe.schedule.warmup_epochs=0.5", "data.size=16"]
    command = ["train", "resnet-rs-tiny", "--data", "builtin", *edits, "--out", tmp_path / "run"]
    script = [sys.executable, "-m", "resnet_rs", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        script, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while not (tmp_path / "run/log.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        second = resnet_rs(*command)
        assert second.returncode == 2 and f"is in use by process {process.pid} on" in second.stderr
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 75
    assert b"stopped by SIGTERM, saved after update" in said and b"Traceback" not in said
    for saved in (tmp_path / "run/checkpoints").iterdir():
        (saved / "model.safetensors").write_bytes(b"")
    none_valid = resnet_rs(*command)
    assert none_valid.returncode == 3
    assert "has no valid checkpoint" in none_valid.stderr and "Traceback" not in none_valid.stderr


def test_another_experiment_in_the_same_folder_is_refused_with_the_difference(trained, photos, command):
    edits = [edit for edit in QUICK if "epochs" not in edit]
    result = command(
        "train", "resnet-rs-tiny", "--data", photos, "--out", trained[0], *edits, "recipe.epochs=5"
    )
    assert result.returncode == 2
    assert "would change: recipe.epochs=5.0" in result.stderr


def test_evaluate_scores_the_recorded_test_images(trained, photos, command):
    out, _ = trained
    scores = json.loads(command("evaluate", out, "--data", photos, "--json").stdout)
    assert {
        "top1",
        "top1_low",
        "top1_high",
        "calibration_error",
        "count",
        "confusion",
        "classes",
    } <= scores.keys()
    stored = json.loads((out / "scores.json").read_text())
    assert (scores["top1"], scores["count"], scores["nll"]) == (
        stored["top1"],
        stored["count"],
        stored["nll"],
    )


def test_evaluate_never_scores_what_was_trained_on_wherever_it_lies_by_now(
    trained, photos, tmp_path, command
):
    shutil.copytree(photos, tmp_path / "moved")
    saved = next((trained[0] / "checkpoints").iterdir())
    shutil.copytree(saved, tmp_path / "weights")
    scores = json.loads(
        command("evaluate", tmp_path / "weights", "--data", tmp_path / "moved", "--json").stdout
    )
    assert scores["count"] == json.loads((trained[0] / "scores.json").read_text())["count"]


def test_evaluate_matches_classes_by_name(trained, tmp_path, command):
    """Only one of the classes, and the one that comes last: an index from the folders would call it the first."""
    for i in range(6):
        paint(tmp_path / "röd" / f"{i}.png", (200, 40, 40), seed=100 + i)
    scores = json.loads(command("evaluate", trained[0], "--data", tmp_path, "--json").stdout)
    assert scores["count"] == 6
    assert scores["top1"] == 1
    assert [item["count"] for item in scores["classes"]] == [0, 6]


def test_evaluate_refuses_a_class_that_the_model_does_not_know(trained, tmp_path, command):
    paint(tmp_path / "grön" / "1.png", (0, 200, 0))
    result = command("evaluate", trained[0], "--data", tmp_path)
    assert result.returncode == 2
    assert "the model does not know 1 classes of the data: grön" in result.stderr


def test_predict_names_the_class_and_exits_with_code_1_where_images_are_unreadable(
    trained, photos, tmp_path, command
):
    out, _ = trained
    paint(tmp_path / "one.png", (200, 40, 40), seed=77)
    paint(tmp_path / "speck.png", (40, 40, 200), size=(1, 1))
    paint(tmp_path / "strip.png", (40, 40, 200), size=(1, 20_000))
    result = command("predict", out, tmp_path, photos / "röd" / "5.png", "--json")
    assert result.returncode == 1
    assert "1 of 4 images could not be read" in result.stderr
    one, speck, strip, broken = json.loads(result.stdout)
    assert one["name"] == next(iter(one["probabilities"])) == "röd" and one["title"] is None
    assert sum(one["probabilities"].values()) == pytest.approx(1)
    assert len(speck["probabilities"]) == len(strip["probabilities"]) == 2
    assert broken.keys() == {"key", "unreadable"} and broken["unreadable"]


def test_predict_exits_with_code_0_where_all_images_are_readable_and_2_where_none_is(
    trained, photos, command
):
    good, bad = (command("predict", trained[0], photos / "röd" / f"{i}.png") for i in (1, 5))
    assert good.returncode == 0 and "1.png: röd " in good.stdout and good.stderr == ""
    assert bad.returncode == 2 and "none of the 1 images could be read" in bad.stderr
    assert "5.png: unreadable, " in bad.stdout


def test_report_writes_the_page_again(trained, command):
    page = trained[0] / "page.html"
    page.unlink()
    assert command("report", trained[0]).stdout.strip() == str(page)
    assert "röd" in page.read_text()


def test_report_reads_images_up_to_the_limit_of_the_run(tmp_path, command):
    for i in range(16):
        for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            paint(tmp_path / "photos" / name / f"{i}.png", color, size=(24 + i % 2, 20), seed=i)
    limit = ("--max-pixels", 24 * 20)
    train = ("train", "resnet-rs-tiny", "--data", tmp_path / "photos", "--out", tmp_path / "run")
    assert command(*train, *limit, *QUICK).returncode == 0
    page = tmp_path / "run/page.html"
    first = page.read_text()
    assert command("report", tmp_path / "run").returncode == 0
    assert page.read_text() == first


def test_a_plan_without_a_budget_has_the_edits_of_fit_with_reasons(photos, command):
    result = command("plan", "resnet-rs-50-i160", "--data", photos, "--json", "arch.width=0.125")
    plan = json.loads(result.stdout)
    assert plan["edits"]["arch.stem"] == "small"
    assert plan["edits"]["data.size"] == 20
    assert plan["edits"]["recipe.batch_size"] == 16
    assert plan["edits"]["recipe.ema_decay"] < 0.9999
    assert plan["seconds"] is None
    assert {line.partition("=")[0] for line in plan["why"]} < set(plan["edits"])


def test_a_plan_names_network_time_and_a_command_that_train_takes(photos, command, monkeypatch):
    """Each word of the command's edits is an edit of the experiment that it names."""
    from resnet_rs import verbs

    monkeypatch.setattr("resnet_rs.bridges.efficientnet_lite.is_installed", lambda: False)
    result = command("plan", "--data", photos, "--minutes", "0.05", "data.flip=false")
    assert result.returncode == 0, result.stderr
    *lines, last = result.stdout.splitlines()
    plan = dict(line.split(None, 1) for line in lines if not line.startswith(("why:", "note:")))
    assert {"images", "start", "network", "size", "training", "augment", "time"} <= plan.keys()
    assert plan["start"] == "from scratch" and plan["time"].startswith("about ")
    assert "flips" not in plan["augment"]
    words = shlex.split(last)
    assert words[:5] == ["resnet-rs", "train", "resnet-rs-small", "--data", str(photos)]
    edits = dict(edit.split("=", 1) for edit in words[7:])
    assert not verbs.experiment(words[2], edits).data.flip


def test_a_limit_that_nothing_keeps_is_said_and_the_cheapest_is_planned(photos, command, monkeypatch):
    from resnet_rs.deploy.bench import Timing

    def bench(experiments, protocol):
        for name, experiment in experiments.items():
            cost, size = experiment.count_cost(), experiment.data.size
            common = {"name": name, "mode": protocol.mode, "size": size, "batch_size": protocol.batch_size}
            yield Timing(**common, params=cost.params, macs=cost.macs, latency_ms=cost.macs / 1e6)

    monkeypatch.setattr("resnet_rs.verbs.plans.bench", bench)
    arguments = ("--data", photos, "--minutes", "0.05", "--from", "none", "--json")
    widths = []
    for latency in ("1e-6", "20"):
        result = command("plan", *arguments, "--latency-ms", latency)
        assert result.returncode == 0, result.stderr
        plan = json.loads(result.stdout)
        widths.append(plan["edits"].get("arch.width", 0.25))
        if latency == "1e-6":
            assert "inference of an image takes" in plan["plan"]["limits"]
    assert widths[0] == 0.125 <= widths[1]


def test_a_fitted_run_keeps_its_fit_when_it_is_continued(photos, tmp_path, command):
    line = [
        "train",
        "resnet-rs-small",
        "--data",
        photos,
        "--out",
        tmp_path / "a",
        "--fit",
        "--minutes",
        "0.002",
    ]
    edits = ["data.mean=0.5,0.5,0.5", "data.std=0.3,0.3,0.3"]
    first = command(*line, *edits)
    assert first.returncode == 0, first.stderr
    assert "0.002 minutes, at" in first.stdout
    again = command(*line, *edits)
    assert again.returncode == 0, again.stderr
    assert "continues after update" in again.stdout
    longer = command(*line[:-1], "0.004", *edits)
    assert longer.returncode == 2 and "began with --minutes 0.002, now --minutes 0.004" in longer.stderr
    without = command(*line[:-2], *edits)
    assert without.returncode == 2 and "began with --minutes 0.002, now --fit." in without.stderr
    typed = command(*line, *edits, "recipe.batch_size=8")
    assert typed.returncode == 2 and "would change: recipe.batch_size=8" in typed.stderr


def test_an_output_folder_without_permission_is_named(photos, tmp_path, command):
    blocker = tmp_path / "file"
    blocker.write_text("")
    result = command("train", "resnet-rs-tiny", "--data", photos, "--out", blocker / "run", *QUICK)
    assert result.returncode == 2
    assert "file" in result.stderr and "Traceback" not in result.stderr
