"""What a network costs: parameters, multiply-adds and activations, counted without allocating its weights.

The network is on the meta device and runs on a batch of no images: torch then computes every shape and no value. A
network that needs an image, or folds frames into the batch, gets one on the meta device, where shapes are computed as
well. That imports torch's compiler, which takes 2 s.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Kwargs = Mapping[str, Any] | None

_INITIALIZATION = frozenset(
    ("uniform_", "normal_", "kaiming_uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_")
)
"""Operations that change the values of a new tensor and not its shape."""
_COUNTED = (functional.conv2d, functional.conv3d, functional.linear)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of one forward pass over one image (or clip)."""

    params: int
    """Weights, biases and norm scales and offsets, without running statistics."""
    macs: int
    """Multiply-adds of convolutions and linear layers. The paper's "FLOPs" of ResNet-RS are twice as many."""
    activations: int
    """Numbers in the outputs of convolutions and linear layers."""


@contextmanager
def shapes_only() -> Generator[None]:
    """Within this context new networks are on the meta device, and their weights are not initialized."""
    with torch.device("meta"), _WithoutInitialization():
        yield


def count_cost(model: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Cost of `model`, which is on the meta device, for one input of `shape`, such as (3, 224, 224).

    The count is that of evaluation. Afterwards the model's modes are as they were.
    """
    params = list(model.parameters())
    if not params[0].is_meta:
        raise ValueError(
            f"count_cost takes a model on the meta device, got one on {params[0].device}. "
            "Build it within `shapes_only()`."
        )
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            counter = _counted(model, shape)
    finally:
        # `model.train(was_training)` would also change norms that were frozen on purpose.
        for module, was_training in modes.items():
            module.training = was_training
    return Cost(
        params=sum(param.numel() for param in params), macs=counter.macs, activations=counter.activations
    )


def _counted(model: nn.Module, shape: tuple[int, ...]) -> _Counter:
    """The counter after a forward pass over no images or, where that cannot be, over one on the meta device."""
    if len(shape) == 3:
        with suppress(RuntimeError, IndexError):
            largest = max(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
            with _Counter(torch.empty(largest)) as counter:
                model(torch.empty(0, *shape))
            return counter
    with _Counter(None) as counter:
        model(torch.empty(1, *shape, device="meta"))
    return counter


class _WithoutInitialization(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Kwargs = None
    ) -> object:
        kwargs = kwargs or {}
        if func.__name__ in _INITIALIZATION:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class _Counter(TorchFunctionMode):
    """Counts convolutions and linear layers.

    With `memory` the batch has no images, and in place of its weights an operation gets memory of the same shape, which
    is neither written nor read. Without, the batch has one image, and all is on the meta device.
    """

    def __init__(self, memory: Tensor | None) -> None:
        super().__init__()
        self._memory = memory
        self.macs = self.activations = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Kwargs = None
    ) -> object:
        args = tuple(self._on_cpu(value) for value in args)
        kwargs = {name: self._on_cpu(value) for name, value in (kwargs or {}).items()}
        output = func(*args, **kwargs)
        if func in _COUNTED:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            outputs = output.numel() if self._memory is None else output.shape[1:].numel()
            self.macs += outputs * weight.shape[1:].numel()
            self.activations += outputs
        return output

    def _on_cpu(self, value: Any) -> Any:  # noqa: ANN401 - any argument of an operation
        if self._memory is not None and isinstance(value, Tensor) and value.is_meta:
            return self._memory[: value.numel()].view(value.shape)
        return value
