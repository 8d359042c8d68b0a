"""The training-time slider."""

import pytest
import torch

from course_utils import explore
from course_utils.jury import Judged, Scores
from tests.test_explore import assert_is_picture


@pytest.fixture(scope="module")
def judged():
    """Four snapshots: ever more red with the identifier, ever less green without it."""

    def pictures(red, green):
        x = torch.full((10, 3, 16, 16), -1.0)
        x[:, 0], x[:, 1] = red, green
        return x

    shares = {
        0: (0, 0.2, 1.0, 0),
        40: (0.5, 0.6, 0.97, 0.3),
        80: (0.9, 0.8, 0.93, 0.9),
        120: (1.0, 0.7, 0.4, 0.96),
    }
    return {
        step: Judged(Scores(*four), pictures(step / 120, -1.0), pictures(-1.0, 1 - step / 60))
        for step, four in shares.items()
    }


def assert_whole(drawn):
    """The legend lies inside the picture."""
    box = drawn.axes[1].get_legend().get_window_extent(drawn.canvas.get_renderer())
    assert box.x1 <= drawn.bbox.x1


@pytest.mark.parametrize("step", [0, 80, 120])
def test_it_tells_the_scores_of_the_step(judged, step):
    drawn = explore.draw_training_time(judged, step)
    assert_is_picture(drawn)
    scores = judged[step].scores
    for share in vars(scores).values():
        assert f"{share:.0%}" in drawn.alt
    assert f"{scores.leak:.0%} of the pictures for short prompts show the subject" in drawn.alt
    curves = {line.get_label() for line in drawn.axes[1].lines if not line.get_label().startswith("_")}
    assert curves == {"subject", "context", "prior", "leak"}
    assert_whole(drawn)
    assert f"After {step} of 120 steps: of 10 pictures" in drawn.alt


def test_the_steps_differ_and_the_same_step_is_the_same(judged):
    pictures = {step: explore.draw_training_time(judged, step).png() for step in judged}
    assert len(set(pictures.values())) == 4
    assert explore.draw_training_time(judged, 40).png() == pictures[40]
    with pytest.raises(ValueError, match="step=50, expected one of 0, 40, 80, 120"):
        explore.draw_training_time(judged, 50)


def test_the_slider_stops_at_every_snapshot(judged):
    box = explore.training_time(judged)
    (slider,) = box.children[0].children
    assert [value for value in slider.options] == [0, 40, 80, 120] and slider.value == 120
    seen = {box.children[1].value}
    for step in (0, 40, 80):
        slider.value = step
        seen.add(box.children[1].value)
        assert f"After {step} of 120 steps" in box.children[2].value
    assert len(seen) == 4


def test_the_sheet_shows_the_first_a_middle_and_the_last(judged):
    sheet = explore.training_time_sheet(judged)
    assert_is_picture(sheet)
    for step in (0, 80, 120):
        assert f"After {step} of 120 steps" in sheet.alt
    two = {step: judged[step] for step in (0, 40)}
    assert explore.training_time_sheet(two).alt.count("After") == 2
