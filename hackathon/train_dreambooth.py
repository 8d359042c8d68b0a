"""Teach a text-to-image model one subject by DreamBooth (Ruiz et al. 2023), and write a submission.

Give it pictures (one of the course's individuals, a folder of yours, or the id of a set on the Hub), the word
for their kind and a rare word for the subject alone. It writes everything into one folder: loss.jsonl,
pictures in samples/, TensorBoard logs in logs/, checkpoints, and at the end submission/: the learned weights,
which stock classes load, and a card with the scores. Stopped at any moment, it goes on with --resume as if
nothing had happened.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys

import torch

from course_utils import (
    asking,
    checkpoints,
    diffusion,
    dreambooth,
    jury,
    latent,
    profile,
    runs,
    script,
    submission,
)
from course_utils.data.subjects import SUBJECTS

EXAMPLES = f"""examples:
  python hackathon/train_dreambooth.py --pictures ember --output runs/ember
  python hackathon/train_dreambooth.py --pictures tom/ --kind cat --subject "our Tom" --licence "CC0, mine"
  python hackathon/train_dreambooth.py --pictures ember --output runs/ember --resume
  python hackathon/train_dreambooth.py --pictures ember --output runs/ember --resume --push-to your-name/ember
  python -m hackathon.leaderboard runs
  tensorboard --logdir runs
themes: {", ".join(submission.THEMES)}
"""
DRAWN = "CC0-1.0, drawn by the course"
SHOWN = 8  # samples along the way


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=script.Help)
    add_subject(parser.add_argument_group("subject"))
    add_way(parser.add_argument_group("what learns, and what is to stay"))
    script.add_training(
        parser,
        steps=profile.pick(mini=450, full=800),
        batch_size=profile.pick(mini=4, full=1),
        learning_rate=None,
        ema_decay=0.0,
        precision=profile.pick(mini="fp32", full="fp16"),
    )
    script.add_writing(parser, output="runs/dreambooth")
    parser.add_argument(
        "--push-to", metavar="OWNER/NAME", help="where on the Hub the submission is published"
    )
    options = parser.parse_args(arguments)
    options.learning_rate = options.learning_rate or dreambooth.rate(options.way)
    options.subject = options.subject or (options.pictures if options.pictures in SUBJECTS else None)
    options.licence = options.licence or (DRAWN if options.pictures in SUBJECTS else None)
    return options


def add_subject(group: argparse._ArgumentGroup) -> None:
    """The options about what is learned."""
    names = ", ".join(SUBJECTS)
    group.add_argument("--pictures", default="ember", help=f"{names}, a folder, or the id of a Hub set")
    group.add_argument("--count", type=script.whole_number, help="use that many pictures at most")
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, default=True, help="and mirrored ones"
    )
    group.add_argument("--kind", default="creature", help="the word for all of its kind")
    group.add_argument("--identifier", default="sks", help="a rare word, for the subject alone")
    group.add_argument("--theme", choices=submission.THEMES, default="animal", help="of the submission")
    group.add_argument("--subject", help="who or what it is, if the pictures are your own")
    group.add_argument("--licence", help="of the pictures, if they are your own, and whose they are")


def add_way(group: argparse._ArgumentGroup) -> None:
    """The options about how it is learned."""
    few = importlib.util.find_spec("bitsandbytes") and profile.device() == "cuda"
    group.add_argument("--way", choices=dreambooth.WAYS, default="lora", help="adapters, or whole parts")
    group.add_argument("--rank", type=script.whole_number, default=16, help="of the adapters")
    group.add_argument(
        "--prior-weight",
        type=float,
        default=1.0,
        help="of the pictures of its kind in the loss; 0: none are drawn",
    )
    group.add_argument(
        "--prior-pictures", type=script.whole_number, default=profile.effort(mini=dreambooth.KEPT, full=100),
        help="how many pictures of its kind the model draws beforehand",
    )  # fmt: skip
    group.add_argument(
        "--adam-bits",
        type=int,
        choices=(32, 8),
        default=8 if few else 32,
        help="8: bitsandbytes' Adam, on a GPU",
    )
    group.add_argument(
        "--thrifty", action=argparse.BooleanOptionalAction, default=profile.scale() == "full",
        help="less memory for more time: gradient checkpointing",
    )  # fmt: skip


class DreamBooth:
    """The `script.Task` of teaching a subject to the base model of this scale."""

    def __init__(self, options: argparse.Namespace, accelerator):
        from diffusers import StableDiffusionPipeline

        with accelerator.local_main_process_first():  # one process downloads, the others find it on the disk
            self.base = checkpoints.load(StableDiffusionPipeline, "sd")
            self.images = dreambooth.pictures(options.pictures, dreambooth.size_px(self.base), options.count)
        if options.subject is None or options.licence is None:
            raise ValueError(
                f"got pictures of your own ({options.pictures}) without --subject or --licence, expected "
                "both: say who or what they show, and under which licence, and by whom, they are."
            )
        self.options, self.accelerator = options, accelerator
        self.words = dreambooth.Words(options.kind, options.identifier)
        if not self.entry_with(jury.Scores(0, 0, 0, 0)).own:  # what is wrong with it is better known now
            jury.require_known(options.subject, self.words)
        self.prompts = dreambooth.prompts_of(self.images, self.words)
        self.network = dreambooth.learner(self.base, options.way, options.rank, options.thrifty)

    def entry_with(self, scores: jury.Scores) -> submission.Entry:
        """The entry with these scores."""
        options = self.options
        return submission.entry(
            options.theme, options.subject, self.words, options.licence, options.way, scores
        )

    def begin(self, folder, notes):
        """Encode what is learned, and draw what is to stay, or take what an earlier start has drawn."""
        if notes:
            for caveat in self.words.caveats(self.base.tokenizer):
                print(caveat)
        options, weight = self.options, self.options.prior_weight or None
        subject = dreambooth.encode(self.base, self.images.images, self.prompts, options.flip)
        prior = self._prior(folder / "prior.pt") if weight else None
        subject, prior = (
            part and dreambooth.ready(self.base, self.network, part) for part in (subject, prior)
        )
        self.batch_at = dreambooth.batches(
            subject, prior, options.batch_size, options.seed, self.accelerator.process_index
        )
        schedule = self.base.scheduler
        alpha_bar = schedule.alphas_cumprod.to(self.accelerator.device)
        self.loss = dreambooth.loss(alpha_bar, diffusion.prediction_of(schedule), weight)

    def _prior(self, path):
        texts = dreambooth.kind_prompts(self.words, self.options.prior_pictures, self.options.seed)
        with self.accelerator.local_main_process_first():
            if not path.exists():
                drawn = dreambooth.own_idea(self.base, texts, seed=self.options.seed, **asking.usual())
                runs.save_atomically({"z": drawn.z.cpu()}, path)
        z = torch.load(path, weights_only=True)["z"].to(self.accelerator.device)
        return dreambooth.Examples(z, latent.tokens(self.base, texts))

    def draw(self, network):
        """The subject in places where none of its pictures was taken."""
        pipeline = dreambooth.assemble(self.base, network, learning=True)
        return asking.generate(pipeline, self._shown(), seed=self.options.seed, **asking.usual())

    def _shown(self):
        where = jury.places()
        texts = [self.words.name(f"{asking.medium()} {self.words.kind} {each}") for each in where]
        return [texts[i % len(texts)] for i in range(profile.effort(mini=SHOWN, full=SHOWN))]

    def finish(self, run, folder, settings):
        """The submission, with the scores that the leaderboard will find as well."""
        pipeline = dreambooth.assemble(self.base, run.ema)
        judges = submission.jury_of(self.base, self.entry_with(jury.Scores(0, 0, 0, 0)), self.images.images)
        judged = judges.judge(pipeline)
        place, entry = folder / "submission", self.entry_with(judged.scores)
        size = submission.write(
            place, run.ema, entry, self.images.images, judged.named[:SHOWN], judges.named[:SHOWN]
        )
        found = ", ".join(f"{name} {share:.0%}" for name, share in vars(judged.scores).items())
        told = f"Saved {place}, {size / 1e6:.2f} MB: {found}, after {run.seconds / 60:.1f} minutes."
        return f"{told}\n{self._push(place)}" if self.options.push_to else told

    def _push(self, place):
        from course_utils import hosting

        page = submission.push_to_hub(place, self.options.push_to, hosting.token())
        return f"Published as {page}."


def main(arguments: list[str] | None = None) -> int:
    """Train; the exit code is 0, or 2 after a sentence about what stood in the way."""
    options = parse(arguments)
    return script.carry_out(
        "train_dreambooth.py", options, lambda accelerator: DreamBooth(options, accelerator)
    )


if __name__ == "__main__":
    sys.exit(main())
