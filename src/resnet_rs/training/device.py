"""Where and how numbers are computed: device, precision, memory layout. No part of an experiment."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or the processor."""

    name: str = "cpu"
    precision: Precision = "float32"
    """Of activations in convolutions and products; weights, statistics, losses and averages stay float32."""
    channels_last: bool = True
    """Store feature maps pixel by pixel, which is faster on processors and on tensor cores."""

    @staticmethod
    def choose(name: str | None = None, *, precision: str | None = None) -> Device:
        """The device called `name`, by default the best one here, in bfloat16 where CUDA computes it natively."""
        if name is None:
            name = (
                "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
            )
        _refuse_absent(name)
        if precision is None:
            is_native = name.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if is_native else "float32"
        if precision not in get_args(Precision):
            raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, got {precision!r}.")
        return Device(name=name, precision=cast(Precision, precision), channels_last=name != "mps")

    @property
    def torch(self) -> torch.device:
        """As torch names it."""
        return torch.device(self.name)

    @property
    def is_cuda(self) -> bool:
        """Whether this is a CUDA device."""
        return self.name.startswith("cuda")

    def limit_threads(self, count: int) -> None:
        """Compute with `count` threads of the processor in this process from now on."""
        torch.set_num_threads(count)

    def of_rank(self, local_index: int) -> Device:
        """The device of one of several ranks on this machine: each has a CUDA device of its own."""
        return replace(self, name=f"cuda:{local_index}") if self.name == "cuda" else self

    def place(self, model: M) -> M:
        """`model` on this device, in its memory layout."""
        model = model.to(self.torch)
        if self.channels_last:
            for parameter in model.parameters():
                parameter.data = self.layout(parameter.data)
        return model

    def put(self, tensor: Tensor) -> Tensor:
        """`tensor` on this device."""
        return tensor.to(self.torch, non_blocking=True)

    def layout(self, tensor: Tensor) -> Tensor:
        """`tensor` in this device's memory layout; only pictures and clips have one."""
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if self.channels_last and tensor.dim() in formats:
            return tensor.contiguous(memory_format=formats[tensor.dim()])
        return tensor

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in this device's precision within the block."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=torch.bfloat16)

    def describe(self) -> dict[str, str]:
        """What a result may depend on, for its report."""
        return {
            "device": torch.cuda.get_device_name(self.torch) if self.is_cuda else self.name,
            "precision": self.precision,
            "threads": str(torch.get_num_threads()),
            "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "deterministic": str(torch.are_deterministic_algorithms_enabled()),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.system(),
        }


def _refuse_absent(name: str) -> None:
    """Refuse a device that is not here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}.") from None
    here = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= here.get(device.type, 0):
        found = ", ".join(f"{kind} ({count})" for kind, count in here.items() if count)
        raise ValueError(f"device {name!r} is not available here. Available: {found}.")
