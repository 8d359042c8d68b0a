"""The individuals of the hackathon, their doubles, and the judge that tells them apart."""

import numpy as np
import pytest
import torch

from course_utils import data, scores
from course_utils.data import grammar, subjects
from recipes import judge

SEED = 4712  # of drawings that no recipe has made


def test_the_pictures_of_a_subject_are_scenes():
    found = data.subject("bubble", 4, background=("night", "snow"))
    assert [c.rsplit(" creature ")[1] for c in found.captions] == ["at night", "in the snow"] * 2
    assert found.masks.shape == (4, 1, 64, 64) and set(found.labels) == set(data.scenes(1).labels)


def test_a_place_is_called_as_in_the_captions():
    for name in grammar.ATTRIBUTES["background"]:
        assert (
            data.subject("ember", 1, background=name)
            .captions[0]
            .endswith(f"a creature {grammar.place(name)}")
        )


@pytest.mark.parametrize("name", subjects.SUBJECTS)
def test_a_double_has_the_colours_and_not_the_shape(name):
    own, double = (
        grammar.draw_subject(who, 12, seed=SEED, background="snow") for who in (name, f"{name}'s double")
    )

    def palette(drawn):
        """The share of each of 64 colours among the subject's pixels."""
        pixels = drawn.images.transpose(0, 2, 3, 1)[drawn.masks[:, 0] == 255] // 64
        return np.bincount(pixels @ [16, 4, 1], minlength=64) / len(pixels)

    others = grammar.draw(12, seed=SEED, combinations="any", noun="creature", background="snow", style="flat")
    apart = {
        who: np.abs(palette(own) - palette(drawn)).sum()
        for who, drawn in (("double", double), ("others", others))
    }
    assert apart["double"] < 0.8 * apart["others"]
    assert np.abs(own.masks.astype(float) - double.masks).mean() > 10  # of 255


def test_the_judges_drawings_are_half_individuals():
    drawn = judge.subjects(300, seed=SEED)
    assert drawn.labels["subject"].bincount().tolist() == [50, 50, 50, 150]
    assert drawn.images.shape == (300, 3, 64, 64)


def test_the_judge_tells_individuals_from_doubles_and_from_others():
    who = scores.load_judge("judge-subjects")
    drawn = judge.subjects(300, seed=SEED)
    assert scores.read(who, data.to_model(drawn.images)).right(drawn.labels["subject"]) >= 0.99
    blank = torch.zeros(1, 3, 64, 64)
    assert scores.read(who, blank).answer.item() == len(subjects.SUBJECTS)
