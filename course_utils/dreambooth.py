"""DreamBooth: a text-to-image model learns one subject from a few pictures (Ruiz et al. 2023).

A rare word before the name of the kind ("a drawing of a sks creature") gets the subject for its meaning.
Pictures become latents once, and prompts become the text encoder's states once, unless it learns as well.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_utils import asking, data, diffusion, latent, profile, runs, train
from course_utils.data import grammar
from course_utils.data.subjects import SUBJECTS
from course_utils.messages import none_of, tr

FEWEST = 3  # pictures of a subject; the paper takes 3 to 5
SEEN = ("meadow", "night", "sunset")  # where the bundled pictures show their subject: by day, in the dark
WAYS = ("lora", "unet", "unet+text")  # adapters in U-Net and text encoder, the whole U-Net, both whole
SEEING = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")  # get adapters, in the U-Net
READING = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")  # and in the text encoder
KEPT = 144  # pictures that are to stay as they are, at mini
GENTLE = 3.0  # guidance scale of the pictures that are to stay as they are
COMMON = 40_000  # CLIP's words before this place, of 49,408, are ordinary ones; sks has the place 48,136


@dataclass(frozen=True)
class Words:
    """How prompts call the subject: `kind` ("creature") as all of its kind, after `identifier` it alone."""

    kind: str
    identifier: str = "sks"

    def __post_init__(self):
        if not self.kind.strip() or not re.fullmatch(r"\w+", self.identifier):
            raise ValueError(
                tr(
                    "got the kind {kind!r} and the identifier {identifier!r}, expected a name such as "
                    "'dog' and one rare word such as 'sks'.",
                    kind=self.kind,
                    identifier=self.identifier,
                )
            )

    def name(self, prompt: str) -> str:
        """The prompt with the identifier: "a creature at night" -> "a sks creature at night"."""
        named, found = re.subn(
            rf"\b{re.escape(self.kind)}\b", f"{self.identifier} {self.kind}", prompt, count=1
        )
        if not found:
            raise ValueError(
                tr(
                    "got the prompt {prompt!r}, expected one with {kind!r} in it.",
                    prompt=prompt,
                    kind=self.kind,
                )
            )
        return named

    def caveats(self, tokenizer) -> list[str]:
        """A sentence for each thing about the identifier that will make learning harder."""
        word, found = self.identifier.lower(), []
        place = tokenizer.get_vocab().get(f"{word}</w>")
        meant = profile.pick(mini=word in data.scene_words(), full=place is not None and place < COMMON)
        if (meant and word != "sks") or word in self.kind.lower().split():
            found.append(
                tr(
                    "got the identifier {identifier!r}, which is an ordinary word, expected a rare one: "
                    "what it means already will mix with the subject, and its old meaning suffers. Take "
                    "'sks'.",
                    identifier=self.identifier,
                )
            )
        pieces = tokenizer(word).input_ids[1:-1]
        if len(pieces) > 3:
            found.append(
                tr(
                    "got the identifier {identifier!r}, which is cut into {count} tokens, expected at most "
                    "3: each piece is part of other words, too. Take a shorter one.",
                    identifier=self.identifier,
                    count=len(pieces),
                )
            )
        return found


def pictures(source: str, size_px: int, count: int | None = None) -> data.ImageSet:
    """Pictures of one subject: "bubble", "ember" or "pebble", drawn; or a folder; or a set on the Hub.

    count: how many at most (drawn: 6 if not given). The drawn ones are Scenes, with captions, in a meadow, at
    night and at sunset. Raises ValueError if fewer than 3 pictures of a folder or set can be used, and what
    `data.load` raises.
    """
    if source in SUBJECTS:
        return data.subject(source, count or 6, size_px=size_px, background=SEEN)
    found = data.load(source, size_px=size_px, count=count)
    if len(found) < FEWEST:
        refused = f" ({' '.join(found.skipped)})" if found.skipped else ""
        count = len(found)
        usable = tr("1 usable picture") if count == 1 else tr("{count} usable pictures", count=count)
        raise ValueError(
            tr(
                "got {usable} from {source}{refused}, expected at least {fewest} of one subject, better 5 "
                "to 20: add more, from several sides and before several backgrounds.",
                usable=usable,
                source=source,
                refused=refused,
                fewest=FEWEST,
            )
        )
    return found


@dataclass(frozen=True)
class Examples:
    """What is learned from.

    z: latents with a variance of 1, (N, C, h, w). text: what is said of each: tokens, int64, (N, 77), or the
    text encoder's states, (N, 77, width).
    """

    z: Tensor
    text: Tensor

    def __len__(self):
        return len(self.z)


def size_px(pipeline) -> int:
    """Width and height of the pictures that a pipeline draws."""
    return pipeline.unet.config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def prompts_of(images: data.ImageSet, words: Words) -> list[str]:
    """A prompt with the identifier for each picture; where they have captions, two.

    First the caption's, then that of the subject alone: what is said of a place would take the credit for the
    subject else, and keep it there.
    """
    alone = [f"{asking.medium()} {words.kind}"] * len(images)
    captions = list(getattr(images, "captions", []))
    return [words.name(text) for text in (*captions, *alone)]


def kind_prompts(words: Words, count: int, seed: int = 0) -> list[str]:
    """Prompts without the identifier, whose pictures are to stay as they are.

    Where the kind is one of the drawn scenes', a fifth of them say as little of it as the subject's own do,
    the place of one of its pictures or not even that: else these would draw the subject, too. Two fifths say
    all that captions can say, and a quarter are about anything. The others are empty, for guidance asks that
    as well. For any other kind, the same words each time.
    """
    if profile.scale() != "mini" or words.kind not in data.scene_words():
        return [f"{asking.medium()} {words.kind}"] * count
    short, empty, others = count // 5, count // 8, count // 4
    kind, _ = asking.prompts(count - short - empty - others, "any", seed, noun=words.kind)
    alone = f"{asking.medium()} {words.kind}"
    least = [*(f"{alone} {grammar.place(name)}" for name in SEEN), alone]
    asked = [least[i % len(least)] for i in range(short)]
    return [*kind, *asked, *asking.prompts(others, "any", seed + 1)[0], *[""] * empty]


def rate(way: str) -> float:
    """The highest learning rate for one of WAYS: adapters start at 0 and bear more."""
    mini = {"lora": 4e-3, "unet": 5e-4, "unet+text": 5e-4}
    full = {"lora": 1e-4, "unet": 5e-6, "unet+text": 2e-6}
    return profile.pick(mini, full)[way]


@torch.no_grad()
def encode(pipeline, images: Tensor, prompts: Sequence[str], mirrored: bool = True) -> Examples:
    """Pictures, uint8 (N, 3, H, W), as examples; with `mirrored`, twice as many.

    prompts: one for each, and then perhaps others for each, in the same order.
    """
    x, prompts = data.to_model(images).repeat(len(prompts) // len(images), 1, 1, 1), list(prompts)
    if mirrored:
        x, prompts = torch.cat([x, x.flip(-1)]), prompts * 2
    z = torch.cat([latent.encode(pipeline.vae, part).float() for part in x.split(4)])
    return Examples(z, latent.tokens(pipeline, prompts))


def own_idea(pipeline, prompts: Sequence[str], **settings) -> Examples:
    """What the model itself draws for prompts without the identifier: examples of what is to stay as it is.

    Ruiz et al. 2023, section 3.3. Guided less than usual: what is drawn with much guidance is gaudier than
    what the model learned from, and would move it. settings: of `asking.generate`.
    """
    settings = {"guidance_scale": GENTLE} | settings
    z = asking.generate(pipeline, prompts, latents=True, **settings)
    return Examples(z, latent.tokens(pipeline, prompts))


class Learner(nn.Module):
    """The parts of a pipeline that learn: (zt (B, C, h, w), t (B,), text) -> the U-Net's output, like zt.

    text: of the `Examples` that `ready` returns.
    """

    def __init__(self, unet, text_encoder=None):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, zt: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """What the class says."""
        states = self.text_encoder(text).last_hidden_state if self.text_encoder else text  # (B, 77, width)
        return self.unet(zt, t, states).sample


def learner(pipeline, way: str, rank: int = 16, thrifty: bool = False) -> Learner:
    """A copy of those parts of the pipeline that learn in this way, one of WAYS; the pipeline stays as it is.

    rank: of the adapters (Hu et al. 2022): each changes a matrix W into W + B A, with B (out, rank) and
    A (rank, in). What learns is float32, what does not keeps its precision. thrifty: the U-Net's activations
    are computed a second time on the way back instead of being kept (gradient checkpointing).
    """
    if way not in WAYS:
        raise ValueError(none_of("way", way, WAYS))
    unet, text_encoder = copy.deepcopy(pipeline.unet), None
    if way != "unet":
        text_encoder = copy.deepcopy(getattr(pipeline, "text_encoder", None))
    for part, layers in ((unet, SEEING), (text_encoder, READING)):
        if part is None:
            continue
        if way == "lora":
            _add_adapters(part, layers, rank)
        else:
            part.requires_grad_(True)
    if thrifty:
        unet.enable_gradient_checkpointing()
    made = Learner(unet, text_encoder)
    _cast([p for p in made.parameters() if p.requires_grad], torch.float32)
    return made


def _add_adapters(part, layers, rank):
    from peft import LoraConfig

    part.requires_grad_(False)
    settings = {"init_lora_weights": "gaussian", "target_modules": list(layers)}
    part.add_adapter(LoraConfig(r=rank, lora_alpha=rank, **settings))


def _cast(parameters, dtype):
    for parameter in parameters:
        parameter.data = parameter.data.to(dtype)  # `half()` of Diffusers' networks warns, without a need


@torch.no_grad()
def ready(pipeline, learner: Learner, examples: Examples) -> Examples:
    """The examples with what this learner takes as text: states, computed now, unless its encoder learns."""
    if learner.text_encoder is not None:
        return examples
    different, place = examples.text.unique(dim=0, return_inverse=True)
    states = [pipeline.text_encoder(part).last_hidden_state for part in different.split(50)]
    return Examples(examples.z, torch.cat(states)[place])


def lesson(
    pipeline, learner: Learner, images: data.ImageSet, words: Words, count: int = KEPT
) -> tuple[Examples, Examples | None]:
    """What a learner is to learn, and what it is to keep: `count` of the model's own ideas; None for 0."""
    own = encode(pipeline, images.images, prompts_of(images, words))
    kind = own_idea(pipeline, kind_prompts(words, count), **asking.usual()) if count else None
    return ready(pipeline, learner, own), kind and ready(pipeline, learner, kind)


def collate(subject: Sequence[tuple[Tensor, Tensor]], prior: Sequence[tuple[Tensor, Tensor]] = ()):
    """One batch for one pass: the subject's examples, each (z, text), and those of its kind behind them."""
    z, text = zip(*subject, *prior, strict=True)
    return torch.stack(z), torch.stack(text)


def batches(
    subject: Examples, prior: Examples | None, size: int, seed: int = 0, process: int = 0
) -> Callable[[int], tuple]:
    """n -> batch number n: `size` examples of the subject and, unless `prior` is None, as many of its kind.

    Each process draws its own.
    """

    def rows(examples, chance):
        return [(examples.z[i], examples.text[i]) for i in chance.integers(len(examples), size=size)]

    def batch_at(n):
        chance = np.random.default_rng((seed, n, process))
        return collate(rows(subject, chance), rows(prior, chance) if prior is not None else ())

    return batch_at


def timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """Timesteps to learn from: int64 (count,), from 0 to total - 1.

    At mini, t is as likely as it is large: what a picture shows is decided where noise hides nearly all of
    it, and a few hundred steps see too little of that else. At full they are uniform, as published.
    """
    u = torch.rand(count, generator=generator, device=generator.device)
    return (total * u.sqrt() if profile.scale() == "mini" else total * u).long().clamp(max=total - 1)


def loss(alpha_bar: Tensor, prediction: str, prior_weight: float | None = 1.0) -> train.Loss:
    """The denoising loss with prior preservation (Ruiz et al. 2023, eq. 2), for batches of `collate`.

    The mean squared error of the first half, the subject's, plus prior_weight times that of the second half,
    its kind's, at random `timesteps`. None: there is no second half.
    """

    def loss(model, batch, generator):
        z, text = batch
        t = timesteps(len(z), len(alpha_bar), generator).to(z.device)
        eps = torch.randn(z.shape, generator=generator, device=z.device)
        output = model(diffusion.add_noise(z, eps, t, alpha_bar), t, text).float()
        error = (output - diffusion.target(z, eps, t, alpha_bar, prediction)).square()
        if prior_weight is None:
            return error.mean()
        subject, prior = error.chunk(2)
        return subject.mean() + prior_weight * prior.mean()

    return loss


# --- what is kept along the way, and at the end ---


def remember(steps: Iterator, run: train.Run, folder: str | Path, every: int) -> Iterator[train.Progress]:
    """Pass on a training's records, keeping in `folder` what was learned after every `every` steps.

    A snapshot holds the learned weights in half precision; the checkpoint beside it is what a run that was
    stopped goes on from: see `resume`.
    """
    folder = Path(folder)
    for progress in steps:
        if progress.step % every == 0 or progress.step == run.recipe.steps:
            _keep(run.model, folder / f"snapshot_{progress.step:06d}.safetensors")
            runs.Checkpoints(folder, keep=1).save(run)
        yield progress


def resume(run: train.Run, folder: str | Path) -> list[str]:
    """Put the run where `folder`, of `remember`, stands: see `runs.Checkpoints.resume`."""
    return runs.Checkpoints(folder, keep=1).resume(run)


def snapshots(folder: str | Path) -> dict[int, Path]:
    """step -> what was learned by then."""
    files = sorted(Path(folder).glob("snapshot_*.safetensors"))
    return {int(file.stem.partition("_")[2]): file for file in files}


def _keep(model, path):
    from safetensors.torch import save_file

    learned = {
        name: p.detach().half().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with runs.whole_file(path) as temporary:
        save_file(learned, temporary)


@torch.no_grad()
def recall(model: Learner, snapshot: str | Path) -> None:
    """Put the weights of a snapshot into a learner of the same way."""
    from safetensors.torch import load_file

    own = dict(model.named_parameters())
    for name, value in load_file(snapshot).items():
        own[name].copy_(value)


def assemble(pipeline, learner: Learner, learning: bool = False):
    """A pipeline with what was learned; the other parts are shared with the given one.

    What was learned takes on the precision of the given one, and adapters are merged, in a copy; unless it is
    to go on learning: then only `asking.generate` can draw with it.
    """
    if not learning:
        _cast(learner.eval().parameters(), pipeline.unet.dtype)
        learner = _merged(learner)
    parts = pipeline.components | {"unet": learner.unet}
    if learner.text_encoder is not None:
        parts["text_encoder"] = learner.text_encoder
    return _same_kind(pipeline, parts)


def _merged(learner):
    """The learner; if it has adapters, a copy in which they are added to their matrices."""
    if not hasattr(learner.unet, "peft_config"):
        return learner
    merged = copy.deepcopy(learner)
    _merge(merged)
    return merged


def _merge(part):
    """Add the adapters in a part to their matrices: a product less for each, at every call."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in part.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()


def save(learner: Learner, folder: str | Path) -> int:
    """Write what was learned as stock classes read it, in half precision; returns its size in bytes.

    Adapters become pytorch_lora_weights.safetensors, for `pipeline.load_lora_weights(folder)`; whole parts
    become the folders unet/ and text_encoder/. What lay in the folder before goes.
    """
    with runs.whole_folder(folder) as place:
        _save_parts(learner, place)
    return _size(Path(folder))


def _save_parts(learner, folder):
    if hasattr(learner.unet, "peft_config"):
        _save_adapters(learner, folder)
        return
    half = copy.deepcopy(learner.unet)
    _cast(half.parameters(), torch.float16)
    half.save_pretrained(folder / "unet")
    if learner.text_encoder is not None:
        weights = {name: value.half() for name, value in learner.text_encoder.state_dict().items()}
        # half in the file alone: Transformers 5 would compute in what the configuration names
        learner.text_encoder.save_pretrained(folder / "text_encoder", state_dict=weights)


def _size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _save_adapters(learner, folder):
    from diffusers import StableDiffusionPipeline

    # Transformers 5 leaves out "text_model."; all versions of Diffusers read it
    read = _adapters(learner.text_encoder) if learner.text_encoder is not None else {}
    text = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in read.items()}
    StableDiffusionPipeline.save_lora_weights(folder, _adapters(learner.unet), text_encoder_lora_layers=text)


def _adapters(part):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(part))
    return {name: value.half() for name, value in weights.items()}


def load(pipeline, folder: str | Path):
    """A pipeline with what `save` wrote, on copies of the parts that it changes.

    Only weights are read, into parts of the given pipeline's shape. Raises ValueError if they are not there,
    do not fit or are not all finite, and what safetensors raises for a file that is none.
    """
    folder, parts = Path(folder), dict(pipeline.components)
    parts["unet"] = copy.deepcopy(pipeline.unet)
    adapters, encoder = folder / "pytorch_lora_weights.safetensors", folder / "text_encoder"
    if not adapters.exists():
        _put(parts["unet"], folder / "unet" / "diffusion_pytorch_model.safetensors")
    if adapters.exists():
        parts["text_encoder"] = copy.deepcopy(pipeline.text_encoder)
    elif encoder.exists():
        parts["text_encoder"] = _like(pipeline.text_encoder, encoder)
    changed = _same_kind(pipeline, parts)
    if adapters.exists():
        _put_adapters(changed, adapters)
    return changed


def _same_kind(pipeline, parts):
    return type(pipeline)(**parts, requires_safety_checker=pipeline.config.requires_safety_checker)


def _put(part, path):
    try:
        part.load_state_dict(_finite(path))
    except RuntimeError as error:
        raise _misfit(path, error) from error


def _put_adapters(pipeline, path):
    weights = _finite(path)
    try:
        pipeline.load_lora_weights(weights)
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise _misfit(path, error) from error
    if not any("lora" in name for name, _ in pipeline.unet.named_parameters()):
        raise _misfit(path, tr("none of its weights belongs to the U-Net"))
    for part in (pipeline.unet, pipeline.text_encoder):
        _merge(part)


def _like(text_encoder, folder):
    """The encoder in `folder`, in the same shape. (Each Transformers names the weights in its own way.)"""
    _finite(folder / "model.safetensors")
    try:
        found, told = type(text_encoder).from_pretrained(
            folder, config=text_encoder.config, use_safetensors=True, output_loading_info=True
        )
    except RuntimeError as error:
        raise _misfit(folder, error) from error
    if told["missing_keys"]:
        raise _misfit(folder, tr("{count} of its weights are missing", count=len(told["missing_keys"])))
    return found.to(text_encoder.device, text_encoder.dtype).eval()


def _finite(path):
    """The weights of a file, all finite."""
    from safetensors.torch import load_file

    if not path.exists():
        place = f"{path.parent.name}/{path.name}"
        raise ValueError(tr("got no {place}, expected what save() writes.", place=place))
    weights = load_file(path)
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ValueError(
            tr(
                "got {name} with numbers that are not finite, expected finite ones: train again.",
                name=path.name,
            )
        )
    return weights


def _misfit(path, why):
    reason = str(why).strip().splitlines()[-1].strip() if str(why).strip() else type(why).__name__
    return ValueError(
        tr(
            "got {name}, which does not fit ({reason}), expected weights for the same base.",
            name=path.name,
            reason=reason[:120],
        )
    )
