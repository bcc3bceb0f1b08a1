"""The package as Python code uses it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import resnet_rs as rs
from resnet_rs.models.backbone import Pyramid


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
    assert from_path.name == from_array.name == "wet"
    assert from_path.probabilities == from_array.probabilities
    assert list(from_path.probabilities.values()) == sorted(from_path.probabilities.values(), reverse=True)
    assert predictor.preprocess(array).shape == (6, 16, 16)


def test_one_by_one_and_together_give_the_same_probabilities(trained):
    root, run, _ = trained
    predictor = rs.load(run)
    paths = sorted(root.glob("*/*.npy"))
    together = predictor.predict(paths)
    for path, prediction in zip(paths[::7], together[::7], strict=True):
        alone = predictor.predict([path])[0]
        assert alone.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)


def test_arrays_of_another_shape_are_refused(trained):
    with pytest.raises(
        ValueError, match=r"must be uint8 of shape \[H, W, 6\], got uint8 of shape \[4, 4, 3\]"
    ):
        rs.load(trained[1]).predict([np.zeros((4, 4, 3), dtype=np.uint8)])


@pytest.mark.parametrize("in_channels", [1, 3, 6])
def test_a_created_model_maps_pictures_to_logits_or_to_the_pyramid(in_channels):
    images = torch.randn(2, in_channels, 64, 64)
    model = rs.create_model("resnet-rs-50-i160", num_classes=7, in_channels=in_channels).eval()
    assert model(images).shape == (2, 7)
    pyramid = rs.create_model("resnet-rs-50-i160", in_channels=in_channels, features_only=True).eval()(images)
    assert isinstance(pyramid, Pyramid)
    assert [tuple(level.shape) for level in pyramid] == [
        (2, 256, 16, 16),
        (2, 512, 8, 8),
        (2, 1024, 4, 4),
        (2, 2048, 2, 2),
    ]


def test_created_weights_follow_torchs_seed():
    def first_weight(seed):
        torch.manual_seed(seed)
        return next(rs.create_model("resnet-rs-tiny", num_classes=3).parameters())

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


def test_models_are_listed_by_pattern():
    assert "resnet-rs-420-i320" in rs.list_models("resnet-rs-4*")


def test_an_unknown_name_of_the_package_is_refused_with_those_it_has():
    with pytest.raises(AttributeError, match="It offers: Device, Machine, Step"):
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
    assert predictor.predict(trained[0] / "wet" / "3.npy")[0].name == "wet"
    assert predictor.predict("gone.npy")[0].unreadable == "No such file or directory"


def test_the_package_is_imported_without_torch():
    code = "import sys, resnet_rs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
