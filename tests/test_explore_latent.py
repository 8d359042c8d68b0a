"""The widgets of Stable Diffusion: what the prompt explorer and the latent viewer draw and tell."""

import html
import io
import string

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from matplotlib.text import Text
from PIL import Image

from course_utils import data, explore, latent
from course_utils.explore import latents, prompt
from recipes.sd import UNCHECKED
from tests.untrained import pipeline

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = {"steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def text_to_image():
    return pipeline(StableDiffusionPipeline, **UNCHECKED)


@pytest.fixture(scope="module")
def scenes():
    return data.scenes(3, seed=5)


@pytest.fixture(autouse=True)
def mini(monkeypatch):
    """At mini scale, and the widgets begin with 2 steps."""
    monkeypatch.setenv("COURSE_SCALE", "mini")
    monkeypatch.setenv("COURSE_REHEARSAL", "2")


def assert_is_drawn(png):
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[:, -1] == 255).all() and (pixels != 255).mean() > 0.02


def parts(widget):
    """The widget's controls, its picture's bytes, and its line of text."""
    box, picture, text = widget.children
    return box.children, picture.value, html.unescape(text.value)


# The prompt explorer


@pytest.mark.parametrize("scheduler", list(prompt.SCHEDULERS))
def test_it_draws_with_every_scheduler_and_leaves_the_pipeline_alone(text_to_image, scheduler):
    kept = text_to_image.scheduler
    drawn = explore.draw_prompt_explorer(text_to_image, "a fish", scheduler=scheduler, **FEW)
    assert text_to_image.scheduler is kept
    assert text_to_image._progress_bar_config == {"disable": True}
    assert_is_drawn(drawn.png())
    for words in (f"2 steps of {scheduler}", "the seeds 3 to 5", "2 of the prompt's 2 tokens", "diversity"):
        assert words in drawn.alt
    again = explore.draw_prompt_explorer(text_to_image, "a fish", scheduler=scheduler, **FEW)
    assert again.png() == drawn.png() and again.alt == drawn.alt


def test_its_pictures_are_those_of_the_pipeline(text_to_image, monkeypatch):
    seen = {}
    tiles = prompt.tiles
    monkeypatch.setattr(prompt, "tiles", lambda ax, x, labels: seen.update(x=x) or tiles(ax, x, labels))
    explore.draw_prompt_explorer(text_to_image, "a fish", guidance=3, **FEW)
    for i in range(3):
        settings = {"generator": torch.Generator().manual_seed(3 + i), "output_type": "pt"}
        one = text_to_image("a fish", num_inference_steps=2, guidance_scale=3, **settings).images
        assert (seen["x"][i] - (one[0] * 2 - 1)).abs().max() < 0.01


def test_it_tells_what_the_pipeline_does_silently(text_to_image):
    long = "a photo of an astronaut " * 30
    drawn = explore.draw_prompt_explorer(text_to_image, long, **FEW)
    notes = latent.caveats(text_to_image, long)
    assert len(notes) == 2 and all(note in drawn.alt for note in notes)
    assert "\n" not in drawn.alt and len(drawn.alt) < 900
    empty = explore.draw_prompt_explorer(text_to_image, "", **FEW)
    assert "0 of the prompt's 0 tokens" in empty.alt


def test_what_it_draws_is_english_in_every_language(text_to_image, wide):
    long = "a photo of an astronaut " * 30
    assert wide("is cut off") in latent.caveats(text_to_image, long)[0]
    drawn = explore.draw_prompt_explorer(text_to_image, long, **FEW)
    written = " ".join(text.get_text() for text in drawn.findobj(Text)) + drawn.alt
    assert "is cut off" in written and not set(wide(string.ascii_letters)) & set(written)


@pytest.mark.parametrize("strange", ["$a$_{b", "<b>é</b> \\ 蝶 🦋", "x" * 500])
def test_any_prompt_can_be_drawn(text_to_image, strange):
    assert_is_drawn(explore.draw_prompt_explorer(text_to_image, strange, **FEW).png())


def test_an_unknown_scheduler_is_named_and_the_pipeline_left_alone(text_to_image):
    kept = text_to_image.scheduler
    with pytest.raises(ValueError, match="scheduler='Heun', expected one of 'DDIM', 'Euler'"):
        explore.draw_prompt_explorer(text_to_image, "a fish", scheduler="Heun")
    assert text_to_image.scheduler is kept


def test_one_step_is_not_called_steps(text_to_image):
    drawn = explore.draw_prompt_explorer(text_to_image, "a fish", steps=1)
    written = " ".join(text.get_text() for text in drawn.findobj(Text))
    assert "1 step of DDIM" in written and "1 step of DDIM" in drawn.alt


# The latent viewer


@pytest.mark.parametrize("channel", [1, 4])
@pytest.mark.parametrize("factor", latents.FACTORS)
def test_the_viewer_tells_what_each_channel_changes(text_to_image, scenes, channel, factor):
    vae = text_to_image.vae
    drawn = explore.draw_latent_viewer(vae, scenes, picture=2, channel=channel, factor=factor)
    with torch.no_grad():
        z = vae.encode(data.to_model(scenes.images[2:])).latent_dist.mean
        plain = vae.decode(z).sample.clamp(-1, 1)
        changes = []
        for i in range(4):
            changed = z.clone()
            changed[:, i] *= factor
            changes.append((vae.decode(changed).sample.clamp(-1, 1) - plain).square().mean().sqrt().item())
    assert ", ".join(f"{change:.2f}" for change in changes) in drawn.alt
    assert f"channel {channel} is shown" in drawn.alt and "4 channels of 8 x 8 latents" in drawn.alt
    assert_is_drawn(drawn.png())
    assert (max(changes) > 0.01) == (factor != 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channel": 5}, "got channel=5, expected 1 to 4"),
        ({"factor": 3}, "got factor=3, expected one of -1, 0, 0.5, 1, 2"),
        ({"picture": 3}, "got picture=3, expected 0 to 2"),
    ],
)
def test_settings_out_of_range_are_named(text_to_image, scenes, settings, message):
    with pytest.raises(ValueError, match=message):
        explore.draw_latent_viewer(text_to_image.vae, scenes, **settings)


# Sheets and controls


def test_sheets_show_several_settings(text_to_image, scenes):
    sheet = explore.prompt_explorer_sheet(text_to_image, "a fish")
    assert_is_drawn(sheet.png())
    for words in (
        "(2) 3 pictures of the prompt 'a fish'",
        "guidance scale 1;",
        "(4) 3 pictures of the prompt ''",
    ):
        assert words in sheet.alt
    sheet = explore.latent_viewer_sheet(text_to_image.vae, scenes)
    assert_is_drawn(sheet.png())
    assert "(4) Picture 0" in sheet.alt and "channel 4 is shown" in sheet.alt


@pytest.fixture(params=["prompt_explorer", "latent_viewer"])
def widget(request, text_to_image, scenes):
    if request.param == "prompt_explorer":
        return explore.prompt_explorer(text_to_image)
    return explore.latent_viewer(text_to_image.vae, scenes)


def values(control):
    """Both ends and the middle; of a text, three of which one is empty."""
    if hasattr(control, "min"):
        return [control.min, (control.min + control.max) // 2, control.max]
    if hasattr(control, "options"):
        options = [one[1] if isinstance(one, tuple) else one for one in control.options]
        return [options[0], options[len(options) // 2], options[-1]]
    return ["a bird", "", "a blue flower in winter"]


def test_both_ends_and_the_middle_of_every_control_draw_another_picture(widget):
    for control in parts(widget)[0]:
        assert control.description and control.style.description_width == "initial"
        for value in values(control):
            if control.description == "steps" and value > 10:
                continue  # only slower
            _, picture, text = parts(widget)
            moved = value != control.value
            control.value = value
            _, new_picture, new_text = parts(widget)
            assert "Cannot draw" not in new_text and len(new_text) > 80
            assert_is_drawn(new_picture)
            assert (new_picture != picture) == moved


def test_slow_drawings_wait_for_the_end_of_a_movement(text_to_image):
    typed, *sliders, _ = parts(explore.prompt_explorer(text_to_image))[0]
    assert not any(control.continuous_update for control in (typed, *sliders))
