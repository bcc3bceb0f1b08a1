"""Evaluation by other protocols and labels, and the table of what was published."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import resnet_rs as rs
from resnet_rs import paper, storage, verbs, zoo
from resnet_rs.config import edit
from resnet_rs.data import dataset, imagenet
from resnet_rs.data.sample import Request
from resnet_rs.studies import reproduction
from resnet_rs.training import checkpoint
from resnet_rs.training.machine import Machine
from resnet_rs.training.provenance import Provenance
from resnet_rs.weights import pull

NAME, OTHER = "resnet-rs-50-i160", "resnet-rs-101-i160"
SMALL = {"arch.blocks": (1, 1, 1, 1), "arch.width": 1 / 32, "data.size": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of a small network of ImageNet's classes."""
    folder = tmp_path_factory.mktemp("weights") / "checkpoint"
    experiment = edit(zoo.EXPERIMENTS[NAME], SMALL)
    tensors = experiment.build_model(seed=0).state_dict()
    checkpoint.write(folder, tensors, Provenance(experiment=experiment, classes=imagenet.classes(), seed=0))
    return folder


@pytest.fixture
def published(weights, monkeypatch):
    """They stand for the published weights of two networks."""
    fetched = pull.pretrained
    monkeypatch.setattr(pull, "pretrained", lambda name: weights if name in (NAME, OTHER) else fetched(name))
    return weights


def images(root, classes, *, per_class=2, name="{i}.png", size=48):
    """A few images in each class folder below `root`."""
    rng = np.random.default_rng(len(classes))
    for i, folder in enumerate(classes):
        (root / folder).mkdir(parents=True)
        for j in range(per_class):
            pixels = rng.integers(0, 255, (size, size + 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / name.format(i=f"{per_class * i + j + 1:08d}"))
    return root


def answers(weights, folder, **preprocessing):
    """The class that is first for each image, by the parts themselves."""
    saved = checkpoint.read(weights)
    data = edit(saved.experiment.data, preprocessing)
    source, model = dataset.find(str(folder)).open_test(), saved.load_model()
    samples = [source.read(i, Request(3)) for i in range(len(source))]
    inputs = torch.stack([data.normalize(data.test_input(sample)[0][None])[0] for sample in samples])
    with torch.no_grad():
        logits = model(inputs)
    return np.array([source.classes[sample.target.index] for sample in samples]), logits.numpy()


def top1(truth, logits, among=None):
    names = np.array(imagenet.classes())
    kept = np.arange(1000) if among is None else np.array([imagenet.classes().index(name) for name in among])
    return float((names[kept][logits[:, kept].argmax(1)] == truth).mean())


def test_a_name_means_the_published_weights(published, tmp_path):
    folder = images(tmp_path / "data", imagenet.classes()[:20])
    assert rs.evaluate(NAME, data=str(folder)) == rs.evaluate(published, data=str(folder))
    assert rs.load(NAME).class_names == imagenet.classes()


def test_protocols_and_edits_change_what_the_network_sees(published, tmp_path, monkeypatch):
    truth, logits = answers(
        published,
        images(tmp_path / "a", imagenet.classes()[:30]),
        size=32,
        crop_ratio=0.875,
        resampling="tf1_bicubic",
    )
    guess = [imagenet.classes()[i] for i in logits.argmax(1)]
    # Each image goes where the network puts it, by the release's protocol: then that protocol has all right.
    root = tmp_path / "right"
    for i, (name, file) in enumerate(zip(guess, sorted((tmp_path / "a").rglob("*.png")), strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{i}.png").write_bytes(file.read_bytes())
    assert rs.evaluate(NAME, data=str(root))["top1"] == 1
    theirs = paper.TIMM[NAME]
    as_timm = {"size": theirs.size, "crop_ratio": theirs.crop_ratio, "crop_first": False}
    expected = top1(*answers(published, root, **as_timm, resampling="bicubic"))
    assert rs.evaluate(NAME, data=str(root), protocol="timm")["top1"] == expected < 1
    edits = {"data.size": "64", "data.crop_ratio": "1.0"}
    expected = top1(*answers(published, root, size=64, crop_ratio=1.0, resampling="tf1_bicubic"))
    assert rs.evaluate(NAME, data=str(root), edits=edits)["top1"] == expected < 1


@pytest.mark.parametrize("labels", ["imagenet-r", "imagenet-a"])
def test_answers_are_chosen_among_the_classes_of_the_set(labels, published, tmp_path):
    folder = images(tmp_path / "data", imagenet.classes_of(labels), per_class=1)
    truth, logits = answers(published, folder, size=32, crop_ratio=0.875, resampling="tf1_bicubic")
    found = rs.evaluate(NAME, data=str(folder), labels=labels)
    assert found["top1"] == top1(truth, logits, imagenet.classes_of(labels)) and found["count"] == 200
    assert [item["name"] for item in found["classes"]] == list(imagenet.classes_of(labels))
    free = rs.evaluate(NAME, data=str(folder))
    assert free["top1"] == top1(truth, logits) and len(free["classes"]) == 1000


def test_all_classes_are_scored_by_real_and_from_folders_of_numbers(published, tmp_path):
    folder = images(
        tmp_path / "names", imagenet.classes(), per_class=1, name="ILSVRC2012_val_{i}.JPEG", size=16
    )
    _, logits = answers(published, folder, size=32, crop_ratio=0.875, resampling="tf1_bicubic")
    files = [next((folder / name).iterdir()).name for name in imagenet.classes()]
    correct = imagenet.reassess(files, logits.argmax(1))
    found = rs.evaluate(NAME, data=str(folder), labels="imagenet-real")
    assert found["real"] == correct.mean() and found["real_count"] == len(correct)
    assert found["real_count"] + found["real_without"] == found["count"] == 1000
    assert found["real_low"] < found["real"] < found["real_high"]
    line = next(line for line in verbs.describe_scores(found) if line.startswith("ReaL: "))
    assert f" of {len(correct):,} images" in line

    for i, name in enumerate(imagenet.classes()):
        shutil.move(folder / name, tmp_path / "numbers" / str(i))
    by_number = rs.evaluate(NAME, data=str(tmp_path / "numbers"), labels="imagenet-v2")
    assert all(by_number[score] == found[score] for score in ("top1", "top5", "nll"))
    assert [c["count"] for c in by_number["classes"]] == [1] * 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--labels", "imagenet-v3"],
            "imagenet-v2, imagenet-r, imagenet-a, imagenet-real, got 'imagenet-v3'",
        ),
        (["--labels", "imagenet-r"], "missing, such as"),
        (["--labels", "imagenet-real"], "folders of imagenet-real must be 1,000 identifiers"),
        (["--protocol", "ours"], "a protocol is one of own, timm, got 'ours'"),
        (["data.flip=true"], "cannot change data.flip"),
        (["data.size=4"], "size must be 8 to 4096 pixels, got 4"),
        (["recipe.epochs=3"], "cannot change recipe.epochs"),
    ],
)
def test_wrong_requests_are_refused(arguments, said, published, tmp_path, command):
    folder = images(tmp_path / "data", imagenet.classes()[:3])
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
        Provenance(experiment=experiment, classes=classes, seed=0),
    )
    for option, said in (
        (["--labels", "imagenet-r"], "10 classes, as 'a'"),
        (["--protocol", "timm"], "timm evaluates none"),
    ):
        code, _, errors = command("evaluate", own, *option, "--data", "builtin")
        assert code == 2 and said in errors


def test_the_table_has_each_network_by_each_protocol_beside_what_was_published(published, tmp_path, command):
    folder = images(tmp_path / "data", imagenet.classes()[:20])
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
    assert "all 50,000 images" in out


def test_what_is_scored_already_is_not_scored_again(published, tmp_path, monkeypatch):
    folder = images(tmp_path / "data", imagenet.classes()[:5])
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
    assert stored["numbers"][0]["value"] == scores[1].numbers[0].value
    other = images(tmp_path / "other", imagenet.classes()[:6])
    with pytest.raises(ValueError, match="belongs to other images"):
        list(reproduction.reproduce([NAME], **{**options, "data": str(other)}))
    path = tmp_path / "out" / f"{NAME}.timm.json"
    path.write_text(json.dumps(stored | {"a field of another version": 1}))
    assert list(reproduction.reproduce([NAME], **options)) == scores
    path.write_text(json.dumps(stored | {"numbers": [{"name": {}}]}))
    with pytest.raises(storage.Damaged, match=r"timm\.json holds no scores of this version"):
        list(reproduction.reproduce([NAME], **options))
    stored["computed"] = "another machine"
    (tmp_path / "out" / f"{NAME}.timm.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="was computed on another machine, now cpu"):
        list(reproduction.reproduce([NAME], **options))
    with pytest.raises(ValueError, match="'resnet-rs-tiny' has no published weights"):
        list(reproduction.reproduce(["resnet-rs-tiny"], **options))


def test_what_is_wrong_with_the_data_is_said_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr(pull, "pretrained", lambda name: pytest.fail("it was fetched"))
    with pytest.raises(ValueError, match="does not know 10 classes"):
        list(reproduction.reproduce([NAME], data="builtin", out=tmp_path / "out", machine=Machine()))
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError):
        rs.evaluate(NAME, data=str(tmp_path / "none"))


@pytest.fixture
def same_images(tmp_path):
    """A folder whose test images are its training images, 4 for each of 3 classes."""
    rng = np.random.default_rng(0)
    for i in range(12):
        image = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        for part in ("train", "test"):
            folder = tmp_path / "data" / part / f"class {i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i}.png")
    return tmp_path


def test_neighbors_classify_images_of_classes_that_the_weights_do_not_know(weights, same_images):
    data = str(same_images / "data")
    scores = verbs.evaluate_neighbors(weights, data=data, num_neighbors=1)
    assert (scores["top1"], scores["count"], scores["num_neighbors"]) == (1.0, 12, 1)
    assert "classified by the 1 nearest training images" in "\n".join(verbs.describe_scores(scores))
    # The image itself is the only vote, and a third of the vote that all classes share is added.
    assert scores["nll"] == pytest.approx(-math.log((1 + 1 / 3) / 2), abs=1e-6)
    assert verbs.evaluate_neighbors(weights, data=data, num_neighbors=1000)["num_neighbors"] == 12
    with pytest.raises(ValueError, match="neighbors must be 1 or more, got 0"):
        verbs.evaluate_neighbors(weights, data=data, num_neighbors=0)


def test_neighbors_need_one_class_per_image(weights, same_images):
    (same_images / "both.csv").write_text(
        "".join(["path,label,split\n", *(f"data/train/class {i % 3}/{i}.png,a|b,train\n" for i in range(11))])
        + "data/train/class 2/11.png,a,test\n"
    )
    with pytest.raises(ValueError, match=r"both.csv has several labels per image"):
        verbs.evaluate_neighbors(weights, data=str(same_images / "both.csv"), num_neighbors=1)
