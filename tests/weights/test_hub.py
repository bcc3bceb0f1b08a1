"""The Hub by commands, against a server on this machine: sent, fetched, refused."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
from bridges.hub_server import REVISION
from weights.sharing import GOLDEN, assert_same, state

import resnet_rs as rs
from resnet_rs.bridges import hub
from resnet_rs.training import checkpoint


def command_apart(*arguments):
    """In a process of its own, which reads the environment anew."""
    line = [sys.executable, "-m", "resnet_rs", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


def test_a_network_is_pushed_and_pulled_by_commands(served, run, tmp_path):
    done = command_apart(
        "push", run, "me/shapes", "--license", "mit", "--private", "--out", tmp_path / "kept"
    )
    assert done.returncode == 0, done.stderr
    assert f"{served.root}/me/shapes/commit/{REVISION}" in done.stdout
    assert set(served.repos["me/shapes"]) == {"README.md", "config.json", "model.safetensors"}
    assert served.made["me/shapes"].get("private") or served.made["me/shapes"].get("visibility") == "private"
    assert b'rs.from_pretrained("me/shapes")' in served.repos["me/shapes"]["README.md"]
    assert served.repos["me/shapes"]["config.json"] == (tmp_path / "kept/config.json").read_bytes()
    pulled = command_apart("pull", "me/shapes@main", "--out", tmp_path / "back")
    assert pulled.returncode == 0, pulled.stderr
    assert_same(state(run), state(tmp_path / "back"))
    assert checkpoint.read(tmp_path / "back").origin["url"] == "hf://me/shapes@main"


def test_a_cache_that_was_changed_is_refused(served, command, run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub")
    served.repos["me/shapes"] = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert command("pull", "me/shapes", "--out", tmp_path / "a").returncode == 0
    stored = next((tmp_path / "cache").rglob("model.safetensors")).resolve()
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    done = command("pull", "me/shapes", "--out", tmp_path / "b")
    assert done.returncode == 2 and "not that of the Hub" in done.stderr and str(stored) in done.stderr
    assert not (tmp_path / "b").exists() and "Traceback" not in done.stderr


def test_what_the_hub_lacks_or_forbids_is_said(served, command, tmp_path):
    served.repos["me/empty"] = {"README.md": b"nothing"}
    done = command("pull", "me/empty", "--out", tmp_path / "a")
    assert done.returncode == 2 and "holds no config.json" in done.stderr
    done = command("pull", "me/none", "--out", tmp_path / "a")
    assert done.returncode == 2 and "cannot download me/none from the Hub" in done.stderr
    words = (
        "the Hub has no such repository",
        "Check the name and the revision",
        "You can also give a folder with its",
    )
    places = [done.stderr.find(part) for part in ("cannot download me/none from the Hub", *words)]
    assert -1 < places[0] and places == sorted(places), "first what failed, then why, then what to do"
    assert not (tmp_path / "a").exists()


def test_without_a_network_the_cache_serves_and_the_rest_is_said(served, command, run, tmp_path, monkeypatch):
    folder = rs.save_pretrained(run, tmp_path / "hub")
    served.repos["me/shapes"] = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert command("pull", "me/shapes", "--out", tmp_path / "a").returncode == 0
    monkeypatch.setenv("RESNET_RS_OFFLINE", "1")
    asked = len(served.asked)
    assert command("pull", "me/shapes", "--out", tmp_path / "b").returncode == 0
    done = command("pull", "me/other", "--out", tmp_path / "c")
    assert done.returncode == 2 and "cannot download me/other" in done.stderr and len(served.asked) == asked
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))


def test_without_the_right_token_nothing_is_sent(served, command, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = command("push", run, "me/shapes")
    assert done.returncode == 2 and "hf auth login" in done.stderr and not served.repos
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push", GOLDEN], "Give OWNER/NAME, --out FOLDER, or both"),
        (["push", GOLDEN, "shapes"], "a repository of the Hub has a name such as OWNER/NAME, got 'shapes'"),
        (["push", GOLDEN / "none", "me/shapes"], "is no folder"),
        (["push", GOLDEN, "me/sha pes", "--out", "kept"], "has a name such as OWNER/NAME, got 'me/sha pes'"),
        (["push", GOLDEN, "--out", GOLDEN], "exists already"),
        (["pull", "me/shapes", "--out", GOLDEN], "exists already"),
    ],
)
def test_wrong_requests_are_refused(arguments, said, served, command):
    done = command(*arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not served.repos and not Path("kept").exists()


def test_names_of_repositories_are_told_from_folders(tmp_path, monkeypatch):
    assert hub.is_repo("timm/resnetrs50.tf_in1k") and hub.is_repo("me/net@v1.0")
    assert not hub.is_repo("resnet-rs-50-i160")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me/net").mkdir(parents=True)
    assert not hub.is_repo("me/nte") and not hub.is_repo("./net") and not hub.is_repo("../net")
    assert not hub.is_repo("me/net") and not hub.is_repo("../me/net/more") and not hub.is_repo("me/net/more")


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'resnet-rs\[hub\]'"):
        hub.fetch_folder("me/net")


def test_only_a_folder_of_ours_is_sent():
    with pytest.raises(
        FileNotFoundError, match=r"no config\.json; expected a folder that `save_pretrained` wrote"
    ):
        rs.push_to_hub(GOLDEN, "me/net")


def test_a_folder_that_was_written_is_sent_as_it_is(served, command, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = command("push", run, "me/shapes", "--out", tmp_path / "kept", "--license", "mit")
    assert done.returncode == 2 and not served.repos
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    for more in (["me/shapes", "--license", "mit"], ["--out", tmp_path / "more"]):
        done = command("push", tmp_path / "kept", *more)
        assert done.returncode == 2 and "is sent as it is. Give OWNER/NAME" in done.stderr
    alone = command("push", run, "--out", tmp_path / "alone")
    assert alone.returncode == 0 and "OWNER/NAME" in (tmp_path / "alone/README.md").read_text()
    done = command_apart("push", tmp_path / "alone", "hf-hub:me/alone")
    assert done.returncode == 0, done.stderr
    card = served.repos["me/alone"]["README.md"].decode()
    assert 'rs.from_pretrained("me/alone")' in card and '"hf-hub:me/alone"' in card
    (tmp_path / "kept/README.md").write_text("my own card")
    done = command_apart("push", tmp_path / "kept", "me/shapes")
    assert done.returncode == 0, done.stderr
    assert served.repos["me/shapes"]["README.md"] == b"my own card"
    assert command("pull", "hf-hub:me/shapes", "--out", tmp_path / "back").returncode == 0
    found = checkpoint.read(tmp_path / "back")
    assert found.origin["url"] == "hf://me/shapes" and found.origin["license"] == "mit"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"RESNET_RS_OFFLINE": "1"}, "RESNET_RS_OFFLINE is set"),
        ({}, "Check the network"),
    ],
)
def test_advice_is_of_the_fault(variables, said, served, command, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    done = command("pull", "me/shapes", "--out", tmp_path / "a")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "your login"),
        (403, "your login"),
        (404, "name and the revision"),
        (429, "Try again later"),
        (503, "Try again later"),
        (413, "it did not work."),
    ],
)
def test_the_answer_behind_an_error_decides_on_the_advice(status, said):
    class Answered(Exception):
        response = SimpleNamespace(status_code=status)

    try:
        try:
            raise Answered
        except Answered as cause:
            raise RuntimeError("it did not work") from cause
    except RuntimeError as error:
        assert said in hub.reason(error)


def test_what_is_no_fault_of_the_hub_gets_no_advice_about_it():
    assert hub.reason(OSError(28, "No space left on device")) == "[Errno 28] No space left on device."
