"""k-fold cross-validation: a run for each fold, tested on images that it has not seen; then scores over all images.

    OUT/fold-1/, OUT/fold-2/, ...   runs as `train --out` makes them, all with the plan of the first
    OUT/scores.json                 the scores over the test images of all folds, in the form of a run's

Every class is dealt out over the folds in an order that depends on the names of its files alone. The interval of a
score is that of as many independent images: that the training images of the folds overlap is left out of it.

Source: ours; scikit-learn's `cross_val_predict` with `StratifiedKFold` pools predictions in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_rs import config, storage
from resnet_rs.data import dataset
from resnet_rs.data.dataset import DataSet
from resnet_rs.data.files import Split
from resnet_rs.data.folders import split_record
from resnet_rs.data.sample import Unreadable
from resnet_rs.data.source import match_classes
from resnet_rs.data.subset import Subset
from resnet_rs.training.evaluate import Evaluation, evaluate, scores
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import ALONE, Ranks
from resnet_rs.verbs.choice import Choice
from resnet_rs.verbs.models import opened
from resnet_rs.verbs.plans import Limits, plan_choice
from resnet_rs.verbs.runs import ResolvedExperiment, resolve, stored_run, with_changes

SCORES = "scores.json"


def fold_folder(out: Path, number: int) -> Path:
    """The folder of the run that tests fold `number`, from 1."""
    return out / f"fold-{number}"


def folds(  # noqa: PLR0913 - the options of one command
    choice: Choice,
    edits: Mapping[str, Any],
    limits: Limits | None,
    *,
    data: str,
    out: Path,
    num_folds: int,
    machine: Machine,
) -> Iterator[tuple[Path, ResolvedExperiment]]:
    """The folder of each fold's run, and its experiment. `limits` are those of all folds together.

    The first fold is planned, and the others have the same recipe. Folds that have begun keep their images. Raises
    `ValueError` for data with a test part of its own, too many folds, or a folder that holds something else.
    """
    parts = _parts(data, out, num_folds, machine)
    if limits is not None and limits.minutes is not None:
        limits = replace(limits, minutes=limits.minutes / num_folds)
    first = plan_choice(choice, edits, limits, data=parts[0], machine=machine, run_folder=fold_folder(out, 1))
    yield fold_folder(out, 1), first
    for number, part in enumerate(parts[1:], start=2):
        folder = fold_folder(out, number)
        found = resolve(first.name, edits, data=part, start=choice.start, run_folder=folder, machine=machine)
        same = with_changes(found, first.changes)
        yield (
            folder,
            replace(
                same,
                is_adapted=first.is_adapted,
                minutes=first.minutes,
                num_evaluations=first.num_evaluations,
            ),
        )


def pooled_scores(out: Path, *, data: str, num_folds: int, machine: Machine) -> dict[str, Any]:
    """Scores over the test images of all folds, each predicted by the final weights of its own run. Also written to
    `out`.

    This process scores alone, whatever the ranks of `machine`.
    """
    machine = replace(machine, ranks=ALONE)
    runs = [opened(fold_folder(out, number)) for number in range(1, num_folds + 1)]
    tested = [_recorded(fold_folder(out, number), ALONE)["test"] for number in range(1, num_folds + 1)]
    # As the runs were begun: the temperature of one run's probabilities is not that of all.
    experiment = config.from_plain(
        storage.read_json(fold_folder(out, 1) / "experiment.json"), kinds=(Experiment,)
    )
    task, classes, name = experiment.task, runs[0].classes, runs[0].weights
    whole = match_classes(dataset.find(data, max_pixels=machine.max_pixels).open_test(), classes)
    places = {whole.key(i): i for i in range(len(whole))}
    source = Subset(source=whole, indices=tuple(places[key] for keys in tested for key in keys))
    pooled, unreadable, begin = task.build_meter(classes), list[Unreadable](), 0
    for run, keys in zip(runs, tested, strict=True):
        part = range(begin, begin + len(keys))
        models = {name: machine.device.place(run.load_model())}
        found = evaluate(models, source, run.experiment, machine=machine, part=part)
        pooled.merge(found.meters[name].pack())
        unreadable += found.unreadable
        begin = part.stop
    evaluation = Evaluation(meters={name: pooled}, unreadable=tuple(unreadable))
    result = scores(evaluation, source, task) | {"num_folds": num_folds}
    storage.write_json(out / SCORES, result)
    return result


def _parts(data: str, out: Path, num_folds: int, machine: Machine) -> list[DataSet]:
    """The data set of each fold. Folds that have begun must be the same."""
    if num_folds < 2:
        raise ValueError(f"the number of folds must be 2 or more, got {num_folds}.")
    names = [fold_folder(out, number).name for number in range(1, num_folds + 1)]
    if machine.ranks.is_first and not storage.is_vacant(out, but=(*names, SCORES)):
        raise ValueError(
            f"{out} is not empty, and holds something else than {num_folds} folds. Choose a new folder for `--out`."
        )
    stored = [_recorded(out / name, machine.ranks) for name in names]
    recorded = next(filter(None, stored), None)
    parts = dataset.find(data, max_pixels=machine.max_pixels).folds(num_folds, split=recorded)
    for part, split in zip(parts, stored, strict=True):
        if split and set(split["test"]) != set(split_record(part.open())["test"]):
            raise ValueError(
                f"the runs in {out} are those of another number of folds, or of other images. Choose a new folder for "
                "`--out`, or repeat the first command to continue them."
            )
    return parts


def _recorded(folder: Path, ranks: Ranks) -> Split:
    """The split that the run in `folder` recorded; an empty one if it has not begun."""
    return (stored_run(folder, ranks) or {}).get("split") or {}
