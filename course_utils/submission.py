"""An entry to the hackathon: a folder with the learned weights, the pictures, and a card about them.

README.md    the card; its head holds what `read` needs
pytorch_lora_weights.safetensors, or unet/ and perhaps text_encoder/: see `dreambooth.save`
pictures/    what was learned from
samples.png  what is drawn now
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from course_utils import checkpoints, dreambooth, jury, profile, runs, show
from course_utils.data.subjects import SUBJECTS
from course_utils.messages import tr, unknown

TAG = "diffusion-models-course-dreambooth"  # of all entries on the Hub
THEMES = ("animal", "science", "food", "landscape", "wildcard")
MOST_MB = 8000  # of a submission's files: a U-Net and a text encoder in full precision, and some room
LONGEST = 200  # characters of a field
SIZE_PX = 512  # in which pictures and samples are kept at most


@dataclass(frozen=True)
class Entry:
    """What the head of a card says. Raises ValueError for what no entry can be.

    theme: one of THEMES. subject: "bubble", "ember", "pebble", or what the reader's own is. licence: of the
    pictures, with whose they are. way: see `dreambooth.WAYS`. scale: "mini" or "full"; base: what it was
    trained from there. scores: those that its author measured, which the leaderboard measures again.
    """

    theme: str
    subject: str
    kind: str
    identifier: str
    licence: str
    way: str
    scale: str
    base: str
    scores: jury.Scores

    def __post_init__(self):
        for name, what, allowed in (
            ("theme", tr("the theme"), THEMES),
            ("way", tr("the way"), dreambooth.WAYS),
            ("scale", tr("the scale"), profile.SCALES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(unknown(what, getattr(self, name), allowed))
        for field in ("subject", "kind", "identifier", "licence", "base"):
            value = getattr(self, field)
            if (
                not isinstance(value, str)
                or not value.strip()
                or len(value) > LONGEST
                or not value.isprintable()
            ):
                raise ValueError(
                    tr(
                        "got {field}={value!r:.60}, expected a line of 1 to {longest} characters: fill it "
                        "in.",
                        field=field,
                        value=value,
                        longest=LONGEST,
                    )
                )
        for name, value in asdict(self.scores).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
                raise ValueError(
                    tr(
                        "got the {name} score {value!r}, expected a number from 0 to 10.",
                        name=name,
                        value=value,
                    )
                )

    @property
    def words(self) -> dreambooth.Words:
        """How prompts call its subject."""
        return dreambooth.Words(self.kind, self.identifier)

    @property
    def own(self) -> bool:
        """Whether the subject is the reader's own, and not one of the course's individuals."""
        return self.scale == "full" or self.subject not in SUBJECTS


def entry(
    theme: str, subject: str, words: dreambooth.Words, licence: str, way: str, scores: jury.Scores
) -> Entry:
    """The entry of what was trained here, from the base that this scale has."""
    scale = profile.scale()
    base = profile.pick(mini="the miniature sd", full=checkpoints.MODELS["sd"].ids[0])
    return Entry(theme, subject, words.kind, words.identifier, licence, way, scale, base, scores)


def jury_of(base, entry: Entry, pictures: Tensor, **settings) -> jury.Jury:
    """Who judges an entry: see `jury.drawn` and `jury.by_clip`. pictures: uint8, (M, 3, H, W)."""
    if entry.own:
        return jury.by_clip(base, pictures, entry.words, **settings)
    return jury.drawn(base, entry.subject, entry.words, **settings)


def write(
    folder: str | Path,
    learner: dreambooth.Learner,
    entry: Entry,
    pictures: Tensor,
    samples: Tensor,
    prompts: Sequence[str],
) -> int:
    """Write a submission into `folder`, whole or not at all; returns the size of its weights in bytes.

    pictures: what was learned from, uint8 (M, 3, H, W). samples: drawn for the prompts, (N, 3, H, W) in
    [-1, 1].
    """
    from PIL import Image

    with runs.whole_folder(folder) as place:
        size = dreambooth.save(learner, place)
        (place / "pictures").mkdir()
        for i, picture in enumerate(show.pixels(pictures)):
            _small(Image.fromarray(picture)).save(place / "pictures" / f"{i:02d}.png")
        Image.fromarray(show.mosaic(samples, columns=min(8, len(samples)))).save(place / "samples.png")
        (place / "README.md").write_text(card(entry, prompts, size), encoding="utf-8")
    return size


def _small(image):
    image.thumbnail((SIZE_PX, SIZE_PX))
    return image


def card(entry: Entry, prompts: Sequence[str], size: int) -> str:
    """The README.md of a submission. prompts: of its samples. size: of the weights, in bytes."""
    import yaml

    head = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["diffusers", "text-to-image", "dreambooth", *(["lora"] if entry.way == "lora" else []), TAG],
        "dreambooth": asdict(entry) | {"scores": {k: round(v, 4) for k, v in asdict(entry.scores).items()}},
    }
    facts = {
        "theme": entry.theme,
        "subject": f"{entry.subject}, asked for as `{entry.identifier} {entry.kind}`",
        "trained from": entry.base,
        "way": f"{entry.way}, {size / 1e6:.2f} MB",
        "licence of the pictures": entry.licence,
        "shows the subject": f"{entry.scores.subject:.0%}",
        "shows the place asked for": f"{entry.scores.context:.0%}",
        "accuracy kept without the identifier": f"{entry.scores.prior:.0%}",
        "shows the subject where it was not asked for": f"{entry.scores.leak:.0%}",
    }
    rows = "\n".join(f"| {name} | {escaped(value)} |" for name, value in facts.items())
    asked = "\n".join(f"- `{text}`" for text in dict.fromkeys(prompts))
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}
---

# DreamBooth: {escaped(entry.subject)}

![What it draws](samples.png)

| | |
|---|---|
{rows}

Prompts of the samples:

{asked}

The pictures that it learned from are in `pictures/`. Made in the hackathon of the diffusion course.

```python
{_usage(entry)}
```
"""


def escaped(text) -> str:
    """Text for a cell of a Markdown table."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|")


def _usage(entry):
    """Code that draws with a submission; what it imports is what it uses."""
    mini, whole, text = entry.scale == "mini", entry.way != "lora", entry.way == "unet+text"
    base = 'checkpoints.load(StableDiffusionPipeline, "sd")'
    if not mini:
        base = f'StableDiffusionPipeline.from_pretrained("{entry.base}")'
    lines = {
        "from diffusers import StableDiffusionPipeline" + ", UNet2DConditionModel" * whole: True,
        "from transformers import CLIPTextModel": text,
        "\nfrom course_utils import checkpoints": mini,
        f"\npipeline = {base}": True,
        'place = "this folder or its Hub id"': True,
        'pipeline.load_lora_weights(place, weight_name="pytorch_lora_weights.safetensors")': not whole,
        'unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet")': whole,
        "pipeline.unet = unet.to(pipeline.device)": whole,
        'text_encoder = CLIPTextModel.from_pretrained(place, subfolder="text_encoder")': text,
        "pipeline.text_encoder = text_encoder.to(pipeline.device)": text,
        f'image = pipeline("a {entry.identifier} {entry.kind}").images[0]': True,
    }
    return "\n".join(line for line, needed in lines.items() if needed)


def read(folder: str | Path) -> Entry:
    """The entry that a submission's card describes. Raises ValueError with what is wrong with the card."""
    import yaml

    path = Path(folder) / "README.md"
    if not path.exists() or path.stat().st_size > 1_000_000:
        raise ValueError(
            tr("got no README.md of a card's size, expected the card that submission.write() makes.")
        )
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n")
    try:
        head = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError as error:
        raise ValueError(
            tr("got a card whose head is no YAML ({reason}).", reason=str(error).splitlines()[0])
        ) from error
    told = head.get("dreambooth") if isinstance(head, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("scores"), dict):
        raise ValueError(tr("got a card without 'dreambooth:' and its 'scores:' in the head, expected both."))
    scores = _only(jury.Scores, told["scores"])
    return Entry(**(_only(Entry, told) | {"scores": jury.Scores(**scores)}))


def _only(kind, told):
    """The fields of a dataclass, from a mapping that must have them all."""
    missing = [field.name for field in fields(kind) if field.name not in told]
    if missing:
        raise ValueError(
            tr("got a card without {missing}, expected a value for each.", missing=", ".join(missing))
        )
    return {field.name: told[field.name] for field in fields(kind)}


def require_size(folder: str | Path) -> None:
    """Raise ValueError if a submission's files are more than MOST_MB."""
    require_most(sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6)


def require_most(size: float) -> None:
    """Raise ValueError if files of this size in MB are more than MOST_MB."""
    if size > MOST_MB:
        raise ValueError(
            tr("got {size:,.0f} MB of files, expected at most {most_mb:,}.", size=size, most_mb=MOST_MB)
        )


def load_pictures(folder: str | Path, size_px: int) -> Tensor:
    """The pictures that a submission learned from: uint8, (M, 3, size_px, size_px)."""
    return dreambooth.pictures(str(Path(folder) / "pictures"), size_px).images


def push_to_hub(folder: str | Path, name: str, token: str | None) -> str:
    """Publish a submission as the model "owner/name" on the Hub; returns its page."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(name, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="An entry to the hackathon")
    return f"{api.endpoint}/{name}"


@torch.no_grad()
def judge(folder: str | Path, base, juries: dict) -> tuple[Entry, jury.Judged]:
    """Score a submission with the base of this scale: what its card says, and what was found.

    juries: those that sat before, by what they are asked; this one's is added. Raises ValueError, or what
    reading its files raises, for a submission that is broken, or of another scale.
    """
    require_size(folder)
    entry = read(folder)
    if entry.scale != profile.scale():
        raise ValueError(
            tr(
                "got an entry of scale {scale}, expected {expected}: COURSE_SCALE is that.",
                scale=entry.scale,
                expected=profile.scale(),
            )
        )
    pictures = load_pictures(folder, dreambooth.size_px(base))
    asked = (entry.subject, entry.words, Path(folder) if entry.own else None)
    if asked not in juries:
        juries[asked] = jury_of(base, entry, pictures)
    return entry, juries[asked].judge(dreambooth.load(base, folder))
