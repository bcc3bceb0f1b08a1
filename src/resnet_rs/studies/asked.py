"""A study from what is asked for to its table, in one call."""

from __future__ import annotations

from pathlib import Path

from resnet_rs import config, zoo
from resnet_rs import jobs as places
from resnet_rs.processes import listening
from resnet_rs.report.table import Table
from resnet_rs.studies import summary
from resnet_rs.studies.conduct import conduct
from resnet_rs.studies.planning import Request, plan
from resnet_rs.studies.record import read
from resnet_rs.studies.study import Study
from resnet_rs.training.experiment import Experiment


def study(
    chosen: str | Study,
    *,
    base: str | Experiment,
    data: str,
    out: str | Path,
    num_seeds: int = 1,
    jobs: str | None = None,
) -> Table:
    """Run a study, or go on with it, in the folder `out`; its table, with a verdict for each comparison.

    `chosen` is a study of the paper by its name, a .yaml file, or a `Study` made of trials; `jobs` is such as
    `local:2` (a script that uses it needs `if __name__ == "__main__":`). A trial that fails is a row with its error;
    the same call tries it again. Interrupted (Ctrl-C), what is under way is saved and `KeyboardInterrupt` raised; the
    same call continues. For limits of cost and time, see `planning.Request`.
    """
    folder = Path(out)
    name = base if isinstance(base, str) else zoo.nearest(base)
    edits = {} if isinstance(base, str) else config.diff(zoo.experiment(name), base)
    request = Request(study=chosen, base=name, edits=edits, data=data, num_seeds=num_seeds)
    made, runner = plan(request, folder=folder), places.parse(jobs)
    with listening() as stop:
        for _ in conduct(made, folder, runner, stop=stop):
            pass
    record = read(folder)
    summary.write_page(record, folder / summary.PAGE, has_folder=True)
    if stop.is_requested:
        raise KeyboardInterrupt(f"stopped by {stop.reason} and saved; the same call continues.")
    return summary.tabulate(record, has_folder=True)
