"""timm's configuration of a `Classifier` (`pretrained_cfg`), and its names of weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from resnet_rs.bridges.timm_names import depth_of, with_our_names
from resnet_rs.data.pipeline import Data
from resnet_rs.tasks.classifier import Classifier
from resnet_rs.training.experiment import Experiment


def describe_to_timm(model: Classifier, experiment: Experiment) -> None:
    """Set `model.pretrained_cfg`, which `timm.data.resolve_model_data_config` reads, and accept timm's names."""
    data, depth = experiment.data, depth_of(experiment.arch)
    side = -(-data.size // model.backbone.reductions[-1])
    first_conv = next(name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    config = {
        "architecture": "resnet_rs" if depth is None else f"resnet_rs_{depth}",
        "num_classes": model.num_classes,
        **input_facts(data),
        "pool_size": (side, side),
        "first_conv": first_conv,
        "classifier": "head.classifier",
    }
    model.pretrained_cfg = model.default_cfg = config
    accept_timm_names(model)


def accept_timm_names(model: Classifier) -> None:
    """Let `model.load_state_dict` take timm's names too."""
    model.register_load_state_dict_pre_hook(_rename)


def _rename(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *more: object) -> None:
    if not prefix:
        renamed = dict(with_our_names(state_dict))
        state_dict.clear()
        state_dict.update(renamed)


def input_facts(data: Data) -> dict[str, Any]:
    """How images become inputs, in timm's fields.

    timm's images are antialiased: where ours are not (`tf1_bicubic`, `tf2_bilinear`), that is what comes nearest.
    """
    return {
        "input_size": (data.channels, data.size, data.size),
        "interpolation": "bilinear" if data.resampling in ("bilinear", "tf2_bilinear") else "bicubic",
        "crop_pct": data.crop_ratio,
        "crop_mode": "center",
        "mean": data.mean,
        "std": data.std,
    }
