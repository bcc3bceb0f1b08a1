"""ResNet-RS: the networks, training methods and scaling rules of "Revisiting ResNets" (arXiv:2103.07579).

import resnet_rs as rs
model = rs.create_model("resnet-rs-50-i160", num_classes=10)
rs.train("resnet-rs-small", data="builtin", out="runs/first")
rs.load("runs/first").predict(["shoe.png"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_rs.studies.asked import study
    from resnet_rs.studies.study import Step, Study, additive, alternatives, grid
    from resnet_rs.training.device import Device
    from resnet_rs.verbs import Machine, create_model, evaluate, experiment, list_models, load, train

__version__ = "0.1.0"
__all__ = [
    "Device",
    "Machine",
    "Step",
    "Study",
    "additive",
    "alternatives",
    "create_model",
    "evaluate",
    "experiment",
    "grid",
    "list_models",
    "load",
    "study",
    "train",
]
_OF_STUDIES = {
    "study": "asked",
    **dict.fromkeys(("Step", "Study", "additive", "alternatives", "grid"), "study"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    # Imported when first used, so that `resnet-rs --help` does not wait for torch.
    if name in __all__:
        room = f"studies.{_OF_STUDIES[name]}" if name in _OF_STUDIES else "verbs"
        return getattr(importlib.import_module(f"resnet_rs.{room}"), name)
    raise AttributeError(f"module 'resnet_rs' has no attribute {name!r}. It offers: {', '.join(__all__)}.")
