"""Conduct a study: every trial with every seed, in a folder of its own, whatever happens on the way.

    OUT/record.jsonl              the study and its results so far      OUT/page.html     all of it to look at
    OUT/trials/LABEL/seed-0/      the run, as `train --out` makes it

A trial is an ordinary run, so it is continued where it was stopped, to the last bit; one that is finished is never run
again. One that fails is a result with its error, and is tried again when the study is conducted again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from resnet_rs import config, storage, verbs, zoo
from resnet_rs.jobs import Left, Runner, Share
from resnet_rs.processes import Stop
from resnet_rs.studies.record import RECORD, Record, Result, Setting, read
from resnet_rs.studies.study import Study
from resnet_rs.training.device import Device
from resnet_rs.training.events import Finished, Stopped
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.log import read_log
from resnet_rs.training.machine import Machine


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

    Raises `ValueError` if `folder` holds another study, and `storage.InUse` if somebody else conducts it.
    """
    experiments = plan.study.of(plan.base)
    storage.make_folders(folder)
    with storage.locked(folder):
        _refuse_another(plan, folder)
        record = _gathered(plan, experiments, folder)
        yield from record.results
        finished = {_key(result.label, result.seed) for result in record.results}
        orders = {
            _key(trial.label, seed): _order(
                plan, experiments[trial.label], _run_folder(folder, trial.folder_name, seed), seed
            )
            for seed in plan.seeds
            for trial in plan.study.trials
            if _key(trial.label, seed) not in finished
        }
        record.write(folder)
        for outcome in runner.run(work, orders, stop=stop):
            label, seed = json.loads(outcome.key)
            result = Result(label=label, seed=seed, error=outcome.error)
            if outcome.error is None:
                result = _read_result(_run_folder(folder, _folder_name(plan.study, label), seed), result)
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
            "data": plan.data,
            "folder": str(folder),
            "seed": seed,
            "device": plan.device,
            "micro_batch": plan.micro_batch,
            "workers": plan.workers,
        }
    )


def _refuse_another(plan: Plan, folder: Path) -> None:
    """Refuse a folder in which another study, or the same on something else, was begun."""
    if not (folder / RECORD).is_file():
        return
    before = read(folder)
    # Data that has moved is still the same, if its names are.
    if replace(before.setting, data=plan.setting.data) == plan.setting and before.study == _as_read(
        plan.study
    ):
        return
    cure = "Use a new folder for `--out`, or the same command to go on with that study."
    if before.study.name != plan.study.name:
        raise ValueError(f"{folder} holds the study {before.study.name!r}, not {plan.study.name!r}. {cure}")
    old = config.from_plain(before.setting.experiment, kinds=(Experiment,))
    changed = config.describe(config.diff(old, plan.base))
    what = changed or ("other data" if before.study == _as_read(plan.study) else "other trials")
    raise ValueError(f"{folder} holds this study with other settings; now: {what}. {cure}")


def _as_read(study: Study) -> Study:
    """The study as its record gives it back: the values of its edits as JSON."""
    trials = (
        replace(trial, edits={path: config.to_plain(value) for path, value in trial.edits.items()})
        for trial in study.trials
    )
    return replace(study, trials=tuple(trials))


def _gathered(plan: Plan, experiments: dict[str, Experiment], folder: Path) -> Record:
    """The results of the runs that are finished; the folder of another run in their place is refused."""
    results: list[Result] = []
    for trial in plan.study.trials:
        for seed in plan.seeds:
            run = _run_folder(folder, trial.folder_name, seed)
            if not (run / "scores.json").is_file():
                continue
            found = storage.read_json(run / "experiment.json")
            if found != config.to_plain(experiments[trial.label].suited_to(_classes(run))):
                raise ValueError(
                    f"{run} holds the run of another experiment. Move it away, or use a new folder."
                )
            results.append(_read_result(run, Result(label=trial.label, seed=seed)))
    return Record(study=_as_read(plan.study), setting=plan.setting, results=tuple(results))


def _classes(run: Path) -> tuple[str, ...]:
    return tuple(storage.read_json(run / "run.json", needs=("classes",))["classes"])


def _read_result(run: Path, result: Result) -> Result:
    """`result` with what a finished run has written down."""
    scores: dict[str, Any] = storage.read_json(run / "scores.json", needs=("top1", "count", "missed"))
    info = storage.read_json(run / "run.json", needs=("environment",))
    experiment = config.from_plain(storage.read_json(run / "experiment.json"), kinds=(Experiment,))
    evaluations = [line for line in read_log(run / "log.jsonl") if line["kind"] == "evaluation"]
    cost = experiment.count_cost()
    weights = scores["weights"]
    return replace(
        result,
        count=scores["count"],
        missed=tuple(scores["missed"]),
        top1=scores["top1"],
        curve=tuple((line["epoch"], round(line["summaries"][weights]["top1"], 6)) for line in evaluations),
        minutes=round(evaluations[-1]["seconds"] / 60, 3),
        images_per_second=round(median(line["images_per_second"] for line in evaluations), 1),
        params=cost.params,
        macs=cost.macs,
        environment=info["environment"],
    )


def _with(record: Record, result: Result) -> Record:
    """`record` with `result` in the place of an earlier one of the same trial and seed, in a fixed order."""
    places = {trial.label: i for i, trial in enumerate(record.study.trials)}
    others = [r for r in record.results if (r.label, r.seed) != (result.label, result.seed)]
    ordered = sorted([*others, result], key=lambda r: (places[r.label], r.seed))
    return replace(record, results=tuple(ordered))


def _run_folder(folder: Path, name: str, seed: int) -> Path:
    return folder / "trials" / name / f"seed-{seed}"


def _folder_name(study: Study, label: str) -> str:
    return next(trial.folder_name for trial in study.trials if trial.label == label)


def _key(label: str, seed: int) -> str:
    return json.dumps([label, seed])


def describe(plan: Plan) -> dict[str, Any]:
    """What is going to be run, as JSON."""
    return {"study": plan.study.name, "seeds": list(plan.seeds), **asdict(plan.setting)}
