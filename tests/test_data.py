"""Drawn butterflies, digits, and batches; test_hub.py has the published sets."""

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import data

drawn = importlib.import_module("course_utils.data.butterflies")  # data.butterflies is the function


@pytest.fixture(autouse=True)
def _mini(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "mini")


# Butterflies


@pytest.fixture(scope="module")
def some():
    return data.butterflies(200, size_px=16)


def test_butterflies_are_the_same_for_the_same_seed(some):
    again, other = data.butterflies(20, size_px=16), data.butterflies(20, size_px=16, seed=1)
    assert torch.equal(some.images[:20], again.images)  # the first of a larger set, too
    assert all(torch.equal(some.labels[name][:20], again.labels[name]) for name in data.NAMES)
    assert not (again.images == other.images).all(dim=(1, 2, 3)).any()
    later = drawn.draw(5, size_px=16, start=15)
    assert np.array_equal(later.images, again.images[15:].numpy())


def test_butterflies_are_pictures_and_no_two_are_alike(some):
    assert some.images.dtype == torch.uint8 and some.images.shape == (200, 3, 16, 16)
    assert len({picture.numpy().tobytes() for picture in some.images}) == 200
    assert data.butterflies(1, size_px=40).images.shape == (1, 3, 40, 40)


def test_every_attribute_occurs_and_is_seen(some):
    for name, names in data.NAMES.items():
        assert set(some.labels[name].tolist()) == set(range(len(names))), name
    means = some.images.float().mean((0, 2, 3))
    night = some.labels["background"] == list(drawn.BACKGROUNDS).index("night")
    assert some.images[night][:, :, 0, :].float().mean() < 40 < means.min()  # the topmost row is background
    red, blue = (some.labels["colour"] == list(drawn.COLOURS).index(name) for name in ("red", "blue"))
    reddish = some.images.float()[:, 0] - some.images.float()[:, 2]
    assert reddish[red].mean() > reddish[blue].mean() + 30


def test_both_wings_are_alike():
    """Bilateral: neither turned nor shifted, on a plain background, it is its own mirror image."""

    class Still:
        """Draws the middle of what is asked for: no turn, no shift, no discs in the background."""

        def uniform(self, low, high, size=None):
            return (low + high) / 2 if size is None else np.full(size, (low + high) / 2)

        def normal(self, mean, std, size=None):
            return mean if size is None else np.full(size, mean)

        def integers(self, low, high=None):
            return 0

    picture, _ = drawn._draw_one(Still(), 32)
    assert np.abs(picture.astype(int) - picture[:, :, ::-1]).max() <= 1


@pytest.mark.parametrize(("count", "size_px"), [(0, 32), (5, 4)])
def test_impossible_butterflies_are_refused(count, size_px):
    with pytest.raises(ValueError, match=f"got count={count} and size_px={size_px}, expected count >= 1"):
        data.butterflies(count, size_px=size_px)


# Sets


def test_digits_are_real_handwriting():
    digits = data.digits()
    assert digits.images.shape == (1797, 1, 8, 8) and digits.images.dtype == torch.uint8
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert len(digits.images.unique()) == 17  # grey levels
    assert torch.bincount(digits.labels["digit"]).min() > 170
    assert digits.labels["digit"].dtype == torch.int64


def test_load_knows_every_kind(tmp_path):
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "a.png")
    assert data.load("butterflies", size_px=16, count=3).images.shape == (3, 3, 16, 16)
    assert torch.equal(data.load("digits", size_px=8).images, data.digits().images)
    larger = data.load("digits", size_px=16, count=5)
    assert larger.images.shape == (5, 1, 16, 16) and len(larger.labels["digit"]) == 5
    assert larger.images.dtype == torch.uint8 and larger.images.max() > 200
    pixel = data.load(str(tmp_path), size_px=8).images[0, :, 0, 0]
    assert pixel.tolist() == [1, 2, 3]
    with pytest.raises(
        FileNotFoundError,
        match="got cats, which does not exist, expected a folder of pictures .or butterflies",
    ):
        data.load("cats", size_px=8)


def test_a_folder_of_the_readers_own_named_as_a_hub_set_would_be(tmp_path, monkeypatch):
    (tmp_path / "my" / "cats").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "my" / "cats" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(data.load("my/cats", size_px=8)) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(data.load("~/my/cats", size_px=8)) == 1


def test_an_unknown_scale_is_refused(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "huge")
    with pytest.raises(
        ValueError, match="got COURSE_SCALE='huge', expected mini or full: set one of them, or unset"
    ):
        data.load("butterflies", size_px=16)


def test_parts_of_a_set_keep_their_labels(some):
    chosen = some[torch.tensor([5, 3])]
    assert len(chosen) == 2 and torch.equal(chosen.images[0], some.images[5])
    assert chosen.labels["colour"].tolist() == some.labels["colour"][[5, 3]].tolist()
    assert len(some[:7]) == 7 and some[:7].source == some.source
    a, b = data.split(some, 0.25, seed=3)
    assert (len(a), len(b)) == (50, 150)
    both = torch.cat([a.images, b.images]).flatten(1)
    assert len(both.unique(dim=0)) == 200


def test_ranges_there_and_back():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = data.to_model(every)
    assert (x.min(), x.max(), x.dtype) == (-1, 1, torch.float32)
    assert x.flatten()[51].item() == pytest.approx(-0.6)
    assert torch.equal(data.to_uint8(x), every) and every.max() == 255
    assert data.to_uint8(torch.tensor([-7.0, 0.0, 7.0])).tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_ranges_are_changed_in_a_copy(dtype):
    images = torch.tensor([0, 51, 255]).to(dtype)
    x = data.to_model(images)
    assert images.tolist() == [0, 51, 255] and x.dtype == torch.float32
    assert x.tolist() == pytest.approx([-1, -0.6, 1])


# Batches


def numbered(count):
    """Pictures that show their own number on the left, and 255 on the right."""
    pixels = torch.full((count, 1, 2, 2), 255, dtype=torch.uint8)
    pixels[:, :, :, 0] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return data.ImageSet(pixels, "numbers")


def numbers(x):
    return data.to_uint8(x)[:, 0, 0].amin(1).tolist()


def test_a_pass_shows_every_picture_once_in_another_order_each_time():
    batches = data.Batches(numbered(12), 4, seed=5)
    passes = [sum((numbers(batches(n)) for n in range(start, start + 3)), []) for start in (0, 3, 6)]
    for order in passes:
        assert sorted(order) == list(range(12))
    assert passes[0] != passes[1] != passes[2]


def test_what_does_not_fill_a_batch_waits_for_another_pass():
    batches = data.Batches(numbered(11), 4)
    for n in range(0, 20, 2):
        assert len(set(numbers(batches(n)) + numbers(batches(n + 1)))) == 8


def test_a_batch_depends_on_the_seed_and_its_number_alone():
    images = numbered(30)
    forward, backward = data.Batches(images, 4, seed=1), data.Batches(images, 4, seed=1)
    wanted = [forward(n) for n in range(20)]
    for n in reversed(range(20)):
        assert torch.equal(backward(n), wanted[n])
    assert not torch.equal(data.Batches(images, 4, seed=2)(0), wanted[0])
    assert images.images[:, :, :, 0].flatten()[::2].tolist() == list(range(30))  # left as they were


def test_half_of_the_pictures_are_mirrored_if_wanted():
    images = numbered(100)
    mirrored = [data.to_uint8(data.Batches(images, 100, seed=s)(0))[:, 0, 0, 0] == 255 for s in range(20)]
    assert 0.45 < torch.stack(mirrored).float().mean() < 0.55
    assert not (data.to_uint8(data.Batches(images, 100, flip=False)(0))[:, 0, 0, 0] == 255).any()


def test_processes_share_a_batch():
    images = numbered(12)
    whole = data.Batches(images, 6, flip=False)
    for n in range(4):
        shares = [numbers(data.Batches(images, 3, flip=False, process=p, processes=2)(n)) for p in (0, 1)]
        assert sorted(shares[0] + shares[1]) == sorted(numbers(whole(n)))
        assert not set(shares[0]) & set(shares[1])


@pytest.mark.parametrize(("size", "processes", "mend"), [(13, 1, 12), (7, 2, 6), (0, 1, 12)])
def test_a_batch_larger_than_the_set_is_refused(size, processes, mend):
    with pytest.raises(
        ValueError, match=f"for a set of 12 pictures, .*: lower the batch size to {mend}, or add"
    ):
        data.Batches(numbered(12), size, processes=processes)
