"""Weights that other libraries wrote give those libraries' logits in our networks, or are refused by name."""

import hashlib
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch.nn import functional

import resnet_rs as rs
from resnet_rs import zoo
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.bridges.network import map_state_dict
from resnet_rs.bridges.tensorflow import count_tf1_blocks, ignored_beside, model_garden_mappings, tf1_mappings
from resnet_rs.config import edit
from resnet_rs.data import imagenet
from resnet_rs.data.sample import Sample
from resnet_rs.data.target import Label
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.training import checkpoint
from resnet_rs.training.provenance import Provenance
from resnet_rs.weights import reading
from resnet_rs.weights.convert import convert
from resnet_rs.weights.reading import SourceCheckpoint, find_experiment

ASSETS = Path(__file__).parents[1] / "assets/foreign"
EXPECTED = np.load(ASSETS / "expected.npz")
SMALL = {"arch.blocks": "[2, 1, 1, 1]", "arch.width": "0.03125"}
SOURCES = {"tf1": "tf1", "tf2": "garden", "keras": "keras.h5"}


def source_checkpoint(kind, path, **more):
    return SourceCheckpoint(path=path, kind=kind, name="resnet-rs-50-i160", edits=SMALL, **more)


def logits(folder, images):
    model = checkpoint.read(folder).load_model()
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def relative(found, expected):
    """Largest difference over the largest logit; the logits must follow the image, or they would show no fault."""
    assert found.shape == expected.shape
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "more", "key"),
    [
        ("tf1", {}, "tf1"),
        ("tf1", {"raw": True}, "tf1_raw"),
        ("tf2", {}, "garden"),
        ("keras", {}, "keras"),
    ],
)
def test_weights_of_tensorflow_give_its_logits(kind, more, key, tmp_path):
    done = convert(source_checkpoint(kind, ASSETS / SOURCES[kind], **more), tmp_path / "out")
    assert relative(logits(tmp_path / "out", EXPECTED["images"]), EXPECTED[key]) < 1e-4
    tensors = checkpoint.read(tmp_path / "out").load_model().state_dict()
    counters = sum(name.endswith("num_batches_tracked") for name in tensors)
    assert done.num_variables == len(tensors) - counters, "every tensor was filled by one variable"


def test_the_ema_weights_are_not_the_raw_variables():
    """Else the test of `--raw` would show nothing."""
    assert relative(EXPECTED["tf1"], EXPECTED["tf1_raw"]) > 1e-2


class Drawn:
    """A file of random arrays, which knows how often each was read."""

    def __init__(self, shapes):
        self.shapes = shapes
        self.reads = dict.fromkeys(shapes, 0)

    def read_many(self, names):
        for name in names:
            self.reads[name] += 1
            rng = np.random.default_rng(len(name))
            drawn = rng.normal(size=self.shapes[name]).astype(np.float32)
            yield name, np.abs(drawn) if "moving_variance" in name else drawn


def model_garden_shapes(num_classes, *, ema):
    """Those of a small Model Garden checkpoint, with EMA slots or without."""
    experiment = edit(zoo.experiment("resnet-rs-50-i160"), {**reading._MODEL_GARDEN, **SMALL})
    experiment = replace(experiment, arch=ModelGardenArch.like(experiment.arch))
    expected = edit(experiment, {"task.num_classes": num_classes}).expected_tensors()
    mappings = model_garden_mappings(expected, ema=False)
    shapes = {}
    for mapping, slot in zip(mappings, model_garden_mappings(expected, ema=True), strict=True):
        shape = tuple(expected[mapping.target].shape)
        swapped = shape[2:] + shape[1::-1]
        shape = (1, 1, *swapped) if mapping.is_matrix else swapped
        shapes[mapping.source] = shape
        if ema:
            shapes[slot.source] = shape
    return shapes


@pytest.fixture
def model_garden(monkeypatch):
    """Puts a file in the place of a Model Garden checkpoint."""

    def put(file):
        monkeypatch.setattr(reading, "TensorBundle", lambda path: file)
        return file

    return put


@pytest.mark.parametrize(
    ("num_classes", "background", "left"), [(1001, False, 1000), (1001, True, 1001), (11, False, 11)]
)
def test_only_class_0_of_1001_is_left_out_unless_it_is_kept(
    num_classes, background, left, model_garden, tmp_path
):
    model_garden(Drawn(model_garden_shapes(num_classes, ema=False)))
    done = convert(
        source_checkpoint("tf2", ASSETS / "garden/ckpt.index", background=background), tmp_path / "out"
    )
    saved = checkpoint.read(tmp_path / "out")
    assert len(saved.classes) == done.provenance.experiment.task.num_classes == left
    assert isinstance(done.provenance.experiment.arch, ModelGardenArch)
    assert ("without its class 0" in done.provenance.origin["head"]) == (left < num_classes)
    assert (saved.classes[0] == "background") == background


def test_ema_weights_of_the_model_garden_are_used_all_or_none(model_garden, tmp_path):
    shapes = model_garden_shapes(11, ema=True)
    file = model_garden(Drawn(shapes))
    done = convert(source_checkpoint("tf2", ASSETS / "garden/ckpt.index"), tmp_path / "out")
    assert done.provenance.origin["variables"] == "EMA"
    assert {name for name, count in file.reads.items() if count} == {
        n for n in shapes if "OPTIMIZER_SLOT" in n
    }
    raw = convert(source_checkpoint("tf2", ASSETS / "garden/ckpt.index", raw=True), tmp_path / "raw")
    assert raw.provenance.origin["variables"] == "raw"
    missing = next(name for name in shapes if "OPTIMIZER_SLOT" in name)
    model_garden(Drawn({name: shape for name, shape in shapes.items() if name != missing}))
    with pytest.raises(ValueError, match=f"missing: '{missing}".replace(".", r"\.")):
        convert(source_checkpoint("tf2", ASSETS / "garden/ckpt.index"), tmp_path / "some")


@pytest.mark.parametrize("source", ["keras-model.h5", "keras-notop.h5"])
def test_a_whole_keras_model_and_one_without_top_are_read(source, tmp_path):
    done = convert(source_checkpoint("keras", ASSETS / source), tmp_path / "out")
    whole = convert(source_checkpoint("keras", ASSETS / "keras.h5"), tmp_path / "whole")
    images = torch.from_numpy(EXPECTED["images"]).permute(0, 3, 1, 2)
    models = [checkpoint.read(tmp_path / name).load_model() for name in ("out", "whole")]
    assert torch.equal(*(model.backbone(images).c5 for model in models))
    is_fresh = done.provenance.origin["head"].startswith("fresh")
    assert is_fresh == ("notop" in source) and done.num_variables == whole.num_variables - 2 * is_fresh


def test_an_archive_is_read_in_place_and_without_its_index_of_checkpoints(tmp_path):
    archive = tmp_path / "resnet-rs-50-i160.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in (ASSETS / "tf1").glob("model.ckpt*"):
            tar.add(path, f"resnet-rs-50-i160/{path.name}")
    convert(source_checkpoint("tf1", archive), tmp_path / "out")
    convert(source_checkpoint("tf1", ASSETS / "tf1" / "model.ckpt"), tmp_path / "again")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        tmp_path / "again/model.safetensors"
    ).read_bytes()


def test_the_same_checkpoint_has_the_same_hash_however_it_is_named(tmp_path):
    origins = []
    for i, path in enumerate(("tf1", "tf1/model.ckpt", "tf1/model.ckpt.index")):
        origins.append(convert(source_checkpoint("tf1", ASSETS / path), tmp_path / str(i)).provenance.origin)
    assert origins[0] == origins[1] == origins[2] and origins[0]["source"] == "model.ckpt"


def test_edits_of_ones_own_are_taken_by_every_kind(tmp_path):
    plain = dict(SMALL, **{"arch.drop_path": "0.1", "data.size": "64"})
    edited = SourceCheckpoint(path=ASSETS / "garden", kind="tf2", name="resnet-rs-50-i160", edits=plain)
    experiment = convert(edited, tmp_path / "out").provenance.experiment
    assert (experiment.arch.drop_path, experiment.data.size) == (0.1, 64)
    torch.save(torchvision.models.efficientnet_b0(num_classes=7).state_dict(), tmp_path / "b0.pth")
    b0 = SourceCheckpoint(
        path=tmp_path / "b0.pth", kind="torchvision", name="efficientnet-b0", edits={"data.size": 96}
    )
    assert convert(b0, tmp_path / "b0").provenance.experiment.data.size == 96


def test_what_no_shape_tells_comes_with_the_weights(tmp_path):
    """torchvision's epsilon is another than ours, which a model made of the checkpoint must have."""
    torch.manual_seed(0)
    theirs = torchvision.models.efficientnet_b0(num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "b0.pth")
    convert(SourceCheckpoint(path=tmp_path / "b0.pth", kind="torchvision"), tmp_path / "out")
    images = torch.randn(2, 3, 64, 64)
    model = rs.create_model("efficientnet-b0", num_classes=7, pretrained=tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="do not fit this network"):
        rs.create_model("resnet-rs-50-i160", pretrained=tmp_path / "out")


def test_the_command_says_what_was_taken(tmp_path, monkeypatch, capsys):
    from resnet_rs.cli import main

    (tmp_path / "names.txt").write_text("".join(f"thing {i}\n" for i in range(10)))
    arguments = ["convert", str(ASSETS / "tf1"), "--from", "tf1", "--name", "resnet-rs-50-i160"]
    arguments += ["--classes", str(tmp_path / "names.txt"), "--raw", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["resnet-rs", *arguments, *(f"{path}={v}" for path, v in SMALL.items())])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "variables: raw" in said and "classes: as given" in said
    assert checkpoint.read(tmp_path / "out").classes[3] == "thing 3"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--raw"], "Missing option '--from'"),
        (["--from", "tf3"], "--from must be one of"),
        (["--from", "keras", "--key", "x"], "--key is for weights of timm or torchvision"),
    ],
)
def test_options_without_sense_are_refused(arguments, said, tmp_path, monkeypatch, capsys):
    from resnet_rs.cli import main

    command = ["resnet-rs", "convert", str(ASSETS / "keras.h5"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_says_where_its_weights_come_from(tmp_path):
    convert(source_checkpoint("keras", ASSETS / "keras.h5"), tmp_path / "out")
    origin = checkpoint.read(tmp_path / "out").origin
    assert origin["source"] == "keras.h5" and origin["format"] == "keras"
    assert origin["sha256"] == hashlib.sha256((ASSETS / "keras.h5").read_bytes()).hexdigest()


def test_the_rules_use_every_variable_of_the_released_graph_once():
    """Name and shape of all its 693 variables, as the released code makes them at depth 50."""
    lines = [
        line.split("\t") for line in (ASSETS / "tf1-resnet-rs-50-variables.txt").read_text().splitlines()
    ]
    shapes = {name: tuple(map(int, shape.split("x"))) if shape else () for name, shape in lines}
    assert count_tf1_blocks(shapes) == sum(BLOCKS[50])

    with torch.device("meta"):
        expected = zoo.experiment("resnet-rs-50-i160").build_model().state_dict()
    file = Drawn(shapes)
    mappings = tf1_mappings(expected, ema=True)
    filled = map_state_dict(file, mappings, expected, ignored=ignored_beside(mappings), origin="it")
    assert filled.keys() == expected.keys()
    used = {name for name, count in file.reads.items() if count == 1}
    assert used == {name for name in shapes if name.endswith("/ExponentialMovingAverage")}
    assert sum(file.reads.values()) == len(used)
    small = {name: tensor for name, tensor in expected.items() if not name.startswith("backbone.c5.2.")}
    fewer = tf1_mappings(small, ema=True)
    with pytest.raises(ValueError, match="unknown: "):  # a block too many for that network
        map_state_dict(Drawn(shapes), fewer, expected, ignored=ignored_beside(fewer), origin="it")


def test_a_resnet_of_torchvision_gives_its_logits(tmp_path):
    torch.manual_seed(0)
    done = check_torch(torchvision.models.resnet50(num_classes=7), "torchvision", tmp_path, size=64)
    assert_prepares_as(done.provenance.experiment.data, torchvision.models.ResNet50_Weights.IMAGENET1K_V1)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
def test_efficientnets_of_torchvision_give_its_logits(name, tmp_path):
    torch.manual_seed(0)
    done = check_torch(getattr(torchvision.models, name)(num_classes=7), "torchvision", tmp_path, size=64)
    assert_prepares_as(
        done.provenance.experiment.data, torchvision.models.get_model_weights(name).IMAGENET1K_V1
    )


def assert_prepares_as(data, weights):
    """An image becomes the input that torchvision's own transforms make of it."""
    smooth = np.random.default_rng(0).normal(128, 60, (9, 13, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(smooth).resize((900, 700), Image.Resampling.BICUBIC)
    inputs, _ = data.test_input(Sample(np.asarray(image), Label(0), ""))
    torch.testing.assert_close(
        data.normalize(inputs[None])[0], weights.transforms()(image), rtol=0, atol=1e-6
    )


def test_a_model_of_timm_gives_its_logits(tmp_path):
    torch.manual_seed(0)
    done = check_torch(timm.create_model("resnetrs50", num_classes=7), "timm", tmp_path, size=64)
    assert (
        zoo.nearest(done.provenance.experiment) == "resnet-rs-50-i160"
        and done.provenance.experiment.data.resampling == "tf1_bicubic"
    )


@pytest.mark.parametrize(
    ("file", "num_blocks", "name"),
    [
        ("resnetrs101_i192_ema-1509bbf6.pth", 33, "resnet-rs-101-i192"),
        ("resnetrs152_i256_ema-a9aff7f9.pth", 50, "resnet-rs-152-i256"),
        ("resnetrs420_ema-972dee69.pth", 139, "resnet-rs-420-i320"),
        ("resnet-rs-350-i320.tar.gz", 116, "resnet-rs-350-i320"),
    ],
)
def test_the_files_name_tells_the_size(file, num_blocks, name, tmp_path):
    (tmp_path / file).touch()
    assert find_experiment(SourceCheckpoint(path=tmp_path / file, kind="timm"), num_blocks) == zoo.experiment(
        name
    )


def check_torch(theirs, kind, tmp_path, *, size):
    """Save `theirs` with shaken statistics, convert it from the pickle and from safetensors, compare logits."""
    patches = torch.randn(2, 3, 4, 4)
    images = functional.interpolate(patches, size=(size, size)) + 0.3 * torch.randn(2, 3, size, size)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.uniform_(0.5, 1.0)
    with torch.no_grad():
        theirs.train()(images)
        expected = theirs.eval()(images).numpy()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    done = convert(SourceCheckpoint(path=tmp_path / "weights.pth", kind=kind), tmp_path / "out")
    convert(SourceCheckpoint(path=tmp_path / "weights.safetensors", kind=kind), tmp_path / "again")
    assert relative(logits(tmp_path / "out", images.permute(0, 2, 3, 1).numpy()), expected) < 1e-4
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        tmp_path / "again/model.safetensors"
    ).read_bytes()
    return done


def test_classes_of_imagenet_are_its_identifiers():
    names = imagenet.classes()
    assert len(set(names)) == 1000 and names[0] == "n01440764" and names[999] == "n15075141"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "caffe"}, "one of tf1, tf2, keras, timm, torchvision, efficientnet-lite, hub, got 'caffe'"),
        ({"kind": "tf1", "path": "gone"}, "gone is no TensorFlow checkpoint"),
        ({"kind": "tf1", "edits": {"arch.width": 0.5}}, "Give --name as well"),
        ({"kind": "keras", "path": ASSETS / "tf1/model.ckpt.index"}, "is not an HDF5 file"),
        ({"kind": "tf1"}, "5 blocks and may be no released ResNet-RS"),
        ({"kind": "tf1", "name": "efficientnet-b0"}, "the architecture EfficientNetArch"),
        ({"kind": "tf1", "background": True}, "--background is for weights of tf2"),
        ({"kind": "keras", "raw": True}, "--raw is for weights of tf1 or tf2"),
        (
            {"kind": "tf1", "name": "resnet-rs-50-i160", "edits": SMALL, "classes": ("a", "b")},
            "2 class names, 2 different, for a network of 10 classes",
        ),
        ({"kind": "tf1", "name": "resnet-rs-50-i160"}, "missing: "),
        (
            {"kind": "tf2", "name": "resnet-rs-50-i160", "edits": SMALL},
            "missing: 'backbone/layer_with_weights-0",
        ),
        ({"kind": "timm", "name": "resnet-rs-50-i160", "path": ASSETS / "keras.h5"}, "keras.h5"),
    ],
)
def test_what_is_not_those_weights_is_refused_and_nothing_is_written(fields, said, tmp_path):
    fields = dict(fields)
    path = Path(fields.pop("path", ASSETS / "tf1"))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        convert(SourceCheckpoint(path=path, **fields), tmp_path / "out")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_variable_too_many_or_too_few_is_named(tmp_path):
    state = timm.create_model("resnetrs50", num_classes=7).state_dict()
    state["extra.weight"] = state.pop("bn1.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"unknown: 'extra.weight'; missing: 'bn1.bias'"):
        convert(SourceCheckpoint(path=tmp_path / "weights.pth", kind="timm"), tmp_path / "out")


def test_a_resolution_that_the_file_does_not_tell_is_asked_for(tmp_path):
    torch.save(timm.create_model("resnetrs101", num_classes=7).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="may be resnet-rs-101-i160 or resnet-rs-101-i192"):
        convert(SourceCheckpoint(path=tmp_path / "weights.pth", kind="timm"), tmp_path / "out")


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        convert(source_checkpoint("keras", ASSETS / "keras.h5"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_checkpoint_of_an_older_version_has_no_origin(tmp_path):
    convert(source_checkpoint("keras", ASSETS / "keras.h5"), tmp_path / "out")
    info = json.loads((tmp_path / "out/checkpoint.json").read_text())
    assert set(info["origin"]) == {"source", "sha256", "format", "variables", "head", "classes"}
    assert Provenance(experiment=zoo.experiment("resnet-rs-tiny"), classes=("a",), seed=0).origin == {}
