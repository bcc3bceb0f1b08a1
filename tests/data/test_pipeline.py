"""Samples become inputs as pure functions of seed, epoch and sample, whatever the workers and batches."""

import numpy as np
import pytest
import torch
from shapes import Shapes

from resnet_rs.data.builtin import Builtin, builtin
from resnet_rs.data.loader import EvaluationBatches, TrainingBatches, load, split_range
from resnet_rs.data.pipeline import Data
from resnet_rs.data.sample import Request, Sample
from resnet_rs.data.source import Renumbered, Splits, match_classes
from resnet_rs.data.target import Label
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.tasks.classification import Classification

DATA = Data(size=16, randaugment=RandAugment(magnitude=15.0))
COLLATE = Classification().collate
SOURCE = Shapes(num_samples=53, size=20)


def stream(*, at_most, workers=0, first=0, count=120, seed=0):
    """Inputs, targets and indices of positions of the run, by any batches and workers."""
    batches = list(
        load(
            split_range(first, count, at_most=at_most),
            TrainingBatches(SOURCE, DATA, collate=COLLATE, seed=seed),
            workers=workers,
        )
    )
    return [
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("inputs", "targets", "indices")
    ]


@pytest.mark.parametrize(("at_most", "workers"), [(16, 0), (1, 0), (16, 1), (7, 3)])
def test_the_stream_does_not_depend_on_batches_and_workers(at_most, workers):
    for one, other in zip(stream(at_most=120), stream(at_most=at_most, workers=workers), strict=True):
        assert torch.equal(one, other)


def test_the_stream_can_begin_anywhere():
    for whole, part in zip(stream(at_most=16), stream(at_most=16, first=61, count=59), strict=True):
        assert torch.equal(whole[61:], part)


def test_every_sample_comes_once_per_epoch_and_differs_between_epochs():
    inputs, _, indices = stream(at_most=53, count=106)
    assert sorted(indices[:53].tolist()) == sorted(indices[53:].tolist()) == list(range(53))
    assert indices[:53].tolist() != indices[53:].tolist()
    first = {int(i): x for i, x in zip(indices[:53], inputs[:53], strict=True)}
    same = sum(torch.equal(first[int(i)], x) for i, x in zip(indices[53:], inputs[53:], strict=True))
    assert same <= 2


def test_another_seed_gives_another_stream():
    assert not torch.equal(stream(at_most=16)[0], stream(at_most=16, seed=1)[0])


def test_evaluation_shows_every_sample_once_in_order_without_chance():
    batches = list(
        load(split_range(0, 53, at_most=20), EvaluationBatches(SOURCE, DATA, collate=COLLATE), workers=0)
    )
    again = list(
        load(split_range(0, 53, at_most=11), EvaluationBatches(SOURCE, DATA, collate=COLLATE), workers=1)
    )
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(53))
    assert torch.equal(torch.cat([b.inputs for b in batches]), torch.cat([b.inputs for b in again]))


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_normalization_has_one_mean_and_deviation_per_channel(channels):
    data = Data(size=16, mean=(0.5,) * channels, std=(0.25,) * channels)
    sample = SOURCE.read(0, Request(channels))
    inputs, target = data.test_input(sample)
    assert inputs.shape == (channels, 16, 16)
    assert target == sample.target
    expected = (inputs.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(data.normalize(inputs[None])[0], expected)


def test_released_images_keep_their_overshoot_in_evaluation_and_are_bytes_in_training():
    data = Data(size=16, resampling="tf1_bicubic")
    checks = np.indices((40, 40)).sum(0) // 3 % 2 * 255
    sample = Sample(np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8), Label(0), "checks")
    test, _ = data.test_input(sample)
    train, _ = data.train_input(sample, seed=0, epoch=0, index=0)
    assert test.dtype == torch.float32 and test.min() < 0 and test.max() > 255
    assert train.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (3, 500)])
def test_images_of_any_shape_become_inputs(shape):
    sample = Sample(np.zeros((*shape, 3), dtype=np.uint8), Label(1), "odd")
    for inputs, target in (DATA.test_input(sample), DATA.train_input(sample, seed=0, epoch=0, index=0)):
        assert inputs.shape == (3, 16, 16) and target == Label(1)


def test_randaugment_on_clips_is_refused():
    clip = Shapes(num_samples=1, asks="motion").read(0, Request(3))
    with pytest.raises(ValueError, match=r"cannot be applied to a clip .* Set data\.randaugment=none"):
        DATA.train_input(clip, seed=0, epoch=0, index=0)


def test_the_builtin_images_are_balanced_and_named():
    splits = builtin()
    for split, count in ((splits.train, 1000), (splits.test, 200)):
        labels = [split.read(i, Request(1)).target.index for i in range(len(split))]
        assert np.bincount(labels).tolist() == [count] * 10
    assert splits.test.classes[0] == "t-shirt/top"
    assert splits.test.key(7) == "builtin/test/7"


def test_sources_with_one_digest_hold_the_same_samples():
    assert Builtin(split="train").digest() == Builtin(split="train").digest()
    assert Builtin(split="train").digest() != Builtin(split="test").digest()
    assert Shapes(num_samples=5).digest() != Shapes(num_samples=6).digest()


def test_classes_are_matched_by_name_and_never_by_order():
    source = Shapes(num_samples=30)
    matched = match_classes(source, ("triangle", "star", "square", "disc"))
    assert isinstance(matched, Renumbered)
    for i in range(30):
        before, after = source.read(i, Request(1)), matched.read(i, Request(1))
        assert matched.classes[after.target.index] == source.classes[before.target.index]
        assert np.array_equal(before.input, after.input)
    assert match_classes(source, source.classes) is source


def test_masks_are_renumbered_by_name_too():
    source = Shapes(num_samples=3, asks="mask")
    matched = match_classes(source, ("triangle", "square", "disc", "background"))
    before, after = source.read(0, Request(1)).target.classes, matched.read(0, Request(1)).target.classes
    names = np.array(matched.classes)[after]
    assert np.array_equal(names, np.array(source.classes)[before])


def test_classes_that_the_model_does_not_know_are_refused():
    with pytest.raises(ValueError, match="does not know 1 classes of the data: disc"):
        match_classes(Shapes(num_samples=3), ("triangle", "square"))


def test_halves_with_other_classes_are_refused():
    with pytest.raises(ValueError, match="must have the same classes"):
        Splits(train=Shapes(num_samples=3), test=Shapes(num_samples=3, asks="mask"))


def test_a_span_of_unreadable_samples_is_an_empty_batch(tmp_path):
    from resnet_rs.data.files import ImageFiles

    source = ImageFiles(
        root=str(tmp_path), files=("a/1.png", "b/2.png"), labels=(0, 1), class_names=("a", "b")
    )
    batch = EvaluationBatches(source, DATA, collate=COLLATE)[range(0, 2)]
    assert len(batch.indices) == 0
    assert [error.key for error in batch.unreadable] == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": 4}, "size"),
        ({"min_area": 0.0}, "min_area"),
        ({"max_aspect": 0.5}, "max_aspect"),
        ({"crop_ratio": 1.5}, "crop_ratio"),
        ({"mean": (0.5,)}, "one value per channel"),
        ({"std": (0.2, 0.2, 0.0)}, "std in"),
    ],
)
def test_values_out_of_range_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Data(**fields)
