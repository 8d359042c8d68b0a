"""Score every submission of the hackathon in the same way, and print and draw the ranking.

Submissions are the folders that train_dreambooth.py writes: below a folder of yours, or on the Hub under a
tag. Each is loaded into the base model of this scale, draws for the same prompts from the
same noise, and is read by the same judges. What is broken, or claims scores that it does not reach, is listed
with the reason. The ranking is written into leaderboard.md and leaderboard.png.
"""

from __future__ import annotations

import argparse
import sys

from course_utils import checkpoints, leaderboard, profile, script, submission

EXAMPLES = f"""examples:
  python -m hackathon.leaderboard runs
  python -m hackathon.leaderboard {submission.TAG} --output runs/leaderboard
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hackathon.leaderboard",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=script.Help,
    )
    parser.add_argument(
        "where", nargs="?", default=submission.TAG, help="a folder of submissions, or a tag on the Hub"
    )
    parser.add_argument("--output", default=".", help="the folder for leaderboard.md and leaderboard.png")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Score, print and draw; the exit code is 0, or 2 after a sentence about what stood in the way."""
    from diffusers import StableDiffusionPipeline

    options = parse(arguments)
    try:
        found = list(leaderboard.find(options.where))
        base = checkpoints.load(StableDiffusionPipeline, "sd")
        places = []
        for place in leaderboard.judge(found, base):
            places.append(place)
            told = place.reason or f"{place.scores.total:.0%}"
            print(f"{len(places)} of {len(found)}, {place.name}: {told}", flush=True)
        written = leaderboard.publish(places, options.output)
    except (ValueError, OSError) as error:
        print(f"leaderboard: {error}", file=sys.stderr)
        return 2
    print(f"\n{leaderboard.table(places)}\n\nWritten to {written}. Scale: {profile.scale()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
