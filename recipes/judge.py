"""Train the judge of butterflies: a classifier of colour, pattern, background and shape, whose features the
Fréchet distance of Unit 1 uses. It sees only drawings, and none that the notebooks train on.

    python -m recipes.judge          about 3 minutes on 2 CPU cores
"""

from __future__ import annotations

import argparse

from course_utils import checkpoints, data, scores
from course_utils.data import to_model

TRAIN_SEED, TEST_SEED = 1001, 1002  # the notebooks draw with seed 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=6000, help="drawings to train on")
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    judge = scores.train_judge(data.butterflies(arguments.count, seed=TRAIN_SEED), epochs=arguments.epochs)
    test = data.butterflies(1000, seed=TEST_SEED)
    accuracy = {k: scores.read(judge, to_model(test.images), k).right(v) for k, v in test.labels.items()}
    for name, share in accuracy.items():
        print(f"{name:<12}{share:.1%} of 1,000 new drawings read right")
    folder = checkpoints.MINIATURES / "judge-butterflies"
    scores.save_judge(judge, folder)
    (folder / "README.md").write_text(_card(arguments, accuracy), encoding="utf-8")


def _card(arguments, accuracy):
    lines = "\n".join(f"| {name} | {share:.1%} |" for name, share in accuracy.items())
    return f"""# judge-butterflies

A convolutional classifier of the course's drawn butterflies (32 x 32 pixels), made by
`python -m recipes.judge` from {arguments.count:,} drawings in {arguments.epochs} epochs. It stands beside the
pictures that the notebooks generate: it reads them, and its 64 features serve the Fréchet distance. It never
saw a generated picture, nor a drawing that a notebook trains on.

| question | right on 1,000 new drawings |
|---|---|
{lines}

Licence: Apache-2.0.
"""


if __name__ == "__main__":
    main()
