"""k-fold cross-validation: a run for each fold, tested on images that it has not seen; then scores over all images.

    OUT/fold-1/, OUT/fold-2/, ...   runs as `train --out` makes them, all with the plan of the first
    OUT/scores.json                 the scores over the test images of all folds, in the form of a run's

Every class is dealt out over the folds in an order that depends on the names of its files alone. The interval of a
score is that of as many independent images. It does not include that the folds share training images.

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
from resnet_rs.data.subset import Joined
from resnet_rs.processes import Stop
from resnet_rs.training.evaluate import Evaluation, evaluate, scores
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine
from resnet_rs.training.ranks import ALONE, Ranks
from resnet_rs.verbs.choice import Choice
from resnet_rs.verbs.models import opened
from resnet_rs.verbs.plans import Limits, plan_choice
from resnet_rs.verbs.precision import with_precision
from resnet_rs.verbs.runs import ResolvedExperiment, resolve, stored_run

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
    if limits is not None:
        limits = replace(limits, num_runs=num_folds)
    folder = fold_folder(out, 1)
    first = plan_choice(choice, edits, limits, data=parts[0], machine=machine, run_folder=folder)
    yield folder, first
    for number, part in enumerate(parts[1:], start=2):
        folder = fold_folder(out, number)
        own = resolve(first.name, edits, data=part, start=first.start, run_folder=folder, machine=machine)
        same = replace(first, splits=own.splits, data=own.data, stored=own.stored, trained=own.trained)
        yield folder, same


def pooled_scores(
    out: Path, *, data: str, num_folds: int, machine: Machine, stop: Stop | None = None
) -> dict[str, Any]:
    """Scores over the test images of all folds, each predicted by the final weights of its own run. Also written to
    `out`.

    This process scores alone, whatever the ranks of `machine`. Raises `Interrupted` on a stop request.
    """
    folders = [fold_folder(out, number) for number in range(1, num_folds + 1)]
    # As the runs were begun: the temperature of one run's probabilities is not that of all.
    experiment = config.from_plain(storage.read_json(folders[0] / "experiment.json"), kinds=(Experiment,))
    runs = [opened(folder) for folder in folders]
    task, classes, name = experiment.task, runs[0].classes, runs[0].weights
    chosen = dataset.find(data, max_pixels=machine.max_pixels)
    tests = tuple(chosen.open(split=_recorded(folder, ALONE)).test for folder in folders)
    source = Joined(sources=tests)
    if machine.device.is_precision_open:
        stored = storage.read_json(folders[0] / "run.json", needs=("precision",))
        machine = with_precision(machine, stored["precision"])
    machine = replace(machine, ranks=ALONE)
    pooled, unreadable, begin = task.build_meter(classes), list[Unreadable](), 0
    for run, test in zip(runs, tests, strict=True):
        part = range(begin, begin + len(test))
        models = {name: machine.device.place(run.load_model())}
        found = evaluate(models, source, run.experiment, machine=machine, part=part, stop=stop)
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
    stored = [_recorded(out / name, machine.ranks) for name in names]
    if machine.ranks.is_first and not any(stored) and not storage.is_vacant(out, but=(*names, SCORES)):
        raise ValueError(f"{out} is not empty and contains no folds. Choose a new folder for `--out`.")
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
