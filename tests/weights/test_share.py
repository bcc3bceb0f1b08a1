"""Our weights on the Hugging Face Hub and back, bit for bit; timm alone loads what timm has."""

import json
import shutil
import subprocess
import sys

import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.models import save_for_hf
from weights.sharing import CLASSES, GOLDEN, assert_same, state, write

import resnet_rs as rs
import resnet_rs.bridges.timm  # registers
from resnet_rs import config, storage
from resnet_rs.bridges.hub_folder import SPLIT_LOST
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.bridges.timm_names import DEPTHS, depth_of, from_timm
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.training import checkpoint
from resnet_rs.training.provenance import Provenance
from resnet_rs.verbs import describe_scores
from resnet_rs.weights.convert import convert
from resnet_rs.weights.reading import SourceCheckpoint
from resnet_rs.zoo import EXPERIMENTS

RUN_CLASSES = checkpoint.read(GOLDEN).classes
TINY = config.to_plain(EXPERIMENTS["resnet-rs-tiny"].arch)


@pytest.mark.parametrize("name", ["resnet-rs-tiny", "efficientnet-b0"])
def test_what_goes_out_and_comes_back_is_the_same_bit_for_bit(name, tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS[name], seed=3)
    folder = rs.save_pretrained(ours, tmp_path / "hub", license="apache-2.0")
    done = convert(SourceCheckpoint(path=folder, kind="hub"), tmp_path / "back")
    before, after = checkpoint.read(ours), checkpoint.read(tmp_path / "back")
    assert_same(state(ours), state(tmp_path / "back"))
    assert (after.experiment, after.classes) == (before.experiment, before.classes)
    assert (
        done.provenance.origin["before: source"] == "elsewhere.h5"
        and done.provenance.origin["format"] == "hub"
    )
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
    convert(SourceCheckpoint(path=folder, kind="hub"), tmp_path / "back")
    assert_same(state(fifty), state(tmp_path / "back"))


def test_timm_to_ours_to_timm_is_the_same_bit_for_bit(tmp_path):
    theirs = timm.create_model("resnetrs50", num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    convert(
        SourceCheckpoint(path=tmp_path / "theirs.pth", kind="timm", name="resnet-rs-50-i160"),
        tmp_path / "ours",
    )
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


def test_only_what_timm_has_goes_by_its_names():
    for depth in DEPTHS:
        arch = ResNetArch(blocks=BLOCKS[depth])
        assert depth_of(arch) == depth and timm.is_model(f"resnetrs{depth}")
        assert depth_of(config.edit(arch, {"drop_path": 0.1, "norm_momentum": 0.1})) is not None
    differing = (
        "width=0.5",
        "stem=2015",
        "shortcut=strided",
        "se_ratio=none",
        "stride_in=reduce",
    )
    for field, _, value in (edit.partition("=") for edit in differing):
        assert depth_of(config.edit(ResNetArch(blocks=BLOCKS[50]), {field: value})) is None
    assert depth_of(EXPERIMENTS["efficientnet-b0"].arch) is None
    assert depth_of(ModelGardenArch(blocks=BLOCKS[50])) is None
    assert depth_of(ResNetArch(blocks=(3, 4, 6, 4))) is None


def test_the_card_says_data_recipe_scores_and_licence(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub", license="mit")
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    scores = json.loads((run / "scores.json").read_text())
    assert head["license"] == "mit" and head["pipeline_tag"] == "image-classification"
    assert head["model-index"][0]["results"][0]["metrics"][0] == {"type": "top1", "value": scores["top1"]}
    assert len(scores["classes"]) <= 5 and "top-5" not in card  # among the first five are all
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert [metric["type"] for metric in metrics] == ["top1"]
    assert not any(line.startswith("top5") for line in describe_scores(scores))
    interval = f"| {scores['top1']:.1%} | {scores['top1_low']:.1%} to {scores['top1_high']:.1%} |"
    assert interval in card and f"Of {scores['count']:,} test images" in card
    run = json.loads((run / "run.json").read_text())
    assert f"{run['num_train']:,} images for training" in card and "`recipe." in card
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


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("run.json", "num_test", "x"),
        ("run.json", "num_train", None),
        ("scores.json", "count", []),
        ("scores.json", "top1", 10**400),
        ("scores.json", "top1_low", "x"),
        ("scores.json", "unreadable", 10**12),
        ("scores.json", "weights", None),
    ],
)
def test_a_value_that_we_did_not_write_is_refused_with_its_file(file, key, value, run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    found = json.loads((run / file).read_text()) | {key: value}
    if key == "weights":
        del found[key]
    (run / file).write_text(json.dumps(found))
    with pytest.raises(storage.Damaged, match=rf"{file}.* (Restore the file|lacks weights)"):
        rs.save_pretrained(run, tmp_path / "hub")
    copied = shutil.copytree(checkpoint.read(run).path, tmp_path / "copied")
    assert "## Data" not in (rs.save_pretrained(copied, tmp_path / "alone") / "README.md").read_text()


def test_paths_of_the_machine_stay_here(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub")
    texts = [(folder / name).read_text() for name in ("README.md", "config.json")]
    assert r"my\_photos: 24" in texts[0] and not [
        text for text in texts if "secret" in text or str(tmp_path) in text
    ]


def test_a_network_of_a_path_has_its_number_of_classes(tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"])
    model = rs.create_model("resnet-rs-tiny", in_chans=1, pretrained=ours)
    assert model.num_classes == 3
    assert torch.equal(model.head.classifier.weight, state(ours)["head.classifier.weight"])
    assert rs.create_model("resnet-rs-tiny", 5, in_chans=1, pretrained=ours).num_classes == 5


def test_control_characters_of_a_strangers_names_do_not_reach_the_terminal(tmp_path, command):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"], classes=("a\x1b[31mred", "b\x9bc", "d\ne"))
    Image.new("L", (28, 28), 99).save(tmp_path / "one.png")
    done = command("predict", ours, tmp_path / "one.png")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\x9b" not in done.stdout
    assert r"\x1b[31mred" in done.stdout and done.stdout.count("\n") == 1


def test_a_split_that_stays_behind_is_said_when_all_images_are_scored(tmp_path):
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
    convert(SourceCheckpoint(path=folder, kind="hub"), tmp_path / "back")
    with pytest.warns(UserWarning, match="which images they were trained on is not known here"):
        scores = rs.evaluate(tmp_path / "back", data=str(photos))
    assert scores["count"] == 24 and scores["is_split_lost"]
    assert "is_split_lost" not in rs.evaluate(tmp_path / "run", data=str(photos))
    shutil.copytree(photos, tmp_path / "halves/train")
    shutil.copytree(photos, tmp_path / "halves/val")
    assert rs.evaluate(tmp_path / "back", data=str(tmp_path / "halves"))["count"] == 24
    again = rs.save_pretrained(tmp_path / "back", tmp_path / "again")
    convert(SourceCheckpoint(path=again, kind="hub"), tmp_path / "twice")
    with pytest.warns(UserWarning, match="not known here"):
        rs.evaluate(tmp_path / "twice", data=str(photos))


def test_another_checkpoint_beside_a_run_is_not_taken_for_the_runs(run, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    write(run / "other", EXPERIMENTS["resnet-rs-tiny"])
    card = (rs.save_pretrained(run / "other", tmp_path / "hub") / "README.md").read_text()
    assert "## Data" not in card and "## Recipe" not in card


@pytest.mark.parametrize("name", ["resnet_rs_50", "resnet-rs-50-i160", "resnet-rs-tiny"])
def test_what_timm_stores_of_our_networks_comes_back(name, tmp_path):
    """Whether timm has made them by the name that we have registered, or we have."""
    if name.startswith("resnet_rs_"):
        model = timm.create_model(f"{name}.i160", num_classes=3)
        inputs = {"input_size": (3, 160, 160)}
    else:
        model = rs.create_model(name, num_classes=3)
        inputs = {"input_size": model.pretrained_cfg["input_size"]}
    args = {"arch": config.to_plain(EXPERIMENTS[name].arch)} if name == "resnet-rs-tiny" else None
    about = {"label_names": list(CLASSES)}
    save_for_hf(model, tmp_path / "theirs", model_config=about, model_args=args, safe_serialization=True)
    back = rs.from_pretrained(tmp_path / "theirs")
    assert_same(model.state_dict(), back.state_dict())
    assert back.pretrained_cfg["label_names"] == CLASSES
    assert back.pretrained_cfg["input_size"] == inputs["input_size"]
    assert_same(
        model.state_dict(),
        timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True).state_dict(),
    )


def test_a_network_that_learned_in_a_loop_of_ones_own_is_saved_and_shared(tmp_path):
    model = rs.create_model("resnet-rs-tiny", num_classes=2, in_chans=1)
    model.reset_classifier(3)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    images, targets = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 0])
    torch.nn.functional.cross_entropy(model(images), targets).backward()
    optimizer.step()
    saved = rs.save(model, tmp_path / "ours", classes=CLASSES)
    assert_same(state(saved), model.state_dict())
    assert rs.load(saved).class_names == CLASSES
    again = rs.from_pretrained(rs.save_pretrained(saved, tmp_path / "hub", license="mit"))
    assert torch.equal(again(images), model.eval()(images))
    twice = rs.save(again, tmp_path / "twice", classes=CLASSES)
    assert_same(state(twice), state(saved))
    assert rs.create_model("resnet-rs-tiny", in_chans=1, pretrained=twice).num_classes == 3


@pytest.mark.parametrize(
    ("make", "classes", "said"),
    [
        (lambda: timm.create_model("resnet_rs", arch=TINY, num_classes=3), CLASSES, "save_for_hf"),
        (lambda: torch.nn.Linear(2, 3), CLASSES, "got a Linear"),
        (lambda: rs.create_model("resnet-rs-tiny", 4), CLASSES, r"3 class names .* is \[4\], not \[3\]"),
        (lambda: rs.create_model("resnet-rs-tiny", 0), CLASSES, "do not fit the network"),
        (lambda: rs.create_model("resnet-rs-tiny", 2), "ab", "a list of different names, got 'ab'"),
        (lambda: rs.create_model("resnet-rs-tiny", 2), ["a", "a"], "a list of different names"),
    ],
)
def test_what_cannot_be_saved_is_refused(make, classes, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        rs.save(make(), tmp_path / "ours", classes=classes)
    assert not (tmp_path / "ours").exists()
    with pytest.raises(ValueError, match="rs.save"):
        rs.save_pretrained(make(), tmp_path / "ours")


def test_what_a_network_began_with_is_said_when_it_is_saved(run, tmp_path):
    pulled = rs.from_pretrained(rs.save_pretrained(run, tmp_path / "hub", license="mit"))
    origin = checkpoint.read(rs.save(pulled.half(), tmp_path / "a", classes=RUN_CLASSES)).origin
    assert origin["source"] == "a network in a program, saved by rs.save" and "license" not in origin
    assert origin["before: license"] == "mit" and origin["before: before: data"].startswith("my_photos")
    assert state(tmp_path / "a")["head.classifier.weight"].dtype == torch.float32
    plain = checkpoint.read(write(tmp_path / "plain", EXPERIMENTS["resnet-rs-tiny"]))
    halves = {"train": ["cat/1.png"], "test": ["cat/2.png"]}
    facts = Provenance(experiment=plain.experiment, classes=CLASSES, seed=0, split=halves)
    checkpoint.write(tmp_path / "split", plain.load_model().state_dict(), facts)
    for name, is_split in (("plain", False), ("split", True)):
        model = rs.create_model("resnet-rs-tiny", in_chans=1, pretrained=tmp_path / name)
        origin = checkpoint.read(rs.save(model, tmp_path / f"{name} again", classes=CLASSES)).origin
        assert (SPLIT_LOST in origin.values()) == is_split


def test_another_license_does_not_make_the_first_forgotten(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub", license="mit")
    convert(SourceCheckpoint(path=folder, kind="hub"), tmp_path / "back")
    again = rs.save_pretrained(tmp_path / "back", tmp_path / "again", license="apache-2.0")
    assert "license: mit" not in (again / "README.md").read_text()
    convert(SourceCheckpoint(path=again, kind="hub"), tmp_path / "twice")
    origin = checkpoint.read(tmp_path / "twice").origin
    assert (origin["license"], origin["before: license"]) == ("apache-2.0", "mit")


def test_license_data_and_scores_survive_being_pulled_and_pushed_again(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub", license="mit")
    convert(SourceCheckpoint(path=folder, kind="hub"), tmp_path / "back")
    origin = checkpoint.read(tmp_path / "back").origin
    scores = json.loads((run / "scores.json").read_text())
    assert origin["license"] == "mit" and origin["before: data"].startswith("my_photos: 24 images")
    assert f"top-1 {scores['top1']:.1%} ({scores['top1_low']:.1%} to" in origin["before: scores"]
    again = rs.save_pretrained(tmp_path / "back", tmp_path / "again")
    card = (again / "README.md").read_text()
    assert card.endswith("## License\n\nmit\n") and "before: scores: of " in card
    assert json.loads((again / "config.json").read_text())["pretrained_cfg"]["license"] == "mit"
    convert(SourceCheckpoint(path=again, kind="hub"), tmp_path / "twice")
    twice = checkpoint.read(tmp_path / "twice").origin
    assert twice["license"] == "mit" and twice["before: before: data"] == origin["before: data"]
    assert_same(state(tmp_path / "twice"), state(run))


def test_a_folder_for_the_hub_holds_what_the_hub_knows_alone(run, tmp_path):
    folder = rs.save_pretrained(run, tmp_path / "hub")
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
