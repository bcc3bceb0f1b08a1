"""Classification against straightforward computations, and the laws of its meter and loss."""

import math

import numpy as np
import pytest
import torch

from resnet_rs.data.target import Label, Mask, SoftLabel
from resnet_rs.models.backbone import Pyramid
from resnet_rs.tasks.classification import Classification, ClassificationHead, ClassificationMeter

CLASSES = ("a", "b", "c", "d", "e", "f", "g")
TASK = Classification(num_classes=7)


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
    meter = meter_of(logits, targets, indices)
    scores = meter.scores(str)
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
    expected = np.zeros((7, 7))
    np.add.at(expected, (labels, order[:, 0]), 1)
    confusion = scores["confusion"]
    assert min(confusion["counts"]) > 0
    assert (expected[confusion["rows"], confusion["columns"]] == confusion["counts"]).all()
    assert sum(confusion["counts"]) == 200
    # Studies compare by these values: their mean is the headline score of the summary and of the scores.
    assert (meter.per_sample().dense(200) == (order[:, 0] == labels)).all()
    assert meter.summary() == {name: pytest.approx(scores[name]) for name in ("top1", "nll")}
    assert TASK.numbers(scores)[0].name == TASK.headline


def test_top5_is_shown_only_with_more_than_five_classes():
    shown = {
        count: [number.name.key for number in TASK.numbers({"classes": [{}] * count, "top5": 1.0})]
        for count in (5, 6)
    }
    assert "top5" not in shown[5] and shown[6][:2] == ["top1", "top5"]


def test_intervals_hold_their_scores():
    scores = meter_of(*predictions()).scores(str)
    for number in TASK.numbers(scores):
        if number.low is not None:
            assert number.low < number.value < number.high


@pytest.mark.parametrize("seed", range(2))
def test_meters_over_parts_merge_into_the_meter_over_the_whole_exactly(seed):
    logits, targets, indices = predictions(seed=seed)
    whole = meter_of(logits, targets, indices)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    merged = ClassificationMeter(CLASSES)
    for part in order.split([1, 99, 0, 57, 43]):
        merged.merge(meter_of(logits[part], targets[part], indices[part]).pack())
    assert merged.scores(str) == whole.scores(str)
    assert merged.per_sample() == whole.per_sample()


def test_ties_do_not_favor_the_model():
    scores = meter_of(torch.zeros(7, 7), torch.arange(7), torch.arange(7)).scores(str)
    assert scores["top1"] == pytest.approx(1 / 7)
    assert scores["top5"] == pytest.approx(5 / 7)


def test_worst_mistakes_are_named_by_the_key_function():
    logits = torch.tensor([[5.0, 0, 0, 0, 0, 0, 0], [9.0, 0, 0, 0, 0, 0, 0], [0, 9.0, 0, 0, 0, 0, 0]])
    meter = meter_of(logits, torch.tensor([1, 2, 1]), torch.tensor([7, 8, 9]))
    worst = meter.scores("file {}".format)["worst"]
    named = [tuple(item[name] for name in ("index", "key", "truth", "predicted")) for item in worst]
    assert named == [(8, "file 8", "c", "a"), (7, "file 7", "b", "a")]
    assert worst[1]["confidence"] == pytest.approx(math.exp(5) / (math.exp(5) + 6))


def test_meters_of_other_classes_are_not_merged():
    with pytest.raises(ValueError, match="over the same classes"):
        ClassificationMeter(CLASSES).merge(ClassificationMeter(("x", "y")).pack())


def test_the_loss_is_smoothed_cross_entropy_per_sample():
    logits, targets, indices = predictions(5)
    losses = TASK.loss(logits, targets, indices)
    for i in range(5):
        log_p = [v - math.log(sum(math.exp(u) for u in logits[i].tolist())) for v in logits[i].tolist()]
        smooth = [0.1 / 7 + (0.9 if k == targets[i] else 0.0) for k in range(7)]
        assert losses[i].item() == pytest.approx(
            -sum(s * p for s, p in zip(smooth, log_p, strict=True)), abs=1e-5
        )


def test_a_batch_with_soft_labels_smooths_the_labels_alone():
    logits, _, indices = predictions(2)
    soft = np.array([0.5, 0.5, 0, 0, 0, 0, 0], dtype=np.float32)
    labels = TASK.collate([Label(3), Label(3)])
    mixed = TASK.collate([Label(3), SoftLabel(soft)])
    assert labels.tolist() == [3, 3] and mixed[1].tolist() == soft.tolist()
    losses = TASK.loss(logits, mixed, indices)
    assert losses[0] == TASK.loss(logits, labels, indices)[0]
    assert losses[1].item() == pytest.approx(-logits[1].log_softmax(0)[:2].mean().item())
    with pytest.raises(ValueError, match="needs one class per sample, a Label or a SoftLabel, got Mask"):
        TASK.collate([Label(3), Mask(np.zeros((2, 2), dtype=np.int64))])


def test_answers_list_the_probabilities_in_descending_order():
    logits = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
    (answer,) = TASK.answers(logits, classes=CLASSES, views=[])
    expected = logits[0].double().softmax(0)
    assert list(answer.probabilities) == ["b", "d", "a", "c", "e", "f", "g"]
    assert answer.probabilities == {
        name: pytest.approx(float(p)) for name, p in zip(CLASSES, expected, strict=True)
    }
    assert answer.to_plain() == {"name": "b", "title": None, "probabilities": answer.probabilities}
    assert answer.text.startswith(f"b {expected[1]:.1%}  d ")


def test_the_head_averages_space_of_two_and_of_three_dimensions():
    head = ClassificationHead(4, num_classes=3, dropout=0.5).eval()
    flat = torch.randn(2, 4, 6, 6)
    as_clip = flat.view(2, 4, 4, 3, 3)
    results = [head(Pyramid(x, x, x, x)) for x in (flat, as_clip)]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], head.classifier(flat.mean((2, 3))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Classification(**fields)


def test_balanced_accuracy_is_shown_where_classes_differ_in_size_and_has_an_interval():
    """9 of 10 images of a large class are correct, and none of 2 of a small one."""
    meter = TASK.build_meter(("large", "small", "untested"))
    predicted = torch.tensor([0] * 9 + [1] + [0] * 2)
    labels = torch.tensor([0] * 10 + [1] * 2)
    meter.update(torch.eye(3)[predicted], labels, torch.arange(12))
    scores = meter.scores(str)
    assert scores["balanced_accuracy"] == pytest.approx(0.45)
    assert 0.2 < scores["balanced_accuracy_low"] < 0.45 < scores["balanced_accuracy_high"] < 0.9
    assert "balanced_accuracy" in [number.name.key for number in TASK.numbers(scores)]
