"""The studies by name, and their builders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from resnet_rs.studies import file, scaling, training_methods
from resnet_rs.studies.study import Study
from resnet_rs.text import closest, quoted
from resnet_rs.training.experiment import Experiment

Builder = Callable[[Experiment, int, Mapping[str, str]], Study]
"""Makes a study for a base, a number of training images and settings of the study, as typed."""

_ENDINGS = (".yaml", ".yml")


def _without_settings(build: Callable[[Experiment, int], Study]) -> Builder:
    def built(base: Experiment, num_samples: int, settings: Mapping[str, str]) -> Study:
        if settings:
            raise ValueError(f"this study has no settings of its own, got {', '.join(settings)}.")
        return build(base, num_samples)

    return built


STUDIES: dict[str, tuple[str, Builder]] = {
    "training-methods": (
        "Table 1: from the baseline of 2015, one method more in each row",
        _without_settings(training_methods.training_methods),
    ),
    "leave-one-out": (
        "all methods, and all but one in each row",
        _without_settings(training_methods.leave_one_out),
    ),
    "weight-decay": (
        "Table 2: weight decay against the other regularizers, at two depths",
        _without_settings(training_methods.weight_decay),
    ),
    "scaling": ("Figures 2 and 3: width x depth x size x epochs", scaling.scaling),
}
"""Name -> its line of help, and its builder."""


def build(chosen: str | Study, base: Experiment, *, num_samples: int, settings: Mapping[str, str]) -> Study:
    """The study of that name for `base`, or of that YAML file; a `Study` as it is, if its name is not taken."""
    if not isinstance(chosen, Study) and not chosen.endswith(_ENDINGS):
        refuse_unknown(chosen)
        return STUDIES[chosen][1](base, num_samples, settings)
    name = chosen.name if isinstance(chosen, Study) else Path(chosen).stem
    if settings:
        raise ValueError(f"a study of your own has no settings beyond its file, got {', '.join(settings)}.")
    if name in (*STUDIES, "speed"):
        raise ValueError(f"{name!r} is the name of a study of the paper. Choose another name for yours.")
    return chosen if isinstance(chosen, Study) else file.read(Path(chosen), base)


def refuse_unknown(name: str) -> None:
    """Refuse a name that is not in the catalog and does not end like a YAML file."""
    if name not in STUDIES and not name.endswith(_ENDINGS):
        raise ValueError(
            f"there is no study {quoted(name)}. Closest: {closest(name, STUDIES) or ', '.join(STUDIES)}. "
            "`resnet-rs study list` shows all; a study of your own is a .yaml file."
        )
