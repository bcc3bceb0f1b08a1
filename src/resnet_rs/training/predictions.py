"""`predict_all`: the predictions of a model for every sample of a source, beside the targets."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from resnet_rs.data.sample import Targets, Unreadable
from resnet_rs.data.source import Source
from resnet_rs.models.backbone import Model
from resnet_rs.processes import Stop
from resnet_rs.tasks.task import Meter
from resnet_rs.training.evaluate import evaluate
from resnet_rs.training.experiment import Experiment
from resnet_rs.training.machine import Machine


class Predictions(NamedTuple):
    """What a model predicts for the readable samples of a source, in their order, on the CPU."""

    predictions: Tensor
    """float32."""
    targets: Targets
    unreadable: tuple[Unreadable, ...]


def predict_all(
    model: Model, source: Source, experiment: Experiment, *, machine: Machine, stop: Stop | None = None
) -> Predictions:
    """The predictions of `model`, the same on every rank. Raises what `evaluate` raises."""
    models = {"": model}
    found = evaluate(models, source, experiment, machine=machine, stop=stop, build_meter=_Predictions)
    return Predictions(*cast(_Predictions, found.meters[""]).sorted(), found.unreadable)


class _Predictions(Meter):
    """All predictions and targets."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        del classes
        self.parts: list[dict[str, np.ndarray]] = []

    def update(self, prediction: Tensor, targets: Targets, indices: Int[Tensor, " B"]) -> None:
        named = targets if isinstance(targets, Mapping) else {"": targets}
        part = {"indices": indices, "prediction": prediction, **{f"target {k}": t for k, t in named.items()}}
        self.parts.append({name: tensor.detach().cpu().numpy() for name, tensor in part.items()})

    def pack(self) -> bytes:
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **(self._joined() if self.parts else {}))
        return packed.getvalue()

    def merge(self, packed: bytes) -> None:
        with np.load(io.BytesIO(packed), allow_pickle=False) as part:
            if part.files:
                self.parts.append(dict(part))

    def summary(self) -> dict[str, float]:
        return {}

    def scores(self, key: Callable[[int], str]) -> dict[str, Any]:
        del key
        return {"count": sum(len(part["indices"]) for part in self.parts)}

    def sorted(self) -> tuple[Tensor, Targets]:
        """Predictions and targets in the order of the samples."""
        joined = self._joined()
        order = np.argsort(joined.pop("indices"), kind="stable")
        tensors = {name.removeprefix("target "): torch.from_numpy(a[order]) for name, a in joined.items()}
        return tensors.pop("prediction"), tensors.get("", tensors)

    def _joined(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
