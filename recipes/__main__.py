"""Rebuild every miniature from nothing, in the order in which they build on each other.

python -m recipes                 all of them; goes on where it was stopped
python -m recipes vae clip sd     some of them
"""

from __future__ import annotations

import argparse
import importlib

# as the modules are named
STAGES = ("judge", "ddpm", "vae", "clip", "sd", "inpainting", "depth", "upscaler", "teaser")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__.split("\n\n")[0])
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help="which (default: all)")
    for stage in parser.parse_args().stages or STAGES:
        print(f"--- {stage}")
        importlib.import_module(f"recipes.{stage}").build()


if __name__ == "__main__":
    main()
