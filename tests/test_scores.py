"""Scores against closed forms and brute force."""

import math

import pytest
import torch

from course_utils import data, scores


def drawn(mean, covariance, count, seed):
    """Rows whose sample mean and sample covariance are exactly these: (count, D), float64."""
    x = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    root = torch.linalg.cholesky(torch.atleast_2d(torch.cov(x.T)))
    white = torch.linalg.solve_triangular(root, x.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def spread(size, seed):
    """A random covariance matrix, (size, size)."""
    root = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def closed_form(mean_a, a, mean_b, b):
    """Heusel et al. 2017, eq. 6, by the eigenvalues of A B itself, which are real and positive."""
    root = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    return ((mean_a - mean_b).square().sum() + a.trace() + b.trace() - 2 * root).item()


def test_frechet_distance_is_the_closed_form():
    means = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = spread(6, 1), spread(6, 2)
    wanted = closed_form(means[0], a, means[1], b)
    xa, xb = drawn(means[0], a, 50, 3), drawn(means[1], b, 70, 4)
    assert scores.frechet_distance(xa, xb) == pytest.approx(wanted, abs=1e-9)
    assert scores.frechet_distance(xb, xa) == pytest.approx(wanted, abs=1e-9)
    assert scores.frechet_distance(xa.float(), xb.float()) == pytest.approx(wanted, abs=1e-4)


def test_frechet_distance_of_numbers_and_of_a_shift():
    """In one dimension it is (mean_a - mean_b)^2 + (std_a - std_b)^2; a shift alone gives its square."""
    a = drawn(torch.tensor([1.0]).double(), torch.tensor([[9.0]]).double(), 20, 0)
    b = drawn(torch.tensor([3.0]).double(), torch.tensor([[4.0]]).double(), 20, 1)
    assert scores.frechet_distance(a, b) == pytest.approx(5, abs=1e-9)
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    assert scores.frechet_distance(x, x + torch.tensor([3.0, 0, 0, 4, 0])) == pytest.approx(25, abs=1e-4)


def test_frechet_distance_is_zero_for_equals_even_with_fewer_rows_than_columns():
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    assert scores.frechet_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
    assert 0 <= scores.frechet_distance(x[:5], x[:5]) < 1e-6
    assert scores.frechet_distance(x[:50], x[50:]) > 0.01


def test_frechet_distance_refuses_what_it_cannot_compare():
    for a, b in ((torch.rand(1, 4), torch.rand(9, 4)), (torch.rand(9, 4), torch.rand(9, 5))):
        with pytest.raises(ValueError, match=r"got features of shapes .*, expected \(N, D\) and \(M, D\)"):
            scores.frechet_distance(a, b)


def root_mean_square(a, b):
    return math.sqrt((a.double() - b.double()).square().mean().item())


def test_diversity_by_brute_force():
    x = torch.rand(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pairs = [root_mean_square(x[i], x[j]) for i in range(7) for j in range(i)]
    assert scores.diversity(x) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)
    assert scores.diversity(x[:1].expand(4, -1, -1, -1)) == 0
    assert scores.diversity(torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])) == pytest.approx(1)


def test_nearest_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    x, others = torch.rand(6, 3, 4, 4, generator=generator), torch.rand(9, 3, 4, 4, generator=generator)
    x[2] = others[7]
    distance, index = scores.nearest(x, others)
    table = [[root_mean_square(a, b) for b in others] for a in x]
    assert index.tolist() == [row.index(min(row)) for row in table]
    assert distance.tolist() == pytest.approx([min(row) for row in table], abs=1e-6)
    assert index[2] == 7 and distance[2] == 0


def test_nearest_tells_a_copy_exactly_among_many():
    """With many rows torch takes distances from a matrix product: a copy would be 3e-4 away instead of 0."""
    others = data.to_model(
        torch.randint(0, 256, (300, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    )
    distance, index = scores.nearest(others[40:90], others)
    assert index.tolist() == list(range(40, 90)) and distance.abs().max() < 1e-6


def test_a_reading_counts():
    reading = scores.Reading(torch.tensor([0, 2, 2, 1]), torch.tensor([0.95, 0.9, 0.99, 0.2]))
    assert reading.right(torch.tensor([0, 2, 1, 1])) == 0.75
    assert reading.counts(4).tolist() == [1, 1, 2, 0]


@pytest.fixture(scope="module")
def judged(one_thread):
    """A judge of light and of side, and a set that it has not seen."""

    def pictures(count, seed):
        generator = torch.Generator().manual_seed(seed)
        light, side = torch.randint(0, 2, (2, count), generator=generator)
        images = torch.randint(0, 40, (count, 1, 8, 8), generator=generator)
        images[torch.arange(count), 0, :, side * 5 + 1] += 60 + 120 * light[:, None]
        return data.ImageSet(images.to(torch.uint8), "bars", {"light": light, "side": side})

    state = torch.random.get_rng_state()
    judge = scores.train_judge(pictures(640, 0), epochs=6, width=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    return judge, pictures(100, 1), lambda: scores.train_judge(pictures(640, 0), epochs=6, width=8)


def test_a_judge_learns_every_question(judged):
    judge, images, _ = judged
    x = data.to_model(images.images)
    assert not judge.training
    for question in ("light", "side"):
        reading = scores.read(judge, x, question)
        assert reading.right(images.labels[question]) > 0.95
        assert ((reading.confidence >= 0.5) & (reading.confidence <= 1)).all()
    assert torch.equal(scores.read(judge, x).answer, scores.read(judge, x, "light").answer)


def test_a_judge_is_the_same_for_the_same_seed(judged):
    judge, images, again = judged
    x = data.to_model(images.images)
    features = scores.features(judge, x)
    assert features.shape == (100, 64) and features.dtype == torch.float64
    assert torch.equal(scores.features(again(), x), features)


def test_features_tell_sets_apart(judged):
    judge, images, _ = judged
    x = data.to_model(images.images)
    dark, light = (scores.features(judge, x[images.labels["light"] == n]) for n in (0, 1))
    assert scores.frechet_distance(dark, light) > 5 * scores.frechet_distance(dark[::2], dark[1::2])


def test_five_looks_are_answered_with_their_mean(judged):
    """Its probability is the mean over the picture and its neighbours, shifted by hand."""
    judge = judged[0]
    x = torch.rand((100, 1, 8, 8), generator=torch.Generator().manual_seed(2)) * 2 - 1  # it is unsure here
    down, right = (torch.cat([x.narrow(d, 7, 1), x.narrow(d, 0, 7)], d) for d in (2, 3))
    up, left = (torch.cat([x.narrow(d, 1, 7), x.narrow(d, 0, 1)], d) for d in (2, 3))
    with torch.no_grad():
        seen = torch.stack([judge(look)["side"].double().softmax(-1) for look in (x, down, up, right, left)])
    reading = scores.read(scores.FiveLooks(judge), x, "side")
    assert (reading.confidence - seen.mean(0).amax(-1)).abs().max() < 1e-5
    assert torch.equal(reading.answer, seen.mean(0).argmax(-1))
    assert (seen[1:] - seen[0]).abs().amax((1, 2)).min() > 0.1  # every look counts


def test_a_judge_is_saved_and_loaded(judged, tmp_path, monkeypatch):
    from course_utils import checkpoints

    judge, images, _ = judged
    monkeypatch.setattr(checkpoints, "MINIATURES", tmp_path)
    scores.save_judge(judge, tmp_path / "bars")
    checkpoints.note_checksums()
    loaded = scores.load_judge("bars")
    x = data.to_model(images.images)
    assert loaded.questions == {"light": 2, "side": 2} and not loaded.training
    assert torch.equal(scores.read(loaded, x, "side").answer, scores.read(judge, x, "side").answer)
    assert (scores.features(loaded, x) - scores.features(judge, x)).abs().max() < 0.05


def test_a_judge_reads_pictures_of_another_size_as_if_resized():
    judge = scores.load_judge("judge-butterflies")
    x = data.to_model(data.butterflies(8, size_px=64).images)
    small = torch.nn.functional.avg_pool2d(x, 2)  # what area interpolation is at half the size
    assert (scores.features(judge, x) - scores.features(judge, small)).abs().max() < 1e-3
    assert judge.size_px == 32
