"""The zoo holds what was published, field by field."""

import pytest

from resnet_rs import zoo
from resnet_rs.config import diff, edit
from resnet_rs.methods.schedule import Cosine, StepDecay
from resnet_rs.paper import IMAGENET_IMAGES, RELEASED
from resnet_rs.text import closest
from resnet_rs.zoo import EXPERIMENTS

# name: size, dropout, stochastic depth, magnitude (the TF1 release's files)
PUBLISHED = {
    "resnet-rs-50-i160": (160, 0.25, 0.0, 10),
    "resnet-rs-101-i160": (160, 0.25, 0.0, 10),
    "resnet-rs-101-i192": (192, 0.25, 0.0, 15),
    "resnet-rs-152-i192": (192, 0.25, 0.0, 15),
    "resnet-rs-152-i224": (224, 0.25, 0.0, 15),
    "resnet-rs-152-i256": (256, 0.25, 0.0, 15),
    "resnet-rs-200-i256": (256, 0.25, 0.1, 15),
    "resnet-rs-270-i256": (256, 0.25, 0.1, 15),
    "resnet-rs-350-i256": (256, 0.25, 0.1, 15),
    "resnet-rs-350-i320": (320, 0.40, 0.1, 15),
    "resnet-rs-420-i320": (320, 0.40, 0.1, 15),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_released_configurations_have_the_released_values(name):
    size, dropout, drop_path, magnitude = PUBLISHED[name]
    experiment = EXPERIMENTS[name]
    assert experiment.data.size == size
    assert experiment.task.dropout == dropout
    assert experiment.arch.drop_path == drop_path
    assert (experiment.data.randaugment.num_layers, experiment.data.randaugment.magnitude) == (2, magnitude)
    assert experiment.data.randaugment.variant == "released" and experiment.data.resampling == "tf1_bicubic"
    assert (experiment.data.crop_ratio, experiment.data.min_area) == (0.875, 0.08)
    assert (experiment.task.label_smoothing, experiment.task.num_classes) == (0.1, 1000)
    recipe = experiment.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.base_lr, recipe.peak_lr) == (350, 4096, 0.1, 1.6)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 4e-5)
    assert (recipe.ema_decay, recipe.schedule) == (0.9999, Cosine(warmup_epochs=5.0))
    assert experiment.arch.norm_momentum == 1
    assert recipe.timetable(IMAGENET_IMAGES).total_steps == 109_475


@pytest.mark.parametrize("name", RELEASED)
def test_what_they_cost_equals_what_is_published(name):
    cost = EXPERIMENTS[name].count_cost()
    assert cost.params == RELEASED[name].params
    assert cost.macs / 1e9 == pytest.approx(RELEASED[name].gmacs, rel=0.005)


@pytest.mark.parametrize(("name", "size"), [("resnet-50-2015", 224), ("resnet-200-2015", 256)])
def test_the_baseline_is_that_of_2015(name, size):
    experiment = EXPERIMENTS[name]
    assert (experiment.data.size, experiment.data.randaugment) == (size, None)
    assert (experiment.task.label_smoothing, experiment.task.dropout) == (0, 0)
    recipe = experiment.recipe
    assert (recipe.epochs, recipe.weight_decay, recipe.ema_decay) == (90, 1e-4, None)
    assert isinstance(recipe.schedule, StepDecay)
    assert experiment.arch.norm_momentum == 0.1


def test_ten_edits_lead_from_the_baseline_to_resnet_rs():
    edits = {
        "recipe.schedule": "Cosine",
        "recipe.epochs": 350.0,
        "recipe.ema_decay": 0.9999,
        "arch.norm_momentum": 1.0,
        "task.label_smoothing": 0.1,
        "arch.drop_path": 0.1,
        "data.randaugment": '{"magnitude": 15}',
        "task.dropout": 0.25,
        "recipe.weight_decay": 4e-5,
        "arch.se_ratio": 0.25,
        "arch.stem": "released",
        "arch.shortcut": "pooled",
    }
    assert diff(edit(EXPERIMENTS["resnet-200-2015"], edits), EXPERIMENTS["resnet-rs-200-i256"]) == {}


def test_efficientnets_have_their_published_sizes_and_dropouts():
    found = [(e.data.size, e.task.dropout) for n, e in EXPERIMENTS.items() if n.startswith("efficientnet-b")]
    sizes, dropouts = zip(*found, strict=True)
    assert sizes == (224, 240, 260, 300, 380, 456, 528, 600)
    assert dropouts == (0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_nearest_to_itself(name):
    assert zoo.nearest(EXPERIMENTS[name]) == name


def test_an_unknown_name_gets_the_closest_ones():
    with pytest.raises(
        ValueError, match=r"'resnet-rs-50-160' is not in the zoo\. Closest: resnet-rs-50-i160"
    ):
        zoo.experiment("resnet-rs-50-160")


@pytest.mark.timeout(20)
def test_a_very_long_name_is_refused_at_once_and_shortened():
    """The search for the closest names of this one would take minutes."""
    with pytest.raises(ValueError, match="is not in the zoo") as error:
        zoo.experiment("resnet-rs-" * 1_000_000)
    assert len(str(error.value)) < 500
    assert closest("resnet-rs-50-i160" * 6, RELEASED) == ""


def test_patterns_choose_names():
    assert zoo.list_models("efficientnet-b?") == [f"efficientnet-b{i}" for i in range(8)]
    assert len(zoo.list_models()) == 24
