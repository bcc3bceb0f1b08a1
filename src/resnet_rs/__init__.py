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
    from resnet_rs.bridges.hub import push_to_hub
    from resnet_rs.studies.run import study
    from resnet_rs.studies.study import Study, Trial, additive, alternatives, grid
    from resnet_rs.verbs import Device, Machine, create_model, evaluate, load, save, train
    from resnet_rs.weights.share import from_pretrained, save_pretrained
    from resnet_rs.zoo import experiment, list_models

__version__ = "0.1.0"
__all__ = [
    "Device",
    "Machine",
    "Study",
    "Trial",
    "additive",
    "alternatives",
    "create_model",
    "evaluate",
    "experiment",
    "from_pretrained",
    "grid",
    "list_models",
    "load",
    "push_to_hub",
    "save",
    "save_pretrained",
    "study",
    "train",
]
_MODULES = {
    "study": "studies.run",
    **dict.fromkeys(("Study", "Trial", "additive", "alternatives", "grid"), "studies.study"),
    **dict.fromkeys(("experiment", "list_models"), "zoo"),
    "push_to_hub": "bridges.hub",
    **dict.fromkeys(("from_pretrained", "save_pretrained"), "weights.share"),
}


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class or a function
    # Imported at first use, so that `resnet-rs --help` does not wait for torch.
    if name in __all__:
        return getattr(importlib.import_module(f"resnet_rs.{_MODULES.get(name, 'verbs')}"), name)
    raise AttributeError(f"module 'resnet_rs' has no attribute {name!r}. It offers: {', '.join(__all__)}.")
