"""What `config.json` of a folder of the Hub says, and what is refused of it."""

import json

import pytest
import safetensors.torch
import timm
from PIL import Image
from timm.models import save_for_hf
from weights.sharing import assert_same, spoilt, write

import resnet_rs as rs
from resnet_rs import config, storage
from resnet_rs.bridges.hub_folder import data_edits, read_config
from resnet_rs.bridges.timm_names import from_timm
from resnet_rs.training import checkpoint
from resnet_rs.weights.convert import convert
from resnet_rs.weights.reading import SourceCheckpoint
from resnet_rs.zoo import EXPERIMENTS


def test_a_folder_of_timms_says_its_preprocessing_and_classes(tmp_path):
    theirs = timm.create_model("resnetrs50", num_classes=3)
    names = ["a", "b", "c"]
    facts = {"input_size": [3, 192, 192], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.25] * 3}
    about = {"label_names": names, "pretrained_cfg": facts | {"interpolation": "bicubic"}}
    save_for_hf(theirs, tmp_path / "theirs", model_config=about, safe_serialization=True)
    convert(SourceCheckpoint(path=tmp_path / "theirs", kind="hub"), tmp_path / "ours")
    found = checkpoint.read(tmp_path / "ours")
    data = found.experiment.data
    assert (data.size, data.crop_ratio, data.mean, data.std) == (192, 0.9, (0.5,) * 3, (0.25,) * 3)
    assert found.classes == ("a", "b", "c") and data.resampling == "bicubic" and not data.crop_first
    assert_same(found.load_model().state_dict(), from_timm(theirs.state_dict()))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architecture": None}, "architecture"),
        ({"label_names": "cat"}, "no list of texts under 'label_names'"),
        ({"label_names": ["cat"]}, "1 class names, 1 different, for a network of 3"),
        ({"pretrained_cfg": 3}, "no object under 'pretrained_cfg'"),
        ({"resnet_rs": {"format": 9}}, "another version"),
        ({"resnet_rs": 3}, "another version"),
        ({"resnet_rs": {"format": 1, "experiment": {"type": "os.system"}}}, "no experiment of this version"),
        ({"resnet_rs": {"format": 1, "experiment": None}}, "no experiment of this version"),
        ({"resnet_rs": None, "model_args": None}, "no arch under model_args"),
        ({"resnet_rs": None, "architecture": "resnet50"}, "holds 'resnet50'; expected a ResNet-RS of timm"),
        ({"resnet_rs": None, "model_args": {"arch": {"type": "os.system"}}}, "no arch of this version"),
        (
            {"architecture": "resnetrs50"},
            "architecture 'resnetrs50' for timm, and 'resnet_rs' in its experiment",
        ),
        ({"model_args": None}, "no arch under model_args"),
        ({"model_args": {"act_layer": "silu"}}, "'act_layer' under model_args; expected only num_classes"),
        ({"global_pool": "max"}, "global_pool 'max'; expected 'avg'"),
        ({"model_args": {"global_pool": "max"}}, "global_pool 'max'; expected 'avg'"),
        ({"model_args": [3]}, "no object under 'model_args'"),
        ({"num_classes": 4}, "num_classes 4 for timm, and 3 in its experiment"),
        (
            {"resnet_rs": {"format": 1, "experiment": {"type": "resnet_rs.__main__.X"}}},
            "no experiment of this version",
        ),
        (
            {"label_names": ["cat", "dog", "cow", "cat"]},
            "4 class names, 3 different, for a network of 3",
        ),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(fields, said, tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    with pytest.raises((ValueError, storage.Damaged), match=said):
        convert(SourceCheckpoint(path=spoilt(folder, **fields), kind="hub"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_forged_origin_is_refused(tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    ours = json.loads((folder / "config.json").read_text())["resnet_rs"]
    for origin in (3, ["a"], {"source": 3}):
        with pytest.raises(ValueError, match="no object of texts under 'origin'"):
            convert(
                SourceCheckpoint(path=spoilt(folder, resnet_rs=ours | {"origin": origin}), kind="hub"),
                tmp_path / "back",
            )


def test_what_is_no_finite_number_is_refused_by_every_door(tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["head.classifier.bias"][1] = float("nan")
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    for door in (
        rs.from_pretrained,
        lambda path: convert(SourceCheckpoint(path=path, kind="hub"), tmp_path / "back"),
    ):
        with pytest.raises(
            ValueError, match=r"head\.classifier\.bias of .*hub holds a value that is not finite"
        ):
            door(folder)
    tensors["head.classifier.bias"][1] = 0
    for name, value, said in (
        ("backbone.stem.1.running_var", -tensors["backbone.stem.1.running_var"], "a negative variance"),
        ("head.classifier.weight", tensors["head.classifier.weight"].long(), "needs torch.float32"),
    ):
        safetensors.torch.save_file(tensors | {name: value}, folder / "model.safetensors")
        with pytest.raises(ValueError, match=said):
            rs.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input_size": []}, "square"),
        ({"input_size": "3,9,9"}, "square"),
        ({"input_size": [3, 160, 224]}, "square"),
        ({"input_size": [1, 160, 160]}, "has 1 channels, .* expected a mean for each channel"),
        ({"mean": [0.5]}, "has 3 channels, .* expected a mean for each channel"),
        ({"crop_pct": "high"}, "cannot set 'data.crop_ratio' to 'high'"),
        ({"crop_mode": "squash"}, "crop_mode 'squash'; expected a square .* and 'center'"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'; expected .* bicubic or bilinear"),
    ],
)
def test_images_that_are_prepared_otherwise_are_refused(fields, said, tmp_path):
    facts = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.9} | fields
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetrs50", "pretrained_cfg": facts}))
    with pytest.raises(ValueError, match=said):
        config.edit(EXPERIMENTS["resnet-rs-50-i160"], data_edits(read_config(tmp_path).inputs))


def test_a_size_of_timms_that_was_never_released_is_taken(fifty, tmp_path):
    folder = rs.save_pretrained(fifty, tmp_path / "hub")
    facts = json.loads((folder / "config.json").read_text())["pretrained_cfg"] | {"input_size": [3, 288, 288]}
    convert(
        SourceCheckpoint(path=spoilt(folder, resnet_rs=None, pretrained_cfg=facts), kind="hub"),
        tmp_path / "back",
    )
    assert checkpoint.read(tmp_path / "back").experiment.data.size == 288


def test_weights_of_another_experiment_are_refused(tmp_path):
    folder = rs.save_pretrained(write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"]), tmp_path / "hub")
    other = config.to_plain(config.edit(EXPERIMENTS["resnet-rs-tiny"], {"arch.blocks": (2, 1, 1, 1)}))
    with pytest.raises(ValueError, match=r"missing: 'backbone\.c2\.1"):
        args = {"arch": other["arch"]}
        ours = {"format": 1, "experiment": other}
        facts = json.loads((folder / "config.json").read_text())["pretrained_cfg"] | {"num_classes": 10}
        spoilt(folder, resnet_rs=ours, model_args=args, num_classes=10, pretrained_cfg=facts)
        rs.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="has no config"):
        rs.from_pretrained(tmp_path)


def test_a_hub_folder_scores_and_predicts_as_the_checkpoint_it_was_made_from(tmp_path):
    ours = write(tmp_path / "ours", EXPERIMENTS["resnet-rs-tiny"])
    folder = rs.save_pretrained(ours, tmp_path / "hub")
    for name, value in (("cat", 20), ("dog", 230)):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (30, 28), value).save(tmp_path / "images" / name / "1.png")
    files = sorted((tmp_path / "images").glob("*/*"))
    assert rs.load(folder).predict(files) == rs.load(ours).predict(files)
    data = str(tmp_path / "images")
    assert rs.evaluate(folder, data=data) == rs.evaluate(ours, data=data)


@pytest.mark.parametrize(
    ("options", "said"), [({"global_pool": "max"}, "global_pool 'max'"), ({"act_layer": "silu"}, "act_layer")]
)
def test_a_network_of_timms_that_computes_something_else_is_refused(options, said, tmp_path):
    """Though its weights have the names and shapes of one that we know."""
    theirs = timm.create_model("resnetrs50", num_classes=3, **options)
    save_for_hf(theirs, tmp_path / "theirs", model_args=options, safe_serialization=True)
    with pytest.raises(ValueError, match=said):
        rs.from_pretrained(tmp_path / "theirs")


def test_a_known_network_tells_timm_no_more_than_we_know(fifty, tmp_path):
    folder = rs.save_pretrained(fifty, tmp_path / "hub")
    facts = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    with pytest.raises(
        ValueError, match="num_classes of pretrained_cfg 99 for timm, and 3 in its experiment"
    ):
        rs.from_pretrained(spoilt(folder, pretrained_cfg=facts | {"num_classes": 99}))
    with pytest.raises(ValueError, match="act_layer"):
        rs.from_pretrained(spoilt(folder, pretrained_cfg=facts, model_args={"act_layer": "silu"}))
