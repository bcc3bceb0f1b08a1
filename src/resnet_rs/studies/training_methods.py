"""Which training methods help: added one by one, left out one by one, and weight decay with other regularizers.

The base may be any ResNet. The study removes the methods that the base has, which gives the paper's baseline, and adds
those that it lacks with the paper's values. All rows have the base's warm-up, at most a tenth of the shortest run.

Source: paper, Tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from resnet_rs import config, paper
from resnet_rs.methods.randaugment import RandAugment
from resnet_rs.methods.schedule import Cosine, StepDecay
from resnet_rs.models.resnet import ResNetArch
from resnet_rs.plan.rules import fitting_decay, fitting_warmup
from resnet_rs.studies.claim import Claim, oriented
from resnet_rs.studies.record import Record
from resnet_rs.studies.study import Study, Trial, additive, alternatives
from resnet_rs.training.experiment import Experiment

_EPOCHS_OF_2015 = 90 / 350
"""Length of the baseline's runs over that of the long ones. Source: paper, Table 10."""
_DECAY_OF_2015 = 1e-4 / 4e-5
"""Weight decay of the baseline over the smaller one. Source: paper, Table 1."""
_REGULARIZERS = {"RA": "RandAugment", "LS": "label smoothing", "SD": "stochastic depth", "DO": "dropout"}
"""The regularizers of Table 2 by their abbreviations."""

Method = Mapping[str, tuple[Any, Any]]
"""Each field that a method sets, with its value with and without the method."""


def training_methods(base: Experiment, num_samples: int) -> Study:
    """Table 1: eleven rows, each with one method more."""
    methods = _methods(base, num_samples)
    first = Trial(label="baseline of 2015", edits=_without(methods.values()), paper=paper.TABLE_1[0])
    others = [
        Trial(label=f"+ {label}", edits=_with([method]), paper=accuracy)
        for (label, method), accuracy in zip(methods.items(), paper.TABLE_1[1:], strict=True)
    ]
    return Study(
        name="training-methods",
        title="Training methods, one more in each row (Table 1)",
        trials=_that_change(base, additive([first, *others])),
        notes=(_note(base, num_samples),),
    )


def leave_one_out(base: Experiment, num_samples: int) -> Study:
    """All methods, then all but one in each row; not in the paper."""
    methods = _methods(base, num_samples)
    whole = _with(methods.values())
    trials = [Trial(label="all methods", edits=whole)]
    trials += [
        Trial(label=f"without {label}", edits=whole | _without([method])) for label, method in methods.items()
    ]
    return Study(
        name="leave-one-out",
        title="Training methods, one left out in each row",
        trials=_that_change(base, alternatives(trials)),
        notes=(_note(base, num_samples), "The paper has no such table, so no row has a published figure."),
    )


def weight_decay(base: Experiment, num_samples: int) -> Study:
    """Table 2: two depths, more and more regularizers, each with the larger and the smaller weight decay."""
    methods = _methods(base, num_samples)
    removed = [*_REGULARIZERS.values(), "squeeze-and-excitation", "ResNet-D"]
    plain = _without(methods[label] for label in removed)
    c2, c3, c4, c5 = shallow = _arch(base).blocks
    # As ResNet-200 has six times the blocks of ResNet-50 in c3 and c4. Source: paper, Table 11.
    deep = (c2, 6 * c3, 6 * c4, c5)
    small, large = methods["smaller weight decay"]["recipe.weight_decay"]
    trials: list[Trial] = []
    for (depth, label), figures in paper.TABLE_2.items():
        added = [methods[_REGULARIZERS[code]] for code in label.split("+") if code in _REGULARIZERS]
        edits = {**plain, **_with(added), "arch.blocks": shallow if depth == "shallow" else deep}
        for decay, accuracy in zip((large, small), figures, strict=True):
            trials.append(
                Trial(
                    label=f"{depth}, {label}, weight decay {decay:g}",
                    edits=_changed(base, {**edits, "recipe.weight_decay": decay}),
                    baseline=trials[-1].label if decay == small else None,
                    paper=accuracy,
                )
            )
    return Study(
        name="weight-decay",
        title="Weight decay against the other regularizers (Table 2)",
        trials=tuple(trials),
        notes=(
            f"Shallow is the base's {list(shallow)} blocks, in the paper's rows ResNet-50; deep is {list(deep)}, which "
            "relates to it as ResNet-200 to ResNet-50. The paper's figures are of a part of the training set "
            "(minival) and not comparable with its Table 1.",
        ),
    )


def additive_claims(record: Record) -> list[Claim]:
    """Table 1: methods add up, and more epochs alone hurt."""
    ninth, epochs = "+ smaller weight decay", "+ more epochs"
    add_up = "training methods add up: the ninth row is better than the baseline"
    return [
        _claim(record, add_up, new=ninth, old="baseline of 2015"),
        _claim(record, "squeeze-and-excitation and ResNet-D add to them", new="+ ResNet-D", old=ninth),
        _claim(record, "more epochs alone hurt", new=epochs, old="+ cosine learning rate", expects="loss"),
    ]


def decay_claims(record: Record) -> list[Claim]:
    """Table 2: with more regularizers, weight decay must shrink."""
    found: list[Claim] = []
    largest = {depth: label for depth, label in paper.TABLE_2}  # the last set of each depth
    for depth, regularizers in largest.items():
        starts = (f"{depth}, {regularizers},", f"{depth}, no regularizer,")
        rows = [t.label for start in starts for t in record.study.trials if t.label.startswith(start)]
        pair = None
        if len(rows) == 4 and (seeds := record.seeds(*rows)):
            # In each set of regularizers, the larger weight decay comes first.
            large, small, plain_large, plain_small = (oriented(record, row, seeds) for row in rows)
            pair = small - large, plain_small - plain_large
        text = f"the smaller weight decay gains more with all regularizers than with none ({depth})"
        found.append(Claim(text=text, pair=pair, limit=2.0))
    return found


def _claim(
    record: Record, text: str, *, new: str, old: str, expects: Literal["gain", "loss"] = "gain"
) -> Claim:
    seeds = record.seeds(new, old)
    pair = (oriented(record, new, seeds), oriented(record, old, seeds)) if seeds else None
    return Claim(text=text, pair=pair, expects=expects)


def _methods(base: Experiment, num_samples: int) -> dict[str, Method]:
    """The methods by name, in the order of Table 1. A value that the base lacks is the paper's."""
    arch, recipe = _arch(base), base.recipe
    short = float(f"{recipe.epochs * _EPOCHS_OF_2015:.4g}")
    warmup = fitting_warmup(recipe.schedule.warmup_epochs, short)
    decay = recipe.ema_decay or fitting_decay(recipe.timetable(num_samples).total_steps)
    augment = base.data.randaugment or RandAugment(magnitude=10.0)
    smoothing, dropout = (getattr(base.task, name, None) for name in ("label_smoothing", "dropout"))
    large = float(f"{recipe.weight_decay * _DECAY_OF_2015:.6g}")
    # A task without smoothing or dropout refuses the edit, with a message.
    return {
        "cosine learning rate": {
            "recipe.schedule": (Cosine(warmup_epochs=warmup), StepDecay(warmup_epochs=warmup))
        },
        "more epochs": {"recipe.epochs": (recipe.epochs, short)},
        "average of weights (EMA)": {"recipe.ema_decay": (decay, None), "arch.norm_momentum": (1.0, 0.1)},
        "label smoothing": {"task.label_smoothing": (smoothing or 0.1, 0.0)},
        "stochastic depth": {"arch.drop_path": (arch.drop_path or 0.1, 0.0)},
        "RandAugment": {"data.randaugment": (augment, None)},
        "dropout": {"task.dropout": (dropout or 0.25, 0.0)},
        "smaller weight decay": {"recipe.weight_decay": (recipe.weight_decay, large)},
        "squeeze-and-excitation": {"arch.se_ratio": (arch.se_ratio or 0.25, None)},
        "ResNet-D": {
            "arch.stem": ("small", "small") if arch.stem == "small" else ("released", "2015"),
            "arch.shortcut": ("pooled", "strided"),
        },
    }


def _with(methods: Iterable[Method]) -> dict[str, Any]:
    return {path: value for method in methods for path, (value, _) in method.items()}


def _without(methods: Iterable[Method]) -> dict[str, Any]:
    return {path: value for method in methods for path, (_, value) in method.items()}


def _that_change(base: Experiment, trials: tuple[Trial, ...]) -> tuple[Trial, ...]:
    """The trials with only those edits that change something."""
    return tuple(replace(trial, edits=_changed(base, trial.edits)) for trial in trials)


def _changed(base: Experiment, edits: Mapping[str, Any]) -> dict[str, Any]:
    return config.diff(base, config.edit(base, edits))


def _note(base: Experiment, num_samples: int) -> str:
    """The methods that the study adds to the base, in words."""
    added = _changed(base, _with(_methods(base, num_samples).values()))
    parts = [f"The row with all methods changes the base by {config.describe(added)}."] if added else []
    if _arch(base).stem == "small":
        parts.append("All rows keep the stem of stride 1, so ResNet-D changes the shortcut only.")
    return " ".join(parts)


def _arch(base: Experiment) -> ResNetArch:
    if not isinstance(base.arch, ResNetArch):
        raise ValueError(
            f"this study needs a ResNet as its base, and this one has a {type(base.arch).__name__}. "
            "Choose a base such as resnet-rs-50-i160; `resnet-rs list 'resnet-*'` shows them."
        )
    return base.arch
