"""Weights that other libraries wrote give those libraries' logits in our networks, or are refused by name."""

import hashlib
import json
import math
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch.nn import functional

from resnet_rs import zoo
from resnet_rs.bridges.keras import H5File
from resnet_rs.bridges.network import fill
from resnet_rs.bridges.tensorflow import count_blocks_of_tf1, is_tf1_other, tf1_rules
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.training import checkpoint
from resnet_rs.weights.convert import Foreign, classes_of, convert, named

ASSETS = Path(__file__).parents[1] / "assets/foreign"
EXPECTED = np.load(ASSETS / "expected.npz")
SMALL = {"arch.blocks": "[2, 1, 1, 1]", "arch.width": "0.03125"}
SOURCES = {"tf1": "tf1", "tf2": "garden", "keras": "keras.h5"}


def foreign(kind, path, **more):
    return Foreign(path=path, kind=kind, name="resnet-rs-50-i160", edits=SMALL, **more)


def logits(folder, images):
    model = checkpoint.read(folder).load_model()
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def relative(found, expected):
    """Largest difference over the largest logit; the logits must follow the picture, or they would show no fault."""
    assert found.shape == expected.shape
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("kind", "more", "key"),
    [
        ("tf1", {}, "tf1"),
        ("tf1", {"raw": True}, "tf1_raw"),
        ("tf2", {"background": True}, "garden"),
        ("keras", {}, "keras"),
    ],
)
def test_weights_of_tensorflow_give_its_logits(kind, more, key, tmp_path):
    done = convert(foreign(kind, ASSETS / SOURCES[kind], **more), tmp_path / "out")
    assert relative(logits(tmp_path / "out", EXPECTED["images"]), EXPECTED[key]) < 1e-4
    tensors = checkpoint.read(tmp_path / "out").load_model().state_dict()
    counters = sum(name.endswith("num_batches_tracked") for name in tensors)
    assert done.num_variables == len(tensors) - counters, "every tensor was filled by one variable"


def test_the_averages_are_not_the_raw_variables():
    """Else the test of `--raw` would show nothing."""
    assert relative(EXPECTED["tf1"], EXPECTED["tf1_raw"]) > 1e-2


def test_the_background_is_left_out_unless_it_is_kept(tmp_path):
    done = convert(foreign("tf2", ASSETS / "garden"), tmp_path / "out")
    assert relative(logits(tmp_path / "out", EXPECTED["images"]), EXPECTED["garden"][:, 1:]) < 1e-4
    assert done.experiment.arch.padding == "same" and done.experiment.arch.activation == "silu"


@pytest.mark.parametrize("source", ["keras-model.h5", "keras-notop.h5"])
def test_a_whole_keras_model_and_one_without_top_are_read(source, tmp_path):
    done = convert(foreign("keras", ASSETS / source), tmp_path / "out")
    whole = convert(foreign("keras", ASSETS / "keras.h5"), tmp_path / "whole")
    images = torch.from_numpy(EXPECTED["images"]).permute(0, 3, 1, 2)
    models = [checkpoint.read(tmp_path / name).load_model() for name in ("out", "whole")]
    assert torch.equal(*(model.backbone(images).c5 for model in models))
    is_fresh = done.origin["head"].startswith("fresh")
    assert is_fresh == ("notop" in source) and done.num_variables == whole.num_variables - 2 * is_fresh


def test_an_archive_is_read_in_place_and_without_its_index_of_checkpoints(tmp_path):
    archive = tmp_path / "resnet-rs-50-i160.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in (ASSETS / "tf1").glob("model.ckpt*"):
            tar.add(path, f"resnet-rs-50-i160/{path.name}")
    convert(foreign("tf1", archive), tmp_path / "out")
    convert(foreign("tf1", ASSETS / "tf1" / "model.ckpt"), tmp_path / "again")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        tmp_path / "again/model.safetensors"
    ).read_bytes()


def test_the_checkpoint_says_where_its_weights_come_from(tmp_path):
    convert(foreign("keras", ASSETS / "keras.h5"), tmp_path / "out")
    origin = checkpoint.read(tmp_path / "out").origin
    assert origin["source"] == "keras.h5" and origin["format"] == "keras"
    assert origin["sha256"] == hashlib.sha256((ASSETS / "keras.h5").read_bytes()).hexdigest()


def test_the_rules_use_every_variable_of_the_released_graph_once():
    """Name and shape of all its 693 variables, as the released code makes them at depth 50."""
    lines = [
        line.split("\t") for line in (ASSETS / "tf1-resnet-rs-50-variables.txt").read_text().splitlines()
    ]
    shapes = {name: tuple(map(int, shape.split("x"))) if shape else () for name, shape in lines}
    assert count_blocks_of_tf1(shapes) == sum(BLOCKS[50])

    class Zeros:
        """A file of those variables; each knows how often it was read."""

        def __init__(self):
            self.shapes = shapes
            self.reads = dict.fromkeys(shapes, 0)

        def read_many(self, names):
            for name in names:
                self.reads[name] += 1
                yield name, np.zeros(shapes[name], dtype=np.float32)

    with torch.device("meta"):
        expected = zoo.experiment("resnet-rs-50-i160").build_model().state_dict()
    file = Zeros()
    arch = ResNetArch(blocks=BLOCKS[50])
    filled = fill(file, tf1_rules(arch, raw=False), expected, ignored=is_tf1_other, origin="it")
    assert filled.keys() == expected.keys()
    used = {name for name, count in file.reads.items() if count == 1}
    assert used == {name for name in shapes if name.endswith("/ExponentialMovingAverage")}
    assert sum(file.reads.values()) == len(used)


def test_a_resnet_of_torchvision_gives_its_logits(tmp_path):
    torch.manual_seed(0)
    check_torch(torchvision.models.resnet50(num_classes=7), "torchvision", tmp_path, size=64)


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b2", "efficientnet_b5"])
def test_efficientnets_of_torchvision_give_its_logits(name, tmp_path):
    torch.manual_seed(0)
    check_torch(getattr(torchvision.models, name)(num_classes=7), "torchvision", tmp_path, size=64)


def test_a_model_of_timm_gives_its_logits(tmp_path):
    torch.manual_seed(0)
    done = check_torch(timm.create_model("resnetrs50", num_classes=7), "timm", tmp_path, size=64)
    assert done.name == "resnet-rs-50-i160"


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
    assert named(Foreign(path=tmp_path / file, kind="timm"), num_blocks) == zoo.experiment(name)


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
    done = convert(Foreign(path=tmp_path / "weights.pth", kind=kind), tmp_path / "out")
    convert(Foreign(path=tmp_path / "weights.safetensors", kind=kind), tmp_path / "again")
    assert relative(logits(tmp_path / "out", images.permute(0, 2, 3, 1).numpy()), expected) < 1e-4
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        tmp_path / "again/model.safetensors"
    ).read_bytes()
    return done


def test_classes_of_imagenet_are_its_identifiers():
    names = classes_of(zoo.experiment("resnet-rs-50-i160"))
    assert len(set(names)) == 1000 and names[0] == "n01440764" and names[999] == "n15075141"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "caffe"}, "one of tf1, tf2, keras, timm, torchvision, got 'caffe'"),
        ({"kind": "tf1", "path": "gone"}, "gone does not exist"),
        ({"kind": "tf1", "edits": {"arch.width": 0.5}}, "Give --name as well"),
        ({"kind": "keras", "path": ASSETS / "tf1/model.ckpt.index"}, "is no HDF5 file"),
        ({"kind": "tf1"}, "is no ResNet-RS of the zoo. Give --name"),
        ({"kind": "tf1", "name": "efficientnet-b0"}, "of a ResNet, and --name is of a EfficientNetArch"),
        ({"kind": "tf1", "name": "resnet-rs-50-i160"}, "missing: "),
        (
            {"kind": "tf2", "name": "resnet-rs-50-i160", "edits": SMALL},
            "missing: backbone/layer_with_weights-0",
        ),
        ({"kind": "timm", "name": "resnet-rs-50-i160", "path": ASSETS / "keras.h5"}, "keras.h5"),
    ],
)
def test_what_is_not_those_weights_is_refused_and_nothing_is_written(fields, said, tmp_path):
    fields = dict(fields)
    path = Path(fields.pop("path", ASSETS / "tf1"))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        convert(Foreign(path=path, **fields), tmp_path / "out")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_variable_too_many_or_too_few_is_named(tmp_path):
    state = timm.create_model("resnetrs50", num_classes=7).state_dict()
    state["extra.weight"] = state.pop("bn1.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"unknown: extra.weight; missing: bn1.bias"):
        convert(Foreign(path=tmp_path / "weights.pth", kind="timm"), tmp_path / "out")


def test_a_resolution_that_the_file_does_not_tell_is_asked_for(tmp_path):
    torch.save(timm.create_model("resnetrs101", num_classes=7).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="may be resnet-rs-101-i160 or resnet-rs-101-i192"):
        convert(Foreign(path=tmp_path / "weights.pth", kind="timm"), tmp_path / "out")


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        convert(foreign("keras", ASSETS / "keras.h5"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_keras_files_are_refused(tmp_path):
    content = (ASSETS / "keras.h5").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(content)
        for place in rng.integers(0, 4096, 8):
            bad[place] ^= int(rng.integers(1, 256))
        (tmp_path / "bad.h5").write_bytes(bad[: int(rng.integers(1, len(bad)))])
        try:
            file = H5File(tmp_path / "bad.h5")
            for _, array in file.read_many(file.shapes):
                assert math.prod(array.shape) < 1e7
        except ValueError as error:
            assert "bad.h5" in str(error)


def test_a_keras_file_that_leads_elsewhere_is_refused(tmp_path):
    import h5py

    shutil.copy(ASSETS / "keras.h5", tmp_path / "links.h5")
    with h5py.File(tmp_path / "links.h5", "a") as opened:
        opened["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(ValueError, match="leads elsewhere"):
        H5File(tmp_path / "links.h5")


def test_the_checkpoint_of_an_older_version_has_no_origin(tmp_path):
    convert(foreign("keras", ASSETS / "keras.h5"), tmp_path / "out")
    info = json.loads((tmp_path / "out/checkpoint.json").read_text())
    assert set(info["origin"]) == {"source", "sha256", "format", "variables", "head"}
    assert (
        checkpoint.Provenance(experiment=zoo.experiment("resnet-rs-tiny"), classes=("a",), seed=0).origin
        == {}
    )
