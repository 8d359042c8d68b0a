"""The hackathon's ranking: every submission of a folder, or with a tag on the Hub, scored in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from course_utils import downloads, jury, runs, show, submission
from course_utils.messages import tr

TOLERANCE = 0.05  # by which a claim may be better than what is found: pictures differ between processors
SHOWN = 6  # samples of each entry
WANTED = ("*.safetensors", "pictures/*.png", "README.md")  # of a submission on the Hub


@dataclass(frozen=True)
class Place:
    """One submission: in the ranking if `reason` is None, else listed with the reason why it is not.

    samples: with the identifier, (N, 3, H, W) in [-1, 1].
    """

    name: str
    entry: submission.Entry | None = None
    scores: jury.Scores | None = None
    samples: Tensor | None = None
    reason: str | None = None


def find(where: str) -> Iterator[tuple[str, Path | Exception]]:
    """Every submission's name and folder: below a folder, or with a tag on the Hub (then downloaded).

    What cannot be had comes as the error that said so. Raises ValueError if there is none.
    """
    if Path(where).is_dir():
        yield from _below(Path(where))
    else:
        yield from _tagged(where)


def _below(folder):
    places = {card.parent for card in folder.rglob("README.md") if _is_marked(card)}
    places |= {weights.parent for weights in folder.rglob("pytorch_lora_weights.safetensors")}
    if not places:
        raise ValueError(
            tr(
                "got {folder}, which holds no submission, expected folders that submission.write() made.",
                folder=folder,
            )
        )
    for place in sorted(places):
        name = folder.resolve().name if place == folder else place.relative_to(folder).as_posix()
        yield name, place


def _is_marked(card):
    with open(card, "rb") as file:
        return submission.TAG.encode() in file.read(100_000)


def _tagged(tag):
    from huggingface_hub import HfApi

    names = sorted(model.id for model in HfApi().list_models(filter=tag))
    if not names:
        raise ValueError(
            tr(
                "got {tag!r}, which is no folder, and no model on the Hub has it as a tag: correct it.",
                tag=tag,
            )
        )
    for name in names:
        try:
            _require_small(name)
            yield name, _downloaded(name)
        except (OSError, ValueError) as error:
            yield name, error


def _downloaded(name):
    needed, beside = WANTED[:1], WANTED[1:]
    return downloads.snapshot(tr("submission"), (name,), needed, beside, tr("leave it out"))[1]


def _require_small(name):
    """Raise ValueError for a submission that is too large, before anything is downloaded."""
    from huggingface_hub import HfApi

    files = HfApi().list_repo_tree(name, recursive=True)
    submission.require_most(sum(getattr(file, "size", 0) or 0 for file in files) / 1e6)


def judge(found: Iterable[tuple[str, Path | Exception]], base) -> Iterator[Place]:
    """Score submissions one after the other. base: the pipeline that they were trained from.

    What is broken, or claims more than it reaches, comes with the reason; nothing that one of them does ends
    the whole.
    """
    juries = {}
    for name, folder in found:
        try:
            if isinstance(folder, Exception):
                raise folder
            entry, judged = submission.judge(folder, base, juries)
        except Exception as error:  # whatever a stranger's files lead to is a reason, and no crash
            yield Place(name, reason=" ".join(str(error).split())[:300] or type(error).__name__)
            continue
        reason = overclaimed(entry.scores, judged.scores)
        yield Place(name, entry, judged.scores, judged.named[:SHOWN], reason)


def overclaimed(claimed: jury.Scores, found: jury.Scores) -> str | None:
    """A sentence about the scores that a card claims and the submission does not reach, or None.

    Of the leak, a claim that is too low is too good.
    """
    found = asdict(found)
    over = [
        tr("{name} {claim:.0%}, found {found:.0%}", name=name, claim=claim, found=found[name])
        for name, claim in asdict(claimed).items()
        if round(found[name] - claim if name == "leak" else claim - found[name], 4) > TOLERANCE
    ]
    return tr("claims {scores}", scores="; ".join(over)) if over else None


def ranked(places: Iterable[Place]) -> tuple[list[Place], list[Place]]:
    """Those in the ranking, the best total first, and those that are not."""
    places = list(places)
    fair = [place for place in places if place.reason is None]
    return sorted(fair, key=lambda p: (-p.scores.total, p.name)), [p for p in places if p.reason is not None]


def table(places: Iterable[Place]) -> str:
    """The ranking, and what is not in it, in Markdown."""
    fair, others = ranked(places)
    lines = [
        "| | entry | theme | subject | way | subject | context | prior | leak | total |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rank, place in enumerate(fair, 1):
        told = (place.name, place.entry.theme, place.entry.subject, place.entry.way)
        cells = " | ".join(submission.escaped(cell) for cell in told)
        shares = " | ".join(f"{share:.0%}" for share in (*asdict(place.scores).values(), place.scores.total))
        lines.append(f"| {rank} | {cells} | {shares} |")
    if others:
        lines += ["", "Not ranked:", ""]
        lines += [f"- {submission.escaped(place.name)}: {place.reason}" for place in others]
    return "\n".join(lines)


def draw(places: Iterable[Place]) -> show.Picture:
    """The ranking as a picture: samples of each entry beside its scores.

    The leak, of which less is better, has a colour of its own.
    """
    fair, others = ranked(places)
    told = [f"{i}. {p.name}: total {p.scores.total:.0%}" for i, p in enumerate(fair, 1)]
    alt = f"Ranking of {len(fair)} entries, {len(others)} not ranked. {'; '.join(told)}"
    figure = show.Picture(10, 0.6 + 1.25 * max(1, len(fair)), alt)
    axes = figure.subplots(max(1, len(fair)), 2, squeeze=False, width_ratios=(SHOWN, 4))
    for ax in axes.flat[2 * len(fair) :]:
        ax.set_axis_off()
    for rank, (place, (left, right)) in enumerate(zip(fair, axes, strict=False), 1):
        show.image(show.mosaic(place.samples, columns=SHOWN), "", left)
        left.set_title(f"{rank}. {place.name[:60]}", fontsize=10, loc="left", parse_math=False)
        _bars(right, place.scores)
    return figure


def _bars(ax, scores):
    names = (*asdict(scores), "total")
    shares = (*asdict(scores).values(), scores.total)
    colours = [show.COLOURS[{"leak": 2, "total": 1}.get(name, 0)] for name in names]
    rows = range(len(names))
    ax.barh(rows, shares, color=colours, hatch=None)
    ax.set(xlim=(0, 1.35), ylim=(len(names) - 0.5, -0.5), yticks=rows, yticklabels=names, xticks=[])
    for y, share in enumerate(shares):
        ax.text(min(share, 1.2) + 0.02, y, f"{share:.0%}", va="center", fontsize=8)
    ax.spines[:].set_visible(False)


def publish(places: Iterable[Place], folder: str | Path) -> Path:
    """Write the ranking into leaderboard.md and leaderboard.png in `folder`; returns the former."""
    places, folder = list(places), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with runs.whole_file(folder / "leaderboard.png") as file:
        file.write_bytes(draw(places).png())
    text = f"# Leaderboard\n\n{table(places)}\n\n![The ranking with samples of each entry](leaderboard.png)\n"
    with runs.whole_file(folder / "leaderboard.md") as file:
        file.write_text(text, encoding="utf-8")
    return folder / "leaderboard.md"
