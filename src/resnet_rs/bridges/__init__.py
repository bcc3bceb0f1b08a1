"""Other people's names and formats, nowhere else."""
