"""`study`: run a study from Python in one call."""

from __future__ import annotations

from pathlib import Path

from resnet_rs import config, zoo
from resnet_rs import jobs as places
from resnet_rs.processes import listening
from resnet_rs.report.table import Table
from resnet_rs.studies import summary
from resnet_rs.studies.planning import Options, resolve
from resnet_rs.studies.record import read
from resnet_rs.studies.run import run
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
    """The table of a study, with a verdict for each comparison; runs or continues it in the folder `out`.

    `chosen` is the name of a study of the paper, a .yaml file, or a `Study`. `jobs` is such as `local:2`; a script that
    uses it needs `if __name__ == "__main__":`. A failed trial is a row with its error, and the same call tries it
    again. Ctrl-C saves the current run and raises `KeyboardInterrupt`; the same call continues. For limits of cost and
    time, see `planning.Options`.
    """
    folder, runner = Path(out), places.parse(jobs)
    name = base if isinstance(base, str) else zoo.nearest(base)
    edits = {} if isinstance(base, str) else config.diff(zoo.experiment(name), base)
    options = Options(study=chosen, base=name, edits=edits, data=data, num_seeds=num_seeds)
    resolved = resolve(options, folder=folder)
    with listening() as stop:
        for _ in run(resolved, folder, runner, stop=stop):
            pass
    record = read(folder)
    summary.write_page(record, folder / summary.PAGE, has_folder=True)
    if stop.is_requested:
        raise KeyboardInterrupt(f"stopped by {stop.reason} and saved. The same call continues.")
    return summary.tabulate(record, has_folder=True)
