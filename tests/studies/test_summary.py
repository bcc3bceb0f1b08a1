"""What is said of a study: tables, verdicts and the paper's claims, on records whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from resnet_rs.report.comparison import Verdict
from resnet_rs.report.score import PerSample, ScoreName
from resnet_rs.studies import scaling, summary
from resnet_rs.studies.claim import judge
from resnet_rs.studies.record import Context, Record, Result
from resnet_rs.studies.study import Study, Trial
from resnet_rs.studies.summary import is_study, report
from resnet_rs.studies.training_methods import additive_claims, decay_claims, training_methods, weight_decay
from resnet_rs.zoo import experiment

NUM_TEST = 500
SCORE = ScoreName(key="top1", label="top-1")
TABLE_1 = [trial.label for trial in training_methods(experiment("resnet-rs-small"), 10_000).trials]
TABLE_2 = [trial.label for trial in weight_decay(experiment("resnet-rs-small"), 10_000).trials]
ERROR = ScoreName(key="rmse", label="rmse", is_share=False, is_higher_better=False)
CONTEXT = Context(
    base="resnet-rs-tiny",
    edits="recipe.epochs=3",
    experiment={},
    score=SCORE,
    data="photos",
    num_train=100,
    num_test=NUM_TEST,
    train_digest="",
    test_digest="",
)


def made(trials, top1, *, name="mine", num_seeds=3, **costs):
    """A record in which each trial is right with its own probability, on the same easy and hard images."""
    rng = np.random.default_rng(0)
    ease = rng.random(NUM_TEST)
    results = []
    for trial in trials:
        for seed in range(num_seeds):
            wrong = np.flatnonzero(ease + rng.normal(0, 0.02, NUM_TEST) > top1[trial.label])
            results.append(
                Result(
                    label=trial.label,
                    seed=seed,
                    count=NUM_TEST,
                    per_sample=PerSample(
                        default=1.0, indices=tuple(wrong.tolist()), values=(0.0,) * len(wrong)
                    ),
                    score=1 - len(wrong) / NUM_TEST,
                    curve=((1.0, 0.5), (2.0, 0.6)),
                    minutes=1.0,
                    **{key: values[trial.label] for key, values in costs.items()},
                )
            )
    study = Study(name=name, title="A study", trials=tuple(trials))
    return Record(study=study, context=CONTEXT, results=tuple(results))


def test_a_table_says_what_is_better_and_what_cannot_be_told_apart():
    trials = [
        Trial(label="a", edits={}, paper=70.0),
        Trial(label="b", edits={}, baseline="a", paper=71.3),
        Trial(label="c", edits={}, baseline="b"),
        Trial(label="d", edits={}, baseline="c"),
    ]
    table = summary.tabulate(made(trials, {"a": 0.6, "b": 0.7, "c": 0.7, "d": 0.5}))
    assert [row.verdict for row in table.rows] == [
        None,
        Verdict.BETTER,
        Verdict.NOT_SIGNIFICANT,
        Verdict.WORSE,
    ]
    b = table.rows[1]
    assert b.score.low < b.score.value < b.score.high
    assert b.difference.value == pytest.approx(b.score.value - table.rows[0].score.value)
    assert (b.paper, b.paper_difference) == (71.3, pytest.approx(1.3))
    assert table.rows[2].paper_difference is None


def test_the_title_carries_base_and_data():
    trials = [Trial(label="a", edits={})]
    table = summary.tabulate(made(trials, {"a": 0.6}))
    assert "resnet-rs-tiny with recipe.epochs=3 on photos (100 to train, 500 to test)" in table.title
    assert "resnet-rs-tiny with recipe.epochs=3 on photos" in table.markdown()


def test_a_failed_trial_shows_its_error_in_its_row(tmp_path):
    trials = [Trial(label="a", edits={}), Trial(label="b", edits={}, baseline="a")]
    record = made(trials[:1], {"a": 0.6})
    failed = Result(label="b", seed=0, error="out of luck | and <script>alert(1)</script>")
    study = Study(name="mine", title="A study", trials=tuple(trials))
    record = Record(study=study, context=CONTEXT, results=(*record.results, failed))
    assert r"seed 0: out of luck \| and" in summary.tabulate(record).markdown()
    page = summary.write_page(record, tmp_path / "page.html", has_folder=True).read_text()
    assert "<script>alert(1)" not in page and "seed 0: out of luck" in page


def test_the_claims_of_table_1_are_judged():
    labels = TABLE_1
    trials = [Trial(label=label, edits={}) for label in labels]
    top1 = dict(zip(labels, [0.5, 0.5, 0.45, 0.5, 0.55, 0.55, 0.6, 0.6, 0.65, 0.65, 0.65], strict=True))
    statements = judge(additive_claims(made(trials, top1, name="training-methods")), SCORE)
    assert [s.finding for s in statements] == ["seen", "not significant", "seen"]
    assert statements[0].figure.startswith("+1") and "seeds: 3" in statements[0].figure


def test_what_one_seed_shows_is_not_taken_for_seen():
    labels = TABLE_1
    trials = [Trial(label=label, edits={}) for label in labels]
    top1 = dict(zip(labels, [0.5, 0.5, 0.8, *[0.9] * 8], strict=True))
    record = made(trials, top1, name="training-methods")
    record = replace(record, results=tuple(r for r in record.results if r.seed == 0))
    findings = [s.finding for s in judge(additive_claims(record), SCORE)]
    assert findings == ["seen (one seed)", "not significant", "not seen (one seed)"]


def test_a_claim_whose_opposite_is_seen_is_not_seen():
    labels = TABLE_1
    trials = [Trial(label=label, edits={}) for label in labels]
    top1 = dict(zip(labels, [0.6, 0.5, 0.7, *[0.5] * 8], strict=True))
    statements = judge(additive_claims(made(trials, top1)), SCORE)
    assert [s.finding for s in statements] == ["not seen", "not significant", "not seen"]
    assert "the opposite" in statements[0].figure


SHALLOW = [0.6, 0.55, 0.6, 0.6, 0.6, 0.7]


def table_2(*, left_out=()):
    """Top-1 of the rows of Table 2: at the lower depth the smaller weight decay gains with all regularizers only."""
    top1 = dict(zip(TABLE_2, [*SHALLOW, *[0.6] * 6], strict=True))
    trials = [Trial(label=label, edits={}) for label in TABLE_2 if label not in left_out]
    return made(trials, top1, name="weight-decay")


def test_the_claim_of_table_2_is_judged():
    statements = judge(decay_claims(table_2()), SCORE)
    assert [s.finding for s in statements] == ["seen", "not significant"]


def test_a_claim_is_judged_by_its_own_rows_although_others_are_left_out():
    """A limit of cost or time leaves rows out."""
    shown = {"baseline of 2015": 0.5, "+ smaller weight decay": 0.7}
    record = made([Trial(label=label, edits={}) for label in shown], shown, name="training-methods")
    statements = judge(additive_claims(record), SCORE)
    assert [s.finding for s in statements] == ["seen", "not tried", "not tried"]
    without = [label for label in TABLE_2 if label.startswith("deep") or ", RA+LS, " in label]
    statements = judge(decay_claims(table_2(left_out=without)), SCORE)
    assert [s.finding for s in statements] == ["seen", "not tried"]


def grid_record(gains, *, sizes=(16, 32)):
    """A grid in which top-1 grows by `gains[axis]` for each doubling of multiply-adds along an axis."""
    trials, top1, macs, speeds = [], {}, {}, {}
    for epochs in (10.0, 100.0):
        for i, size in enumerate(sizes):
            for j, depth in enumerate((14, 26)):
                for k, width in enumerate((0.5, 1.0)):
                    label = f"{epochs} {size} {depth} {width}"
                    at = {"epochs": epochs, "size": float(size), "depth": float(depth), "width": width}
                    trials.append(Trial(label=label, edits={}, at=at))
                    gain = gains[epochs]
                    top1[label] = 0.4 + 2 * i * gain["size"] + j * gain["depth"] + 2 * k * gain["width"]
                    macs[label] = 1000 * 4**i * 2**j * 4**k
                    speeds[label] = 1e6 / macs[label]
    return made(trials, top1, name="scaling", macs=macs, images_per_second=speeds)


def test_the_scaling_rules_are_judged():
    record = grid_record(
        {
            10.0: {"size": 0.02, "depth": 0.01, "width": 0.08},
            100.0: {"size": 0.01, "depth": 0.08, "width": 0.01},
        }
    )
    statements = judge(scaling.claims(record), SCORE)
    assert [s.finding for s in statements] == ["seen"] * 5
    opposite = grid_record(
        {
            10.0: {"size": 0.02, "depth": 0.08, "width": 0.01},
            100.0: {"size": 0.08, "depth": 0.01, "width": 0.05},
        }
    )
    assert [s.finding for s in judge(scaling.claims(opposite), SCORE)] == ["not seen"] * 5


def test_multiply_adds_mislead_where_a_cheaper_network_is_better():
    grows = {"size": 0.02, "depth": 0.02, "width": 0.02}
    found = scaling.fewer_macs_can_be_better(grid_record({10.0: grows, 100.0: grows}))
    assert found.finding == "not significant"
    assert found.figure.startswith("in 26 pairs the network with fewer is better 0 times and worse ")
    shrinks = {**grows, "width": -0.1}
    found = scaling.fewer_macs_can_be_better(grid_record({10.0: grows, 100.0: shrinks}))
    assert found.finding == "seen"
    assert "at most: 100.0 32 14 0.5 against 100.0 16 26 1.0, +" in found.figure
    record = grid_record({10.0: grows, 100.0: shrinks})
    assert "| multiply-adds do not predict the score (100 epochs) | seen | in 26" in summary.markdown(record)


def test_returns_are_points_for_a_doubling():
    gains = {"size": 0.02, "depth": 0.01, "width": 0.06}
    statements = judge(scaling.claims(grid_record({10.0: gains, 100.0: gains})), SCORE)
    # Depth returns 1, width 6: five points less for a doubling.
    assert float(statements[0].figure.split()[0]) == pytest.approx(-5, abs=1)


def test_a_power_law_is_found_where_there_is_one():
    gains = {"size": 0.02, "depth": 0.02, "width": 0.02}
    record = grid_record({10.0: gains, 100.0: gains})
    (line,), note = scaling.power_law(record, 100.0)
    assert line["y"][0] > line["y"][1] and line["x"][0] < line["x"][1]
    assert "Fitted on the cheaper half: error ~ macs^-" in note


def test_a_grid_without_neighbors_is_not_tried():
    trials = [Trial(label="one", edits={}, at={"epochs": 1.0, "size": 8.0, "depth": 14.0, "width": 1.0})]
    record = made(trials, {"one": 0.5}, name="scaling", macs={"one": 10}, images_per_second={"one": 5.0})
    assert {s.finding for s in judge(scaling.claims(record), SCORE)} == {"not tried"}
    assert scaling.fewer_macs_can_be_better(record).finding == "not tried"


def test_a_lone_file_of_results_is_reported_and_its_page_goes_where_it_is_told(tmp_path):
    record = grid_record({e: {"size": 0.02, "depth": 0.01, "width": 0.06} for e in (10.0, 100.0)})
    path = tmp_path / "scaling.jsonl"
    path.write_text(record.text())
    assert is_study(path)
    text, page = report(path)
    assert page is None and "| rule 1, long (100 epochs)" in text
    _, page = report(path, out=tmp_path / "page.html")
    content = page.read_text()
    assert "Error against multiply-adds" in content and "href=" in content


def test_more_epochs_that_help_have_a_positive_figure_beside_the_claim_that_they_hurt():
    labels = TABLE_1
    top1 = dict(zip(labels, [0.5, 0.5, 0.8, *[0.8] * 8], strict=True))
    record = made([Trial(label=label, edits={}) for label in labels], top1)
    hurts = judge(additive_claims(record), SCORE)[2]
    assert hurts.finding == "not seen" and hurts.figure.startswith("+3")


def test_a_lower_error_is_better_in_every_verdict_and_the_best_trial(monkeypatch):
    trials = [Trial(label="a", edits={}), Trial(label="b", edits={}, baseline="a")]
    record = made(trials, {"a": 0.4, "b": 0.6})
    record = replace(record, context=replace(CONTEXT, score=ERROR))
    (_, row) = summary.tabulate(record).rows
    assert row.difference.value > 0 and row.verdict is Verdict.WORSE
    markdown = summary.tabulate(record).markdown()
    assert "rmse (95 %)" in markdown and "%" not in markdown.partition("(95 %)")[2].partition("\n")[2]
    rows = TABLE_1
    top1 = dict(zip(rows, [0.7, 0.5, 0.5, *[0.5] * 6, 0.5, 0.5], strict=True))
    record = made([Trial(label=row, edits={}) for row in rows], top1)
    record = replace(record, context=replace(CONTEXT, score=ERROR))
    assert judge(additive_claims(record), ERROR)[0].finding == "seen"


def test_trials_without_per_sample_values_are_compared_by_their_scores():
    trials = [Trial(label="a", edits={}), Trial(label="b", edits={}, baseline="a")]
    record = made(trials, {"a": 0.4, "b": 0.6})
    record = replace(record, results=tuple(replace(r, per_sample=None) for r in record.results))
    assert record.values("a", (0, 1, 2)).shape == (3, 1)
    row = summary.tabulate(record).rows[1]
    assert row.verdict is Verdict.BETTER and row.score.value == pytest.approx(0.6, abs=0.05)


def test_an_interval_of_shares_stays_within_the_possible_range():
    trials = [Trial(label="a", edits={}), Trial(label="b", edits={}, baseline="a")]
    record = made(trials, {"a": 0.4, "b": 0.6}, num_seeds=2)
    first, *others = (replace(r, per_sample=None) for r in record.results)
    record = replace(record, results=(replace(first, score=0.9), *others))
    row = summary.tabulate(record).rows[1]
    assert (row.difference.low, row.difference.high) == (-1.0, 1.0)


def test_a_damaged_record_of_a_speed_study_is_named(tmp_path):
    (tmp_path / "speed.jsonl").write_text('{"version": 1, "stu')
    with pytest.raises(ValueError, match=r"speed\.jsonl is no record of a study"):
        report(tmp_path)
