"""Our weights on the Hugging Face Hub and back, bit for bit; timm alone loads what timm has."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import yaml
from bridges.hub_server import REVISION, Hub
from PIL import Image
from timm.models import save_for_hf

import resnet_rs as rs
import resnet_rs.bridges.timm  # registers
from resnet_rs import config, storage
from resnet_rs.bridges import hub
from resnet_rs.bridges.hub_folder import read_config, timm_architecture
from resnet_rs.bridges.timm_names import DEPTHS, from_timm
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.training import checkpoint
from resnet_rs.weights.convert import convert
from resnet_rs.weights.reading import Foreign
from resnet_rs.zoo import EXPERIMENTS

GOLDEN = Path(__file__).parents[1] / "assets/golden-0.1"
ABOUT = {
    "name": "resnet-rs-tiny",
    "data": "/home/somebody/secret/photos",
    "num_train": 24,
    "num_test": 12,
    "edits": {},
}
CLASSES = ("cat", "dog", 'a "b": #c | `d`')


def write(path, experiment, *, classes=CLASSES, seed=0):
    """A checkpoint of random weights and statistics."""
    chosen = experiment.suited_to(classes)
    model = chosen.build_model(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.rand(t.shape, generator=generator)
        if t.is_floating_point() and "running" in name
        else t + seed
        for name, t in model.state_dict().items()
    }
    origin = {"source": "elsewhere.h5", "format": "keras"}
    checkpoint.write(
        path, tensors, checkpoint.Provenance(experiment=chosen, classes=classes, seed=seed, origin=origin)
    )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, as the `train` command leaves it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(GOLDEN, folder)
    about = json.loads((folder / "run.json").read_text()) | ABOUT
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def fifty(tmp_path_factory):
    return write(tmp_path_factory.mktemp("fifty") / "ours", EXPERIMENTS["resnet-rs-50-i160"], seed=1)


def state(path):
    return checkpoint.read(path).load_model().state_dict()


def assert_same(a, b):
    assert list(a) and set(a) == set(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype and torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("name", ["resnet-rs-tiny", "efficientnet-b0"])
def test_what_goes_out_and_comes_back_is_the_same_bit_for_bit(name, tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS[name], seed=3)
    folder = rs.save_pretrained(ours, tmp_path / "hub", license="apache-2.0")
    done = convert(Foreign(path=folder, kind="hub"), tmp_path / "back")
    before, after = checkpoint.read(ours), checkpoint.read(tmp_path / "back")
    assert_same(state(ours), state(tmp_path / "back"))
    assert (after.experiment, after.classes) == (before.experiment, before.classes)
    assert done.origin["before: source"] == "elsewhere.h5" and done.origin["format"] == "hub"
    loaded = rs.from_pretrained(folder)
    assert_same(state(ours), loaded.state_dict())
    assert not loaded.training and loaded.pretrained_cfg["label_names"] == CLASSES


def test_what_timm_has_is_loaded_by_timm_alone(fifty, tmp_path):
    folder = rs.save_pretrained(fifty, tmp_path / "hub")
    program = (
        "import sys, timm, torch\nmodel = timm.create_model(f'local-dir:{sys.argv[1]}', pretrained=True)\n"
        "torch.save(model.state_dict(), sys.argv[2])\nassert not any('resnet_rs' in name for name in sys.modules)\n"
        "print(type(model).__name__, timm.data.resolve_model_data_config(model), model.pretrained_cfg['label_names'])"
    )
    arguments = [sys.executable, "-c", program, str(folder), str(tmp_path / "theirs.pth")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert (
        done.stdout.startswith("ResNet {'input_size': [3, 160, 160]") and "'crop_pct': 0.875" in done.stdout
    )
    assert "cat" in done.stdout
    assert_same(state(fifty), from_timm(torch.load(tmp_path / "theirs.pth", weights_only=True)))
    convert(Foreign(path=folder, kind="hub"), tmp_path / "back")
    assert_same(state(fifty), state(tmp_path / "back"))


def test_timm_to_ours_to_timm_is_the_same_bit_for_bit(tmp_path):
    theirs = timm.create_model("resnetrs50", num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    convert(Foreign(path=tmp_path / "theirs.pth", kind="timm", name="resnet-rs-50-i160"), tmp_path / "ours")
    folder = rs.save_pretrained(tmp_path / "ours", tmp_path / "hub")
    back = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert_same(theirs.state_dict(), back.state_dict())


def test_other_networks_are_loaded_by_timm_once_ours_are_registered(tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"])
    folder = rs.save_pretrained(ours, tmp_path / "hub")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert_same(state(ours), model.state_dict())
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert features.feature_info.channels() == [8, 32, 64, 128, 256]
    three = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7, in_chans=3)
    assert three(torch.randn(2, 3, 28, 28)).shape == (2, 7)


def test_a_folder_of_timms_says_its_preprocessing_and_classes(tmp_path):
    theirs = timm.create_model("resnetrs50", num_classes=3)
    names = ["a", "b", "c"]
    facts = {"input_size": [3, 192, 192], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.25] * 3}
    about = {"label_names": names, "pretrained_cfg": facts | {"interpolation": "bicubic"}}
    save_for_hf(theirs, tmp_path / "theirs", model_config=about, safe_serialization=True)
    convert(Foreign(path=tmp_path / "theirs", kind="hub"), tmp_path / "ours")
    found = checkpoint.read(tmp_path / "ours")
    data = found.experiment.data
    assert (data.size, data.crop_ratio, data.mean, data.std) == (192, 0.9, (0.5,) * 3, (0.25,) * 3)
    assert found.classes == ("a", "b", "c") and data.resampling == "antialiased" and not data.crop_first
    assert_same(found.load_model().state_dict(), from_timm(theirs.state_dict()))


def test_only_what_timm_has_goes_by_its_names():
    for depth in DEPTHS:
        arch = ResNetArch(blocks=BLOCKS[depth])
        assert timm_architecture(arch) == f"resnetrs{depth}" and timm.is_model(f"resnetrs{depth}")
        assert timm_architecture(config.edit(arch, {"drop_path": 0.1, "norm_momentum": 0.1})) is not None
    differing = (
        "width=0.5",
        "stem=2015",
        "shortcut=strided",
        "se_ratio=none",
        "activation=silu",
        "stride_in=reduce",
    )
    for field, _, value in (edit.partition("=") for edit in differing):
        assert timm_architecture(config.edit(ResNetArch(blocks=BLOCKS[50]), {field: value})) is None
    assert timm_architecture(EXPERIMENTS["efficientnet-b0"].arch) is None
    assert timm_architecture(ResNetArch(blocks=(3, 4, 6, 4))) is None


def test_the_card_says_data_recipe_scores_and_licence(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub", license="mit")
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    scores = json.loads((run / "scores.json").read_text())
    assert head["license"] == "mit" and head["pipeline_tag"] == "image-classification"
    assert head["model-index"][0]["results"][0]["metrics"][0] == {"type": "top1", "value": scores["top1"]}
    interval = f"| {scores['top1']:.4f} | {scores['top1_low']:.4f} to {scores['top1_high']:.4f} |"
    assert interval in card and f"Of {scores['count']:,} test pictures" in card
    run = json.loads((run / "run.json").read_text())
    assert f"{run['num_train']:,} pictures for training" in card and "`recipe." in card
    assert card.endswith("## License\n\nmit\n")


def test_the_card_of_weights_alone_claims_nothing(tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"])
    card = (rs.save_pretrained(ours, tmp_path / "hub") / "README.md").read_text()
    assert 'rs.from_pretrained("OWNER/NAME")' in card
    assert "## Scores" not in card and "## Data" not in card and card.endswith("None was given.\n")
    assert "model-index" not in card and "license:" not in card
    assert r'a "b": \#c \| \`d\`' in card and "- source: elsewhere.h5" in card


def test_scores_of_another_checkpoint_are_not_claimed(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    newest = checkpoint.read(run)
    older = run / "checkpoints" / f"step-{newest.step - 1:08d}"
    shutil.copytree(newest.path, older)
    info = json.loads((older / "checkpoint.json").read_text())
    info["step"] -= 1
    content = {
        f.name: f.read_bytes() for f in older.iterdir() if f.name not in ("manifest.json", "checkpoint.json")
    }
    shutil.rmtree(older)
    storage.write_folder(older, iter([*content.items(), ("checkpoint.json", json.dumps(info).encode())]))
    assert "## Scores" in (rs.save_pretrained(run, tmp_path / "a") / "README.md").read_text()
    card = (rs.save_pretrained(older, tmp_path / "b") / "README.md").read_text()
    assert "## Scores" not in card and f"{newest.step - 1:,} updates" in card


def test_paths_of_the_machine_stay_here(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub")
    texts = [(folder / name).read_text() for name in ("README.md", "config.json")]
    assert "photos" in texts[0] and not [text for text in texts if "secret" in text or str(tmp_path) in text]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The Hub on this machine: programs find it by their environment, this process by what it would have made of it."""
    with Hub() as server:
        for name, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        for name, value in {
            "ENDPOINT": server.root,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.root + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield server


def test_a_network_is_pushed_and_pulled_by_commands(served, run, tmp_path):
    def command(*arguments):
        line = [sys.executable, "-m", "resnet_rs", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True)

    done = command("push", run, "me/shapes", "--license", "mit", "--private", "--out", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert f"{served.root}/me/shapes/commit/{REVISION}" in done.stdout
    assert set(served.repos["me/shapes"]) == {"README.md", "config.json", "model.safetensors"}
    assert served.made["me/shapes"].get("private") or served.made["me/shapes"].get("visibility") == "private"
    assert b'rs.from_pretrained("me/shapes")' in served.repos["me/shapes"]["README.md"]
    assert served.repos["me/shapes"]["config.json"] == (tmp_path / "kept/config.json").read_bytes()
    pulled = command("pull", "me/shapes@main", "--out", tmp_path / "back")
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
    assert done.returncode == 2 and "me/none cannot be had from the Hub" in done.stderr
    assert "put its config.json and model.safetensors into a folder" in done.stderr
    assert not (tmp_path / "a").exists()


def test_without_a_network_the_cache_serves_and_the_rest_is_said(served, command, run, tmp_path, monkeypatch):
    folder = rs.save_pretrained(run, tmp_path / "hub")
    served.repos["me/shapes"] = {f.name: f.read_bytes() for f in folder.iterdir()}
    assert command("pull", "me/shapes", "--out", tmp_path / "a").returncode == 0
    monkeypatch.setenv("RESNET_RS_OFFLINE", "1")
    asked = len(served.asked)
    assert command("pull", "me/shapes", "--out", tmp_path / "b").returncode == 0
    done = command("pull", "me/other", "--out", tmp_path / "c")
    assert done.returncode == 2 and "cannot be had" in done.stderr and len(served.asked) == asked
    assert_same(state(tmp_path / "a"), state(tmp_path / "b"))


def test_without_the_right_token_nothing_is_sent(served, command, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = command("push", run, "me/shapes")
    assert done.returncode == 2 and "hf auth login" in done.stderr and not served.repos
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["push", GOLDEN], "give OWNER/NAME, or --out FOLDER, or both"),
        (["push", GOLDEN, "shapes"], "a repository of the Hub is called OWNER/NAME, got 'shapes'"),
        (["push", GOLDEN / "none", "me/shapes"], "is no folder"),
        (["push", GOLDEN, "me/sha pes", "--out", "kept"], "called OWNER/NAME, got 'me/sha pes'"),
        (["push", GOLDEN, "--out", GOLDEN], "exists already"),
        (["pull", "me/shapes", "--out", GOLDEN], "exists already"),
    ],
)
def test_wrong_requests_are_refused(arguments, said, served, command):
    done = command(*arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not served.repos and not Path("kept").exists()


def spoilt(folder, **fields):
    """The folder with other fields in its configuration; None takes one away."""
    file = folder / "config.json"
    found = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architecture": None}, "architecture"),
        ({"label_names": "cat"}, "no list of texts under 'label_names'"),
        ({"label_names": ["cat"]}, "1 class names, 1 of them different, for a network of 3"),
        ({"pretrained_cfg": 3}, "no object of fields"),
        ({"resnet_rs": {"format": 9}}, "another version"),
        ({"resnet_rs": 3}, "another version"),
        ({"resnet_rs": {"format": 1, "experiment": {"type": "os.system"}}}, "no experiment of this version"),
        ({"resnet_rs": {"format": 1, "experiment": None}}, "no experiment of this version"),
        ({"resnet_rs": None}, "holds 'resnet_rs'; expected a ResNet-RS of timm"),
        (
            {"resnet_rs": {"format": 1, "experiment": {"type": "resnet_rs.__main__.X"}}},
            "no experiment of this version",
        ),
        (
            {"label_names": ["cat", "dog", "cow", "cat"]},
            "4 class names, 3 of them different, for a network of 3",
        ),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(fields, said, tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    with pytest.raises((ValueError, storage.Damaged), match=said):
        convert(Foreign(path=spoilt(folder, **fields), kind="hub"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_forged_origin_is_refused(tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    ours = json.loads((folder / "config.json").read_text())["resnet_rs"]
    for origin in (3, ["a"], {"source": 3}):
        with pytest.raises(ValueError, match="no object of texts under 'origin'"):
            convert(
                Foreign(path=spoilt(folder, resnet_rs=ours | {"origin": origin}), kind="hub"),
                tmp_path / "back",
            )


def test_what_is_no_finite_number_is_refused_by_every_door(tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["head.classifier.bias"][1] = float("nan")
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    for door in (rs.from_pretrained, lambda path: convert(Foreign(path=path, kind="hub"), tmp_path / "back")):
        with pytest.raises(
            ValueError, match=r"head\.classifier\.bias of .*hub holds a value that is no finite number"
        ):
            door(folder)
    tensors["head.classifier.bias"][1] = 0
    for name, value, said in (
        ("backbone.stem.1.running_var", -tensors["backbone.stem.1.running_var"], "a variance below 0"),
        ("head.classifier.weight", tensors["head.classifier.weight"].long(), "wants torch.float32"),
    ):
        safetensors.torch.save_file(tensors | {name: value}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=said):
            rs.from_pretrained(folder)


def test_a_folder_of_the_hub_is_told_from_a_checkpoint(tmp_path, command):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    done = command("predict", folder, folder)
    assert done.returncode == 2 and f"resnet-rs convert {folder} --from hub" in done.stderr


def test_a_network_of_a_path_has_its_number_of_classes(tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"])
    model = rs.create_model("resnet-rs-tiny", in_channels=1, pretrained=ours)
    assert model.num_classes == 3
    assert torch.equal(model.head.classifier.weight, state(ours)["head.classifier.weight"])
    assert rs.create_model("resnet-rs-tiny", 5, in_channels=1, pretrained=ours).num_classes == 5


def test_control_characters_of_a_strangers_names_do_not_reach_the_terminal(tmp_path, command):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"], classes=("a\x1b[31mred", "b\x9bc", "d\ne"))
    Image.new("L", (28, 28), 99).save(tmp_path / "one.png")
    done = command("predict", ours, tmp_path / "one.png")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\x9b" not in done.stdout
    assert r"\x1b[31mred" in done.stdout and done.stdout.count("\n") == 1


def test_a_split_that_stays_behind_is_said_when_all_pictures_are_scored(tmp_path):
    photos = tmp_path / "photos"
    for name, color in (("cat", 60), ("dog", 190)):
        (photos / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 20), (color, color, 5 * i)).save(photos / name / f"{i}.png")
    edits = ["recipe.batch_size=8", "recipe.epochs=3", "recipe.ema_decay=0.5"]
    rs.train(
        rs.experiment("resnet-rs-tiny", dict(e.split("=") for e in edits)),
        data=str(photos),
        out=tmp_path / "run",
    )
    folder = rs.save_pretrained(tmp_path / "run", tmp_path / "hub")
    convert(Foreign(path=folder, kind="hub"), tmp_path / "back")
    with pytest.warns(UserWarning, match="which pictures they were trained on is not known here"):
        assert rs.evaluate(tmp_path / "back", data=str(photos))["count"] == 24
    shutil.copytree(photos, tmp_path / "halves/train")
    shutil.copytree(photos, tmp_path / "halves/val")
    assert rs.evaluate(tmp_path / "back", data=str(tmp_path / "halves"))["count"] == 24
    again = rs.save_pretrained(tmp_path / "back", tmp_path / "again")
    convert(Foreign(path=again, kind="hub"), tmp_path / "twice")
    with pytest.warns(UserWarning, match="not known here"):
        rs.evaluate(tmp_path / "twice", data=str(photos))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input_size": []}, "square"),
        ({"input_size": "3,9,9"}, "square"),
        ({"input_size": [3, 160, 224]}, "square"),
        ({"input_size": [1, 160, 160]}, "inputs of 1 channels, and mean"),
        ({"crop_pct": "0.9"}, "expected a number"),
        ({"crop_mode": "squash"}, "crop_mode 'squash'; ours is center"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'; ours is bicubic or bilinear"),
    ],
)
def test_pictures_that_are_prepared_otherwise_are_refused(fields, said, tmp_path):
    facts = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.9} | fields
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetrs50", "pretrained_cfg": facts}))
    with pytest.raises(ValueError, match=said):
        read_config(tmp_path).edits()


def test_a_size_of_timms_that_was_never_released_is_taken(fifty, tmp_path):
    folder = rs.save_pretrained(fifty, tmp_path / "hub")
    facts = json.loads((folder / "config.json").read_text())["pretrained_cfg"] | {"input_size": [3, 288, 288]}
    convert(Foreign(path=spoilt(folder, resnet_rs=None, pretrained_cfg=facts), kind="hub"), tmp_path / "back")
    assert checkpoint.read(tmp_path / "back").experiment.data.size == 288


def test_another_checkpoint_beside_a_run_is_not_taken_for_the_runs(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    write(run / "other", EXPERIMENTS["resnet-rs-tiny"])
    card = (rs.save_pretrained(run / "other", tmp_path / "hub") / "README.md").read_text()
    assert "## Data" not in card and "## Recipe" not in card


def test_weights_of_another_experiment_are_refused(tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    other = config.to_plain(config.edit(EXPERIMENTS["resnet-rs-tiny"], {"arch.blocks": (2, 1, 1, 1)}))
    with pytest.raises(ValueError, match=r"missing: backbone\.c2\.1"):
        rs.from_pretrained(spoilt(folder, resnet_rs={"format": 1, "experiment": other}))
    with pytest.raises(FileNotFoundError, match="holds no config"):
        rs.from_pretrained(tmp_path)


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
        FileNotFoundError, match=r"no config\.json; expected a folder that `save_pretrained` made"
    ):
        rs.push_to_hub(GOLDEN, "me/net")
