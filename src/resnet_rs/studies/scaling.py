"""Width, depth and size at several lengths of training, to test the paper's two scaling rules.

    rule 1   depth gains more than width in long training, where a model can overfit; width gains more in short training
    rule 2   raise the size slowly: each further step gains less

Source: paper, section 6, Figures 2 and 3, appendix E.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from resnet_rs import config
from resnet_rs.data.pipeline import SMALLEST_SIZE
from resnet_rs.models.resnet import BLOCKS, ResNetArch
from resnet_rs.plan.rules import with_length
from resnet_rs.studies.study import Study, Trial, check_num_trials
from resnet_rs.training.experiment import Experiment

UNREGULARIZED: dict[str, Any] = {
    "data.randaugment": None,
    "arch.drop_path": 0.0,
    "task.label_smoothing": 0.0,
    "task.dropout": 0.0,
}
"""Edits that leave flips and crops only, as in the paper's short runs (appendix E)."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes of the grid. Defaults: paper, section 6, relative to a base of width 1, 224 pixels, 350 epochs."""

    widths: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """Times the base's width."""
    depths: tuple[int, ...] = (26, 50, 101, 200, 300, 350, 400)
    """Names of layouts: the paper's Table 11 and appendix E; 14 and 26 are ours."""
    sizes: tuple[float, ...] = (128 / 224, 160 / 224, 1.0, 320 / 224, 448 / 224)
    """Times the base's size."""
    epochs: tuple[float, ...] = (10 / 350, 100 / 350, 1.0)
    """Times the base's length. Only the longest is regularized; the others have flips and crops only."""

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "sizes", "epochs"):
            values = getattr(self, name)
            if not values or min(values) <= 0 or len(set(values)) < len(values):
                raise ValueError(f"{name} must be different numbers above 0, got {list(values)}.")
        unknown = [depth for depth in self.depths if depth not in BLOCKS]
        if unknown:
            raise ValueError(f"depths must be among {', '.join(map(str, sorted(BLOCKS)))}, got {unknown[0]}.")


def scaling(base: Experiment, num_samples: int, settings: Mapping[str, str]) -> Study:
    """The grid on `base`; `settings` are edits of `Grid` such as `{"grid.widths": "0.5, 1"}`."""
    unexpected = [path for path in settings if not path.startswith("grid.")]
    if unexpected:
        raise ValueError(
            f"this study has the settings of its grid, such as grid.widths=[0.5, 1]; got {unexpected[0]}."
        )
    if not isinstance(base.arch, ResNetArch):
        raise ValueError(f"this study scales a ResNet, and the base has a {type(base.arch).__name__}.")
    axes = config.edit(Grid(), {path.removeprefix("grid."): value for path, value in settings.items()})
    check_num_trials(len(axes.epochs) * len(axes.sizes) * len(axes.depths) * len(axes.widths))
    trials: list[Trial] = []
    for epochs, size, depth, width in product(axes.epochs, axes.sizes, axes.depths, axes.widths):
        edits = {
            "arch.width": base.arch.width * width,
            "arch.blocks": BLOCKS[depth],
            "data.size": max(SMALLEST_SIZE, round(base.data.size * size)),
        }
        length = float(f"{base.recipe.epochs * epochs:.4g}")
        scaled = with_length(config.edit(base, edits), length, num_samples)
        is_longest = epochs == max(axes.epochs)
        scaled = config.edit(
            scaled, {"recipe.ema_decay": base.recipe.ema_decay} if is_longest else UNREGULARIZED
        )
        trials.append(
            Trial(
                label=f"{length:g} epochs, {scaled.data.size} px, depth {depth}, width {width:g}",
                edits=config.diff(base, scaled),
                at={"epochs": length, "size": float(scaled.data.size), "depth": float(depth), "width": width},
            )
        )
    return Study(
        name="scaling",
        title="Width, depth, size and length of training (Figures 2 and 3)",
        trials=tuple(trials),
        notes=(
            "Width is a multiple of the base's; depth names a layout (14: one block per stage, 26: two).",
            "The longest runs keep the base's regularizers; shorter ones have flips and crops only, as in the paper's "
            "appendix E. Dropout by width (Table 12) is left out: its values could not be verified.",
        ),
    )
