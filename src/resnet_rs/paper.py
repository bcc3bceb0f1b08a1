"""Published numbers, once, with their sources. Ours and theirs never share a column."""

from __future__ import annotations

from dataclasses import dataclass

IMAGENET_IMAGES = 1_281_167
"""Training images of ImageNet-1k, which the published recipes assume."""


@dataclass(frozen=True)
class Released:
    """Published figures of one released ResNet-RS."""

    params: int
    """Trainable numbers with 1,000 classes: derived from the architecture, equal to timm's to all printed digits."""
    gmacs: float
    """Billions of multiply-adds, derived; the paper's "FLOPs" are twice as many."""
    tpu_ms: float
    """Training step on one TPUv3 core in bfloat16, batch 128 or halves of it. Source: README of the TF1 release."""
    v100_s: float
    """Training step on one V100 in float32, batch as above. Source: the same README."""
    accuracy_readme: float
    """Accuracy on ImageNet, in percent, in the README of the TF1 release. The 82.2 of 152 at 224 is doubtful: its
    weights give 82.9."""
    accuracy_reevaluated: float
    """Accuracy of the released EMA weights, evaluated by a third party (`sebastian-sz/resnet-rs-keras`)."""


RELEASED = {
    # params, gmacs, tpu_ms, v100_s, accuracy_readme, accuracy_reevaluated
    "resnet-rs-50-i160": Released(35_691_912, 2.28, 70.0, 0.31, 78.8, 78.9),
    "resnet-rs-101-i160": Released(63_618_696, 4.18, 120.0, 0.48, 80.3, 80.3),
    "resnet-rs-101-i192": Released(63_618_696, 6.01, 170.0, 0.70, 81.2, 81.3),
    "resnet-rs-152-i192": Released(86_621_576, 8.75, 240.0, 0.99, 82.0, 82.1),
    "resnet-rs-152-i224": Released(86_621_576, 11.90, 320.0, 1.48, 82.2, 82.9),
    "resnet-rs-152-i256": Released(86_621_576, 15.53, 410.0, 1.76, 83.0, 83.0),
    "resnet-rs-200-i256": Released(93_209_992, 20.09, 570.0, 2.86, 83.4, 83.4),
    "resnet-rs-270-i256": Released(129_861_448, 26.95, 780.0, 3.76, 83.8, 83.8),
    "resnet-rs-350-i256": Released(163_956_168, 34.38, 1100.0, 4.72, 84.0, 84.0),
    "resnet-rs-350-i320": Released(163_956_168, 53.68, 1630.0, 8.48, 84.2, 84.3),
    "resnet-rs-420-i320": Released(191_891_656, 63.94, 2090.0, 10.16, 84.4, 84.4),
}


@dataclass(frozen=True)
class TimmsEvaluation:
    """How timm evaluates one of the released weights, and the accuracy it publishes."""

    size: int
    """Pixels per side; larger than in training."""
    crop_ratio: float
    """Side of the center crop over the short side of the image."""
    accuracy: float
    """Accuracy on ImageNet, in percent."""


TIMM = {
    # size, crop_ratio, accuracy
    "resnet-rs-50-i160": TimmsEvaluation(224, 0.91, 79.934),
    "resnet-rs-101-i192": TimmsEvaluation(288, 0.94, 82.288),
    "resnet-rs-152-i256": TimmsEvaluation(320, 1.0, 83.710),
    "resnet-rs-270-i256": TimmsEvaluation(352, 1.0, 84.438),
    "resnet-rs-350-i256": TimmsEvaluation(384, 1.0, 84.710),
    "resnet-rs-420-i320": TimmsEvaluation(416, 1.0, 85.010),
}
"""Experiment -> timm's protocol, bicubic and antialiased. Its `resnetrs200` has weights that timm trained itself.

Source: timm (`resnet.py` for sizes and crops, `results-imagenet.csv` for accuracies).
"""

TABLE_1 = (79.0, 79.3, 78.8, 79.1, 80.4, 80.6, 81.0, 80.7, 82.2, 82.9, 83.4)
"""Accuracy on ImageNet, in percent, of ResNet-200 at 256 pixels: the baseline of 2015, then one method more per row:
cosine, 350 epochs, EMA, label smoothing, stochastic depth, RandAugment, dropout, weight decay 4e-5, SE, ResNet-D.

Source: paper, Table 1, as transcribed in `keras_cv_attention_models`.
"""

TABLE_2: dict[tuple[str, str], tuple[float, float]] = {
    ("shallow", "no regularizer"): (79.7, 78.7),
    ("shallow", "RA+LS"): (82.4, 82.3),
    ("shallow", "RA+LS+DO"): (82.2, 82.7),
    ("deep", "no regularizer"): (82.5, 81.7),
    ("deep", "RA+LS"): (85.2, 84.9),
    ("deep", "RA+LS+SD+DO"): (85.3, 85.5),
}
"""Accuracy in percent of ResNet-50 (shallow) and ResNet-200 (deep) with weight decay 1e-4 and 4e-5, on a part of the
training set.

Source: paper, Table 2, as transcribed in `keras_cv_attention_models`.
"""


@dataclass(frozen=True)
class Rival:
    """Published figures of one EfficientNet, which the paper compares with."""

    accuracy: float
    """Accuracy on ImageNet, in percent, with the better of AutoAugment and RandAugment in its release: probably the
    paper's figures."""
    tpu_ms: float | None = None
    """Training step as for `Released`. Source: paper, Tables 3 and 4, as transcribed by a third party."""
    v100_s: float | None = None
    """Training step as for `Released`; the same tables."""


RIVALS = {
    # accuracy, tpu_ms, v100_s
    "efficientnet-b0": Rival(77.1),
    "efficientnet-b1": Rival(79.1),
    "efficientnet-b2": Rival(80.1),
    "efficientnet-b3": Rival(81.6),
    "efficientnet-b4": Rival(82.9),
    "efficientnet-b5": Rival(83.7, 1510.0, 8.16),
    "efficientnet-b6": Rival(84.0, 3000.0, 15.7),
    "efficientnet-b7": Rival(84.7, 6000.0, 29.9),
}
"""Source of the accuracies: README of EfficientNet's release; B5 and B7 with RandAugment, the others AutoAugment."""
