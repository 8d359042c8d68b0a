"""The shipped miniatures, on fixed samples: what their cards promise, through stock classes alone."""

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from course_utils import checkpoints, data

SEED = 4711  # of scenes that no recipe has drawn


@pytest.fixture(scope="module")
def clip():
    folder = checkpoints.verified("clip")
    return CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)


def test_clip_finds_the_right_caption_among_100(clip):
    from recipes.score import captions_of

    model, processor = clip
    scenes = data.scenes(100, seed=SEED, combinations="held out")
    captions = captions_of(scenes.labels)
    tokens = processor(text=captions, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        best = model(input_ids=tokens, pixel_values=data.to_model(scenes.images)).logits_per_image.argmax(1)
    assert sum(captions[i] == own for i, own in zip(best.tolist(), captions, strict=True)) >= 95


def test_clip_prepares_pictures_as_it_was_trained(clip):
    from PIL import Image

    picture = data.scenes(1, seed=SEED).images
    image = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    prepared = clip[1](images=image, return_tensors="pt").pixel_values
    assert (torch.as_tensor(prepared) - data.to_model(picture)).abs().max() < 0.01


def test_clip_knows_the_words_and_takes_any_other():
    tokenizer = CLIPTokenizer.from_pretrained(checkpoints.verified("clip"))
    assert all(len(tokenizer(word).input_ids) == 3 for word in data.scene_words())
    assert len(tokenizer("Schmetterling 蝶 🦋").input_ids) > 5
    long = tokenizer("a red fish " * 60, truncation=True).input_ids
    assert len(long) == 77 and long[-1] == tokenizer.eos_token_id


def test_no_class_is_named_that_older_versions_do_not_have():
    """Transformers 5 names the processors that go without torchvision; 4.51 knows but one of each kind."""
    configs = list(checkpoints.MINIATURES.rglob("*.json"))
    assert len(configs) > 20
    assert [path for path in configs if 'ImageProcessorPil"' in path.read_text(encoding="utf-8")] == []
