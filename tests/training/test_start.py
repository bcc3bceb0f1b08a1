"""Runs that begin with trained weights: what they take, what stays frozen, how fast layers learn, exact resumption."""

import pytest
import torch
from safetensors.torch import load_file
from shapes import Shapes
from training.conftest import CPU, TINY

from resnet_rs import storage
from resnet_rs.config import edit
from resnet_rs.data.loader import TrainingBatches
from resnet_rs.data.source import Splits
from resnet_rs.methods.fine_tuning import PARTS, part_of
from resnet_rs.methods.weight_decay import decayed_and_free
from resnet_rs.training import checkpoint, start
from resnet_rs.training.events import Finished, Progressed
from resnet_rs.training.job import Job
from resnet_rs.training.loop import Loop
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run
from resnet_rs.training.state import new_state

CLASSES = ("disc", "square", "triangle")
GRAY = TINY.data.mean
COLOR = {"data.mean": GRAY * 3, "data.std": TINY.data.std * 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint of a short run."""
    splits = Splits(train=Shapes(num_samples=64, size=16), test=Shapes(num_samples=8, size=16, seed=1))
    folder = tmp_path_factory.mktemp("trained") / "run"
    list(run(Job(experiment=TINY, splits=splits, folder=folder, machine=Machine(device=CPU), micro_batch=8)))
    return checkpoint.read(folder)


def begun(trained, edits=None, *, classes=CLASSES):
    experiment = edit(TINY, edits or {}).with_classes(classes)
    return start.begin(trained, experiment, classes=classes, name="runs/trained", seed=1)


def model_of(begun):
    model = begun.provenance.experiment.build_model()
    model.load_state_dict(dict(begun.tensors))
    return model.eval()


def bits(tensor):
    return tensor.numpy().tobytes()


def ended(job):
    return [event for event in run(job) if isinstance(event, Finished)][0]


def stored(folder):
    found = checkpoint.read(folder).path
    return {file.name: file.read_bytes() for file in found.glob("*.safetensors")}


def models_of(folder):
    """The raw model and the EMA model of a run's newest checkpoint."""
    found = checkpoint.read(folder).path
    return [load_file(found / f"{name}.safetensors") for name in ("model", "ema")]


def test_the_same_classes_keep_the_whole_network(trained):
    assert {n: bits(t) for n, t in begun(trained).tensors.items()} == {
        n: bits(t) for n, t in trained.load_model().state_dict().items()
    }
    assert "backbone and head" in begun(trained).summary


@pytest.mark.parametrize("classes", [("square", "triangle", "disc"), ("triangle", "disc")])
def test_classes_are_found_by_name_in_any_order(trained, classes):
    images = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        before, after = trained.load_model()(images), model_of(begun(trained, classes=classes))(images)
    columns = [CLASSES.index(name) for name in classes]
    torch.testing.assert_close(after, before[:, columns], rtol=1e-6, atol=1e-6)


def test_an_unknown_class_gets_a_fresh_head_that_follows_the_seed(trained):
    found = begun(trained, classes=("disc", "square", "star"))
    fresh = found.provenance.experiment.build_model(seed=1).state_dict()
    before = trained.load_model().state_dict()
    assert "the head is newly initialized" in found.summary
    for name, tensor in found.tensors.items():
        assert bits(tensor) == bits(fresh[name] if name.startswith("head") else before[name])


def test_gray_and_color_give_the_same_on_gray_images(trained, tmp_path):
    gray = torch.rand(4, 1, 16, 16)
    color = begun(trained, COLOR)
    assert "adapted to the number of channels: " in color.summary
    start.write(tmp_path, color)
    back = start.begin(checkpoint.read(tmp_path / start.FOLDER), TINY, classes=CLASSES, name="color", seed=0)
    with torch.no_grad():
        wanted = trained.load_model()(gray)
        torch.testing.assert_close(model_of(color)(gray.expand(-1, 3, -1, -1)), wanted)
        torch.testing.assert_close(model_of(back)(gray), wanted)


@pytest.mark.parametrize(
    "edits", [{"arch.blocks": [1, 2, 1, 1]}, {"arch.width": 0.25}, {"arch.se_ratio": None}]
)
def test_another_network_is_refused_with_the_tensors_that_differ(trained, edits):
    with pytest.raises(
        ValueError, match="the weights of runs/trained do not fit this network: .*such as 'backbone"
    ):
        begun(trained, edits)


@pytest.mark.parametrize("frozen", ["stem", "c3", "c5"])
def test_frozen_means_frozen_for_50_updates_statistics_included(job, trained, frozen):
    edits = {"recipe.epochs": 12.5, "recipe.fine_tuning.frozen": frozen}
    first = begun(trained, edits)
    ended(job(experiment=first.provenance.experiment, start=first))
    assert checkpoint.read(job().folder).step == 50
    for tensors in models_of(job().folder):
        for name, tensor in tensors.items():
            is_frozen = PARTS.index(part_of(name)) <= PARTS.index(frozen)
            assert (bits(tensor) == bits(first.tensors[name])) == is_frozen, name


def test_batch_norm_can_keep_the_statistics_of_the_start(job, trained):
    first = begun(trained, {"recipe.fine_tuning.batch_norm": "start", "recipe.base_lr": 0.02})
    ended(job(experiment=first.provenance.experiment, start=first))
    for tensors in models_of(job().folder):
        for name, tensor in tensors.items():
            is_statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
            assert (bits(tensor) == bits(first.tensors[name])) == is_statistic, name


ONE_STEP = {
    "recipe.epochs": 0.25,
    "recipe.schedule.warmup_epochs": 0.0,
    "recipe.momentum": 0.0,
    "recipe.nesterov": False,
    "recipe.weight_decay": 0.0,
}


def moved(job, trained, name, edits):
    """How far each parameter moves in one update."""
    first = begun(trained, ONE_STEP | edits)
    ended(job(name, experiment=first.provenance.experiment, start=first))
    after, _ = models_of(job(name).folder)
    parameters = dict(first.provenance.experiment.build_model().named_parameters())
    return {key: after[key] - first.tensors[key] for key in parameters}


def test_rates_differ_by_stage_and_for_the_head_by_their_factors(job, trained):
    alike = moved(job, trained, "alike", {})
    rates = {"recipe.fine_tuning.stage_lr_decay": 0.5, "recipe.fine_tuning.head_lr_factor": 4.0}
    factors = {"stem": 1 / 16, "c2": 1 / 8, "c3": 1 / 4, "c4": 1 / 2, "c5": 1.0, "head": 4.0}
    for name, distance in moved(job, trained, "different", rates).items():
        torch.testing.assert_close(distance, alike[name] * factors[part_of(name)], rtol=1e-3, atol=1e-7)


def test_decay_pulls_the_backbone_to_the_start_and_the_head_to_zero(trained):
    """An update whose loss has no gradient, from weights that are all larger than the start by 1."""
    edits = ONE_STEP | {"recipe.weight_decay": 0.5, "recipe.fine_tuning.decay_towards": "start"}
    first = begun(trained, edits)
    experiment = first.provenance.experiment
    state = new_state(experiment, CPU, seed=0, start=first.tensors)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(1.0)
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    source = Shapes(num_samples=16, size=16)
    batches = TrainingBatches(source, experiment.data, collate=experiment.task.collate, seed=0)
    timetable = experiment.recipe.timetable(64)
    loop = Loop(experiment=experiment, timetable=timetable, device=CPU, seed=0, micro_batches=1)
    constant = torch.zeros(16, 3, requires_grad=True)
    list(loop.updates(state, iter([batches[range(0, 16)]]), forward=lambda images: constant * 1))
    _, without_decay = decayed_and_free(state.model)
    for name, parameter in state.model.named_parameters():
        away = before[name] if part_of(name) == "head" else torch.ones_like(before[name])
        pull = 0.0 if name in without_decay else timetable.lr(0) * 0.5 * away
        torch.testing.assert_close(parameter.detach(), before[name] - pull, msg=name)


def test_a_fine_tuned_run_is_continued_bit_for_bit_without_the_place_the_weights_came_from(
    job, trained, tmp_path
):
    edits = {
        "recipe.fine_tuning.frozen": "c2",
        "recipe.fine_tuning.decay_towards": "start",
        "recipe.fine_tuning.stage_lr_decay": 0.7,
        "recipe.weight_decay": 1e-2,
    }
    first = begun(trained, edits)
    experiment = first.provenance.experiment
    ended(job("whole", experiment=experiment, start=first))
    begin = job("cut", experiment=experiment, start=first)
    for stop_after in (0, 3, 5):
        for i, event in enumerate(run(begin)):
            if i >= stop_after and (i == 0 or isinstance(event, Progressed)):
                break
        own = start.read(job("cut").folder, summary=first.summary)
        assert own.sha256 == first.sha256
        begin = job("cut", experiment=experiment, start=own)
    ended(begin)
    assert stored(job("cut").folder) == stored(job("whole").folder)


def test_a_run_is_not_continued_from_another_start(job, trained):
    first, other = begun(trained), begun(trained, classes=("square", "disc", "triangle"))
    ended(job(experiment=first.provenance.experiment, start=first))
    for changed in (None, other):
        with pytest.raises(ValueError, match="contains a run with another start"):
            ended(job(experiment=first.provenance.experiment, start=changed))


def test_a_damaged_copy_of_the_start_is_found(job, trained):
    first = begun(trained)
    ended(job(experiment=first.provenance.experiment, start=first))
    file = job().folder / start.FOLDER / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(storage.Damaged, match="has changed since it was written"):
        start.read(job().folder, summary="")


def test_a_run_that_was_killed_while_it_took_its_start_begins_anew(job, trained):
    first = begun(trained)
    start.write(job().folder, first)
    ended(job(experiment=first.provenance.experiment, start=first))


def test_a_folder_of_the_user_called_start_is_kept(job, trained):
    first = begun(trained)
    photos = job().folder / start.FOLDER
    photos.mkdir(parents=True)
    (photos / "1.jpg").write_bytes(b"a photo")
    with pytest.raises(ValueError, match="is not empty and contains no run"):
        ended(job(experiment=first.provenance.experiment, start=first))
    assert (photos / "1.jpg").read_bytes() == b"a photo"


def test_a_leftover_start_is_removed_from_a_run_from_scratch(job, trained):
    start.write(job().folder, begun(trained))
    ended(job())
    assert not (job().folder / start.FOLDER).exists()


def test_settings_that_need_a_start_are_refused_without_one(job):
    for edits in ({"frozen": "c3"}, {"batch_norm": "start"}, {"decay_towards": "start"}):
        tuned = edit(TINY, {f"recipe.fine_tuning.{name}": value for name, value in edits.items()})
        with pytest.raises(ValueError, match="needs pretrained weights, and none are given. Add --from"):
            job(experiment=tuned)


def test_the_origin_of_the_weights_is_kept(job, trained):
    first = begun(trained)
    ended(job(experiment=first.provenance.experiment, start=first))
    origin = checkpoint.read(job().folder).origin
    assert origin["start"] == "runs/trained" and len(origin["start_sha256"]) == 64
