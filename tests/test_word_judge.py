"""A judge by words: it takes the place of a judge, and reads the drawings that it should be trusted with."""

import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from course_utils import checkpoints, data, scores

pytestmark = pytest.mark.usefixtures("one_thread")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")


@pytest.fixture(scope="module")
def parts():
    folder = checkpoints.verified("clip")
    return [each.from_pretrained(folder) for each in (CLIPModel, CLIPTokenizer, CLIPImageProcessor)]


@pytest.fixture(scope="module")
def judge(parts):
    sentences = [f"a drawing of a {colour} thing" for colour in COLOURS]
    return scores.WordJudge(*parts, {"colour": sentences, "snow": ["in the snow", "on a beach"]})


def test_it_reads_the_colour_of_drawings(judge):
    drawn = data.scenes(60, seed=31, combinations="any")
    reading = scores.read(judge, data.to_model(drawn.images))  # the first question is the colour
    assert reading.right(drawn.labels["colour"]) > 0.9
    assert judge.questions == {"colour": 8, "snow": 2}
    logits = judge(data.to_model(drawn.images[:3]))
    assert {name: tuple(each.shape) for name, each in logits.items()} == {"colour": (3, 8), "snow": (3, 2)}


def test_its_logits_are_those_of_clip(judge, parts):
    clip, tokenizer, processor = parts
    drawn = data.scenes(2, seed=32)
    from PIL import Image

    from course_utils import show

    images = [Image.fromarray(one) for one in show.pixels(drawn.images)]
    pixels = torch.as_tensor(processor(images=images, return_tensors="pt").pixel_values)
    tokens = tokenizer(["in the snow", "on a beach"], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = clip(**tokens, pixel_values=pixels).logits_per_image
    assert (judge(data.to_model(drawn.images))["snow"] - theirs).abs().max() < 0.01


def test_pictures_of_another_size_are_resized(judge):
    large = data.scenes(8, seed=33, size_px=128)
    assert scores.read(judge, data.to_model(large.images), "colour").right(large.labels["colour"]) > 0.7
