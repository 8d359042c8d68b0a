"""What a step of training needs, against sums by hand and against networks that are really there."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from course_utils import diffusion, dreambooth, memory, train

RECIPE = train.Recipe(steps=1, precision="fp32")


def mean(model, batch, generator):
    return model(batch).mean()


def test_one_matrix_by_hand():
    """x (3, 5) W (5, 7): alive at once are the product, its gradient, and that of W, which remains."""
    model = nn.Linear(5, 7, bias=False)
    found = memory.footprint(model, torch.ones(3, 5), mean, RECIPE)
    assert (found.weights, found.optimiser) == (4 * 35, 2 * 4 * 35)
    product, of_w = 4 * 21, 4 * 35
    assert of_w <= found.step <= product + of_w + product + 64
    assert found.total == found.weights + found.optimiser + found.step
    assert model.weight.grad is None and model.training


def test_a_chain_keeps_its_activations_and_a_thrifty_one_does_not():
    """Sixteen layers: each keeps what it was given, (1000, 20); the weights are small beside it."""
    chain = nn.Sequential(*(nn.Sequential(nn.Linear(20, 20, bias=False), nn.Tanh()) for _ in range(16)))
    one = 1000 * 20 * 4
    found = memory.footprint(chain, torch.ones(1000, 20), mean, RECIPE)
    assert 16 * one < found.step < 20 * one

    def checkpointed(model, batch, generator):
        return torch.utils.checkpoint.checkpoint_sequential(model, 4, batch, use_reentrant=False).mean()

    assert memory.footprint(chain, torch.ones(1000, 20), checkpointed, RECIPE).step < 12 * one


def test_what_does_not_learn_has_no_optimiser_and_eight_bits_are_a_quarter():
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    model[0].requires_grad_(False)
    sizes = {}
    for bits in (32, 8):
        recipe = train.Recipe(steps=1, precision="fp32", adam_bits=bits)
        sizes[bits] = memory.footprint(model, torch.ones(2, 10), mean, recipe)
    assert sizes[32].optimiser == 2 * 4 * 100 and sizes[8].optimiser == 2 * 100
    assert sizes[8].weights == 2 * 4 * 100


def small_unet():
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("way", ["lora", "unet"])
@pytest.mark.parametrize("thrifty", [False, True])
def test_a_network_without_content_needs_what_a_real_one_needs(one_thread, way, thrifty, precision):
    """On "meta", and on the CPU: the same count, but for what single operations set aside inside."""
    recipe = train.Recipe(steps=1, precision=precision)
    loss = dreambooth.loss(diffusion.cosine_alpha_bar(), "v", 1.0)
    found = {}
    for device in ("cpu", "meta"):
        with torch.device(device):
            learner = dreambooth.learner(SimpleNamespace(unet=small_unet()), way, rank=2, thrifty=thrifty)
            batch = torch.zeros(4, 4, 8, 8), torch.zeros(4, 77, 16)
        found[device] = memory.footprint(learner, batch, loss, recipe)
    assert found["meta"].weights == found["cpu"].weights and found["meta"].optimiser == found["cpu"].optimiser
    assert found["meta"].step == pytest.approx(found["cpu"].step, rel=0.1)


def test_measuring_leaves_the_network_as_it_was(one_thread):
    unet = small_unet().eval()
    before = copy.deepcopy(unet.state_dict())
    learner = dreambooth.Learner(unet)
    memory.footprint(
        learner,
        (torch.zeros(2, 4, 8, 8), torch.zeros(2, 77, 16)),
        dreambooth.loss(diffusion.cosine_alpha_bar(), "v", None),
        RECIPE,
    )
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert all(p.grad is None for p in unet.parameters())


def test_the_published_network_has_the_published_size_and_fits_into_16_gb():
    """Stable Diffusion 1.5: 859,520,964 weights in its U-Net."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        assert sum(p.numel() for p in unet.parameters()) == 859_520_964
        for parameter in unet.parameters():
            parameter.data = parameter.data.half()
        learner = dreambooth.learner(SimpleNamespace(unet=unet), "lora", thrifty=True)
        batch = torch.zeros(2, 4, 64, 64), torch.zeros(2, 77, 768, dtype=torch.float16)
    loss = dreambooth.loss(diffusion.cosine_alpha_bar(), "eps", 1.0)
    found = memory.footprint(learner, batch, loss, train.Recipe(steps=1, precision="fp16"))
    blocks = [320] * 5 + [640] * 5 + [1280] * 6  # their widths; 768 is that of the text's states
    adapters = sum(16 * (28 * width + 2 * 768) for width in blocks)  # rank 16, in attention and perceptron
    assert found.weights == 2 * 859_520_964 + 4 * adapters and found.total < 4e9
    assert found.optimiser == pytest.approx(2 * 4 * adapters, rel=1e-3)
