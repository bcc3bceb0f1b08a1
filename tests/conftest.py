"""Settings of all tests."""

import pytest
import torch

# Tests run side by side, and threads that wait for each other on shared cores are slow.
torch.set_num_threads(1)

LONG = ("test_docs.py", "test_comparison.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The order is random, but the longest come first, so that no core waits for them at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)
