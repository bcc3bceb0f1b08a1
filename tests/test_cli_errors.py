"""Errors of the machine as the command line shows them: one line with the path or value, the reason and the cure."""

import os
import sys

import pytest

from resnet_rs import cli
from resnet_rs.data import folders
from resnet_rs.training import checkpoint


def main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["resnet-rs", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def refusing(path):
    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied", str(path))

    return refuse


TRAIN = ("train", "resnet-rs-tiny", "--device", "cpu")


def test_folders_and_checkpoints_without_permission_are_named_with_the_cure(tmp_path, monkeypatch, capsys):
    said = f"error: cannot use {tmp_path / 'x'}: permission denied. Change its permissions, which `ls -ld` shows, or"
    (tmp_path / "x").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(folders.os, "scandir", refusing(tmp_path / "x"))
        assert main(monkeypatch, *TRAIN, "--data", tmp_path / "x", "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err.startswith(said)
    with monkeypatch.context() as patched:
        patched.setattr("resnet_rs.storage.disk.make_folder", refusing(tmp_path / "x"))
        assert main(monkeypatch, *TRAIN, "--data", "builtin", "--out", tmp_path / "x/run") == 2
    assert capsys.readouterr().err.startswith(said)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "read", refusing(tmp_path / "x"))
        assert main(monkeypatch, "evaluate", tmp_path / "x", "--data", "builtin", "--device", "cpu") == 2
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--workers", "500000000"), "error: workers must be 0 to"),
        (("--max-pixels", "0"), "error: max_pixels must be 1 to 178,956,970"),
        (("--fit", "--minutes", "inf"), "error: minutes must be in (0, inf) or none, got inf"),
    ],
)
def test_values_that_the_machine_cannot_serve_are_refused(tmp_path, monkeypatch, capsys, option, said):
    out = tmp_path / "run"
    assert main(monkeypatch, *TRAIN, "--data", "builtin", "--out", out, *option) == 2
    assert capsys.readouterr().err.startswith(said)
    assert not out.exists()


def test_an_image_above_the_limit_is_named_and_predicted_with_a_higher_limit(tmp_path, monkeypatch, capsys):
    from PIL import Image

    Image.new("L", (20, 30)).save(tmp_path / "large.png")
    golden = os.path.join(os.path.dirname(__file__), "assets/golden-0.1")
    predict = ("predict", golden, tmp_path / "large.png", "--device", "cpu", "--max-pixels")
    assert main(monkeypatch, *predict, 599) == 2
    assert "20 x 30 pixels, more than the limit of 599; raise it with --max-pixels" in capsys.readouterr().out
    assert main(monkeypatch, *predict, 600) == 0


@pytest.mark.parametrize(
    "words", [("evaluate", "--data", "builtin"), ("predict", "x.png"), ("report",), ("push", "me/shapes")]
)
def test_a_mistyped_run_names_the_closest_one(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_RS_OFFLINE", "1")
    (tmp_path / "runs/first").mkdir(parents=True)
    for typed in ("runs/frst", "run/first"):
        assert main(monkeypatch, words[0], typed, *words[1:]) == 2
        said = capsys.readouterr().err
        assert f"{typed} is no folder" in said and "Closest: runs/first." in said
    takes_names = words[0] in ("evaluate", "predict")
    for typed, cure in (
        ("resnet-rs-50-i16O", "Closest: resnet-rs-50-i160." if takes_names else "Check the path."),
        ("quite/else", "quite/else is not a local path" if takes_names else "Check the path."),
    ):
        assert main(monkeypatch, words[0], typed, *words[1:]) == 2
        assert cure in capsys.readouterr().err


def test_two_ranks_with_one_named_gpu_are_refused(tmp_path, monkeypatch, capsys):
    environment = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("resnet_rs.training.device._refuse_absent", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *, including_emulation: False)
    words = ("train", "resnet-rs-tiny", "--data", "builtin", "--out", tmp_path / "run", "--device", "cuda:0")
    assert main(monkeypatch, *words) == 2
    assert "--device cuda:0 puts all 2 ranks of this machine on the same GPU" in capsys.readouterr().err
