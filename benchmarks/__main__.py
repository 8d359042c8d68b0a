"""Measure the course beside what a learner would pick instead: ratios, build/bench.json, a figure each.

python -m benchmarks                       all comparisons: hours on 2 CPU cores that do nothing else
python -m benchmarks --quick               at most 5 minutes: everything once, figures too rough to quote
python -m benchmarks --only throughput     one of them, or several
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

BUILD = Path("build")


def table() -> dict:
    """name -> its module: measure(quick) -> a result, bars(result), draw(result) -> a figure.

    A comparison that can't be made here returns, in place of a result, the sentence that says why.
    """
    from benchmarks import (
        accelerator,
        budget,
        course,
        growth,
        peak,
        pictures,
        quality,
        sampling,
        setup,
        throughput,
    )

    return {
        "throughput": throughput,
        "budget": budget,
        "quality": quality,
        "sampling": sampling,
        "pictures": pictures,
        "peak": peak,
        "growth": growth,
        "setup": setup,
        "course": course,
        "accelerator": accelerator,
    }


def main(arguments: list[str] | None = None) -> None:
    """Make the comparisons one after the other; what is measured is written down at once."""
    os.environ["COURSE_SCALE"] = "mini"
    from benchmarks.measure import machine

    comparisons = table()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="everything once, as short as possible")
    parser.add_argument("--only", nargs="+", choices=comparisons, default=list(comparisons), metavar="NAME")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder for bench.json and the figures")
    options = parser.parse_args(arguments)
    found = {"quick": options.quick, "machine": machine(), "comparisons": {}}
    for name in options.only:
        print(f"\n{name}: {comparisons[name].__doc__.splitlines()[0]}", flush=True)
        found["comparisons"][name] = compare(name, comparisons[name], options)
        write(found, options.build)
    missed = [bar for row in found["comparisons"].values() for bar in row["bars"] if bar["reached"] is False]
    print(f"\n{len(missed)} bars not reached{':' if missed else '.'}")
    for bar in missed:
        print(f"  {bar['what']}: {bar['value']:.3g}, expected {bar['relation']} {bar['limit']:g}")


def compare(name: str, module, options: argparse.Namespace) -> dict:
    """Measure, print the bars, draw the figure."""
    from course_utils import runs

    started = time.perf_counter()
    result = module.measure(options.quick)
    row = {"seconds": round(time.perf_counter() - started, 1), "result": result, "bars": []}
    if isinstance(result, str):
        print(f"  {result}", flush=True)
        return row
    bars = module.bars(result)
    print(*bars, sep="\n", flush=True)
    figure = module.draw(result)
    folder = options.build / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with runs.whole_file(folder / f"{name}.png") as file:
        file.write_bytes(figure.png())
    return row | {"bars": [bar.record() for bar in bars], "figure": f"bench/{name}.png", "alt": figure.alt}


def write(found: dict, build: Path) -> None:
    """build/bench.json, whole at every moment, with all that is measured so far."""
    from course_utils import runs

    build.mkdir(exist_ok=True)
    with runs.whole_file(build / "bench.json") as file:
        file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
