"""Run the comparisons, print their ratios and write build/bench.json.

python -m benchmarks            about 30 minutes on 2 CPU cores
python -m benchmarks --quick    about 5 minutes: fewer steps, so rougher figures
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.quality import time_to_quality
from benchmarks.throughput import throughput
from course_utils import profile, runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--only", choices=("throughput", "quality"), help="one of the two")
    arguments = parser.parse_args()
    results = {"fast_bf16": profile.fast_bf16(profile.device())}
    if arguments.only != "quality":
        results["throughput, wide"] = throughput(
            "wide", 64, rounds=4 if arguments.quick else 8, steps_per_round=3
        )
        results["throughput, small"] = throughput(
            "small", 32, rounds=6 if arguments.quick else 12, steps_per_round=20
        )
    if arguments.only != "throughput":
        steps = {"published_steps": 40, "course_steps": 300} if arguments.quick else {}
        results["time to quality"] = time_to_quality(**steps)
    print(json.dumps(results, indent=2))
    Path("build").mkdir(exist_ok=True)
    with runs.whole_file(Path("build/bench.json")) as file:
        file.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
