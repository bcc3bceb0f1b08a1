"""The training methods of the paper: one file per method, tensors in, tensors out."""
