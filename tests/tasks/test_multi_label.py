"""Multi-label classification: its loss, its scores, and a run on a table."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import Shapes

from resnet_rs.data.target import Label, Labels, Mask
from resnet_rs.report.statistics import average_precision, mean_average_precision
from resnet_rs.tasks.classification import Classification
from resnet_rs.tasks.classification_multi_label import MultiLabel, task_for

TASK = MultiLabel(num_classes=3, label_smoothing=0.0)


def test_the_gradient_of_a_logit_is_its_probability_minus_its_label():
    logits = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True)
    targets = TASK.collate([Labels((0, 2))])
    TASK.loss(logits, targets, torch.tensor([0])).sum().backward()
    torch.testing.assert_close(logits.grad, torch.sigmoid(logits.detach()) - torch.tensor([[1.0, 0.0, 1.0]]))


def slow_average_precision(values, labels):
    """By the definition: precision at each threshold, weighted by the gain in recall."""
    total = 0.0
    for threshold in sorted(set(values), reverse=True):
        found = values >= threshold
        gained = (labels & (values == threshold)).sum()
        total += gained / labels.sum() * (labels & found).sum() / found.sum()
    return total


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_its_definition_with_ties_too(rows):
    values, labels = (np.array(column) for column in zip(*rows, strict=True))
    values, labels = values.astype(float), labels.astype(bool)
    found = average_precision(values, labels)
    if not labels.any():
        assert found is None
        return
    assert found == pytest.approx(slow_average_precision(values, labels))
    order = np.random.default_rng(0).permutation(len(values))
    assert average_precision(values[order], labels[order]) == pytest.approx(found)


def test_the_interval_of_mean_average_precision_holds_it_and_narrows_with_more_samples():
    rng = np.random.default_rng(0)
    widths = []
    for count in (100, 1600):
        labels = rng.random((count, 4)) < 0.3
        found = mean_average_precision(labels + rng.normal(size=(count, 4)), labels)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < 0.4 * widths[0]
    rare = np.zeros((6, 2), dtype=bool)
    rare[0, 0] = True  # many draws have no true sample
    assert mean_average_precision(rng.normal(size=(6, 2)), rare).high <= 1
    assert mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2), dtype=bool)) is None


def test_scores_name_missed_and_wrongly_found_classes():
    meter = TASK.build_meter(("a", "b", "c"))
    logits = torch.tensor([[4.0, -4.0, -1.0], [4.0, 3.0, -9.0]])
    meter.update(logits, TASK.collate([Labels((0,)), Labels((0, 2))]), torch.tensor([1, 0]))
    scores = meter.scores(str)
    assert scores["exact"] == 0.5 and scores["exact_low"] < 0.2 and scores["exact_high"] > 0.8
    assert [c["count"] for c in scores["classes"]] == [2, 0, 1]
    assert scores["classes"][1]["ap"] is None and scores["classes"][0]["precision"] == 1
    assert scores["mean_ap"] == pytest.approx((1 + 0.5) / 2)
    assert [(t["key"], t["name"], t["truth"]) for t in scores["worst"]] == [("0", "c", "present")]
    assert json.dumps(TASK.build_meter(("a", "b", "c")).scores(str), allow_nan=False)


def test_an_answer_names_every_class_that_is_likelier_than_not():
    (one, none) = TASK.answers(
        torch.tensor([[2.0, 0.1, -1.0], [-1.0, -2.0, -3.0]]), classes=("a", "b", "c"), views=[]
    )
    assert one.names == ["a", "b"] and one.text.startswith("a 88.1%  b 52.5%")
    assert none.names == [] and none.text == "none of the classes"
    assert list(one.to_plain()) == ["names", "probabilities"]


def test_only_classification_becomes_multi_label_and_keeps_its_fields():
    source = Shapes(num_samples=3, asks="shapes")
    plain = Classification(num_classes=3, dropout=0.5)
    assert task_for(plain, source) is plain  # drawn shapes are not known without reading

    class Known(Shapes):
        def target(self, index):
            return Labels((0,)) if self.asks == "shapes" else Label(0)

    known = Known(num_samples=3, asks="shapes")
    assert task_for(plain, known) == MultiLabel(num_classes=3, dropout=0.5, label_smoothing=0.0)
    assert task_for(plain, Known(num_samples=3)) is plain and task_for(TASK, known) is TASK


def test_targets_of_another_kind_are_refused():
    assert TASK.collate([Label(1)]).tolist() == [[0, 1, 0]]  # a data set of single labels can be scored
    with pytest.raises(ValueError, match="needs Label or Labels per sample, got a Mask"):
        TASK.collate([Mask(np.zeros((2, 2), dtype=np.int64))])


def test_the_temperature_divides_the_logits_of_answers_and_scores():
    calibrated = TASK.calibrated(torch.full((40, 3), 5.0), torch.ones(40, 3).triu())
    assert calibrated.temperature > 1
    logits = torch.tensor([[2.0, 0.1, -1.0]])
    shares = [
        t.answers(logits, classes=("a", "b", "c"), views=[])[0].probabilities["a"] for t in (TASK, calibrated)
    ]
    assert shares[1] < shares[0]
    assert shares[1] == pytest.approx(float(torch.sigmoid(torch.tensor(2.0 / calibrated.temperature))))
    meters = [t.build_meter(("a", "b", "c")) for t in (TASK, calibrated)]
    for meter in meters:
        meter.update(logits, torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0]))
    assert meters[1].summary()["loss"] < meters[0].summary()["loss"]
