"""The paper's own studies: made on the paper's bases, they are the paper's experiments."""

import pytest

from resnet_rs import config, paper, zoo
from resnet_rs.models.resnet import BLOCKS
from resnet_rs.paper import IMAGENET_IMAGES
from resnet_rs.studies.scaling import scaling
from resnet_rs.studies.training_methods import leave_one_out, training_methods, weight_decay

RS_200 = config.edit(
    zoo.experiment("resnet-rs-200-i256"), {"data.randaugment.magnitude": 15.0, "task.dropout": 0.25}
)
RS_50 = zoo.experiment("resnet-rs-50-i160")
SMALL = zoo.experiment("resnet-rs-small")


def made(study, base):
    return list(study.experiments(base).values())


def test_table_1_leads_from_the_resnet_of_2015_to_resnet_rs():
    rows = made(training_methods(RS_200, IMAGENET_IMAGES), RS_200)
    assert len(rows) == 11
    assert rows[0] == zoo.experiment("resnet-200-2015")
    assert rows[-1] == RS_200


@pytest.mark.parametrize("base", [RS_200, SMALL], ids=["200", "small"])
def test_each_row_of_table_1_changes_one_method(base):
    rows = made(training_methods(base, 10_000), base)
    slots = [
        {"recipe.schedule"},
        {"recipe.epochs"},
        {"recipe.ema_decay", "arch.norm_momentum"},
        {"task.label_smoothing"},
        {"arch.drop_path"},
        {"data.randaugment"},
        {"task.dropout"},
        {"recipe.weight_decay"},
        {"arch.se_ratio"},
        {"arch.stem", "arch.shortcut"},
    ]
    for before, after, fields in zip(rows, rows[1:], slots, strict=False):
        assert set(config.diff(before, after)) == fields


def test_table_1_carries_the_papers_figures():
    study = training_methods(RS_200, IMAGENET_IMAGES)
    assert [t.paper for t in study.trials] == list(paper.TABLE_1)
    # Training methods give +3.2, architecture +1.2 (paper, section 5.1).
    assert paper.TABLE_1[8] - paper.TABLE_1[0] == pytest.approx(3.2)
    assert paper.TABLE_1[10] - paper.TABLE_1[8] == pytest.approx(1.2)


@pytest.mark.parametrize("base", [RS_200, SMALL], ids=["200", "small"])
def test_leaving_out_is_the_converse_of_adding(base):
    whole, *others = made(leave_one_out(base, 10_000), base)
    rows = made(training_methods(base, 10_000), base)
    assert whole == rows[-1]
    added = [set(config.diff(a, b)) for a, b in zip(rows, rows[1:], strict=False)]
    assert [set(config.diff(whole, other)) for other in others] == added


def test_table_2_on_resnet_50_is_the_papers_grid():
    study = weight_decay(RS_50, IMAGENET_IMAGES)
    rows = made(study, RS_50)
    assert [row.arch.blocks for row in rows] == [BLOCKS[50]] * 6 + [BLOCKS[200]] * 6
    assert [row.recipe.weight_decay for row in rows] == [1e-4, 4e-5] * 6
    assert [t.paper for t in study.trials[:4]] == [79.7, 78.7, 82.4, 82.3]
    assert [t.baseline is not None for t in study.trials] == [False, True] * 6
    assert {row.arch.se_ratio for row in rows} == {None}


def test_the_scaling_grid_on_224_pixels_is_the_papers():
    base = config.edit(RS_50, {"data.size": 224})
    study = scaling(base, IMAGENET_IMAGES, {})
    assert len(study.trials) == 3 * 5 * 7 * 5
    rows = made(study, base)
    assert {row.data.size for row in rows} == {128, 160, 224, 320, 448}
    assert {row.recipe.epochs for row in rows} == {10.0, 100.0, 350.0}
    assert {row.arch.width for row in rows} == {0.25, 0.5, 1.0, 1.5, 2.0}
    assert {row.arch.blocks for row in rows} == {BLOCKS[d] for d in (26, 50, 101, 200, 300, 350, 400)}


def test_only_the_longest_runs_of_the_grid_are_regularized():
    base = config.edit(RS_50, {"arch.drop_path": 0.1})
    for row in made(scaling(base, IMAGENET_IMAGES, {}), base):
        regularizers = (row.data.randaugment, row.arch.drop_path, row.task.label_smoothing, row.task.dropout)
        if row.recipe.epochs == 350:
            assert regularizers == (base.data.randaugment, 0.1, 0.1, 0.25)
        else:
            assert regularizers == (None, 0.0, 0.0, 0.0)


def test_the_grid_is_set_like_any_value():
    settings = {"grid.widths": "0.5, 1", "grid.depths": "14", "grid.sizes": "1", "grid.epochs": "1"}
    assert [t.at["width"] for t in scaling(SMALL, 10_000, settings).trials] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grid.widths": "0"}, "widths must be different numbers above 0"),
        ({"grid.depths": "77"}, "depths must be among 14, 26, 50"),
        ({"grid.heights": "1"}, "no field 'heights'"),
        ({"speed": "1"}, "such as grid.widths"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        scaling(SMALL, 10_000, settings)


def test_a_base_that_is_no_resnet_is_refused():
    base = zoo.experiment("efficientnet-b0")
    for build in (training_methods, leave_one_out, weight_decay):
        with pytest.raises(ValueError, match="EfficientNetArch"):
            build(base, 1000)
