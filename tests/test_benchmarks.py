"""The benchmark scripts run on today's code."""

import runpy
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_exactness_times_all_three():
    script = runpy.run_path(str(BENCHMARKS / "exactness.py"))
    name = "resnet-rs-small"
    medians, num_bytes = script["measure"](name, script["CASES"][name], repeats=1)
    assert set(medians) == {"exact", "plain", "save"}
    assert min(medians.values()) > 0 and num_bytes > 0
