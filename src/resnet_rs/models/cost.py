"""What a network costs: parameters, multiply-adds and activations, counted without allocating its weights.

On the meta device torch computes most shapes in Python, and the first of them imports its compiler (2 s). So
initialization is left out here, and the operations of the zoo's networks get their shapes by formulas. Any other
operation, or other arguments, get theirs from torch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Kwargs = Mapping[str, Any] | None

_VALUES_ONLY = frozenset(
    ("uniform_", "normal_", "kaiming_uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_")
)
"""Operations of initialization. They change the values of a tensor and not its shape."""

_COUNTED = (functional.conv2d, functional.conv3d, functional.linear)
_MAX_POOL = dict(stride=2, padding=1, dilation=1, ceil_mode=False, return_indices=False)
"""Options of the max pooling in the stem of 2015, which halves a map."""


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
    device = next(model.parameters()).device
    if device.type != "meta":
        raise ValueError(
            f"count_cost takes a model on the meta device, got one on {device}. Build it within `shapes_only()`."
        )
    modes = {module: module.training for module in model.modules()}
    counter = _Counter()
    try:
        model.eval()
        with torch.no_grad(), counter:
            model(torch.empty(1, *shape, device="meta"))
    finally:
        # `model.train(was_training)` would also change norms that were frozen on purpose.
        for module, was_training in modes.items():
            module.training = was_training
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(params=params, macs=counter.macs, activations=counter.activations)


class _WithoutInitialization(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Kwargs = None
    ) -> object:
        kwargs = kwargs or {}
        if func.__name__ in _VALUES_ONLY:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class _Counter(TorchFunctionMode):
    """Counts convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.activations = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Kwargs = None
    ) -> object:
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func) if args else None
        output = formula(*args, **kwargs) if formula is not None else None
        if output is None:
            output = func(*args, **kwargs)
        if func in _COUNTED:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.macs += output.numel() * weight.shape[1:].numel()
            self.activations += output.numel()
        return output


# Each formula takes the arguments of its operation. It gives a tensor of the right shape, or None to ask torch.


def _convolution(x: Tensor, *args: Any, **kwargs: object) -> Tensor | None:  # noqa: ANN401 - as torch gives them
    match args:
        case (Tensor() as weight, _, tuple(stride), tuple(padding), tuple(dilation), int(groups)):
            if x.dim() != weight.dim() or x.shape[1] != groups * weight.shape[1]:
                return None
            sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
            space = [
                (size + 2 * pad - gap * (width - 1) - 1) // step + 1 for size, width, step, pad, gap in sizes
            ]
            return torch.empty(len(x), len(weight), *space, device="meta")
        case _:
            return None


def _linear(x: Tensor, *args: Tensor, **kwargs: object) -> Tensor | None:
    if not args or x.shape[-1] != args[0].shape[1]:
        return None
    return torch.empty(*x.shape[:-1], len(args[0]), device="meta")


def _same(x: Tensor, *args: object, **kwargs: object) -> Tensor:
    return x


def _larger(x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    """The larger argument, if the smaller one is only repeated."""
    match args:
        case (Tensor() as other,) if x.dim() == other.dim():
            large, small = (x, other) if x.numel() >= other.numel() else (other, x)
            fits = all(b in (1, a) for a, b in zip(large.shape, small.shape, strict=True))
            return large if fits else None
        case _:
            return None


def _mean(x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    match args:
        case (int(dim),) if not kwargs:
            return x.select(dim, 0)
        case _:
            return None


def _adaptive_pool(x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    return x[..., :1, :1] if args == (1,) else None


def _average_pool(x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    return x[..., ::2, ::2] if args[:4] == (2, 2, 0, True) else None


def _max_pool(x: Tensor, *args: object, **kwargs: object) -> Tensor | None:
    return x[..., ::2, ::2] if args == (3,) and kwargs == _MAX_POOL else None


_FORMULAS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    functional.conv2d: _convolution,
    functional.conv3d: _convolution,
    functional.linear: _linear,
    functional.batch_norm: _same,
    functional.relu: _same,
    functional.silu: _same,
    torch.relu: _same,
    torch.sigmoid: _same,
    Tensor.add_: _same,
    Tensor.add: _larger,
    Tensor.mul: _larger,
    Tensor.mean: _mean,
    functional.adaptive_avg_pool2d: _adaptive_pool,
    functional.avg_pool2d: _average_pool,
    functional.max_pool2d: _max_pool,
}
