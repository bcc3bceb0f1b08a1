"""Others' weights as checkpoints of ours: from a file, or fetched by name."""
