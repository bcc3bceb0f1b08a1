"""Fine-tuning: frozen stages, rates by stage, batch norm, weight decay. Card: `docs/methods/fine_tuning.md`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from resnet_rs.text import refuse_outside

PARTS = ("stem", "c2", "c3", "c4", "c5", "head")
"""The parts of a network, from the image to the prediction."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Which layers learn, and how fast. The defaults treat all layers alike, as training from scratch does.

    Source: ours; the paper's transfer settings are not published. Rates by layer: Howard and Ruder 2018,
    arXiv:1801.06146; decay towards the start: Li et al. 2018, arXiv:1802.01483.
    """

    frozen: Literal["none", "stem", "c2", "c3", "c4", "c5"] = "none"
    """The last frozen stage. It and all stages before it keep their weights and batch-norm statistics, bit for bit.
    With `c5` only the head learns: a linear probe."""
    stage_lr_decay: float = 1.0
    """Learning rate of each stage as a share of the next stage's: c4 has this share of c5's, c3 of c4's, and so on."""
    head_lr_factor: float = 1.0
    """Learning rate of the head relative to c5's."""
    batch_norm: Literal["batch", "start"] = "batch"
    """Statistics that batch norms use in training: the batch's, or the pretrained ones, which do not change."""
    decay_towards: Literal["zero", "start"] = "zero"
    """Whether weight decay pulls the backbone to zero or to the pretrained weights. It pulls the head to zero."""

    def __post_init__(self) -> None:
        refuse_outside(self, stage_lr_decay="(0, 1]", head_lr_factor="(0, 1000]")

    @property
    def needs_start(self) -> str:
        """The first setting that makes sense only with pretrained weights, such as `frozen=c3`; empty without one."""
        values = {name: getattr(self, name) for name in ("frozen", "batch_norm", "decay_towards")}
        return next((f"{name}={v}" for name, v in values.items() if v != getattr(FineTuning, name)), "")

    def is_frozen(self, part: str) -> bool:
        """Whether a part of the network does not learn."""
        return self.frozen != "none" and PARTS.index(part) <= PARTS.index(self.frozen)

    def lr_factor(self, part: str) -> float:
        """Learning rate of a part relative to c5's."""
        if part == "head":
            return self.head_lr_factor
        return self.stage_lr_decay ** (PARTS.index("c5") - PARTS.index(part))


def part_of(name: str) -> str:
    """The part of the network to which the tensor or module `name` belongs. Backbones without stages are all stem."""
    first, _, rest = name.partition(".")
    stage = rest.partition(".")[0]
    return "head" if first == "head" else stage if stage in PARTS[:-1] else "stem"
