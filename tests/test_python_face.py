"""The package as Python code uses it."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import resnet_rs as rs
from resnet_rs import config
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.models.backbone import Model, Pyramid
from resnet_rs.tasks.classification import Classification
from resnet_rs.training import checkpoint

NO_SE = {"arch.se_ratio": None, "task.num_classes": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Six channels, from drawn arrays in files, through training, scoring and prediction."""
    root = tmp_path_factory.mktemp("spectra")
    rng = np.random.default_rng(0)
    for name, level in (("dry", 60), ("wet", 190)):
        for i in range(20):
            pixels = np.clip(rng.normal(level, 20, (18, 18, 6)), 0, 255).astype(np.uint8)
            (root / name).mkdir(exist_ok=True)
            np.save(root / name / f"{i}.npy", pixels)
    edits = {
        "data.mean": (0.5,) * 6,
        "data.std": (0.25,) * 6,
        "data.size": 16,
        "recipe.batch_size": 8,
        "recipe.epochs": 4.0,
        "recipe.ema_decay": 0.7,
    }
    experiment = rs.experiment("resnet-rs-tiny", edits)
    scores = rs.train(experiment, data=str(root), out=root.parent / "run", machine=rs.Machine())
    return root, root.parent / "run", scores


def test_six_channels_go_through_the_whole_pipeline(trained):
    root, run, scores = trained
    assert scores["top1"] > 0.8
    assert rs.evaluate(run, data=str(root))["top1"] == scores["top1"]
    assert json.loads((run / "scores.json").read_text())["count"] == scores["count"] == 8


def test_a_loaded_predictor_names_classes_of_paths_and_arrays(trained):
    root, run, _ = trained
    predictor = rs.load(run)
    assert predictor.class_names == ("dry", "wet")
    array = np.load(root / "wet" / "3.npy")
    from_path, from_array = predictor.predict([root / "wet" / "3.npy", array])
    assert from_path.answer.name == from_array.answer.name == "wet"
    assert from_path.answer.probabilities == from_array.answer.probabilities
    assert list(from_path.answer.probabilities.values()) == sorted(
        from_path.answer.probabilities.values(), reverse=True
    )
    assert predictor.preprocess(array).shape == (6, 16, 16)


def test_one_by_one_and_together_give_the_same_probabilities(trained):
    root, run, _ = trained
    predictor = rs.load(run)
    paths = sorted(root.glob("*/*.npy"))
    together = predictor.predict(paths)
    for path, prediction in zip(paths[::7], together[::7], strict=True):
        alone = predictor.predict([path])[0]
        assert alone.answer.probabilities == pytest.approx(prediction.answer.probabilities, abs=1e-6)


def test_arrays_of_another_shape_are_refused(trained):
    with pytest.raises(
        ValueError, match=r"must be uint8 of shape \[H, W, 6\], got uint8 of shape \[4, 4, 3\]"
    ):
        rs.load(trained[1]).predict([np.zeros((4, 4, 3), dtype=np.uint8)])


@pytest.mark.parametrize("in_chans", [1, 3, 6])
def test_a_created_model_maps_images_to_logits_or_to_the_pyramid(in_chans):
    images = torch.randn(2, in_chans, 64, 64)
    model = rs.create_model("resnet-rs-50-i160", num_classes=7, in_chans=in_chans).eval()
    assert model(images).shape == (2, 7)
    pyramid = rs.create_model("resnet-rs-50-i160", in_chans=in_chans, features_only=True).eval()(images)
    assert isinstance(pyramid, Pyramid)
    assert [tuple(level.shape) for level in pyramid] == [
        (2, 256, 16, 16),
        (2, 512, 8, 8),
        (2, 1024, 4, 4),
        (2, 2048, 2, 2),
    ]


def assert_same_network(first, second):
    images = torch.randn(2, first.in_chans, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(first.eval()(images), second.eval()(images))


def test_a_path_alone_gives_the_trained_network(trained, tmp_path):
    run = trained[1]
    network = rs.create_model(run)
    assert type(network) is type(rs.create_model("resnet-rs-tiny"))
    assert network.pretrained_cfg["input_size"] == (6, 16, 16) and network.num_classes == 2
    expected = checkpoint.read(run).load_model()
    assert type(expected) is type(network)
    assert_same_network(network, expected)
    assert_same_network(rs.create_model(str(checkpoint.read(run).path)), expected)
    assert_same_network(rs.create_model(rs.save_pretrained(run, tmp_path / "hub")), expected)


def test_a_trained_network_has_its_own_arch_whatever_it_is(tmp_path):
    edits = {"arch.se_ratio": None, "arch.blocks": (1, 2, 1, 1), "arch.drop_path": 0.1, "task.num_classes": 3}
    made = rs.create_model("resnet-rs-tiny", edits=edits, in_chans=1)
    assert not [name for name in made.state_dict() if "excite" in name]
    assert_same_network(rs.create_model(rs.save(made, tmp_path / "ours", classes=["a", "b", "c"])), made)
    garden = ModelGardenArch(blocks=(1, 1, 1, 1), width=0.125)
    other = rs.create_model(replace(rs.experiment("resnet-rs-tiny"), arch=garden), 2)
    assert_same_network(rs.create_model(rs.save(other, tmp_path / "garden", classes=["a", "b"])), other)


def test_a_trained_network_may_have_other_classes_and_other_drop_rates(trained):
    own = rs.create_model(trained[1])
    other = rs.create_model(trained[1], 5, edits={"arch.drop_path": 0.5, "task.dropout": 0.0})
    assert other.num_classes == 5 and other.experiment.arch.drop_path == 0.5
    assert torch.equal(other.backbone.c5[0].expand[0].weight, own.backbone.c5[0].expand[0].weight)
    assert rs.create_model(trained[1], 0).eval()(torch.randn(1, 6, 16, 16)).shape == (1, own.num_features)


def test_edits_are_applied_to_pretrained_weights_too(trained):
    edits = {"data.size": 64, "data.resampling": "tf1_bicubic", "recipe.epochs": 3.0, "arch.drop_path": 0.5}
    network = rs.create_model("resnet-rs-tiny", 5, pretrained=trained[1], in_chans=6, edits=edits)
    assert (
        config.diff(rs.create_model(trained[1], 5, edits=edits).experiment.data, network.experiment.data)
        == {}
    )
    assert network.experiment == config.edit(network.experiment, edits)
    assert network.pretrained_cfg["input_size"] == (6, 64, 64) and network.num_classes == 5


def test_an_experiment_with_pretrained_weights_keeps_its_task_and_recipe(trained):
    edits = {"task.num_classes": 4, "task.dropout": 0.5, "recipe.epochs": 3.0, "data.size": 64}
    asked, own = rs.experiment("resnet-rs-tiny", edits), rs.create_model(trained[1])
    network = rs.create_model(asked, pretrained=trained[1])
    assert (network.experiment.task, network.experiment.recipe) == (asked.task, asked.recipe)
    assert (network.experiment.arch, network.experiment.data) == (own.experiment.arch, own.experiment.data)
    assert torch.equal(network.backbone.c5[0].expand[0].weight, own.backbone.c5[0].expand[0].weight)


def test_a_name_that_is_also_a_path_is_refused_everywhere(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rs.save(rs.create_model(trained[1]), "resnet-rs-tiny", classes=["dry", "wet"])
    for call in (rs.create_model, rs.load, lambda name: rs.evaluate(name, data=str(trained[0]))):
        with pytest.raises(ValueError, match=r"name of the zoo and a path .* Give './resnet-rs-tiny'"):
            call("resnet-rs-tiny")
    for path in ("./resnet-rs-tiny", Path("resnet-rs-tiny")):
        assert rs.create_model(path).in_chans == 6
        assert rs.load(path).class_names == ("dry", "wet")


@dataclass(frozen=True, kw_only=True)
class Headless(Classification):
    """A task whose model is no classifier."""

    def build_model(self, backbone):
        return Model(backbone, nn.Identity())


@pytest.mark.parametrize("num_classes", [0, 1])
def test_only_a_classifier_can_be_left_out(num_classes):
    other = replace(rs.experiment("resnet-rs-tiny"), task=Headless())
    with pytest.raises(
        ValueError, match=f"num_classes={num_classes} .* builds a Model. Give features_only=True"
    ):
        rs.create_model(other, num_classes)
    backbone = rs.create_model(other, num_classes, features_only=True)
    assert isinstance(backbone.eval()(torch.randn(1, other.data.channels, 16, 16)), Pyramid)


def test_an_experiment_gives_its_network():
    experiment = rs.experiment("resnet-rs-tiny", {"task.num_classes": 4, "arch.se_ratio": None})
    network = rs.create_model(experiment)
    assert (network.in_chans, network.num_classes) == (experiment.data.channels, 4)
    torch.manual_seed(0)
    first = rs.create_model(experiment, edits={"arch.width": 0.125})
    torch.manual_seed(0)
    assert_same_network(
        first, rs.create_model(rs.experiment("resnet-rs-tiny", {"arch.width": 0.125, **NO_SE}))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: rs.create_model("resnet-rs-5O-i160"),
            r"resnet-rs-5O-i160 is no folder; .* or a name of `resnet-rs list`. Closest: resnet-rs-50-i160",
        ),
        (lambda run: rs.create_model(run / "gone"), "gone is no folder; expected a run folder"),
        (
            lambda run: rs.create_model(run, pretrained=True),
            "holds trained weights already. Leave pretrained=True out",
        ),
        (
            lambda run: rs.create_model(rs.experiment("resnet-rs-tiny"), pretrained=True),
            "weights are published by name",
        ),
        (
            lambda run: rs.create_model("resnet-rs-tiny", in_chans=0),
            "in_chans must be 1 or more, got 0. Color images",
        ),
        (lambda run: rs.create_model("resnet-rs-tiny", edits={"arch.se_rate": 1}), "has no field 'se_rate'"),
        (lambda run: rs.create_model(run, in_chans=3), r"do not fit .* \[.*6, .*\] in the weights and .*3"),
        (lambda run: rs.create_model(run, edits={"arch.width": 1.0}), "do not fit this network"),
    ],
)
def test_a_network_that_cannot_be_created_is_refused(trained, call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call(trained[1])


def test_created_weights_follow_torchs_seed():
    def first_weight(seed):
        torch.manual_seed(seed)
        return next(rs.create_model("resnet-rs-tiny", num_classes=3).parameters())

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


def test_models_are_listed_by_pattern():
    assert "resnet-rs-420-i320" in rs.list_models("resnet-rs-4*")


def test_an_unknown_name_of_the_package_is_refused_with_those_it_has():
    with pytest.raises(AttributeError, match="It offers: Device, Machine, Study"):
        rs.create_modle  # noqa: B018 - the attribute access is what is tested


def test_every_name_of_the_face_stays_what_it_is_after_others_were_used():
    """A room of the same name once took the place of `rs.train` as soon as it was imported."""
    code = (
        "import resnet_rs as rs; assert all(callable(getattr(rs, n)) for _ in range(2) for n in rs.__all__)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_created_model_needs_no_average_of_its_statistics():
    model = rs.create_model("resnet-rs-50-i160", 10)
    assert {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_one_path_is_enough_and_a_missing_one_is_unreadable(trained):
    predictor = rs.load(trained[1])
    assert predictor.predict(trained[0] / "wet" / "3.npy")[0].answer.name == "wet"
    assert predictor.predict("gone.npy")[0].unreadable == "No such file or directory"


def test_the_package_is_imported_without_torch():
    code = "import sys, resnet_rs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
