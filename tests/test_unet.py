"""The small U-Net: shapes, what reaches what, and its embedding against that of Diffusers."""

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from course_utils.unet import Attention, ResidualBlock, UNet, timestep_embedding


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def shaken(model):
    """The model with every weight moved, so that nothing is still zero from the start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) / 10)
    return model


def test_embedding_is_that_of_diffusers():
    t = torch.arange(1000)
    theirs = get_timestep_embedding(t, 32, downscale_freq_shift=0)
    assert timestep_embedding(t, 32).shape == (1000, 32)
    assert (timestep_embedding(t, 32) - theirs).abs().max() < 1e-3  # angles up to 999, in float32


@pytest.mark.parametrize(
    ("size_px", "options"),
    [
        (16, {}),
        (28, {"widths": (16, 32, 64)}),
        (8, {"widths": (8, 16)}),
        (5, {"widths": (16,)}),
        (16, {"widths": (16, 32), "blocks": 2}),
        (16, {"channels": 3, "widths": (16, 32)}),
        (16, {"timed": False}),
    ],
)
def test_shape_stays_and_every_weight_learns(size_px, options):
    model = shaken(UNet(**options))
    x = draw(2, options.get("channels", 1), size_px, size_px)
    out = model(x, torch.tensor([3, 800]))
    assert out.shape == x.shape
    out.square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert not idle, f"these weights are never used: {idle}"


def test_time_matters_only_where_it_is_told():
    x = draw(2, 1, 16, 16)
    early, late = torch.tensor([3, 3]), torch.tensor([800, 800])
    timed, blind = shaken(UNet(widths=(16, 32))), shaken(UNet(widths=(16, 32), timed=False))
    assert (timed(x, early) - timed(x, late)).abs().max() > 1e-3
    assert torch.equal(blind(x, early), blind(x, late))
    assert torch.equal(blind(x, early), blind(x, None))


def test_pictures_of_a_batch_do_not_mix():
    model, x, t = shaken(UNet(widths=(16, 32))).eval(), draw(4, 1, 16, 16), torch.tensor([0, 10, 500, 999])
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    assert (model(x, t) - alone).abs().max() < 1e-4


def test_every_pixel_sees_every_other():
    model = shaken(UNet(widths=(16, 32, 32)))
    x = draw(1, 1, 16, 16).requires_grad_()
    model(x, torch.tensor([500]))[0, 0, 0, 0].backward()
    assert (x.grad != 0).all()


def test_blocks_begin_as_their_shortcut():
    x, emb = draw(2, 16, 8, 8), draw(2, 32)
    assert torch.equal(ResidualBlock(16, 16, 32)(x, emb), x)
    assert torch.equal(Attention(16)(x), x)
    assert (UNet(widths=(16, 32))(draw(2, 1, 8, 8), torch.tensor([1, 2])) == 0).all()


def test_attention_is_the_formula():
    attention = shaken(Attention(16, heads=2))
    x = draw(2, 16, 3, 5)
    q, k, v = attention.qkv(attention.norm(x)).flatten(2).chunk(3, 1)  # each (B, 16, 15)
    seen = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        weight = torch.softmax(q[:, part].transpose(1, 2) @ k[:, part] / 8**0.5, -1)  # (B, 15, 15)
        seen.append((weight @ v[:, part].transpose(1, 2)).transpose(1, 2))
    wanted = x + attention.out(torch.cat(seen, 1).reshape(x.shape))
    assert (attention(x) - wanted).abs().max() < 1e-5
