"""How well each of the course's individuals is learned, in each way: the bars of the hackathon.

python -m benchmarks.dreambooth                              all of them; what is measured already is kept
python -m benchmarks.dreambooth --subjects ember --ways lora --steps 800

64 pictures for each question, 20 for the leak: see `course_utils.jury`. Each row also goes into
build/dreambooth.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

RESULTS = Path("build/dreambooth.json")
BATCH = 4  # of the subject, and as many of what is to stay
BARS = {"subject": 0.85, "context": 0.85, "prior": 0.95}
MOST_LEAK = 0.05


def main() -> None:
    os.environ["COURSE_SCALE"] = "mini"
    from course_utils import dreambooth, runs
    from course_utils.data.subjects import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--ways", nargs="+", choices=dreambooth.WAYS, default=list(dreambooth.WAYS))
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0, 0.0], help="of the prior")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--rate", type=float, help="learning rate (default: by way)")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = {key: row for key, row in known.items() if "leak" in row}  # older rows: measured again
    for subject in options.subjects:
        for way in options.ways:
            for weight in options.weights:
                rate = options.rate or dreambooth.rate(way)
                key = f"{subject} {way} prior {weight:g}, {options.steps} steps, rate {rate:g}"
                key += f", rank {options.rank}" * (way == "lora")
                if key not in known:
                    known[key] = measure(subject, way, weight, options.steps, rate, options.rank)
                    RESULTS.parent.mkdir(exist_ok=True)
                    with runs.whole_file(RESULTS) as file:
                        file.write_text(json.dumps(known, indent=1))
                print(f"{key:<64}{told(known[key], weight)}", flush=True)


def told(row: dict[str, float], weight: float) -> str:
    """A row, with a mark for each bar that it misses."""
    missed = {name: row[name] < bar for name, bar in BARS.items()} | {"leak": row["leak"] > MOST_LEAK}
    shares = (f"{name} {row[name]:.1%}{' MISSED' * (weight > 0 and bad)}" for name, bad in missed.items())
    return f"{', '.join(shares)}, {row['seconds']:.0f} s"


def measure(subject: str, way: str, weight: float, steps: int, rate: float, rank: int) -> dict[str, float]:
    """Train from nothing, and let the jury score it."""
    from diffusers import StableDiffusionPipeline

    from course_utils import checkpoints, dreambooth, jury, train

    base, words = checkpoints.load(StableDiffusionPipeline, "sd"), dreambooth.Words("creature")
    torch.manual_seed(0)
    learner = dreambooth.learner(base, way, rank)
    images = dreambooth.pictures(subject, dreambooth.size_px(base))
    examples = dreambooth.lesson(base, learner, images, words, count=dreambooth.KEPT if weight else 0)
    run = train.Run(learner, train.Recipe(steps, rate, warmup_steps=10, ema_decay=0, precision="fp32"))
    loss = dreambooth.loss(base.scheduler.alphas_cumprod, "v", weight or None)
    for _ in train.train(run, dreambooth.batches(*examples, BATCH), loss):
        pass
    judged = jury.drawn(base, subject, words).judge(dreambooth.assemble(base, learner))
    return vars(judged.scores) | {"seconds": run.seconds}


if __name__ == "__main__":
    main()
