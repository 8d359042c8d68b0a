"""Numbers to stand beside the pictures: a judge (a small classifier), Fréchet distance, diversity, copies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from course_utils.data import to_model, to_uint8
from course_utils.messages import tr


class Judge(nn.Module):
    """A small convolutional classifier that answers one or several questions about a picture.

    questions: name -> number of answers. Its last hidden layer, 64 wide, serves as the features of
    `frechet_distance`. Pictures are (B, channels, H, W) in [-1, 1]; those of another size than `size_px`, at
    least 8, are resized to it.
    """

    def __init__(self, questions: dict[str, int], channels: int = 3, width: int = 32, size_px: int = 32):
        super().__init__()
        self.questions, self.size_px = dict(questions), size_px
        blocks, before = [], channels
        for out in (width, 2 * width, 4 * width):
            blocks += [nn.Conv2d(before, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            blocks += [nn.Conv2d(out, out, 3, padding=1, stride=2), nn.SiLU()]
            before = out
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * before, 64))
        self.heads = nn.ModuleDict({name: nn.Linear(64, answers) for name, answers in questions.items()})

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 64)."""
        if x.shape[-1] != self.size_px:
            x = nn.functional.interpolate(x, (self.size_px, self.size_px), mode="area")
        return self.body(x)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """name -> logits, (B, answers)."""
        hidden = nn.functional.silu(self.features(x))
        return {name: head(hidden) for name, head in self.heads.items()}


def train_judge(
    images,
    *,
    epochs: int,
    seed: int = 0,
    width: int = 32,
    size_px: int | None = None,
    shift_px: int = 1,
    rate: float = 2e-3,
    coarsest: float = 1.0,
) -> Judge:
    """Train a judge on an ImageSet with labels; pictures are shifted and dimmed at random, never mirrored.

    It looks at them in their own size, unless `size_px` is given. coarsest: half of the batches are blurred,
    down to this share of their resolution, so that a soft outline is read as what it outlines.
    """
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)  # the layers' initial weights take no generator
    questions = {name: int(answer.max()) + 1 for name, answer in images.labels.items()}
    judge = Judge(questions, images.images.shape[1], width, size_px or images.size_px)
    torch.random.set_rng_state(torch_state)
    generator = torch.Generator().manual_seed(seed)
    steps_per_epoch = max(1, len(images) // 64)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps_per_epoch)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64)[:steps_per_epoch]:
            x = _jitter(_blurred(to_model(images.images[rows]), coarsest, generator), shift_px, generator)
            answers = judge(x)
            loss = sum(nn.functional.cross_entropy(answers[k], v[rows]) for k, v in images.labels.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def no_digits(images, count: int, generator: torch.Generator) -> Tensor:
    """Four kinds of pictures that are no digit, made from an ImageSet of digits, `count` of each:

    two digits blended, a digit with its quarters swapped, noise, and clouds: (4 count, 1, H, W) in [-1, 1].
    """
    x, label, size = to_model(images.images), images.labels["digit"], images.size_px
    i, j = torch.randint(len(x), (2, 2 * count), generator=generator)
    i, j = (k[label[i] != label[j]][:count] for k in (i, j))  # two different digits each
    share = 0.35 + 0.3 * torch.rand((len(i), 1, 1, 1), generator=generator)
    blends = share * x[i] + (1 - share) * x[j]
    jumbles = torch.roll(x[j], (size // 2, size // 2), (2, 3))
    noise = torch.randn(x[:count].shape, generator=generator)
    coarse = torch.randn((count, 1, size // 2, size // 2), generator=generator)
    clouds = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return torch.cat([blends, jumbles, noise, clouds]).clamp(-1, 1)


def train_digit_judge(images, *, epochs: int, size_px: int, seed: int = 0) -> Judge:
    """A judge of digits with an eleventh answer, "no digit", as notebook unit1/02 builds it."""
    fakes = no_digits(images, len(images) // 14, torch.Generator().manual_seed(seed))
    digit = torch.cat([images.labels["digit"], torch.full((len(fakes),), 10)])
    both = replace(images, images=torch.cat([images.images, to_uint8(fakes)]), labels={"digit": digit})
    return train_judge(both, epochs=epochs, seed=seed, width=16, size_px=size_px, rate=6e-3)


def _blurred(x, coarsest, generator):
    """The batch at a lower resolution, in half of all cases: down to the share `coarsest`, and up again."""
    chance, depth = torch.rand(2, generator=generator).tolist() if coarsest < 1 else (1.0, 0.0)
    if chance > 0.5:
        return x
    side = round(x.shape[-1] * (1 - depth * (1 - coarsest)))
    small = nn.functional.interpolate(x, (side, side), mode="area")
    return nn.functional.interpolate(small, x.shape[-2:], mode="bilinear", align_corners=False)


def _jitter(x, shift_px, generator):
    """Shift the batch by up to `shift_px`, and change contrast and noise a little."""
    dy, dx = torch.randint(-shift_px, shift_px + 1, (2,), generator=generator).tolist()
    x = torch.roll(x, (dy, dx), (2, 3)) * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=generator))
    return (x + 0.08 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


class FiveLooks(nn.Module):
    """A judge that looks at each picture five times, and answers with the mean of its probabilities.

    It takes the place of a `Judge` in `read`. It sees the picture as it is, and shifted by a pixel each way,
    around the edges as in training; so its answer hangs less on where a stroke lies.
    """

    SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge, self.questions = judge, judge.questions

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """name -> logits, (B, answers); their softmax is the mean of the five."""
        looks = [self.judge(torch.roll(x, shift, (2, 3))) for shift in self.SHIFTS]
        return {
            name: torch.stack([look[name].log_softmax(-1) for look in looks]).logsumexp(0)  # (5, B, answers)
            for name in self.questions
        }


@dataclass(frozen=True)
class Reading:
    """What a judge reads in pictures: answer (N,), and its probability (N,)."""

    answer: Tensor
    confidence: Tensor

    def right(self, wanted: Tensor) -> float:
        """Share of pictures read as `wanted` (N,)."""
        return (self.answer == wanted).float().mean().item()

    def counts(self, answers: int) -> Tensor:
        """How often each of the `answers` was read: (answers,)."""
        return torch.bincount(self.answer, minlength=answers)


@torch.no_grad()
def read(judge: Judge, x: Tensor, question: str | None = None) -> Reading:
    """Ask one question (the first if not named) about pictures x, (N, C, H, W) in [-1, 1]."""
    question = question or next(iter(judge.questions))
    logits = torch.cat([judge(part)[question] for part in x.float().split(256)])
    confidence, answer = logits.softmax(-1).max(-1)
    return Reading(answer, confidence)


@torch.no_grad()
def features(judge: Judge, x: Tensor) -> Tensor:
    """The judge's features of pictures x, (N, C, H, W) in [-1, 1]: float64, (N, 64)."""
    return torch.cat([judge.features(part) for part in x.float().split(256)]).double()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets of features, (N, D) and (M, D), each taken as a Gaussian.

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, eq. 6; there with Inception's
    features: figures of other feature extractors are not comparable). With D rows or fewer the Gaussians are
    flat in some directions, and the distance is larger than it would be with more.
    """
    a, b = a.double(), b.double()
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            tr(
                "got features of shapes {a} and {b}, expected (N, D) and (M, D) with at least 2 rows: "
                "score more pictures, with one judge.",
                a=tuple(a.shape),
                b=tuple(b.shape),
            )
        )
    cov_a, cov_b = _covariance(a), _covariance(b)
    root_a = _square_root(cov_a)
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    spread = cov_a.trace() + cov_b.trace() - 2 * cross
    return ((a.mean(0) - b.mean(0)).pow(2).sum() + spread).clamp(min=0).item()


def _covariance(x):
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)  # (D, D); torch.cov would give a bare number for D = 1


def _square_root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def diversity(x: Tensor) -> float:
    """Mean root-mean-square distance between two different pictures of x, (N, C, H, W), in units of x."""
    return torch.pdist(x.double().flatten(1)).mean().item() / x[0].numel() ** 0.5


def nearest(x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """For each picture of x, (N, C, H, W), the closest of `others`, (M, C, H, W).

    Returns root-mean-square distances (N,) and indices into `others` (N,).
    """
    index = torch.cdist(x.float().flatten(1), others.float().flatten(1)).argmin(1)
    # cdist finds the closest by a matrix product, too coarse to tell a copy: so its distance once more
    return (x - others[index]).float().square().flatten(1).mean(1).sqrt(), index


def save_judge(judge: Judge, folder) -> None:
    """Write a judge as half-precision safetensors, its questions in the header."""
    import json

    from safetensors.torch import save_file

    from course_utils.runs import whole_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "questions": judge.questions,
        "channels": judge.body[0].in_channels,
        "width": judge.body[0].out_channels,
        "size_px": judge.size_px,
    }
    weights = {name: value.half().contiguous() for name, value in judge.state_dict().items()}
    with whole_file(folder / "judge.safetensors") as file:
        save_file(weights, file, metadata={"config": json.dumps(config)})


def load_judge(name: str) -> Judge:
    """A judge that the course ships: see `checkpoints.verified`."""
    import json

    from safetensors import safe_open

    from course_utils.checkpoints import verified

    with safe_open(f"{verified(name)}/judge.safetensors", "pt") as file:
        judge = Judge(**json.loads(file.metadata()["config"]))
        judge.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
    return judge.eval()


def clip_features(clip, processor, x: Tensor) -> Tensor:
    """What CLIP makes of pictures x, (N, 3, H, W) in [-1, 1]: (N, D), each row of length 1.

    Of the CLIPImageProcessor only mean and standard deviation are used: it lets no gradients pass itself.
    """
    side = clip.config.vision_config.image_size
    if x.shape[-1] != side:
        x = nn.functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    mean, std = (
        torch.tensor(values, device=clip.device).reshape(1, 3, 1, 1)
        for values in (processor.image_mean, processor.image_std)
    )
    seen = clip.vision_model(pixel_values=((x.to(clip.device) + 1) / 2 - mean) / std).pooler_output
    return nn.functional.normalize(clip.visual_projection(seen), dim=-1)


class WordJudge(nn.Module):
    """A judge whose answers are sentences: it reads the one that fits a picture best.

    Zero-shot classification (Radford et al. 2021, section 3.1.2); it takes the place of a `Judge` in `read`.
    questions: name -> its answers, as sentences. clip, tokenizer, processor: a CLIPModel with its
    CLIPTokenizer and CLIPImageProcessor. Pictures are (B, 3, H, W) in [-1, 1], of any size.
    """

    def __init__(self, clip, tokenizer, processor, questions: dict[str, list[str]]):
        super().__init__()
        self.clip, self.processor = clip, processor
        self.questions = {name: len(answers) for name, answers in questions.items()}
        self.answers = {name: self._wanted(tokenizer, answers) for name, answers in questions.items()}

    @torch.no_grad()
    def _wanted(self, tokenizer, sentences):
        tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(self.clip.device)
        seen = self.clip.text_projection(self.clip.text_model(**tokens).pooler_output)
        return nn.functional.normalize(seen, dim=-1)  # (answers, D)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """name -> logits, (B, answers), on the CPU."""
        seen, scale = clip_features(self.clip, self.processor, x), self.clip.logit_scale.exp()
        return {name: (scale * seen @ wanted.T).float().cpu() for name, wanted in self.answers.items()}
