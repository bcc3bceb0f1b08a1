"""Evaluation by other protocols and labels, and the table of what was published."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import resnet_rs as rs
from resnet_rs import paper, zoo
from resnet_rs.config import edit
from resnet_rs.data import imagenet
from resnet_rs.data.opening import open_test
from resnet_rs.studies import reproduction
from resnet_rs.training import checkpoint
from resnet_rs.training.machine import Machine
from resnet_rs.weights import pull

NAME, OTHER = "resnet-rs-50-i160", "resnet-rs-101-i160"
SMALL = {"arch.blocks": (1, 1, 1, 1), "arch.width": 1 / 32, "data.size": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of a small network of ImageNet's classes."""
    folder = tmp_path_factory.mktemp("weights") / "checkpoint"
    experiment = edit(zoo.EXPERIMENTS[NAME], SMALL)
    tensors = experiment.build_model(seed=0).state_dict()
    checkpoint.write(
        folder, tensors, checkpoint.Provenance(experiment=experiment, classes=imagenet.classes(), seed=0)
    )
    return folder


@pytest.fixture
def published(weights, monkeypatch):
    """They stand for the published weights of two networks."""
    fetched = pull.pretrained
    monkeypatch.setattr(pull, "pretrained", lambda name: weights if name in (NAME, OTHER) else fetched(name))
    return weights


def pictures(root, classes, *, name="{i}.png", size=48):
    """Two pictures in each class folder below `root`."""
    rng = np.random.default_rng(len(classes))
    for i, folder in enumerate(classes):
        (root / folder).mkdir(parents=True)
        for j in range(2):
            pixels = rng.integers(0, 255, (size, size + 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / name.format(i=f"{2 * i + j + 1:08d}"))
    return root


def answers(weights, folder, **preprocessing):
    """The class that is first for each picture, by the parts themselves."""
    saved = checkpoint.read(weights)
    data = edit(saved.experiment.data, preprocessing)
    source, model = open_test(str(folder)), saved.load_model()
    samples = [source.read(i, channels=3) for i in range(len(source))]
    inputs = torch.stack([data.normalize(data.test_input(sample)[0][None])[0] for sample in samples])
    with torch.no_grad():
        logits = model(inputs)
    return np.array([source.classes[sample.target] for sample in samples]), logits.numpy()


def top1(truth, logits, among=None):
    names = np.array(imagenet.classes())
    kept = np.arange(1000) if among is None else np.array([imagenet.classes().index(name) for name in among])
    return float((names[kept][logits[:, kept].argmax(1)] == truth).mean())


def test_a_name_means_the_published_weights(published, tmp_path):
    folder = pictures(tmp_path / "data", imagenet.classes()[:20])
    assert rs.evaluate(NAME, data=str(folder)) == rs.evaluate(published, data=str(folder))
    assert rs.load(NAME).class_names == imagenet.classes()


def test_protocols_and_edits_change_what_the_network_sees(published, tmp_path, monkeypatch):
    truth, logits = answers(
        published,
        pictures(tmp_path / "a", imagenet.classes()[:30]),
        size=32,
        crop_ratio=0.875,
        resampling="released",
    )
    guess = [imagenet.classes()[i] for i in logits.argmax(1)]
    # Each picture goes where the network puts it, by the release's protocol: then that protocol has all right.
    root = tmp_path / "right"
    for i, (name, file) in enumerate(zip(guess, sorted((tmp_path / "a").rglob("*.png")), strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{i}.png").write_bytes(file.read_bytes())
    assert rs.evaluate(NAME, data=str(root))["top1"] == 1
    theirs = paper.TIMM[NAME]
    as_timm = {"size": theirs.size, "crop_ratio": theirs.crop_ratio, "crop_first": False}
    expected = top1(*answers(published, root, **as_timm, resampling="antialiased"))
    assert rs.evaluate(NAME, data=str(root), protocol="timm")["top1"] == expected < 1
    edits = {"data.size": "64", "data.crop_ratio": "1.0"}
    expected = top1(*answers(published, root, size=64, crop_ratio=1.0, resampling="released"))
    assert rs.evaluate(NAME, data=str(root), edits=edits)["top1"] == expected < 1


@pytest.mark.parametrize("labels", ["imagenet-r", "imagenet-a"])
def test_answers_are_chosen_among_the_classes_of_the_set(labels, published, tmp_path):
    folder = pictures(tmp_path / "data", imagenet.classes_of(labels))
    truth, logits = answers(published, folder, size=32, crop_ratio=0.875, resampling="released")
    found = rs.evaluate(NAME, data=str(folder), labels=labels)
    assert found["top1"] == top1(truth, logits, imagenet.classes_of(labels)) and found["count"] == 400
    assert [item["name"] for item in found["classes"]] == list(imagenet.classes_of(labels))
    free = rs.evaluate(NAME, data=str(folder))
    assert free["top1"] == top1(truth, logits) and len(free["classes"]) == 1000


def test_folders_of_numbers_are_imagenets_classes(published, tmp_path):
    by_number = pictures(tmp_path / "numbers", [str(i) for i in range(1000)], size=16)
    by_name = pictures(tmp_path / "names", imagenet.classes(), size=16)
    found = rs.evaluate(NAME, data=str(by_number), labels="imagenet-v2")
    expected = rs.evaluate(NAME, data=str(by_name))
    assert (found["top1"], found["top5"], found["nll"]) == (
        expected["top1"],
        expected["top5"],
        expected["nll"],
    )
    assert [c["count"] for c in found["classes"]] == [2] * 1000


def test_answers_are_judged_by_real_as_well(published, tmp_path, command):
    folder = pictures(tmp_path / "data", imagenet.classes(), name="ILSVRC2012_val_{i}.JPEG", size=16)
    _, logits = answers(published, folder, size=32, crop_ratio=0.875, resampling="released")
    files = sorted(
        folder.rglob("*.JPEG"), key=lambda file: (imagenet.classes().index(file.parent.name), file.name)
    )
    judged = imagenet.reassess([file.name for file in files], logits.argmax(1))
    found = rs.evaluate(NAME, data=str(folder), labels="imagenet-real")
    assert found["real"] == judged.hits.mean() and found["real_count"] == len(judged.hits)
    assert found["real_count"] + found["real_without"] == found["count"] == 2000
    assert found["real_low"] < found["real"] < found["real_high"]
    code, out, _ = command("evaluate", NAME, "--data", folder, "--labels", "imagenet-real")
    assert code == 0 and f"real: of {len(judged.hits):,} pictures" in out and "real   0." in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--labels", "imagenet-v3"],
            "imagenet-v2, imagenet-r, imagenet-a, imagenet-real, got 'imagenet-v3'",
        ),
        (["--labels", "imagenet-r"], "are missing"),
        (["--labels", "imagenet-real"], "folders of imagenet-real are called by 1,000 identifiers"),
        (["--protocol", "ours"], "a protocol is one of own, timm, got 'ours'"),
        (["data.flip=true"], "cannot change data.flip"),
        (["data.size=4"], "size must be 8 to 4096 pixels, got 4"),
        (["recipe.epochs=3"], "cannot change recipe.epochs"),
    ],
)
def test_wrong_requests_are_refused(arguments, said, published, tmp_path, command):
    folder = pictures(tmp_path / "data", imagenet.classes()[:3])
    code, _, errors = command("evaluate", NAME, *arguments, "--data", folder)
    assert code == 2 and said in errors


def test_labels_and_protocols_of_others_want_their_networks(published, tmp_path, command):
    code, _, errors = command("evaluate", "resnet-rs-tiny", "--data", "builtin")
    assert code == 2 and "no weights of 'resnet-rs-tiny' are published" in errors
    own = tmp_path / "own"
    experiment = zoo.EXPERIMENTS["resnet-rs-tiny"]
    classes = tuple("abcdefghij")
    checkpoint.write(
        own,
        experiment.build_model().state_dict(),
        checkpoint.Provenance(experiment=experiment, classes=classes, seed=0),
    )
    for option, said in (
        (["--labels", "imagenet-r"], "10 classes, as 'a'"),
        (["--protocol", "timm"], "timm evaluates none"),
    ):
        code, _, errors = command("evaluate", own, *option, "--data", "builtin")
        assert code == 2 and said in errors


def test_the_table_has_each_network_by_each_protocol_beside_what_was_published(published, tmp_path, command):
    folder = pictures(tmp_path / "data", imagenet.classes()[:20])
    code, out, _ = command("reproduce", NAME, OTHER, "--data", folder, "--out", tmp_path / "out")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith("| resnet-rs")]
    own = rs.evaluate(NAME, data=str(folder))
    assert [row.split(" | ")[:4] for row in rows] == [
        [f"| {NAME}", "release", "78.8", "78.9"],
        [f"| {NAME}", "timm", "79.9", ""],
        [f"| {OTHER}", "release", "80.3", "80.3"],
    ]
    assert f"{100 * own['top1']:.2f} ({100 * own['top1_low']:.2f} to {100 * own['top1_high']:.2f})" in rows[0]
    assert "all 50,000 pictures" in out


def test_what_is_scored_already_is_not_scored_again(published, tmp_path, monkeypatch):
    folder = pictures(tmp_path / "data", imagenet.classes()[:5])
    options = {"data": str(folder), "out": tmp_path / "out", "machine": Machine()}
    interrupted = reproduction.reproduce([NAME], **options)
    first = next(interrupted)
    interrupted.close()
    asked = []
    evaluate = reproduction.verbs.evaluate
    monkeypatch.setattr(
        reproduction.verbs, "evaluate", lambda *a, **k: asked.append(k["protocol"]) or evaluate(*a, **k)
    )
    scores = list(reproduction.reproduce([NAME], **options))
    assert asked == ["timm"] and scores[0] == first and len(scores) == 2
    stored = json.loads((tmp_path / "out" / f"{NAME}.timm.json").read_text())
    assert stored["top1"] == scores[1].top1
    other = pictures(tmp_path / "other", imagenet.classes()[:6])
    with pytest.raises(ValueError, match="of other pictures"):
        list(reproduction.reproduce([NAME], **{**options, "data": str(other)}))
    stored["computed"] = "another machine"
    (tmp_path / "out" / f"{NAME}.timm.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="was computed on another machine, now cpu"):
        list(reproduction.reproduce([NAME], **options))
    with pytest.raises(ValueError, match="no weights of 'resnet-rs-tiny' are published"):
        list(reproduction.reproduce(["resnet-rs-tiny"], **options))


def test_what_is_wrong_with_the_data_is_said_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(pull, "pretrained", lambda name: pytest.fail("it was fetched"))
    with pytest.raises(ValueError, match="does not know 10 classes"):
        list(reproduction.reproduce([NAME], data="builtin", out=tmp_path / "out", machine=Machine()))
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError):
        rs.evaluate(NAME, data=str(tmp_path / "none"))
