"""The command line: its version, its help at 80 columns, and what a command imports."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import resnet_rs
from resnet_rs.cli import main
from resnet_rs.text import printable


def run(capsys, monkeypatch, *arguments):
    """What the command prints, and its exit code."""
    monkeypatch.setattr(sys, "argv", ["resnet-rs", *map(str, arguments)])
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


def test_the_version_is_printed(capsys, monkeypatch):
    assert run(capsys, monkeypatch, "--version") == (0, f"resnet-rs {resnet_rs.__version__}\n")


OURS = {
    (): "list show train plan evaluate predict report convert to-safetensors pull push reproduce bench pseudo study",
    ("pseudo",): "label select",
    ("study",): "list run speed",
}


@pytest.mark.parametrize("group", OURS)
def test_summaries_are_shown_whole_at_80_columns(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, printed = run(capsys, monkeypatch, *group, "--help")
    lines = [line.strip() for line in printed.partition("Commands:")[2].splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == OURS[group].split()
    for line in lines:
        assert line.endswith(".") and not line.endswith("...") and len(line) < 80


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evaluate"], "Changes to how images are prepared: data.size,"),
        (["convert"], "Changes to the experiment of --name"),
        (["study", "speed"], "Settings of the measurement"),
        (["study", "run"], "settings of the study"),
        (["plan"], "Time budget of the `train` command, in minutes."),
    ],
)
def test_help_describes_the_edits_and_the_minutes_of_this_command(command, said, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, printed = run(capsys, monkeypatch, *command, "--help")
    assert said in printed
    assert command == ["plan"] or "recipe.epochs=100 arch.se_ratio" not in printed


def test_costs_are_shown_in_the_unit_that_fits(capsys, monkeypatch):
    _, printed = run(capsys, monkeypatch, "list", "resnet-rs-*")
    assert "resnet-rs-50-i160     160 px    35.69 M  2.28 billion multiply-adds" in printed
    assert re.search(r"resnet-rs-tiny +28 px .* [\d.]+ million multiply-adds", printed)
    _, printed = run(capsys, monkeypatch, "show", "resnet-rs-tiny")
    assert re.search(r"[\d.]+ million multiply-adds at 28 pixels", printed)


def test_an_edit_without_its_slot_names_the_field_that_was_meant(capsys, monkeypatch):
    code, printed = run(capsys, monkeypatch, "show", "resnet-rs-50-i160", "lr=3")
    assert code == 2 and "Closest: recipe.base_lr." in printed


def test_a_suggested_decay_has_the_digits_that_a_person_would_type(capsys, monkeypatch):
    edits = ["recipe.epochs=0.2", "recipe.schedule.warmup_epochs=0.1", "recipe.ema_decay=0.9999"]
    command = ["train", "resnet-rs-tiny", "--data", "builtin", "--out", "x", *edits]
    code, printed = run(capsys, monkeypatch, *command)
    assert code == 2 and "Set recipe.ema_decay=0.68, or" in printed


@pytest.mark.parametrize("arguments", [["show", "resnet-rs-50-i160"], ["list"]], ids=" ".join)
def test_list_and_show_do_not_wait_for_the_compiler_of_torch(arguments):
    slow = ("torchvision", "sympy", "torch._dynamo", "h5py", "scipy", "pandas")
    program = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "from resnet_rs.cli.app import app\nimport resnet_rs.cli\n"
        "app(standalone_mode=False)\n"
        f"print([name for name in {slow!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


@pytest.fixture
def colored(tmp_path):
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.full((48, 60, 3), color, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_a_grey_base_keeps_the_color_of_images_and_says_so_and_continues_the_same_run(
    colored, capsys, monkeypatch, tmp_path
):
    edits = [
        "recipe.epochs=2",
        "recipe.batch_size=8",
        "recipe.ema_decay=0.5",
        "recipe.schedule.warmup_epochs=0",
    ]
    command = ["train", "resnet-rs-tiny", "--data", colored, "--out", tmp_path / "run", *edits]
    _, printed = run(capsys, monkeypatch, *command)
    assert "note: data.mean=[0.485, 0.456, 0.406] (was [0.286]): the images have color" in printed
    assert (
        "note: the images have 48 pixels on their shorter side (median), and the network sees 28." in printed
    )
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [change["path"] for change in stored["changes"]] == ["data.mean", "data.std"]
    code, printed = run(capsys, monkeypatch, *command)
    assert code == 0 and "continues after update" in printed


def test_channels_that_the_user_sets_stay_and_the_loss_of_color_is_said(colored, capsys, monkeypatch):
    _, printed = run(capsys, monkeypatch, "plan", "resnet-rs-tiny", "data.mean=[0.5]", "--data", colored)
    assert "note: the images have color, and the network sees them in gray" in printed
    assert "data.std" not in printed.partition("note:")[0]


def test_a_terminal_gets_no_control_characters_from_names():
    """A class folder may be called anything; the live lines of a run show it."""
    assert printable("a\x1b[31mred\udcff\t") == "a\\x1b[31mred\\udcff\t"


def test_memory_that_is_short_is_an_error_with_its_cure(capsys, monkeypatch):
    def nothing_left(**_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(sys.modules["resnet_rs.cli.app"], "app", nothing_left)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (
        ended.value.code == 2 and "out of memory" in said and "--micro-batch" in said and "More" not in said
    )


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(**_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(sys.modules["resnet_rs.cli.app"], "app", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main()
