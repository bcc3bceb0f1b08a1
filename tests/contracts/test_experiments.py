"""Laws of every experiment of the zoo, every arch in it, and every study of the catalog."""

import json
from dataclasses import replace

import pytest
import torch
from shapes import Shapes

from resnet_rs import config, zoo
from resnet_rs.bridges.model_garden import ModelGardenArch
from resnet_rs.data.source import Splits
from resnet_rs.models.backbone import Pyramid
from resnet_rs.studies import catalog
from resnet_rs.training import checkpoint
from resnet_rs.training.device import Device
from resnet_rs.training.events import Progressed
from resnet_rs.training.job import Job
from resnet_rs.training.machine import Machine
from resnet_rs.training.run import run

SMALL = zoo.experiment("resnet-rs-tiny")
ARCHS = {type(e.arch).__name__ + str(getattr(e.arch, "stem", "")): e.arch for e in zoo.EXPERIMENTS.values()}
ARCHS["ModelGardenArch"] = ModelGardenArch.like(zoo.experiment("resnet-rs-50-i160").arch)


@pytest.mark.parametrize("name", zoo.list_models())
def test_an_experiment_survives_json_edits_and_classes(name):
    experiment = zoo.experiment(name)
    assert config.from_plain(json.loads(json.dumps(config.to_plain(experiment)))) == experiment
    assert config.edit(SMALL, config.diff(SMALL, experiment)) == experiment
    named = experiment.with_classes(("a", "b"))
    assert (
        named.with_classes(("a", "b")) == named
        and experiment.with_classes(named_like(experiment)) == experiment
    )


def named_like(experiment):
    return tuple(map(str, range(experiment.task.num_classes)))


@pytest.mark.parametrize("name", ARCHS)
def test_an_arch_gives_a_pyramid_of_its_widths(name):
    with torch.device("meta"):
        backbone = ARCHS[name].build(in_channels=5)
        pyramid = backbone.eval()(torch.empty(2, 5, 64, 64))
    assert isinstance(pyramid, Pyramid)
    assert tuple(m.shape[1] for m in pyramid) == backbone.widths
    sides = [m.shape[-1] for m in pyramid]
    assert sides == sorted(sides, reverse=True) and sides[0] == 8 * sides[3]


@pytest.mark.parametrize(
    "kind", sorted({type(arch) for arch in ARCHS.values()}, key=lambda kind: kind.__name__)
)
def test_a_run_of_any_arch_is_continued_to_the_same_weights(kind, tmp_path):
    arch = next(arch for arch in ARCHS.values() if type(arch) is kind)
    small = (
        {"width": 0.0625, "blocks": (1, 1, 1, 1)}
        if hasattr(arch, "blocks")
        else {"width": 0.25, "depth": 0.25}
    )
    known = {name: value for name, value in small.items() if hasattr(arch, name)}
    edits = {"data.size": 32, "recipe.batch_size": 8, "recipe.epochs": 1.0, "recipe.ema_decay": 0.5}
    edits |= {"recipe.schedule.warmup_epochs": 0.0}
    experiment = config.edit(replace(SMALL, arch=replace(arch, **known)), edits)
    splits = Splits(train=Shapes(num_samples=32, size=32), test=Shapes(num_samples=8, size=32, seed=1))

    def job(name):
        machine = Machine(device=Device.choose("cpu"))
        return Job(
            experiment=experiment.with_classes(splits.train.classes),
            splits=splits,
            folder=tmp_path / name,
            machine=machine,
            micro_batch=8,
        )

    list(run(job("whole")))
    for event in run(job("cut")):
        if isinstance(event, Progressed) and event.update.step == 2:
            break
    list(run(job("cut")))
    one, other = (checkpoint.read(tmp_path / name).load_model().state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", catalog.STUDIES)
def test_every_trial_of_a_study_is_an_experiment(name):
    study = catalog.build(name, SMALL, num_samples=10_000, settings={})
    experiments = study.experiments(SMALL)
    assert list(experiments) == [trial.label for trial in study.trials]
    for experiment in experiments.values():
        assert config.edit(SMALL, config.diff(SMALL, experiment)) == experiment
