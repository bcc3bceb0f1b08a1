"""Recommendations: the largest network within the limits, shaped by the paper's rules, as edits that train takes."""

import json
import time
from dataclasses import asdict, replace

import pytest
from shapes import Shapes

from resnet_rs import config, verbs, zoo
from resnet_rs.deploy.bench import Timing
from resnet_rs.fit import refuse_unfit
from resnet_rs.studies import recommend as recommending
from resnet_rs.studies.recommend import BASE, Constraints, recommend

CONSTRAINTS = Constraints(num_images=50_000, epochs=200.0, latency_ms=100.0)


@pytest.fixture(autouse=True)
def made_up_machine(monkeypatch):
    """A machine that takes a millisecond for every 50 million multiply-adds, and a MiB for every ten."""

    def bench(experiments, protocol):
        for name, experiment in experiments.items():
            cost = experiment.count_cost()
            passes = 3 if protocol.mode == "train" else 1
            ms = passes * protocol.batch_size * cost.macs / 5e7
            yield Timing(
                name=name,
                mode=protocol.mode,
                size=experiment.data.size,
                batch_size=protocol.batch_size,
                params=cost.params,
                macs=cost.macs,
                latency_ms=ms,
                peak_memory_mib=protocol.batch_size * cost.macs / 1e7,
            )

    monkeypatch.setattr(recommending, "bench", bench)


def test_the_chosen_keeps_the_limit_and_the_next_larger_does_not():
    recommendation = recommend(CONSTRAINTS)
    assert recommendation.chosen.latency_ms <= 100 < recommendation.larger.latency_ms
    assert recommendation.smaller.macs < recommendation.chosen.macs < recommendation.larger.macs
    assert (
        not recommendation.chosen.broken and "inference of an image takes" in recommendation.larger.broken[0]
    )


def test_a_tighter_limit_never_gives_a_larger_network():
    macs = [recommend(replace(CONSTRAINTS, latency_ms=float(ms))).chosen.macs for ms in (300, 100, 30, 10, 3)]
    assert macs == sorted(macs, reverse=True) and len(set(macs)) > 2


def test_long_training_goes_deeper_and_short_training_wider():
    long, short = (recommend(replace(CONSTRAINTS, epochs=epochs)).chosen.edits for epochs in (200.0, 10.0))
    assert sum(long.get("arch.blocks", (3, 4, 6, 3))) > sum(short["arch.blocks"])
    assert short["arch.width"] > long.get("arch.width", 1.0)


def test_short_training_is_not_regularized():
    edits = recommend(replace(CONSTRAINTS, epochs=10.0)).chosen.edits
    assert edits["data.randaugment"] is None and edits["task.label_smoothing"] == edits["task.dropout"] == 0


def test_time_for_long_training_goes_into_depth_and_less_into_width():
    much, little = (
        recommend(Constraints(num_images=50_000, minutes=minutes)) for minutes in (20_000.0, 60.0)
    )
    assert 100 <= much.chosen.epochs and "with fewer than 100 a network" in much.larger.broken[0]
    assert much.chosen.minutes == pytest.approx(20_000, rel=0.01) and "can overfit" in much.reasons[0]
    assert 30 <= little.chosen.epochs < 100 and "with fewer than 30 a network" in little.larger.broken[0]
    assert "width gains more" in little.reasons[0]


def test_more_time_gives_a_larger_network_or_long_training():
    found = [recommend(Constraints(num_images=50_000, minutes=2.0**i)).chosen for i in range(5, 16)]
    for before, after in zip(found, found[1:], strict=False):
        assert after.macs >= before.macs or before.epochs < 100 <= after.epochs
    assert found[0].epochs < 100 <= found[-1].epochs


def test_small_images_get_a_stem_that_leaves_something_of_them():
    assert recommend(replace(CONSTRAINTS, side=28)).chosen.edits["arch.stem"] == "small"
    assert "arch.stem" not in recommend(replace(CONSTRAINTS, side=160)).chosen.edits


def test_images_are_not_made_up_larger_than_they_are():
    for constraints in (CONSTRAINTS, replace(CONSTRAINTS, epochs=10.0)):
        assert recommend(replace(constraints, side=40)).chosen.edits["data.size"] <= 40


@pytest.mark.parametrize("epochs", [3.0, 10.0, 200.0, 350.0])
def test_train_takes_the_edits(epochs):
    edits = recommend(replace(CONSTRAINTS, epochs=epochs)).chosen.edits
    experiment = verbs.experiment(BASE, edits)
    refuse_unfit(experiment, CONSTRAINTS.num_images)
    assert experiment.recipe.epochs == epochs
    assert config.from_plain(config.to_plain(experiment)) == experiment
    typed = {path: config.as_text(value) for path, value in edits.items()}
    assert config.edit(zoo.experiment(BASE), typed) == experiment


class OnASlowDisk(Shapes):
    def read(self, index, request):
        time.sleep(0.01)
        return super().read(index, request)


def test_the_time_of_training_includes_that_of_reading_the_images():
    limits = Constraints(num_images=100, side=16, epochs=10.0, latency_ms=1.0)
    source = OnASlowDisk(num_samples=100, size=16)
    without, found = recommend(limits), recommend(replace(limits, source=source))
    assert found.chosen.seconds_per_image > 0.01 + without.chosen.seconds_per_image
    assert found.chosen.minutes == pytest.approx(10 * 100 * found.chosen.seconds_per_image / 0.85 / 60)
    assert "of reading these images" in found.reasons[3]


def test_a_recommendation_is_json():
    plain = json.loads(json.dumps(asdict(recommend(CONSTRAINTS))))
    assert plain["chosen"]["edits"]["recipe.epochs"] == 200
    assert len(plain["reasons"]) == 4 and "without the time to read images" in plain["reasons"][3]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": None}, "give either --epochs or --minutes"),
        ({"minutes": 3.0}, "give either --epochs or --minutes"),
        ({"latency_ms": None}, "without a limit the largest network is the answer"),
        ({"num_images": 0}, "num_images must be above 0, got 0"),
        ({"memory_gib": -1.0}, "memory_gib must be above 0, got -1.0"),
    ],
)
def test_a_wish_without_sense_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        replace(CONSTRAINTS, **fields)


def test_limits_that_nothing_keeps_are_named():
    with pytest.raises(
        ValueError, match=r"even the smallest network exceeds the limits: inference of an image takes"
    ):
        recommend(replace(CONSTRAINTS, latency_ms=1e-6))


def test_what_does_not_fit_into_the_memory_is_not_chosen(monkeypatch):
    whole = recommending.bench

    def bench(experiments, protocol):
        for timing in whole(experiments, protocol):
            yield replace(timing, error="killed") if timing.macs > 3e9 else timing

    monkeypatch.setattr(recommending, "bench", bench)
    recommendation = recommend(replace(CONSTRAINTS, latency_ms=1000.0))
    assert recommendation.chosen.macs <= 3e9 and recommendation.larger is None
