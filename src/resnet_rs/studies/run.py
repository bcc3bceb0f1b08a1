"""Run a study: every trial with every seed, each in a folder of its own.

    OUT/record.jsonl              the study and its results so far      OUT/page.html     the same as a page
    OUT/trials/LABEL/seed-0/      the run, as `train --out` makes it

A trial is an ordinary run, so an interrupted one continues bit for bit. A finished one is never run again, even if its
folder is gone. A failed one is a result with its error, and the next call tries it again. Trials and seeds may be
added to a study; results are never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from resnet_rs import config, storage, verbs, zoo
from resnet_rs.data import dataset
from resnet_rs.jobs import Resources, Runner
from resnet_rs.processes import Interrupted, Stop
from resnet_rs.report.score import PerSample
from resnet_rs.studies.record import RECORD, Context, Record, Result, read
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.events import Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine

_TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with everything that a run of it needs."""

    study: Study
    context: Context
    data: str
    """As typed: `builtin`, or a folder."""
    seeds: tuple[int, ...] = (0,)
    device: str | None = None
    micro_batch: int | None = None
    workers: int = 0

    @property
    def base(self) -> Experiment:
        """The experiment that the trials edit."""
        return config.from_plain(self.context.experiment, kinds=(Experiment,))


def run(plan: Plan, folder: Path, runner: Runner, *, stop: Stop) -> Iterator[Result]:
    """The results of the plan, earlier ones first; runs what is not finished.

    Raises `ValueError` if `folder` holds anything else, and `storage.InUse` if another process runs the study.
    """
    experiments = plan.study.experiments(plan.base)
    if not (folder / RECORD).is_file() and not storage.is_vacant(folder, but=(_TRIALS, "page.html")):
        raise ValueError(f"{folder} is not empty and holds no study. Choose a new folder for `--out`.")
    storage.make_folders(folder)
    with storage.locked(folder):
        record = _collected(plan, experiments, folder)
        wanted = {(trial.label, seed) for trial in plan.study.trials for seed in plan.seeds}
        finished = [r for r in record.results if r.error is None and (r.label, r.seed) in wanted]
        yield from finished
        done = {(result.label, result.seed) for result in finished}
        orders = {
            json.dumps([trial.label, seed]): _order(
                plan, experiments[trial.label], _run_folder(folder, trial.folder_name, seed), seed
            )
            for seed in plan.seeds
            for trial in plan.study.trials
            if (trial.label, seed) not in done
        }
        record.write(folder)
        is_cuda = (plan.device or "").startswith("cuda")
        needs = Resources(num_cores=1 + plan.workers, num_gpus=int(is_cuda))
        for outcome in runner.run(work, orders, stop=stop, needs=needs):
            label, seed = json.loads(outcome.key)
            result = Result(label=label, seed=seed, error=outcome.error)
            if outcome.error is None:
                result = _read_or_failed(plan, experiments[label], folder, result)
            record = _with(record, result)
            record.write(folder)
            yield result


def work(payload: str, num_threads: int | None, stop: Stop) -> None:
    """Train one trial; the payload is an order of `run`."""
    order = json.loads(payload)
    device = Device.choose(order["device"])
    if num_threads is not None:
        device.limit_threads(num_threads)
    experiment = config.from_plain(order["experiment"], kinds=(Experiment,))
    folder, name = Path(order["folder"]), order["base"]
    # The trial decides on channels, also where they are the zoo's: nothing may adapt them to the data once more.
    channels = {"data.mean": experiment.data.mean, "data.std": experiment.data.std}
    edits = config.diff(zoo.experiment(name), experiment) | channels
    resolved = verbs.resolve(name, edits, data=order["data"], run_folder=folder)
    machine = Machine(device=device, micro_batch=order["micro_batch"], workers=order["workers"])
    is_finished = False
    for event in verbs.training(resolved, out=folder, seed=order["seed"], machine=machine, stop=stop):
        is_finished = is_finished or isinstance(event, Finished)
        if isinstance(event, Stopped):
            raise Interrupted
    if not is_finished:
        raise RuntimeError(f"the run in {folder} ended before it was finished.")


def _order(plan: Plan, experiment: Experiment, folder: Path, seed: int) -> str:
    return json.dumps(
        {
            "base": plan.context.base,
            "experiment": config.to_plain(experiment),
            # A node of a cluster works in a directory of its own.
            "data": dataset.find(plan.data).name,
            "folder": str(folder.resolve()),
            "seed": seed,
            "device": plan.device,
            "micro_batch": plan.micro_batch,
            "workers": plan.workers,
        }
    )


def _collected(plan: Plan, experiments: Mapping[str, Experiment], folder: Path) -> Record:
    """The record in `folder`, with the finished runs that it lacks. Refuses the record of another study."""
    record = Record(study=_as_read(plan.study), context=plan.context)
    if (folder / RECORD).is_file():
        before = read(folder)
        _refuse_another(plan, before, folder)
        record = replace(record, results=before.results)
    done = {(result.label, result.seed) for result in record.results if result.error is None}
    for trial in plan.study.trials:
        for seed in plan.seeds:
            scores = _run_folder(folder, trial.folder_name, seed) / "scores.json"
            if (trial.label, seed) not in done and scores.is_file():
                result = Result(label=trial.label, seed=seed)
                record = _with(record, _read_or_failed(plan, experiments[trial.label], folder, result))
    return record


def _refuse_another(plan: Plan, before: Record, folder: Path) -> None:
    """Refuse the folder of another study, or of this one with another base, data or trial; trials may be added."""
    cure = "Use a new folder for `--out`, or repeat the command of that study to continue it."
    if before.study.name != plan.study.name:
        raise ValueError(f"{folder} holds the study {before.study.name!r}, not {plan.study.name!r}. {cure}")
    old = config.from_plain(before.context.experiment, kinds=(Experiment,))
    changed = config.describe(config.diff(old, plan.base))
    now = {trial.label: trial.edits for trial in _as_read(plan.study).trials}
    differing = [trial.label for trial in before.study.trials if now.get(trial.label) != trial.edits]
    # Data that was moved is the same if its names and classes are.
    was = before.context
    moved = replace(plan.context, data=was.data, limits=was.limits, left_out=was.left_out)
    if changed:
        what = changed
    elif was != moved:
        what = "other data" if was.micro_batch == moved.micro_batch else "another --micro-batch"
    elif differing:
        what = f"another trial {differing[0]!r}" if differing[0] in now else f"no trial {differing[0]!r}"
    else:
        return
    raise ValueError(f"{folder} holds this study with other settings; now: {what}. {cure}")


def _as_read(study: Study) -> Study:
    """The study as a record gives it back: the values of its edits as JSON."""
    trials = (
        replace(trial, edits={path: config.to_plain(value) for path, value in trial.edits.items()})
        for trial in study.trials
    )
    return replace(study, trials=tuple(trials))


def _read_or_failed(plan: Plan, experiment: Experiment, folder: Path, result: Result) -> Result:
    """`result` with the scores of its finished run, or with an error where its files are damaged."""
    name = next(trial.folder_name for trial in plan.study.trials if trial.label == result.label)
    run_folder = _run_folder(folder, name, result.seed)
    try:
        return _read_result(plan, experiment, run_folder, result)
    except (OSError, KeyError, TypeError, ValueError) as error:
        return replace(result, error=f"{run_folder} cannot be read: {type(error).__name__}: {error}")


def _read_result(plan: Plan, experiment: Experiment, run_folder: Path, result: Result) -> Result:
    needs = ("environment", "classes", "seed", "train_digest", "test_digest")
    info: dict[str, Any] = storage.read_json(run_folder / "run.json", needs=needs)
    with_classes = experiment.with_classes(tuple(info["classes"]))
    expected = {
        "seed": result.seed,
        "train_digest": plan.context.train_digest,
        "test_digest": plan.context.test_digest,
    }
    unexpected = [name for name, value in expected.items() if info[name] != value]
    if storage.read_json(run_folder / "experiment.json") != config.to_plain(with_classes):
        unexpected = ["experiment", *unexpected]
    if unexpected:
        raise ValueError(f"it is a run of another {unexpected[0]}; move it away")
    key = plan.context.score.key
    scores: dict[str, Any] = storage.read_json(
        run_folder / "scores.json", needs=(key, "count", "per_sample", "unreadable", "weights")
    )
    log = read_log(run_folder / "log.jsonl")
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    if not evaluations:
        raise ValueError("its log holds no evaluation")
    cost, weights = with_classes.count_cost(), scores["weights"]
    # The first speed is unknown if the run was interrupted during an evaluation.
    speeds = [line["images_per_second"] for line in evaluations if line["images_per_second"]]
    return replace(
        result,
        count=scores["count"],
        score=scores[key],
        per_sample=None if scores["per_sample"] is None else PerSample.from_plain(scores["per_sample"]),
        unscored=tuple(item["index"] for item in scores["unreadable"]),
        num_unread=len({line["key"] for line in log if line["kind"] == "unreadable"}),
        curve=tuple((line["epoch"], round(line["summaries"][weights][key], 6)) for line in evaluations),
        minutes=round(evaluations[-1]["seconds"] / 60, 3),
        images_per_second=round(median(speeds), 1) if speeds else None,
        params=cost.params,
        macs=cost.macs,
        environment={**info["environment"], "resnet_rs": version("resnet-rs")},
    )


def _with(record: Record, result: Result) -> Record:
    """`record` with `result`, which replaces an earlier one of the same trial and seed; in a fixed order."""
    places = {trial.label: i for i, trial in enumerate(record.study.trials)}
    others = [r for r in record.results if (r.label, r.seed) != (result.label, result.seed)]
    ordered = sorted([*others, result], key=lambda r: (places[r.label], r.seed))
    return replace(record, results=tuple(ordered))


def _run_folder(folder: Path, name: str, seed: int) -> Path:
    return folder / _TRIALS / name / f"seed-{seed}"
