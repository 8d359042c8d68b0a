"""Cross-attention maps: the U-Net answers as before, and what is noted is what it used."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from course_utils import attention

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cross_attention(unet):
    """One of its cross-attention layers, 16 channels and 4 heads."""
    return unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2


@torch.no_grad()
def test_the_network_answers_as_before_and_gets_its_processors_back(unet):
    xt, text, t = draw(2, 4, 8, 8), draw(2, 7, 24, seed=1), torch.tensor([3, 500])
    before, processors = unet(xt, t, text).sample, unet.attn_processors
    with attention.recorded(unet) as record:
        assert torch.equal(unet(xt, t, text).sample, before)
    assert unet.attn_processors == processors
    maps = record.take(8)
    assert maps.shape == (2, 7, 8, 8)
    assert (maps.sum(1) - 1).abs().max() < 1e-5


@torch.no_grad()
def test_what_is_noted_is_what_the_layer_used(unet):
    """Its own output, put together from the noted probabilities."""
    layer, x, text = cross_attention(unet), draw(2, 64, 16), draw(2, 7, 24, seed=1)
    share = attention.probabilities(layer, x, text)  # (2, 4, 64, 7)
    value = layer.to_v(text).unflatten(-1, (4, -1)).transpose(1, 2)  # (2, 4, 7, 4)
    out = layer.to_out[0]((share @ value).transpose(1, 2).flatten(2))
    assert (out - layer(x, text)).abs().max() < 1e-5


@torch.no_grad()
def test_maps_have_the_places_of_the_pixels(unet):
    """A query that likes the third token at one pixel alone."""
    layer, x, text = cross_attention(unet), torch.zeros(1, 64, 16), draw(1, 5, 24)
    x[0, 2 * 8 + 6] = 40 * torch.linalg.pinv(layer.to_q.weight) @ layer.to_k(text)[0, 3]
    record = attention.Record()
    record.note(attention.probabilities(layer, x, text))
    third = record.take(8)[0, 3]
    assert third.argmax() == 2 * 8 + 6
    assert third[2, 6] > 0.9 and third[6, 2] == pytest.approx(0.2, abs=1e-4)


def test_layers_of_one_size_are_averaged():
    record = attention.Record()
    for places, share in ((16, 0.1), (64, 0.2), (64, 0.4)):
        record.note(torch.full((1, 5, places, 3), share))
    assert torch.allclose(record.take(8), torch.full((1, 3, 8, 8), 0.3))
    with pytest.raises(RuntimeError, match="got no cross-attention"):
        record.take(8)


def test_a_size_that_no_layer_has_is_refused():
    record = attention.Record()
    for places in (16, 64):
        record.note(torch.full((1, 5, places, 3), 0.2))
    with pytest.raises(ValueError, match="got size=7, expected one of 4, 8"):
        record.take(7)


def test_processors_come_back_after_an_error(unet):
    processors = unet.attn_processors
    with pytest.raises(KeyError), attention.recorded(unet):
        raise KeyError
    assert unet.attn_processors == processors


def test_a_renamed_internal_is_named(unet, monkeypatch):
    layer = cross_attention(unet)
    monkeypatch.delattr(layer, "heads")
    with pytest.raises(AttributeError, match=r"got an attention layer of Diffusers \d.* without heads, exp"):
        attention.probabilities(layer, draw(1, 64, 16), draw(1, 7, 24))


def test_pictures_that_are_not_square_are_refused(unet):
    with attention.recorded(unet) as record, torch.no_grad():
        unet(draw(1, 4, 8, 16), 3, draw(1, 7, 24))
    with pytest.raises(ValueError, match="got attention of 128 places, expected a square"):
        record.take(8)


def test_overlap_and_half_way_of_known_areas():
    whole, left, top = torch.ones(4, 4).bool(), torch.zeros(4, 4).bool(), torch.zeros(4, 4).bool()
    left[:, :2], top[:2] = True, True
    assert attention.overlap(torch.stack([left, left, left]), torch.stack([left, whole, top])).tolist() == [
        1,
        0.5,
        pytest.approx(1 / 3),
    ]
    assert attention.overlap(left, ~left) == attention.overlap(left & ~left, left & ~left) == 0
    slope = torch.arange(4.0).expand(2, 4, 4) * torch.tensor([1, -7]).reshape(2, 1, 1) + 3
    assert torch.equal(attention.half_way(slope), torch.stack([~left, left]))
