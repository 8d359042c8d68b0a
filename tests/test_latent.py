"""The parts of Stable Diffusion one at a time, against the pipelines; and what these do silently."""

import pytest
import torch
from diffusers import (
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from course_utils import data, diffusion, guidance, latent, show
from recipes import depth
from recipes.sd import UNCHECKED
from tests.untrained import pipeline, shades

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "a drawing of a red fish on a beach"
STEPS = 5  # where 1000 is no multiple, Diffusers' DDIM rounds timesteps and strides apart


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def either(request):
    """Text to image, the network of either kind."""
    return pipeline(StableDiffusionPipeline, prediction=request.param, **UNCHECKED)


@pytest.fixture(scope="module")
def text_to_image():
    return pipeline(StableDiffusionPipeline, **UNCHECKED)


@pytest.fixture(scope="module")
def image_to_image(text_to_image):
    made = StableDiffusionImg2ImgPipeline(**text_to_image.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(show.pixels(data.scenes(1, seed=3).images)[0])


def drawn(pipe, prompt=PROMPT, steps=3, seed=0, **settings):
    """What the stock pipeline draws: (N, 3, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_inference_steps": steps, "generator": generator, "output_type": "pt"} | settings
    return pipe(prompt, **settings).images * 2 - 1


def denoiser(pipe, prompt, scale):
    both = (latent.denoiser(pipe, latent.read(pipe, [words])) for words in (prompt, ""))
    return guidance.classifier_free(*both, scale)


@pytest.mark.parametrize("scale", [1, 7.5])
@torch.no_grad()
def test_the_samplers_of_the_course_draw_what_the_pipeline_draws(either, scale):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha_bar, ts = either.scheduler.alphas_cumprod, diffusion.spaced_timesteps(STEPS)
    steps = diffusion.ddim(denoiser(either, PROMPT, scale), noise, alpha_bar, ts)
    ours, theirs = (
        latent.decode(either.vae, diffusion.last(steps)),
        drawn(either, steps=STEPS, guidance_scale=scale),
    )
    assert theirs.std() > 0.1  # there is something to see
    assert shades(ours, theirs) < 2


@pytest.mark.parametrize("strength", [0.34, 0.7])
@torch.no_grad()
def test_encoded_noised_and_walked_on_it_is_image_to_image(text_to_image, image_to_image, picture, strength):
    generator, pipe = torch.Generator().manual_seed(1), text_to_image
    z0 = latent.encode(pipe.vae, data.to_model(data.stack([picture])), generator)
    eps = torch.randn(z0.shape, generator=generator)
    ts = diffusion.spaced_timesteps(STEPS)[latent.start_step(STEPS, strength) :]
    alpha_bar = pipe.scheduler.alphas_cumprod
    zt = diffusion.add_noise(z0, eps, torch.tensor(ts[:1]), alpha_bar)
    ours = diffusion.last(diffusion.ddim(denoiser(pipe, PROMPT, 3.0), zt, alpha_bar, ts))
    theirs = drawn(image_to_image, steps=STEPS, seed=1, image=picture, strength=strength, guidance_scale=3.0)
    assert shades(latent.decode(pipe.vae, ours), theirs) < 2


def test_latents_are_the_mean_or_a_draw_times_the_factor(text_to_image, picture):
    vae, x = text_to_image.vae, data.to_model(data.stack([picture, picture]))
    with torch.no_grad():
        mean, std = (vae.encode(x).latent_dist.mean, vae.encode(x).latent_dist.std)
        factor = vae.config.scaling_factor
        assert (latent.encode(vae, x) - factor * mean).abs().max() < 1e-6
        eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(2))
        draw = latent.encode(vae, x, torch.Generator().manual_seed(2))
    assert (draw - factor * (mean + std * eps)).abs().max() < 1e-5
    assert latent.decode(vae, draw).abs().max() <= 1


def test_gradients_pass_only_where_they_are_asked_for(text_to_image):
    zt = torch.randn(1, 4, 8, 8, requires_grad=True)
    states = latent.read(text_to_image, [""]).detach()
    for wanted in (True, False):
        x0_hat = latent.denoiser(text_to_image, states, gradients=wanted)(zt, torch.tensor([500]))
        assert x0_hat.requires_grad == wanted
    assert latent.decode(text_to_image.vae, zt).requires_grad


@pytest.mark.parametrize("steps", [1, 7, 25, 50])
@pytest.mark.parametrize("strength", [0, 0.01, 0.29, 0.5, 0.58, 0.99, 1])
def test_image_to_image_starts_where_the_pipeline_starts(image_to_image, steps, strength):
    image_to_image.scheduler.set_timesteps(steps)
    theirs, _ = image_to_image.get_timesteps(steps, strength, "cpu")
    assert steps - len(theirs) == latent.start_step(steps, strength)


# What the pipelines do silently, or fail at obscurely


def the_one(sentences, *words):
    assert len(sentences) == 1
    assert all(word in sentences[0] for word in words), sentences[0]
    assert sentences[0][0].isupper() and sentences[0].endswith(".") and "\n" not in sentences[0]


def test_a_plain_call_means_what_it_says(text_to_image, picture):
    usual = {"negative_prompt": "a fish", "strength": 0.8, "height": 64, "width": 96, "image": picture}
    assert latent.caveats(text_to_image, PROMPT, **usual, mask_image=picture.convert("L")) == []
    assert latent.caveats(text_to_image) == []
    assert drawn(text_to_image, "").shape == (1, 3, 64, 64)
    assert drawn(text_to_image, height=64, width=96).shape == (1, 3, 64, 96)


@pytest.mark.parametrize("count", [75, 76, 200])
def test_of_a_long_prompt_the_beginning_is_read(text_to_image, count):
    prompt = " ".join(["red", "fish"] * count)
    words = prompt.split()[:count]
    with torch.no_grad():
        whole, cut = (latent.read(text_to_image, [" ".join(part)]) for part in (words, words[:75]))
    assert torch.equal(whole, cut)
    found = latent.caveats(text_to_image, " ".join(words))
    if count == 75:
        assert found == []
    else:
        the_one(found, f"a prompt of {count + 2} tokens", f"from {' '.join(words[75:80])!r} on")


def test_unknown_words_are_named_at_mini_scale_only(text_to_image, monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    prompt = "A photo of an astronaut, riding a Fish at night. An astronaut!"
    the_one(latent.caveats(text_to_image, prompt), "(astronaut, riding)")
    monkeypatch.setenv("COURSE_SCALE", "full")
    assert latent.caveats(text_to_image, prompt) == []


@pytest.mark.parametrize("scale", [0, 0.5, 1])
def test_guidance_up_to_1_is_off_and_reads_no_negative_prompt(text_to_image, scale):
    plain = drawn(text_to_image, guidance_scale=1)
    assert torch.equal(drawn(text_to_image, guidance_scale=scale, negative_prompt="a fish"), plain)
    assert not torch.equal(drawn(text_to_image, "", guidance_scale=scale), plain)
    found = latent.caveats(text_to_image, PROMPT, guidance_scale=scale)
    if scale < 1:
        the_one(found, f"guidance_scale={scale:g}, expected at least 1", "empty prompt")
    found = latent.caveats(text_to_image, PROMPT, guidance_scale=scale, negative_prompt="a fish")
    assert "negative prompt" in found[-1] and len(found) == 1 + (scale < 1)


@pytest.mark.parametrize(("steps", "strength", "least"), [(25, 0, 0.04), (10, 0.09, 0.1), (3, 0.333, 0.334)])
def test_without_a_step_image_to_image_fails_and_the_caveat_says_why(
    image_to_image, picture, steps, strength, least
):
    with pytest.raises(Exception) as caught:  # which one depends on the version
        drawn(image_to_image, steps=steps, image=picture, strength=strength)
    assert "strength" not in str(caught.value)
    found = latent.caveats(image_to_image, PROMPT, strength=strength, num_inference_steps=steps)
    the_one(found, f"strength={strength:g} with {steps} steps", f"at least {least:g}: below", "fails")
    assert drawn(image_to_image, steps=steps, image=picture, strength=least).shape == (1, 3, 64, 64)


def test_of_the_pipelines_that_fail_without_a_step_only_inpainting_says_why(image_to_image, picture):
    more = {"depth_estimator": depth.depth_network().eval(), "feature_extractor": depth.processor()}
    by_depth = pipeline(StableDiffusionDepth2ImgPipeline, 5, **more)
    for silent in (image_to_image, by_depth):
        with pytest.raises(Exception) as caught:
            drawn(silent, image=picture, strength=0)
        assert "strength" not in str(caught.value)
    inpainting = pipeline(StableDiffusionInpaintPipeline, 9, **UNCHECKED)
    with pytest.raises(ValueError, match="strength"):
        drawn(inpainting, image=picture, mask_image=picture.convert("L"), strength=0)


def test_the_least_strength_of_the_caveat_takes_one_step():
    for steps in range(1, 1001):
        (said,) = latent._about_strength(0, steps)
        least = float(said.split("at least ")[1].split(": below")[0])
        assert latent.start_step(steps, least) == steps - 1


def test_at_strength_1_the_source_no_longer_counts(image_to_image, picture):
    pictures = (drawn(image_to_image, image=image, strength=1.0) for image in (picture, picture.rotate(180)))
    assert shades(*pictures) < 2
    assert latent.caveats(image_to_image, PROMPT, strength=1.0) == []


def test_sizes_that_8_does_not_divide(text_to_image, image_to_image, picture):
    with pytest.raises(ValueError, match="divisible by 8"):
        drawn(text_to_image, height=60, width=64)
    the_one(latent.caveats(text_to_image, PROMPT, height=60, width=64), "height=60", "56 or 64")
    odd = picture.resize((60, 75))
    assert drawn(image_to_image, image=odd, strength=0.7).shape == (1, 3, 72, 56)
    the_one(latent.caveats(image_to_image, PROMPT, image=odd), "60 x 75 pixels", "56 x 72")


@pytest.mark.parametrize("given", ["height", "width"])
def test_height_or_width_alone_is_ignored(text_to_image, given):
    assert drawn(text_to_image, **{given: 128}).shape == (1, 3, 64, 64)
    the_one(latent.caveats(text_to_image, PROMPT, **{given: 128}), f"{given}=128 alone", "height and width")


def test_alpha_passes_for_latents_and_grey_fails(image_to_image, picture):
    clear = picture.convert("RGBA").resize((16, 16))
    assert drawn(image_to_image, image=clear, strength=1.0, steps=1).shape == (1, 3, 128, 128)
    the_one(latent.caveats(image_to_image, PROMPT, image=clear), "mode RGBA", "latents", "data.square()")
    grey = picture.convert("L")
    with pytest.raises(RuntimeError):
        drawn(image_to_image, image=grey)
    the_one(latent.caveats(image_to_image, PROMPT, image=grey), "mode L", "three channels", "data.square()")
    mended = data.square(clear, 64)
    assert latent.caveats(image_to_image, PROMPT, image=mended) == []
    assert drawn(image_to_image, image=mended, strength=0.7).shape == (1, 3, 64, 64)


def test_a_mask_of_another_size_is_stretched(picture):
    inpainting = pipeline(StableDiffusionInpaintPipeline, 9, **UNCHECKED)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    hole = {"image": picture, "height": 64, "width": 64}
    whole, half, flat = (
        drawn(inpainting, mask_image=mask.resize(size), **hole) for size in ((64, 64), (32, 32), (64, 32))
    )
    assert shades(whole, half) < 2 and shades(whole, flat) < 2  # the box stays a box
    assert latent.caveats(inpainting, PROMPT, image=picture, mask_image=mask.resize((32, 32))) == []
    found = latent.caveats(inpainting, PROMPT, image=picture, mask_image=mask.resize((64, 32)))
    the_one(found, "a mask of 64 x 32 pixels for an image of 64 x 64", "stretched")


# Pictures for a pipeline


def test_a_square_picture_is_rgb_on_white_and_of_the_asked_size():
    clear = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (5, 0, 10, 10))  # the left half of the central square
    made = data.square(clear, 8)
    assert (made.mode, made.size) == ("RGB", (8, 8))
    blue, white = torch.tensor([0, 0, 255]), torch.tensor([255, 255, 255])
    assert (torch.tensor(made.getpixel((0, 4))) - blue).abs().max() < 10  # the filter reaches across
    assert (torch.tensor(made.getpixel((7, 4))) - white).abs().max() < 10


def test_stacked_pictures_are_those_that_were_given(picture):
    stacked = data.stack([picture, picture.convert("L")])
    assert stacked.dtype == torch.uint8 and stacked.shape == (2, 3, 64, 64)
    assert Image.fromarray(show.pixels(stacked[:1])[0]).tobytes() == picture.tobytes()
    assert torch.equal(stacked[1, 0], stacked[1, 2])
