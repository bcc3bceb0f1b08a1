"""Tests that need a CUDA device. They skip without one; `make gpu` runs them."""

import os

import pytest
import torch

# For cuBLAS to be deterministic. CUDA reads this when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

GPU = os.environ.get("GPU_TESTS_DEVICE", "cuda")
"""Set it to cpu to try the tests themselves."""


def pytest_collection_modifyitems(items):
    if GPU == "cuda" and not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none"))


@pytest.fixture
def deterministic():
    """Deterministic kernels where CUDA has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
