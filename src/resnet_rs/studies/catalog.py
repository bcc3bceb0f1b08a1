"""The studies by name, and their builders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from resnet_rs.studies import file
from resnet_rs.studies.scaling import scaling
from resnet_rs.studies.study import Study
from resnet_rs.studies.training_methods import leave_one_out, training_methods, weight_decay
from resnet_rs.text import closest, quoted
from resnet_rs.training.experiment import Experiment

STUDIES = {
    "training-methods": "Table 1: from the baseline of 2015, one method more in each row",
    "leave-one-out": "all methods, and all but one in each row",
    "weight-decay": "Table 2: weight decay against the other regularizers, at two depths",
    "scaling": "Figures 2 and 3: width x depth x size x epochs",
}
"""Name -> what the study tries."""
_BUILDERS: dict[str, Callable[[Experiment, int], Study]] = {
    "training-methods": training_methods,
    "leave-one-out": leave_one_out,
    "weight-decay": weight_decay,
}
"""The studies without settings."""
OUTLINE = {
    **STUDIES,
    "speed": "Tables 3 and 7, Figures 4 and 5: latency and memory of all configurations, here",
}
"""The same with the speed study, which trains nothing and has a command of its own."""
_ENDINGS = (".yaml", ".yml")


def build(chosen: str | Study, base: Experiment, *, num_samples: int, settings: Mapping[str, str]) -> Study:
    """The study of that name for `base`, or of that YAML file; a `Study` as it is, if its name is not taken.

    `num_samples` is the number of training images; `settings` are the settings of the study, as typed.
    """
    if isinstance(chosen, str):
        refuse_unknown(chosen)
    if chosen == "scaling":  # the only study that has settings
        return scaling(base, num_samples, settings)
    if settings:
        raise ValueError(f"this study has no settings of its own, got {', '.join(settings)}.")
    if isinstance(chosen, str) and not chosen.endswith(_ENDINGS):
        return _BUILDERS[chosen](base, num_samples)
    name = chosen.name if isinstance(chosen, Study) else Path(chosen).stem
    if name in OUTLINE:
        raise ValueError(f"{name!r} is the name of a study of the paper. Choose another name for yours.")
    return chosen if isinstance(chosen, Study) else file.read(Path(chosen), base)


def refuse_unknown(name: str) -> None:
    """Refuse a name that is not in the catalog and does not end like a YAML file."""
    if name not in STUDIES and not name.endswith(_ENDINGS):
        raise ValueError(
            f"there is no study {quoted(name)}. Closest: {closest(name, STUDIES) or ', '.join(STUDIES)}. "
            "`resnet-rs study list` shows all; a study of your own is a .yaml file."
        )
