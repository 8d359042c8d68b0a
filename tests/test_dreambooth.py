"""DreamBooth: what is learned, from what, in which way, and what is kept."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from course_utils import asking, checkpoints, diffusion, dreambooth, latent, train
from recipes import sd
from tests import untrained

WORDS = dreambooth.Words("creature")
RECIPE = train.Recipe(steps=3, learning_rate=1e-2, warmup_steps=1, ema_decay=0, precision="fp32")
ALPHA_BAR = diffusion.cosine_alpha_bar()


@pytest.fixture(autouse=True)
def _mini(monkeypatch, one_thread):
    monkeypatch.setenv("COURSE_SCALE", "mini")


def small():
    """Random weights, the miniatures' measures, and a U-Net of a few thousand numbers."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return untrained.pipeline(StableDiffusionPipeline, unet=unet, **sd.UNCHECKED)


@pytest.fixture(scope="module")
def pipeline():
    return small()


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(checkpoints.verified("clip"))


@pytest.fixture(scope="module")
def examples(pipeline):
    images = dreambooth.pictures("ember", 64, 3)
    return dreambooth.encode(pipeline, images.images, [WORDS.name(c) for c in images.captions])


def fit(pipeline, examples, way="unet", recipe=RECIPE, folder=None, every=1):
    learner = dreambooth.learner(pipeline, way, rank=2)
    run = train.Run(learner, recipe)
    batch_at = dreambooth.batches(dreambooth.ready(pipeline, learner, examples), None, size=2)
    steps = train.train(run, batch_at, dreambooth.loss(ALPHA_BAR, "v", None))
    if folder:
        dreambooth.resume(run, folder)
        steps = dreambooth.remember(steps, run, folder, every)
    return learner, run, steps


# --- words and pictures ---


def test_the_identifier_stands_before_the_kind():
    assert WORDS.name("a drawing of a creature at night") == "a drawing of a sks creature at night"
    assert dreambooth.Words("guinea pig", "zwx").name("a guinea pig, no pigs") == "a zwx guinea pig, no pigs"
    with pytest.raises(ValueError, match="prompt 'a fish', expected one with 'creature' in it"):
        WORDS.name("a fish")
    with pytest.raises(
        ValueError, match="identifier 'two words', expected a name such as 'dog' and one rare"
    ):
        dreambooth.Words("dog", "two words")
    with pytest.raises(ValueError, match="the kind ''"):
        dreambooth.Words("")


@pytest.mark.parametrize(
    ("kind", "identifier", "words"),
    [
        ("creature", "sks", None),
        ("creature", "zwx", None),
        ("creature", "blue", "an ordinary word"),
        ("creature", "Beautiful", "an ordinary word"),
        ("dragon", "dragon", "an ordinary word"),
        ("creature", "xqzvwkj", "cut into 7 tokens"),
    ],
)
def test_an_ordinary_word_as_identifier_gets_a_warning(tokenizer, kind, identifier, words):
    found = dreambooth.Words(kind, identifier).caveats(tokenizer)
    assert (words in found[0]) if words else not found


def test_at_full_scale_a_word_that_clip_learned_early_is_ordinary(monkeypatch):
    """The places of three words in CLIP's published vocabulary."""

    class Published:
        def get_vocab(self):
            return {"dog</w>": 1929, "cute</w>": 2242, "sks</w>": 48136}

        def __call__(self, text):
            return type("Encoded", (), {"input_ids": [0, 1, 2]})

    monkeypatch.setenv("COURSE_SCALE", "full")
    assert "ordinary word" in dreambooth.Words("dog", "cute").caveats(Published())[0]
    assert not dreambooth.Words("dog", "sks").caveats(Published())


def test_the_bundled_pictures_show_their_subject_in_three_places():
    images = dreambooth.pictures("pebble", 64)
    assert images.images.shape == (6, 3, 64, 64)
    places = {c.removeprefix("a drawing of a creature ") for c in images.captions}
    assert places == {"in a meadow", "at night", "at sunset"}
    assert not set(dreambooth.SEEN) & {"beach", "snow"}


def save_pictures(folder, count, size=(90, 60)):
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", size, (40 * i, 90, 20)).save(folder / f"{i}.png")
    return folder


def test_fewer_than_three_pictures_get_a_clear_message(tmp_path):
    folder = save_pictures(tmp_path / "two", 2)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 and then nothing")
    (folder / "empty.png").touch()
    with pytest.raises(ValueError) as raised:
        dreambooth.pictures(str(folder), 64)
    message = str(raised.value)
    for part in (
        "got 2 usable pictures",
        "skipped broken.jpg",
        "skipped empty.png",
        "at least 3 of one subject",
    ):
        assert part in message


def test_any_size_mode_and_orientation_will_do(tmp_path):
    folder = save_pictures(tmp_path / "mixed", 2, size=(31, 200))
    tall = Image.new("RGB", (40, 80), (200, 0, 0))
    tall.paste((0, 0, 200), (0, 40, 40, 80))  # blue below red
    turned = tall.rotate(90, expand=True)  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing
    turned.save(folder / "turned.jpg", exif=exif, quality=95)
    for mode in ("RGBA", "LA", "P", "L", "1", "I;16"):
        Image.fromarray(np.full((50, 70), 200, np.uint8)).convert(mode.replace("I;16", "L")).save(
            folder / f"mode_{mode.replace(';', '')}.png"
        )
    images = dreambooth.pictures(str(folder), 32)
    assert images.images.shape == (9, 3, 32, 32) and not images.skipped
    upright = images.images[-1]  # the last by name
    assert upright[0, 4, 16] > 150 and upright[2, 4, 16] < 60
    assert upright[2, 28, 16] > 150 and upright[0, 28, 16] < 60


# --- examples and batches ---


def test_examples_are_the_latents_and_tokens_of_the_pictures_and_their_mirror_images(pipeline, examples):
    images = dreambooth.pictures("ember", 64, 3)
    x = torch.cat([images.images, images.images.flip(-1)]).float() / 127.5 - 1
    with torch.no_grad():
        wanted = pipeline.vae.encode(x).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert (examples.z - wanted).abs().max() < 1e-4
    assert pipeline.tokenizer.decode(examples.text[3], skip_special_tokens=True).strip() == (
        "a drawing of a sks creature in a meadow"
    )
    assert len(examples) == 6 and examples.text.shape == (6, 77)


def test_text_is_read_once_and_as_the_pipeline_reads_it(pipeline, examples):
    learner = dreambooth.learner(pipeline, "unet")
    found = dreambooth.ready(pipeline, learner, examples)
    said = [f"a drawing of a sks creature {place}" for place in ("in a meadow", "at night", "at sunset")]
    for i, text in enumerate(said):
        states, _ = pipeline.encode_prompt(text, "cpu", 1, False)
        assert (found.text[i] - states[0]).abs().max() < 1e-5
    both = dreambooth.learner(pipeline, "unet+text")
    assert dreambooth.ready(pipeline, both, examples) is examples


def test_what_the_model_draws_itself_is_kept_as_latents(pipeline):
    texts = ["a drawing of a creature at night"] * 3
    found = dreambooth.own_idea(pipeline, texts, seed=3, steps=2, batch=2)
    assert found.z.shape == (3, 4, 8, 8) and found.text.shape == (3, 77)
    settings = {"num_inference_steps": 2, "guidance_scale": dreambooth.GENTLE, "output_type": "latent"}
    made = pipeline(texts[:2], generator=torch.Generator().manual_seed(3), **settings).images
    assert torch.equal(found.z[:2], made)


def test_what_is_to_stay_is_the_kind_and_beside_it_anything_and_nothing():
    texts = dreambooth.kind_prompts(WORDS, 32)
    assert len(texts) == 32 and texts == dreambooth.kind_prompts(WORDS, 32)
    assert all("creature" in text for text in texts[:20]) and texts[28:] == [""] * 4
    assert sum("creature" in text for text in texts[20:28]) < 8
    short = {"a drawing of a creature" + place for place in ("", " in a meadow", " at night", " at sunset")}
    assert set(texts[14:20]) == short
    assert not any("sks" in text for text in texts)
    assert set(dreambooth.kind_prompts(dreambooth.Words("dragon"), 5)) == {"a drawing of a dragon"}


def test_a_batch_is_half_subject_and_half_kind_and_repeatable():
    subject = dreambooth.Examples(torch.arange(5.0).reshape(5, 1, 1, 1), torch.arange(5)[:, None])
    prior = dreambooth.Examples(100 + torch.arange(7.0).reshape(7, 1, 1, 1), 100 + torch.arange(7)[:, None])
    batch_at = dreambooth.batches(subject, prior, size=4, seed=1)
    drawn = [batch_at(n) for n in range(40)]
    for z, text in drawn:
        assert z.shape == (8, 1, 1, 1) and torch.equal(z.flatten(), text.flatten().float())
        assert (z[:4] < 5).all() and (z[4:] >= 100).all()
    assert {int(v) for z, _ in drawn for v in z.flatten()} == {*range(5), *range(100, 107)}
    assert torch.equal(batch_at(7)[0], drawn[7][0]) and not torch.equal(drawn[7][0], drawn[8][0])
    alone, _ = dreambooth.batches(subject, None, size=4)(0)
    assert alone.shape == (4, 1, 1, 1) and (alone < 5).all()


# --- the loss ---


@pytest.mark.parametrize("scale, mean", [("mini", 2 / 3), ("full", 1 / 2)])
def test_timesteps_lean_to_noise_at_mini_and_are_uniform_at_full(monkeypatch, scale, mean):
    monkeypatch.setenv("COURSE_SCALE", scale)
    t = dreambooth.timesteps(100_000, 1000, torch.Generator().manual_seed(0))
    assert 0 <= t.min() < 10 and t.max() == 999
    assert t.double().mean().item() / 1000 == pytest.approx(mean, abs=0.005)


class Off(torch.nn.Module):
    """Knows the target of one x0, and errs by 3 for the subject and by 2 for its kind."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, zt, t, text):
        a = ALPHA_BAR[t].reshape(-1, 1, 1, 1)
        eps = (zt - a.sqrt() * 0.5) / (1 - a).sqrt()
        exact = {"eps": eps, "v": a.sqrt() * eps - (1 - a).sqrt() * 0.5}[self.prediction]
        return exact + text.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0, None])
def test_the_loss_weighs_the_two_halves(prediction, weight):
    z, text = torch.full((8, 1, 2, 2), 0.5), torch.tensor([3.0] * 4 + [2.0] * 4)
    if weight is None:
        z, text = z[:4], text[:4]
    value = dreambooth.loss(ALPHA_BAR, prediction, weight)(
        Off(prediction), (z, text), torch.Generator().manual_seed(0)
    )
    assert value.item() == pytest.approx(9 + 4 * (weight or 0), rel=1e-3)


def test_the_loss_is_that_of_the_published_training_script(pipeline, examples):
    """Two forward passes and two means, as diffusers' train_dreambooth.py computes them."""
    learner = dreambooth.learner(pipeline, "unet")
    subject = dreambooth.ready(pipeline, learner, examples)
    z, text = subject.z[:4], subject.text[:4]
    value = dreambooth.loss(ALPHA_BAR, "v", 0.5)(learner, (z, text), torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    t = dreambooth.timesteps(4, 1000, generator)
    eps = torch.randn(z.shape, generator=generator)
    scheduler = pipeline.scheduler
    from diffusers import DDPMScheduler

    noised = DDPMScheduler.from_config(scheduler.config)
    zt, target = noised.add_noise(z, eps, t), noised.get_velocity(z, eps, t)
    halves = [
        torch.nn.functional.mse_loss(pipeline.unet(zt[i], t[i], text[i]).sample, target[i])
        for i in (slice(0, 2), slice(2, 4))
    ]
    assert value.item() == pytest.approx((halves[0] + 0.5 * halves[1]).item(), rel=1e-4)


# --- the ways ---


def test_what_learns_in_each_way(pipeline):
    u, e = (sum(p.numel() for p in part.parameters()) for part in (pipeline.unet, pipeline.text_encoder))
    linear = [
        (name, layer)
        for name, layer in pipeline.unet.named_modules()
        if isinstance(layer, torch.nn.Linear) and any(name.endswith(f".{each}") for each in dreambooth.SEEING)
    ]
    assert len(linear) > 8
    reading = [
        (name, layer)
        for name, layer in pipeline.text_encoder.named_modules()
        if any(name.endswith(f".{each}") for each in dreambooth.READING)
    ]
    assert len(reading) >= 4
    lora = sum(3 * (layer.in_features + layer.out_features) for _, layer in linear + reading)
    for way, count in {"lora": lora, "unet": u, "unet+text": u + e}.items():
        learner = dreambooth.learner(pipeline, way, rank=3)
        assert sum(p.numel() for p in learner.parameters() if p.requires_grad) == count, way
    with pytest.raises(ValueError, match="way='all', expected one of lora, unet, unet"):
        dreambooth.learner(pipeline, "all")


def test_adapters_begin_as_no_change_and_the_base_stays_as_it_is(pipeline, examples):
    before = copy.deepcopy(pipeline.unet.state_dict())
    learner = dreambooth.learner(pipeline, "lora")
    batch = dreambooth.ready(pipeline, learner, examples)
    t = torch.full((6,), 500)
    with torch.no_grad():
        states = pipeline.text_encoder(batch.text).last_hidden_state
        same = learner(batch.z, t, batch.text) - pipeline.unet(batch.z, t, states).sample
    assert same.abs().max() < 1e-6
    for way in dreambooth.WAYS:
        learner, run, steps = fit(pipeline, examples, way)
        list(steps)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())


def test_half_precision_stays_where_nothing_learns():
    """Adapters on a model that was loaded in half precision, as at full scale: they learn in float32."""
    half = small().to(torch.float16)
    kinds = {"lora": {torch.float16, torch.float32}, "unet": {torch.float32}, "unet+text": {torch.float32}}
    for way, kind in kinds.items():
        learner = dreambooth.learner(half, way)
        assert {p.dtype for p in learner.parameters()} == kind
        assert {p.dtype for p in learner.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("way", dreambooth.WAYS)
def test_a_pipeline_in_half_precision_draws_while_it_learns_and_afterwards(examples, way):
    half = small().to(torch.float16)
    learner, run, steps = fit(half, examples, way, replace(RECIPE, precision="fp16", steps=2))
    list(steps)
    call, z = {"steps": 2, "seed": 0, "batch": 2}, torch.randn(2, 4, 8, 8)

    @torch.no_grad()
    def answer(pipeline):
        assert asking.generate(pipeline, ["a sks fish"] * 2, **call).isfinite().all()
        with torch.autocast("cpu", torch.float16):  # noise of one seed depends on the precision
            return pipeline.unet(z, 500, latent.read(pipeline, ["a sks fish"] * 2)).sample.float()

    learning = answer(dreambooth.assemble(half, learner, learning=True))
    assert {p.dtype for p in learner.parameters() if p.requires_grad} == {torch.float32}
    after = dreambooth.assemble(half, learner)
    assert {p.dtype for p in after.unet.parameters()} == {torch.float16}
    assert (answer(after) - learning).abs().max() < 0.01


@pytest.mark.parametrize("way", dreambooth.WAYS)
def test_gradients_are_the_same_when_activations_are_computed_twice(pipeline, examples, way):
    found = []
    for thrifty in (False, True):
        torch.manual_seed(0)
        learner = dreambooth.learner(pipeline, way, thrifty=thrifty).train()
        batch = dreambooth.ready(pipeline, learner, examples)
        loss = dreambooth.loss(ALPHA_BAR, "v", 1.0)
        loss(learner, (batch.z, batch.text), torch.Generator().manual_seed(0)).backward()
        found.append([p.grad for p in learner.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    assert max((a - b).abs().max() for a, b in zip(*found, strict=True)) < 1e-5


# --- what is kept ---


@pytest.mark.parametrize("way", dreambooth.WAYS)
def test_what_is_saved_opens_in_stock_classes_and_draws_the_same(pipeline, examples, tmp_path, way):
    learner, _, steps = fit(pipeline, examples, way)
    list(steps)
    size = dreambooth.save(learner, tmp_path / "out")
    assert size == sum(f.stat().st_size for f in (tmp_path / "out").rglob("*.safetensors")) > 1000
    learned = dreambooth.assemble(pipeline, learner)
    stock = StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    stock.unet, stock.text_encoder = copy.deepcopy(pipeline.unet), copy.deepcopy(pipeline.text_encoder)
    if way == "lora":
        stock.load_lora_weights(tmp_path / "out")
    else:
        stock.unet = UNet2DConditionModel.from_pretrained(tmp_path / "out" / "unet")
    if way == "unet+text":
        stock.text_encoder = type(pipeline.text_encoder).from_pretrained(tmp_path / "out" / "text_encoder")
    again = dreambooth.load(pipeline, tmp_path / "out")

    def draw(one):
        call = {"num_inference_steps": 2, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
        one.set_progress_bar_config(disable=True)
        return one("a sks creature", **call).images

    assert abs(draw(learned) - draw(pipeline)).max() > 0.003
    assert abs(draw(learned) - draw(stock)).max() < 0.01  # half precision
    if way == "lora":
        stock.fuse_lora()  # the sums are rounded otherwise
    assert abs(draw(stock) - draw(again)).max() < 1e-5
    assert pipeline.unet is not again.unet
    assert (pipeline.text_encoder is again.text_encoder) == (way == "unet")
    assert not any("lora" in name for name, _ in pipeline.text_encoder.named_parameters())


def test_what_was_saved_before_is_gone(pipeline, tmp_path):
    dreambooth.save(dreambooth.learner(pipeline, "lora"), tmp_path / "out")
    size = dreambooth.save(dreambooth.learner(pipeline, "unet"), tmp_path / "out")
    (weights,) = (tmp_path / "out").rglob("*.safetensors")
    assert weights.parent.name == "unet" and weights.stat().st_size == size


def test_adapters_are_small_and_in_half_precision(pipeline, tmp_path):
    learner = dreambooth.learner(pipeline, "lora", rank=2)
    count = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    size = dreambooth.save(learner, tmp_path)
    weights = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert sum(w.numel() for w in weights.values()) == count
    assert 2 * count < size < 2 * count + 200 * len(weights)


@pytest.mark.parametrize(
    "fault", ["missing", "not finite", "other shape", "no safetensors", "not its weights"]
)
@pytest.mark.parametrize("way", ["lora", "unet"])
def test_weights_that_are_broken_say_so(pipeline, tmp_path, way, fault):
    dreambooth.save(dreambooth.learner(pipeline, way), tmp_path)
    path = next(tmp_path.rglob("*.safetensors"))
    weights = load_file(path)
    name = next(n for n, w in weights.items() if w.ndim == 2)
    if fault == "missing":
        path.unlink()
    elif fault == "not finite":
        weights[name][0, 0] = math.nan
    elif fault == "other shape":
        weights[name] = torch.zeros(3, 5)
    elif fault == "not its weights":
        weights = {"something.else": torch.zeros(3)}
    if fault not in ("missing", "no safetensors"):
        save_file(weights, path)
    if fault == "no safetensors":
        path.write_bytes(b"pickled" * 30)
    wanted = Exception if fault == "no safetensors" else ValueError
    words = {"missing": "expected what save", "not finite": "not finite", "no safetensors": ""}
    with pytest.raises(wanted, match=words.get(fault, "does not fit")):
        dreambooth.load(pipeline, tmp_path)


@pytest.mark.parametrize("way", dreambooth.WAYS)
def test_a_stopped_training_goes_on_from_its_last_snapshot(pipeline, examples, tmp_path, way):
    recipe = replace(RECIPE, steps=6)
    torch.manual_seed(0)
    unbroken, _, steps = fit(pipeline, examples, way, recipe, tmp_path / "a", every=2)
    list(steps)
    torch.manual_seed(0)
    _, _, steps = fit(pipeline, examples, way, recipe, tmp_path / "b", every=2)
    for progress in steps:
        if progress.step == 5:
            break
    resumed, run, steps = fit(pipeline, examples, way, recipe, tmp_path / "b", every=2)
    assert run.step == 4
    assert [progress.step for progress in steps] == [5, 6]
    for (name, a), b in zip(unbroken.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert list(dreambooth.snapshots(tmp_path / "b")) == [2, 4, 6]
    assert not list((tmp_path / "b").glob(".*"))


def test_a_snapshot_is_what_was_learned_by_then(pipeline, examples, tmp_path):
    learner, run, steps = fit(pipeline, examples, "lora", replace(RECIPE, steps=4), tmp_path, every=2)
    seen = {}
    for progress in steps:
        seen[progress.step] = [p.detach().clone() for p in learner.parameters() if p.requires_grad]
    fresh = dreambooth.learner(pipeline, "lora", rank=2)
    for step, path in dreambooth.snapshots(tmp_path).items():
        dreambooth.recall(fresh, path)
        own = [p for p in fresh.parameters() if p.requires_grad]
        assert max((a - b).abs().max() for a, b in zip(own, seen[step], strict=True)) < 1e-3
        count = sum(p.numel() for p in own)
        assert 2 * count < path.stat().st_size < 2 * count + 200 * len(own)


def test_a_full_disk_leaves_no_half_written_file(pipeline, examples, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    _, _, steps = fit(pipeline, examples, "lora", folder=tmp_path, every=2)
    with pytest.raises(OSError, match="No space"):
        list(steps)
    monkeypatch.undo()
    assert not [f for f in tmp_path.iterdir() if f.suffix == ".pt" or f.name.startswith(".")]
    monkeypatch.setenv("COURSE_SCALE", "mini")
    _, run, steps = fit(pipeline, examples, "lora", folder=tmp_path, every=2)
    assert run.step == 0 and len(list(steps)) == 3


# --- what the training loop learned for it ---


def test_without_an_average_there_is_no_second_network(pipeline):
    run = train.Run(dreambooth.learner(pipeline, "lora"), RECIPE)
    assert run.ema is run.model
    kept = run.state()
    assert set(kept["model"]) == {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert (
        train.Run(dreambooth.learner(pipeline, "lora"), replace(RECIPE, ema_decay=0.9)).ema is not run.model
    )


def test_half_precision_scales_the_loss_and_leaves_out_steps_that_overflow(pipeline, examples):
    learner, run, steps = fit(pipeline, examples, "unet", replace(RECIPE, precision="fp16", steps=4))
    before = [p.detach().clone() for p in learner.parameters()]
    assert run.scaler.get_scale() == 65536
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 3e38})
    next(steps)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    assert run.scaler.get_scale() < 2e38
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 128.0})
    assert all(math.isfinite(progress.loss) for progress in steps)
    assert not torch.equal(before[0], next(learner.parameters()))
    other = train.Run(learner, run.recipe)
    other.load(run.state())
    assert other.scaler.get_scale() == 128.0


def test_eight_bit_adam_where_it_is_installed(pipeline, monkeypatch):
    import sys
    from types import ModuleType

    asked = {}

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, parameters, **settings):
            asked.update(settings)
            super().__init__(parameters, **settings)

    module = ModuleType("bitsandbytes.optim")
    module.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    run = train.Run(dreambooth.learner(pipeline, "lora"), replace(RECIPE, adam_bits=8))
    assert isinstance(run.optimizer, AdamW8bit) and asked["betas"] == (0.9, 0.99) and asked["lr"] == 1e-2
