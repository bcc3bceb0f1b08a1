"""Large grids of cases. `CHAOS=full make chaos` tries all of them, `make test` a sample that is always the same."""

import os
import random

IS_FULL = os.environ.get("CHAOS") == "full"


def sample(cases, *, of):
    """All `cases` in a full run, else one `of` so many, drawn with a fixed seed and in their order."""
    cases = list(cases)
    if IS_FULL:
        return cases
    chosen = random.Random(len(cases)).sample(range(len(cases)), -(-len(cases) // of))
    return [cases[i] for i in sorted(chosen)]
