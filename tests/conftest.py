"""Settings of all tests."""

import torch

# Tests run side by side, and threads that wait for each other on shared cores are slow.
torch.set_num_threads(1)
