"""Conduct a study: every trial with every seed, in a folder of its own, whatever happens on the way.

    OUT/record.jsonl              the study and its results so far      OUT/page.html     all of it to look at
    OUT/trials/LABEL/seed-0/      the run, as `train --out` makes it

A trial is an ordinary run, so it is continued where it was stopped, to the last bit; one that is finished is never run
again, also when its folder is gone by now. One that fails is a result with its error, and is tried again when the study
is conducted again. Trials and seeds may be added to a study; none of its results is ever dropped.
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
from resnet_rs.jobs import Left, Needs, Runner, Share
from resnet_rs.processes import Stop
from resnet_rs.studies.record import RECORD, Record, Result, Setting, read
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.events import Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine

_TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with all that is needed to conduct it."""

    study: Study
    setting: Setting
    data: str
    """As typed: `builtin`, or a folder."""
    seeds: tuple[int, ...] = (0,)
    device: str | None = None
    micro_batch: int | None = None
    workers: int = 0

    @property
    def base(self) -> Experiment:
        """The experiment that the trials edit."""
        return config.from_plain(self.setting.experiment, kinds=(Experiment,))


def conduct(plan: Plan, folder: Path, runner: Runner, *, stop: Stop) -> Iterator[Result]:
    """Run what is not finished yet; yields each result, those of earlier times first.

    Raises `ValueError` if `folder` holds anything else, and `storage.InUse` if somebody else conducts it.
    """
    experiments = plan.study.of(plan.base)
    if not (folder / RECORD).is_file() and not storage.is_vacant(folder, but=(_TRIALS, "page.html")):
        raise ValueError(f"{folder} is not empty and holds no study. Choose a new folder for `--out`.")
    storage.make_folders(folder)
    with storage.locked(folder):
        record = _gathered(plan, experiments, folder)
        wanted = {(trial.label, seed) for trial in plan.study.trials for seed in plan.seeds}
        finished = [r for r in record.results if r.error is None and (r.label, r.seed) in wanted]
        yield from finished
        done = {(result.label, result.seed) for result in finished}
        orders = {
            _key(trial.label, seed): _order(
                plan, experiments[trial.label], _run_folder(folder, trial.folder_name, seed), seed
            )
            for seed in plan.seeds
            for trial in plan.study.trials
            if (trial.label, seed) not in done
        }
        record.write(folder)
        is_cuda = (plan.device or "").startswith("cuda")
        needs = Needs(num_cores=1 + plan.workers, num_gpus=int(is_cuda))
        for outcome in runner.run(work, orders, stop=stop, needs=needs):
            label, seed = json.loads(outcome.key)
            result = Result(label=label, seed=seed, error=outcome.error)
            if outcome.error is None:
                result = _read_or_failed(plan, experiments[label], folder, result)
            record = _with(record, result)
            record.write(folder)
            yield result


def work(payload: str, share: Share, stop: Stop) -> None:
    """Train one trial; an order is what `conduct` wrote."""
    order = json.loads(payload)
    device = Device.choose(order["device"])
    if share.num_threads is not None:
        device.limit_threads(share.num_threads)
    experiment = config.from_plain(order["experiment"], kinds=(Experiment,))
    folder, name = Path(order["folder"]), order["base"]
    edits = config.diff(zoo.experiment(name), experiment)
    prepared = verbs.prepare(name, edits, data=order["data"], run_folder=folder)
    machine = Machine(device=device, micro_batch=order["micro_batch"], workers=order["workers"])
    is_finished = False
    for event in verbs.training(prepared, out=folder, seed=order["seed"], machine=machine, stop=stop):
        is_finished = is_finished or isinstance(event, Finished)
        if isinstance(event, Stopped):
            raise Left
    if not is_finished:
        raise RuntimeError(f"the run in {folder} ended before it was finished.")


def _order(plan: Plan, experiment: Experiment, folder: Path, seed: int) -> str:
    return json.dumps(
        {
            "base": plan.setting.base,
            "experiment": config.to_plain(experiment),
            # A node of a cluster works in a directory of its own.
            "data": plan.data if plan.data == "builtin" else str(Path(plan.data).resolve()),
            "folder": str(folder.resolve()),
            "seed": seed,
            "device": plan.device,
            "micro_batch": plan.micro_batch,
            "workers": plan.workers,
        }
    )


def _gathered(plan: Plan, experiments: Mapping[str, Experiment], folder: Path) -> Record:
    """What is recorded already, and the finished runs that are not; any of another study is refused."""
    record = Record(study=_as_read(plan.study), setting=plan.setting)
    if (folder / RECORD).is_file():
        before = read(folder)
        _refuse_another(plan, before, folder)
        record = replace(record, results=before.results)
    done = {(result.label, result.seed) for result in record.results if result.error is None}
    for trial in plan.study.trials:
        for seed in plan.seeds:
            run = _run_folder(folder, trial.folder_name, seed)
            if (trial.label, seed) not in done and (run / "scores.json").is_file():
                result = Result(label=trial.label, seed=seed)
                record = _with(record, _read_or_failed(plan, experiments[trial.label], folder, result))
    return record


def _refuse_another(plan: Plan, before: Record, folder: Path) -> None:
    """Refuse a folder in which another study, or the same on something else, was begun; trials may be added."""
    cure = "Use a new folder for `--out`, or the same command to go on with that study."
    if before.study.name != plan.study.name:
        raise ValueError(f"{folder} holds the study {before.study.name!r}, not {plan.study.name!r}. {cure}")
    old = config.from_plain(before.setting.experiment, kinds=(Experiment,))
    changed = config.describe(config.diff(old, plan.base))
    now = {trial.label: trial.edits for trial in _as_read(plan.study).trials}
    lost = [trial.label for trial in before.study.trials if now.get(trial.label) != trial.edits]
    # Data that has moved is still the same, if its names are.
    was = before.setting
    moved = replace(plan.setting, data=was.data, limits=was.limits, left_out=was.left_out)
    if changed:
        what = changed
    elif was != moved:
        what = "other data" if was.micro_batch == moved.micro_batch else "another --micro-batch"
    elif lost:
        what = f"another trial {lost[0]!r}" if lost[0] in now else f"no trial {lost[0]!r}"
    else:
        return
    raise ValueError(f"{folder} holds this study with other settings; now: {what}. {cure}")


def _as_read(study: Study) -> Study:
    """The study as its record gives it back: the values of its edits as JSON."""
    trials = (
        replace(trial, edits={path: config.to_plain(value) for path, value in trial.edits.items()})
        for trial in study.trials
    )
    return replace(study, trials=tuple(trials))


def _read_or_failed(plan: Plan, experiment: Experiment, folder: Path, result: Result) -> Result:
    """`result` with what its finished run has written down; files that are damaged are its error."""
    run = _run_folder(folder, _folder_name(plan.study, result.label), result.seed)
    try:
        return _read_result(plan, experiment, run, result)
    except (OSError, KeyError, TypeError, ValueError) as error:
        return replace(result, error=f"{run} cannot be read: {type(error).__name__}: {error}")


def _read_result(plan: Plan, experiment: Experiment, run: Path, result: Result) -> Result:
    needs = ("environment", "classes", "seed", "train_digest", "test_digest")
    info: dict[str, Any] = storage.read_json(run / "run.json", needs=needs)
    suited = experiment.suited_to(tuple(info["classes"]))
    expected = {
        "seed": result.seed,
        "train_digest": plan.setting.train_digest,
        "test_digest": plan.setting.test_digest,
    }
    odd = [name for name, value in expected.items() if info[name] != value]
    if storage.read_json(run / "experiment.json") != config.to_plain(suited):
        odd = ["experiment", *odd]
    if odd:
        raise ValueError(f"it is a run of another {odd[0]}; move it away")
    scores: dict[str, Any] = storage.read_json(
        run / "scores.json", needs=("top1", "count", "missed", "unreadable")
    )
    log = read_log(run / "log.jsonl")
    evaluations = [line for line in log if line["kind"] == "evaluation"]
    if not evaluations:
        raise ValueError("its log holds no evaluation")
    cost = suited.count_cost()
    weights = scores["weights"]
    # Of a run that was stopped while it was scored, the first speed is unknown.
    speeds = [line["images_per_second"] for line in evaluations if line["images_per_second"]]
    return replace(
        result,
        count=scores["count"],
        missed=tuple(scores["missed"]),
        unscored=tuple(item["index"] for item in scores["unreadable"]),
        num_unread=len({line["key"] for line in log if line["kind"] == "unreadable"}),
        top1=scores["top1"],
        curve=tuple((line["epoch"], round(line["summaries"][weights]["top1"], 6)) for line in evaluations),
        minutes=round(evaluations[-1]["seconds"] / 60, 3),
        images_per_second=round(median(speeds), 1) if speeds else None,
        params=cost.params,
        macs=cost.macs,
        environment={**info["environment"], "resnet_rs": version("resnet-rs")},
    )


def _with(record: Record, result: Result) -> Record:
    """`record` with `result` in the place of an earlier one of the same trial and seed, in a fixed order."""
    places = {trial.label: i for i, trial in enumerate(record.study.trials)}
    others = [r for r in record.results if (r.label, r.seed) != (result.label, result.seed)]
    ordered = sorted([*others, result], key=lambda r: (places[r.label], r.seed))
    return replace(record, results=tuple(ordered))


def _run_folder(folder: Path, name: str, seed: int) -> Path:
    return folder / _TRIALS / name / f"seed-{seed}"


def _folder_name(study: Study, label: str) -> str:
    return next(trial.folder_name for trial in study.trials if trial.label == label)


def _key(label: str, seed: int) -> str:
    return json.dumps([label, seed])
