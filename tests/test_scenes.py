"""The drawn scenes: deterministic, in the ranges that they promise, true to their captions and masks."""

import numpy as np
import pytest
import torch

from course_utils import data
from course_utils.data import grammar
from course_utils.data.paint import COLOURS


def test_a_scene_depends_on_seed_and_number_alone():
    few, many = data.scenes(3, seed=5), data.scenes(8, seed=5)
    assert torch.equal(few.images, many.images[:3])
    assert few.captions == many.captions[:3]
    assert torch.equal(data.scenes(2, seed=5, start=6).images, many.images[6:])
    assert not torch.equal(few.images, data.scenes(3, seed=6).images)


@pytest.mark.parametrize("size_px", [32, 64, 128])
def test_shapes_types_and_ranges(size_px):
    scenes = data.scenes(6, size_px=size_px)
    assert scenes.images.shape == (6, 3, size_px, size_px)
    assert scenes.masks.shape == scenes.depths.shape == (6, 1, size_px, size_px)
    assert scenes.images.dtype == scenes.masks.dtype == scenes.depths.dtype == torch.uint8
    assert scenes.masks.amax((1, 2, 3)).eq(255).all()
    share = (scenes.masks > 127).float().mean((1, 2, 3))
    assert share.min() > 0.05
    assert share.max() < 0.6


def test_the_grammar_has_what_the_course_promises():
    sizes = {name: len(values) for name, values in grammar.ATTRIBUTES.items()}
    assert sizes == {"noun": 6, "colour": 8, "pattern": 4, "background": 5, "style": 3}
    assert {"butterfly", "flower"} <= set(grammar.ATTRIBUTES["noun"])


def test_a_tenth_of_all_combinations_is_held_out_and_never_drawn_for_training():
    out = grammar.held_out()
    assert 0.1 <= out.mean() < 0.11
    for axis in range(4):  # every noun, colour, pattern and background is still seen
        assert (~out).any(tuple(set(range(4)) - {axis})).all()

    def held(scenes):
        return out[tuple(scenes.labels[name].numpy() for name in ("noun", "colour", "pattern", "background"))]

    assert not held(data.scenes(300, size_px=16)).any()
    assert held(data.scenes(50, size_px=16, combinations="held out")).all()
    assert 0 < held(data.scenes(300, size_px=16, combinations="any")).mean() < 0.3


def test_the_pieces_of_a_subject_have_its_colour():
    palette = torch.tensor([main for main, _ in COLOURS.values()]) * 255
    for number, colour in enumerate(COLOURS):
        scenes = data.scenes(4, combinations="any", colour=colour, pattern="plain", style="flat", noun="fish")
        for image, mask in zip(scenes.images, scenes.masks[:, 0] > 250, strict=True):
            typical = image[:, mask].float().median(1).values
            assert (palette - typical).norm(dim=1).argmin() == number, colour


def test_depth_is_highest_on_the_subject_and_none_in_the_sky():
    scenes = data.scenes(20, combinations="any", noun="fish")
    inside = (scenes.masks > 250).float()
    outside = (scenes.masks < 5).float()
    depths = scenes.depths.float()
    assert ((depths * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))).min() > 180
    assert (depths * outside).amax((1, 2, 3)).max() < 140
    assert (depths[:, :, 0] * outside[:, :, 0]).max() == 0


def test_captions_say_the_attributes_and_vary():
    chosen = {"noun": 0, "colour": 4, "pattern": 1, "background": 0, "style": 0}
    assert grammar.caption(chosen) == "a drawing of a spotted blue butterfly in a meadow"
    orange = chosen | {"colour": 1, "pattern": 0, "style": 1}
    assert grammar.caption(orange) == "a pencil sketch of a plain orange butterfly in a meadow"
    rng = np.random.default_rng(0)
    assert len({grammar.caption(chosen, rng) for _ in range(100)}) > 8
    assert all("blue" in grammar.caption(chosen, rng) for _ in range(50))
    unsaid = [grammar.caption(chosen, rng, leave_out=0.5) for _ in range(200)]
    assert all("butterfly" in caption for caption in unsaid)
    assert 0.3 < np.mean(["blue" in caption for caption in unsaid]) < 0.7


def test_the_words_of_the_captions_are_listed():
    said = {word for caption in data.scenes(2000, size_px=16).captions for word in caption.split()}
    assert said == set(data.scene_words())
    assert {"butterfly", "striped", "neon", "sks", "a", "an"} <= said


def test_the_article_fits_the_word():
    chosen = {"noun": 3, "colour": 1, "pattern": 2, "background": 3, "style": 2}
    rng = np.random.default_rng(0)
    for _ in range(200):
        words = grammar.caption(chosen, rng, leave_out=0.3).split()
        for article, word in zip(words, words[1:], strict=False):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), " ".join(words)


def test_fixed_attributes_hold_and_unknown_ones_say_what_is_known():
    scenes = data.scenes(10, size_px=16, noun="fish", style="neon")
    assert {grammar.ATTRIBUTES["noun"][i] for i in scenes.labels["noun"]} == {"fish"}
    with pytest.raises(ValueError, match=r"noun='dragon', expected one of butterfly, flower"):
        data.scenes(1, noun="dragon")
    with pytest.raises(ValueError, match=r"animal='fish', expected noun, colour"):
        data.scenes(1, animal="fish")
    with pytest.raises(ValueError, match="count=0"):
        data.scenes(0)


def test_a_part_of_the_set_keeps_captions_masks_and_depths_together():
    scenes = data.scenes(6, size_px=16)
    part = scenes[torch.tensor([4, 1])]
    assert part.captions == (scenes.captions[4], scenes.captions[1])
    assert torch.equal(part.masks, scenes.masks[[4, 1]])
    assert torch.equal(part.depths, scenes.depths[[4, 1]])
    assert torch.equal(part.labels["noun"], scenes.labels["noun"][[4, 1]])
    assert scenes[:2].captions == scenes.captions[:2]


def palettes(drawn):
    """Mean colour of the subject in each picture: (N, 3)."""
    pairs = zip(drawn.images, drawn.masks[:, 0] > 250, strict=True)
    return np.stack([image[:, inside].mean(1) for image, inside in pairs])


def test_an_individual_keeps_its_look_and_its_caption_does_not_tell_it():
    drawn = {name: grammar.draw_subject(name, 6, background="meadow") for name in grammar.SUBJECTS}
    for name, own in drawn.items():
        assert set(own.captions) == {"a drawing of a creature in a meadow"}
        assert np.array_equal(own.images[:2], grammar.draw_subject(name, 2, background="meadow").images)
        assert palettes(own).std(0).max() < 12  # of 255: its colours never change
    means = [palettes(own).mean(0) for own in drawn.values()]
    assert min(np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]) > 25
    with pytest.raises(ValueError, match="subject 'nessie', expected one of bubble"):
        grammar.draw_subject("nessie", 1)
