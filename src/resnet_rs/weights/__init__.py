"""Weights of other libraries as our checkpoints, from a file or downloaded by name; our checkpoints for the Hub."""
