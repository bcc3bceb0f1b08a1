"""From an experiment to weights and scores. Sees `Arch`, `Source` and `Task`, never a concrete one."""
