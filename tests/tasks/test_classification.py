"""The meter against straightforward computations, and its laws."""

import math

import numpy as np
import pytest
import torch

from resnet_rs.models.backbone import Pyramid
from resnet_rs.tasks.classification import Classification, ClassificationHead, ClassificationMeter

CLASSES = ("a", "b", "c", "d", "e", "f", "g")


def predictions(count=200, seed=0):
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, len(CLASSES), generator=rng)
    targets = torch.randint(len(CLASSES), (count,), generator=rng)
    return logits, targets, torch.arange(count)


def meter_of(logits, targets, indices):
    meter = ClassificationMeter(CLASSES)
    meter.update(logits, targets, indices)
    return meter


def test_scores_equal_straightforward_computations():
    logits, targets, indices = predictions()
    scores = meter_of(logits, targets, indices).scores()
    probabilities = logits.double().softmax(1).numpy()
    labels = targets.numpy()
    order = np.argsort(-probabilities, axis=1)
    assert scores["count"] == 200
    assert scores["top1"] == pytest.approx((order[:, 0] == labels).mean())
    assert scores["top5"] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean())
    assert scores["nll"] == pytest.approx(-np.log(probabilities[np.arange(200), labels]).mean())
    for i, item in enumerate(scores["classes"]):
        is_label, is_predicted = labels == i, order[:, 0] == i
        assert item["count"] == is_label.sum()
        assert item["recall"] == pytest.approx((is_label & is_predicted).sum() / is_label.sum())
        assert item["precision"] == pytest.approx((is_label & is_predicted).sum() / is_predicted.sum())
    confusion = np.array(scores["confusion"])
    assert confusion.sum() == 200 and np.trace(confusion) == round(200 * scores["top1"])


def test_every_score_lies_in_its_interval():
    scores = meter_of(*predictions()).scores()
    for name in ("top1", "top5", "ece", "nll"):
        assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"]
        assert scores[f"{name}_low"] < scores[f"{name}_high"]


@pytest.mark.parametrize("seed", range(3))
def test_meters_over_parts_merge_into_the_meter_over_the_whole_exactly(seed):
    logits, targets, indices = predictions(seed=seed)
    whole = meter_of(logits, targets, indices).scores()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    merged = ClassificationMeter(CLASSES)
    for part in order.split([1, 99, 0, 57, 43]):
        merged.merge(meter_of(logits[part], targets[part], indices[part]).pack())
    assert merged.scores() == whole


def test_ties_are_not_counted_for_the_model():
    scores = meter_of(torch.zeros(7, 7), torch.arange(7), torch.arange(7)).scores()
    assert scores["top1"] == pytest.approx(1 / 7)
    assert scores["top5"] == pytest.approx(5 / 7)


def test_an_empty_meter_has_no_scores_but_counts():
    scores = ClassificationMeter(CLASSES).scores()
    assert scores["count"] == 0 and scores["top1"] is None


def test_the_worst_mistakes_are_the_surest_and_name_their_classes():
    logits = torch.tensor([[5.0, 0, 0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0, 0, 0]])
    worst = meter_of(logits, torch.tensor([1, 2, 1]), torch.tensor([7, 8, 9])).scores()["worst"]
    assert [(item["index"], item["truth"], item["predicted"]) for item in worst] == [
        (8, "c", "a"),
        (7, "b", "a"),
    ]
    assert worst[0]["confidence"] > worst[1]["confidence"] > 0.9


def test_meters_of_other_classes_are_not_merged():
    with pytest.raises(ValueError, match="over the same classes"):
        ClassificationMeter(CLASSES).merge(ClassificationMeter(("x", "y")).pack())


def test_the_loss_is_smoothed_cross_entropy_per_sample():
    logits, targets, _ = predictions(5)
    losses = Classification(num_classes=7, label_smoothing=0.1).loss(logits, targets)
    for i in range(5):
        log_p = [v - math.log(sum(math.exp(u) for u in logits[i].tolist())) for v in logits[i].tolist()]
        smooth = [0.1 / 7 + (0.9 if k == targets[i] else 0.0) for k in range(7)]
        assert losses[i].item() == pytest.approx(
            -sum(s * p for s, p in zip(smooth, log_p, strict=True)), abs=1e-5
        )


def test_the_head_averages_space_of_two_and_of_three_dimensions():
    head = ClassificationHead(4, num_classes=3, dropout=0.5).eval()
    flat = torch.randn(2, 4, 6, 6)
    as_clip = flat.view(2, 4, 4, 3, 3)
    results = [head(Pyramid(x, x, x, x)) for x in (flat, as_clip)]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], head.classifier(flat.mean((2, 3))))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_values_out_of_range_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Classification(**fields)
