"""The verbs that compare, as a person meets them: study, bench, report of a study."""

import json
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image
from warm import resnet_rs

QUICK = [
    "arch.width=0.0625",
    "data.size=16",
    "recipe.batch_size=16",
    "recipe.epochs=3",
    "recipe.ema_decay=0.5",
]
QUICK += ["recipe.schedule.warmup_epochs=0.3"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("my photos")
    rng = np.random.default_rng(0)
    for name, level in (("hell", 160), ("dunkel", 100)):
        (root / name).mkdir()
        for i in range(30):
            pixels = np.clip(rng.normal(level, 50, (20, 20)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def mine(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    (folder / "mine.yaml").write_text(
        "title: Which crop?\nalternatives:\n  whole: {data.min_area: 1.0}\n  half: {data.min_area: 0.5}\n"
        "  broken: {recipe.batch_size: 5000}\n"
    )
    command = ["study", folder / "mine.yaml", "--base", "resnet-rs-tiny", "--data", photos]
    command += ["--out", folder / "out", "--jobs", "local:2", *QUICK]
    return folder, command, resnet_rs(*command)


def test_a_study_prints_its_results_its_table_and_its_page_and_says_what_failed(mine):
    folder, _, result = mine
    assert result.returncode == 1, result.stderr
    assert "Which crop?: 3 trials, 1 seeds, 3 runs" in result.stdout
    assert re.search(r"1 of 3  (whole|half), seed 0: top-1 \d+\.\d% in ", result.stdout)
    assert "broken, seed 0: failed: recipe.batch_size=5000 is more than" in result.stdout
    assert "| half |" in result.stdout and f"page: {folder / 'out/page.html'}" in result.stdout
    assert "1 of 3 runs failed" in result.stderr and "Traceback" not in result.stderr
    assert (folder / "out/trials/whole/seed-0/page.html").is_file()


def test_the_same_command_goes_on_and_runs_only_what_failed(mine):
    folder, command, first = mine
    scores = folder / "out/trials/whole/seed-0/scores.json"
    before = scores.stat().st_mtime_ns
    again = resnet_rs(*command)
    assert again.returncode == 1 and scores.stat().st_mtime_ns == before
    table = [line for line in first.stdout.splitlines() if line.startswith("| ")]
    assert [line for line in again.stdout.splitlines() if line.startswith("| ")] == table
    assert again.stdout.count("(done before)") == 2 and "(done before)" not in first.stdout


def test_a_study_says_how_its_best_trial_is_trained(mine, photos, tmp_path):
    _, _, result = mine
    assert "note: The shortest run has" in result.stdout
    words = shlex.split(next(line for line in result.stdout.splitlines() if "resnet-rs train" in line))
    assert words[:5] == ["resnet-rs", "train", "resnet-rs-tiny", "--data", str(photos)]
    edits = [word for word in words if "=" in word]
    assert {"recipe.epochs=3.0", "arch.width=0.0625"} <= set(edits)
    assert not any(edit.startswith("task.num_classes") for edit in edits)
    assert resnet_rs("show", "resnet-rs-tiny", *edits).returncode == 0


def test_a_dry_run_shows_the_trials_and_writes_nothing(mine, photos, tmp_path):
    folder, _, _ = mine
    (tmp_path / "mine.yaml").write_text(
        (folder / "mine.yaml").read_text().replace("5000", "8")
    )  # what cannot be run cannot be foreseen
    command = ["study", tmp_path / "mine.yaml", "--base", "resnet-rs-tiny", "--data", photos, *QUICK]
    result = resnet_rs(*command, "--dry-run", "--seeds", "2")
    assert result.returncode == 0, result.stderr
    assert re.search(r"half: .* multiply-adds, 9 updates, .* (s|min); data.min_area=0.5", result.stdout)
    assert "3 trials, 2 seeds: about" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_report_prints_the_table_from_the_record_alone(mine, tmp_path):
    folder, _, first = mine
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((folder / "out/record.jsonl").read_bytes())
    result = resnet_rs("report", copy, "--out", tmp_path / "page.html")
    assert result.returncode == 0, result.stderr
    assert [line for line in first.stdout.splitlines() if line.startswith("|")] == [
        line for line in result.stdout.splitlines() if line.startswith("|")
    ]
    assert "Which crop?" in (tmp_path / "page.html").read_text()


def test_study_list_names_all():
    printed = resnet_rs("study", "list").stdout
    for name in ("training-methods", "leave-one-out", "weight-decay", "scaling", "speed"):
        assert f"\n{name} " in f"\n{printed}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["study", "training-method", "--base", "resnet-rs-tiny", "--data", "builtin"],
            "Closest: training-methods",
        ),
        (["study", "training-method", "--data", "builtin"], "Closest: training-methods"),
        (
            ["study", "training-methods", "--data", "builtin"],
            "needs --base EXPERIMENT, --data DATA and --out",
        ),
        (
            ["study", "scaling", "--base", "resnet-rs-tiny", "--data", "builtin", "grid.depths=3"],
            "depths must be among",
        ),
        (
            [
                "study",
                "scaling",
                "--base",
                "resnet-rs-tiny",
                "--data",
                "builtin",
                "--max-macs",
                "10",
                "grid.depths=14",
            ],
            "within the limits",
        ),
        (
            ["study", "weight-decay", "--base", "resnet-rs-tiny", "--data", "builtin", "size=3"],
            "no settings of its own",
        ),
        (["study", "mine.yaml", "--base", "resnet-rs-tiny", "--data", "builtin"], "mine.yaml does not exist"),
        (
            ["study", "training-methods", "--base", "resnet-rs-tiny", "--data", "builtin", "--jobs", "moon"],
            "jobs must be",
        ),
        (
            ["study", "training-methods", "--base", "efficientnet-b0", "--data", "builtin", "--fit"],
            "EfficientNetArch",
        ),
        (["study", "speed", "data.size=3"], "settings such as protocol.batch_size=4"),
        (["study", "speed", "--device", "abacus"], "device must be cpu"),
        (["bench", "resnet-50"], "'resnet-50' is not in the zoo"),
        (["bench", "resnet-rs-tiny", "--train", "--batch", "1"], "batch_size must be 2 or more to train"),
        (["bench", "resnet-rs-tiny", "--device", "abacus"], "device"),
        (["report", "nothing.jsonl"], "nothing.jsonl does not exist"),
    ],
)
def test_wrong_input_gets_one_message_and_exit_code_2(arguments, said, tmp_path, monkeypatch, capsys):
    from resnet_rs.cli import main

    monkeypatch.chdir(tmp_path)
    out = (
        ["--out", "x"] if arguments[0] == "study" and arguments[1:2] != ["training-methods", "--data"] else []
    )
    monkeypatch.setattr(sys, "argv", ["resnet-rs", *arguments, *out])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_bench_prints_a_row_for_each_network():
    result = resnet_rs(
        "bench", "resnet-rs-tiny", "resnet-rs-small", "--batch", "2", "--repeats", "2", "--json"
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == ["resnet-rs-tiny", "resnet-rs-small"]
    assert all(row["latency_ms"] > 0 and row["mode"] == "infer" and row["num_repeats"] == 2 for row in rows)
