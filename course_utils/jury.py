"""How well a pipeline has learned a subject: four shares, read by judges that saw no generated picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from course_utils import asking, checkpoints, data, profile, scores
from course_utils.data import grammar
from course_utils.data.subjects import SUBJECTS
from course_utils.dreambooth import SEEN, Words
from course_utils.messages import tr, unknown

COUNT, SEED = 64, 31  # of the pictures for each question; of prompts and noise, the same for everybody
NEW = tuple(place for place in grammar.ATTRIBUTES["background"] if place not in SEEN)
PLACES = ("on a beach", "in the snow", "in a city street", "in a forest")  # for photographs


def places() -> list[str]:
    """Where the subject is asked for, as prompts say it: where no picture shows it, at mini."""
    return profile.pick(mini=[grammar.place(name) for name in NEW], full=list(PLACES))


@dataclass(frozen=True)
class Scores:
    """Four shares.

    subject: of pictures asked for with the identifier, how many show the subject. context: how many of them
    show the place that was asked for. prior: how much of the model's former accuracy is left for prompts
    without the identifier; over 1 if it has grown. leak: of pictures for short prompts without the
    identifier, how many show the subject all the same; 0 is best.
    """

    subject: float
    context: float
    prior: float
    leak: float

    @property
    def total(self) -> float:
        """The geometric mean of subject, context, prior (1 at most) and 1 - leak.

        What is bad in one cannot be made up for by the others.
        """
        return (self.subject * self.context * min(self.prior, 1.0) * (1 - self.leak)) ** (1 / 4)


@dataclass(frozen=True)
class Judged:
    """The scores, and the pictures that were read, with the identifier and without: (N, 3, H, W)."""

    scores: Scores
    named: Tensor
    plain: Tensor


@dataclass(frozen=True)
class Jury:
    """What is asked of every pipeline, and who reads its answers.

    named, plain: prompts with and without the identifier. asked: which context each of `named` asks for.
    is_subject: pictures (N, 3, H, W) -> bool (N,). read_context: pictures -> int64, (N,). plain_right: the
    pictures of `plain` -> the share that is right. before: `plain_right` of the model before it learned.
    short: the kind alone, in every place, for the leak; if there are none, `plain` serves.
    """

    named: tuple[str, ...]
    asked: Tensor
    plain: tuple[str, ...]
    is_subject: Callable[[Tensor], Tensor]
    read_context: Callable[[Tensor], Tensor]
    plain_right: Callable[[Tensor], float]
    before: float
    short: tuple[str, ...] = ()

    def judge(self, pipeline, **settings) -> Judged:
        """Let a pipeline draw, and score it. settings: of `asking.generate`."""
        named, unnamed = (
            _draw(pipeline, texts, **settings) for texts in (self.named, self.plain + self.short)
        )
        plain, short = unnamed.split([len(self.plain), len(self.short)])
        subject = self.is_subject(named).float().mean().item()
        context = (self.read_context(named) == self.asked).float().mean().item()
        leak = self.is_subject(short if self.short else plain).float().mean().item()
        kept = self.plain_right(plain) / max(self.before, 1e-6)
        return Judged(Scores(subject, context, kept, leak), named, plain)


def _draw(pipeline, texts, **settings):
    return asking.generate(pipeline, texts, **({"seed": SEED} | asking.usual() | settings))


def _spread(choices, count):
    """`count` places in `choices`, in turn: (count,), or fewer in a rehearsal."""
    return torch.arange(profile.effort(mini=count, full=count)) % len(choices)


def require_known(subject: str, words: Words) -> None:
    """Raise ValueError if the judges of drawings know no such individual, or no such kind."""
    if subject not in SUBJECTS:
        raise ValueError(unknown(tr("the subject"), subject, SUBJECTS))
    nouns = grammar.ATTRIBUTES["noun"]
    if words.kind not in nouns:
        raise ValueError(
            tr(
                "got the kind {kind!r}, expected what the judges know: {nouns}.",
                kind=words.kind,
                nouns=", ".join(nouns),
            )
        )


def drawn(base, subject: str, words: Words, count: int = COUNT, **settings) -> Jury:
    """The jury for one of the course's individuals: two small classifiers, of individuals and of scenes.

    Contexts are the backgrounds that no picture of the subject shows. Half of the prompts without the
    identifier are about the same kind, the others about anything; what is right is read attribute by
    attribute. The short prompts for the leak name the kind and a place, one after the other.

    count: pictures for each of the two questions; for the leak, a sixteenth of it for each place, but at
    least one. settings: of `asking.generate`.
    """
    require_known(subject, words)
    who, scene = scores.load_judge("judge-subjects"), scores.load_judge("judge-scenes")
    place = _spread(NEW, count)
    index = torch.tensor([grammar.ATTRIBUTES["background"].index(name) for name in NEW])
    flat = {"style": "flat", "noun": words.kind}
    named = [words.name(f"{asking.medium()} {words.kind} {grammar.place(NEW[i])}") for i in place]
    half = len(place) // 2
    halves = [asking.prompts(half, "any", SEED, **flat), asking.prompts(len(place) - half, "any", SEED + 1)]
    wanted = {name: torch.cat([values[name] for _, values in halves]) for name in grammar.ATTRIBUTES}
    plain = tuple(text for texts, _ in halves for text in texts)
    everywhere = [grammar.place(name) for name in grammar.ATTRIBUTES["background"]]
    short = [f"{asking.medium()} {words.kind} {where}" for where in everywhere]

    def plain_right(y):
        hits = asking.right(scene, y, wanted)
        return sum(hits[name] for name in wanted) / len(wanted)

    return Jury(
        named=tuple(named),
        asked=index[place],
        plain=plain,
        is_subject=lambda x: scores.read(who, x).answer == list(SUBJECTS).index(subject),
        read_context=lambda x: scores.read(scene, x, "background").answer,
        plain_right=plain_right,
        before=plain_right(_draw(base, plain, **settings)),
        short=tuple(short) * max(1, count // 16),
    )


def by_clip(base, pictures: Tensor, words: Words, count: int = COUNT, **settings) -> Jury:
    """The jury for any other subject, of which there are pictures, uint8 (M, 3, H, W): CLIP.

    (Radford et al. 2021.) Its features tell places, too: so the directions in which sentences about places
    differ are taken out of them. A picture then shows the subject if it is closer to the mean of the given
    pictures than to the mean of those that the model drew of the kind before; its context is the one whose
    sentence fits it best. A picture without the identifier is right if its context is; for the leak the same
    pictures are read. count, settings: see `drawn`.
    """
    where = places()
    place = _spread(where, count)
    sentences = [f"{asking.medium()} {words.kind} {each}" for each in where]
    plain = tuple(sentences[i] for i in place)
    look, reader = _clip({"context": sentences, "place": _anywhere(words)})
    before = _draw(base, plain, **settings)
    out = _differences(reader.answers["place"].cpu())
    subject, kind = (_mean(_without(look(x), out)) for x in (data.to_model(pictures), before))

    def is_subject(x):
        seen = _without(look(x), out)  # (N, D)
        return seen @ subject > seen @ kind

    def read_context(x):
        return scores.read(reader, x).answer

    def plain_right(y):
        return (read_context(y) == place).float().mean().item()

    named = tuple(words.name(text) for text in plain)
    return Jury(named, place, plain, is_subject, read_context, plain_right, plain_right(before))


def _anywhere(words):
    """A sentence for each place that there is, those of the subject's own pictures included."""
    known = [grammar.place(name) for name in grammar.ATTRIBUTES["background"]]
    return [f"{asking.medium()} {words.kind} {where}" for where in profile.pick(mini=known, full=PLACES)]


def _differences(features):
    """Orthonormal directions in which rows (N, D) differ from their mean: (D, N - 1)."""
    centred = features.float() - features.float().mean(0)
    return torch.linalg.svd(centred.T, full_matrices=False)[0][:, :-1]


def _without(features, directions):
    """Features (N, D) with these directions (D, K) taken out, of length 1 again."""
    return normalize(features.float() - features.float() @ directions @ directions.T, dim=1)


def _mean(features):
    """The mean direction of rows: (D,)."""
    return normalize(features.mean(0), dim=0)


def _clip(questions):
    """CLIP's features of pictures, as a function, and a judge that answers with sentences."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    clip, folder = checkpoints.load(CLIPModel, "clip").eval(), checkpoints.locate("clip")
    tokenizer, processor = CLIPTokenizer.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)

    def look(x):
        return torch.cat([scores.clip_features(clip, processor, part).cpu() for part in x.split(64)])

    return look, scores.WordJudge(clip, tokenizer, processor, questions)
