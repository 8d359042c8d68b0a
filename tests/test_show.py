"""Pictures of pictures: what stands where."""

import pytest
import torch

from course_utils import show


def test_a_strip_has_its_texts_below_the_last_row():
    columns = [("left", torch.zeros(2, 3, 4, 4)), ("right", torch.ones(2, 3, 4, 4))]
    drawn = show.strip(columns, ["a", "b"], below=["one\ntwo", "three"], alt="two columns")
    labels = [ax.get_xlabel() for ax in drawn.axes]  # row by row
    assert labels == ["", "", "one\ntwo", "three"]
    plain = show.strip(columns, ["a", "b"], alt="two columns")
    assert [ax.get_xlabel() for ax in plain.axes] == [""] * 4
    assert drawn.get_figheight() > plain.get_figheight()
    with pytest.raises(ValueError):
        show.strip(columns, ["a", "b"], below=["one"], alt="two columns")
