"""The recipes: every loss can be learned from, every untrained network fits its stock pipeline."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
from diffusers import (
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
)
from transformers import CLIPTextModel

from course_utils import data, train
from recipes import clip, common, depth, inpainting, score, sd, upscaler, vae


@pytest.fixture(scope="module")
def scenes():
    return data.scenes(8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return clip.train_tokenizer(data.scenes(400, size_px=16).captions, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def untrained(tokenizer):
    """The parts that the recipes take from runs/, untrained."""
    torch.manual_seed(0)
    vaes = {name: vae.network(widths).eval() for name, (widths, _) in vae.PLANS.items()}
    vaes["vae-upscaler"].register_to_config(scaling_factor=vae.UPSCALER_FACTOR)
    return vaes, clip.network(tokenizer)


def text_encoder(network):
    """The text half of a CLIPModel."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return CLIPTextModel.from_pretrained(folder).eval()


@pytest.fixture
def parts(untrained, tokenizer, monkeypatch, tmp_path):
    vaes, network = untrained
    encoder = text_encoder(network)
    monkeypatch.setattr(common, "RUNS", tmp_path)
    monkeypatch.setattr(vae, "load", lambda name="vae": vaes[name])
    monkeypatch.setattr(clip, "load", lambda: (encoder, tokenizer))


def gradient(loss, network, batch):
    """Loss and size of the gradient after one batch."""
    value = loss(network, batch, torch.Generator().manual_seed(0))
    value.backward()
    return value.item(), sum(p.grad.square().sum() for p in network.parameters() if p.grad is not None).sqrt()


@pytest.mark.parametrize("name", list(vae.PLANS))
def test_a_vae_has_the_promised_latents_and_learns(name, scenes):
    network = vae.network(vae.PLANS[name][0])
    batch = data.to_model(scenes.images[:2]), vae.pixel_weights(scenes.masks[:2])
    value, norm = gradient(vae.loss, network, batch)
    assert 0 < value < 10 and norm > 0
    size = {"vae": 8, "vae-upscaler": 16}[name]
    assert vae.encode(network, scenes.images[:2]).shape == (2, 4, size, size)
    assert vae.rebuild(network, scenes.images[:2]).shape == (2, 3, 64, 64)


def test_the_decoder_learns_on_alone(parts, scenes, monkeypatch):
    from diffusers import AutoencoderKL

    monkeypatch.setattr(common, "scenes", lambda count: scenes)
    monkeypatch.setattr(common, "PICTURES", len(scenes))
    monkeypatch.setattr(vae, "DECODER", train.Recipe(steps=2, learning_rate=1e-3, warmup_steps=1))
    before = copy.deepcopy(vae.load().state_dict())
    vae.finish_decoder()
    after = AutoencoderKL.from_pretrained(common.RUNS / "vae-done").state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"post_quant_conv", "decoder"}


def test_a_pixel_of_the_subject_counts_four_times(scenes):
    weights = vae.pixel_weights(scenes.masks)
    subject, background = weights[scenes.masks == 255], weights[scenes.masks == 0]
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert (subject / background[0] - 4).abs().max() < 1e-4 and background.std() < 1e-6


def test_a_magnified_vae_decodes_the_same(scenes):
    torch.manual_seed(0)
    network, x = vae.network((32, 64)).eval(), data.to_model(scenes.images[:2])
    before, rebuilt = network.encode(x).latent_dist, vae.rebuild(network, scenes.images[:2])
    vae.magnify(network, 7.0)
    after = network.encode(x).latent_dist
    assert (after.mean / 7 - before.mean).abs().max() < 1e-5
    assert (after.std / 7 - before.std).abs().max() < 1e-5
    assert (vae.rebuild(network, scenes.images[:2]) - rebuilt).abs().max() < 1e-5


def test_every_word_of_the_captions_is_one_token_and_no_word_is_unknown(tokenizer):
    rng = torch.Generator().manual_seed(0)
    chosen = data.scenes(40, size_px=16, seed=int(torch.randint(99, (), generator=rng)))
    for caption in chosen.captions:
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 2
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption
    for strange in ("zyzzyva", "Schmetterling", "蝶", "🦋", "naïve"):
        ids = tokenizer(strange).input_ids[1:-1]
        assert ids and tokenizer.unk_token_id not in ids
    assert tokenizer.model_max_length == 77


def test_clip_tells_pairs_apart_only_by_what_it_is_shown(tokenizer, scenes):
    network = clip.network(tokenizer)
    tokens = tokenizer(list(scenes.captions), padding=True, return_tensors="pt").input_ids
    value, norm = gradient(clip.loss, network, (tokens, data.to_model(scenes.images)))
    assert 0.5 < value < 6 and norm > 0


def test_what_follows_the_end_token_does_not_change_the_text(tokenizer):
    """So training on short captions, and sampling with 77 tokens, see the same states."""
    encoder = text_encoder(clip.network(tokenizer))
    text = ["a drawing of a red fish at night"]
    with torch.no_grad():
        short = encoder(tokenizer(text, return_tensors="pt").input_ids)
        long = encoder(tokenizer(text, padding="max_length", return_tensors="pt").input_ids)
    length = short.last_hidden_state.shape[1]
    assert (short.last_hidden_state - long.last_hidden_state[:, :length]).abs().max() < 1e-5
    assert (short.pooler_output - long.pooler_output).abs().max() < 1e-5


def test_text_to_image_in_the_stock_pipeline(parts, scenes):
    latents, text, empty = sd.conditions(scenes)
    batch = sd.batch_at(0, latents, text, empty)
    assert batch[0].shape == (sd.BATCH, 4, 8, 8) and batch[1].shape == (sd.BATCH, 77, 128)
    unet = sd.network()
    value, norm = gradient(sd.conditional_loss, unet, tuple(x[:4] for x in batch))
    assert 0 < value < 20 and norm > 0
    pipeline = sd.assemble(StableDiffusionPipeline, unet, **sd.UNCHECKED)
    assert score.generate(pipeline, ["a fish"] * 3, batch=2, steps=2).shape == (3, 3, 64, 64)


def test_what_took_long_is_computed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RUNS", tmp_path / "runs")
    asked = []

    def make():
        asked.append(1)
        return torch.arange(3)

    assert torch.equal(common.kept("x", make), common.kept("x", make)) and len(asked) == 1


def test_a_tenth_of_the_captions_is_left_out(parts, scenes):
    latents, text, empty = sd.conditions(scenes)
    states = torch.cat([sd.batch_at(n, latents, text, empty)[1] for n in range(20)])
    share = (states == empty.float()).all((1, 2)).float().mean()
    assert 0.06 < share < 0.14


@pytest.fixture
def like_sd(monkeypatch):
    """A U-Net in the place of the trained one."""
    unet = sd.network()
    with torch.no_grad():
        unet.conv_out.weight.normal_(0, 0.1)
    monkeypatch.setattr(inpainting, "text_to_image_unet", lambda: unet)
    return unet


@pytest.mark.parametrize("channels", [5, 9])
def test_a_widened_network_begins_as_the_one_it_comes_from(like_sd, channels):
    wide = inpainting.widened(channels).eval()
    xt, text, t = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 128), torch.tensor([3, 900])
    more = torch.randn(2, channels - 4, 8, 8)
    with torch.no_grad():
        difference = wide(torch.cat([xt, more], 1), t, text).sample - like_sd.eval()(xt, t, text).sample
    assert difference.abs().max() < 1e-5


def test_inpainting_in_the_stock_pipeline(parts, like_sd, scenes):
    masks = inpainting.random_masks(scenes.masks)
    assert masks.shape == (8, 1, 64, 64) and set(masks.unique().tolist()) <= {0.0, 1.0}
    covered = (scenes.masks[1::2] > 127) & (masks[1::2] == 0)
    assert not covered.any()  # every other mask covers all of its subject
    assert inpainting.masked_latents(vae.load(), scenes.images, masks).shape == (8, 4, 8, 8)
    pipeline = sd.assemble(StableDiffusionInpaintPipeline, inpainting.widened(9), **sd.UNCHECKED)
    found = inpainting.measured(pipeline, count=4)
    assert 0 < found["outside, VAE"] < 2 and 0 < found["outside"] < 2


def test_depth_to_image_in_the_stock_pipeline(parts, like_sd, scenes):
    estimator = depth.depth_network()
    value, norm = gradient(
        depth.depth_loss, estimator, (data.to_model(scenes.images), scenes.depths[:, 0].float() / 255)
    )
    assert 0 < value < 10 and norm > 0
    small = depth.small(scenes.depths[:, 0].float() / 255)
    assert (
        small.shape == (8, 1, 8, 8)
        and small.amin((1, 2, 3)).eq(-1).all()
        and small.amax((1, 2, 3)).eq(1).all()
    )
    more = {"depth_estimator": estimator.eval(), "feature_extractor": depth.processor()}
    pipeline = sd.assemble(StableDiffusionDepth2ImgPipeline, inpainting.widened(5), **more)
    found = depth.measured(pipeline, count=4)
    assert set(found) == {*scenes.labels, "all", "outline", "outline, VAE", "outline, given"}
    assert all(0 <= share <= 1 for share in found.values())


def test_the_upscaler_in_the_stock_pipeline(parts, scenes):
    auto = vae.load("vae-upscaler")
    batch = sd.batch_at(0, *sd.conditions(scenes, "vae-upscaler"), upscaler.shrink(scenes.images))
    unet = upscaler.network()
    value, norm = gradient(upscaler.loss, unet, tuple(x[:2] for x in batch))
    assert 0 < value < 20 and norm > 0
    more = {"low_res_scheduler": upscaler.low_res_scheduler(), "max_noise_level": upscaler.MAX_NOISE}
    pipeline = sd.assemble(StableDiffusionUpscalePipeline, unet, vae=auto, **more)
    assert all(0 < decibels < 60 for decibels in upscaler.measured(pipeline, count=2).values())


def test_psnr_of_a_known_error():
    x = torch.zeros(2, 3, 4, 4)
    assert upscaler.psnr(x + 0.2, x) == pytest.approx(20, abs=1e-4)  # 10 log10(2^2 / 0.2^2)


def test_a_training_resumes_and_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RUNS", tmp_path)
    recipe = train.Recipe(steps=6, warmup_steps=1, precision="fp32")

    def loss(model, x, generator):
        return (model(x) - torch.randn(len(x), 1, generator=generator)).square().mean()

    def network():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 1)

    def batch_at(n):
        if n == 4 and not broken:
            broken.append(n)
            raise KeyboardInterrupt
        return torch.full((5, 3), float(n))

    broken = [None]
    unbroken = common.fit("a", network(), recipe, batch_at, loss, every=2)
    broken.clear()
    with pytest.raises(KeyboardInterrupt):
        common.fit("b", network(), recipe, batch_at, loss, every=2)
    resumed = common.fit("b", network(), recipe, batch_at, loss, every=2)
    assert torch.equal(unbroken.weight, resumed.weight)


def test_the_judge_is_asked_for_each_attribute_and_for_all():
    class Fixed(torch.nn.Module):
        questions = {"noun": 2, "colour": 2}

        def forward(self, x):
            return {name: x[:, i, 0, :2] * 9 for i, name in enumerate(self.questions)}

    x = torch.zeros(4, 2, 1, 2)
    x[:, 0, 0, 1] = torch.tensor([1.0, 1, -1, -1])  # noun: 1, 1, 0, 0
    x[:, 1, 0, 1] = torch.tensor([1.0, -1, 1, -1])  # colour: 1, 0, 1, 0
    ones = torch.ones(4, dtype=torch.long)
    assert score.right(Fixed(), x, {"noun": ones, "colour": ones}) == {
        "noun": 0.5,
        "colour": 0.5,
        "all": 0.25,
    }


def test_every_figure_is_shown():
    from recipes.figures import FIGURES

    root = Path(__file__).parents[1]
    for figure in map(Path, FIGURES):
        assert (root / figure).exists()
        pages = [root / "README.md", root / figure.parts[0] / "README.md"]
        assert any(f"figures/{figure.name})" in page.read_text(encoding="utf-8") for page in pages), figure
