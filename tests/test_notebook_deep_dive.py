"""What notebook unit3/02 writes by hand equals Diffusers and Transformers; its maps find the thing."""

from pathlib import Path

import nbformat
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from course_utils import asking, attention, checkpoints, data, latent, text
from tests import solutions

PATH = Path(__file__).parents[1] / "unit3" / "02_stable_diffusion_deep_dive.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(PATH, 4).cells}
DEFINING = (
    "imports",
    "parts",
    "noise",
    "whole",
    "tools",
    "skip",
    "tokens",
    "near",
    "encoder",
    "encoder-check",
    "swap-run",
    "steer",
    "record",
)
PROMPTS = ["a drawing of a spotted blue butterfly in a meadow", "a neon sign of a fish", ""]


@pytest.fixture(scope="module")
def notebook(one_thread):
    """The names that the cells define which write something by hand, and all solutions."""
    patch, space = pytest.MonkeyPatch(), {}
    patch.setenv("COURSE_SCALE", "mini")
    patch.setenv("COURSE_REHEARSAL", "4")
    for name in DEFINING:
        exec(CELLS[name].source, space)
    solutions.run(CELLS, space)
    yield space
    patch.undo()


def levels(a, b):
    """The largest difference of pictures in [-1, 1], in 255ths."""
    return (data.to_uint8(a).int() - data.to_uint8(b).int()).abs().max().item()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_whole_loop_is_the_pipeline(notebook, prompt):
    settings = {"num_inference_steps": 5, "guidance_scale": 7.5}
    chance = torch.Generator().manual_seed(3)
    theirs = data.to_model(data.stack(notebook["pipeline"](prompt, generator=chance, **settings).images))
    assert levels(notebook["whole_loop"](prompt, 3, 5), theirs) <= 2


def test_pictures_are_those_of_the_pipeline_and_other_seeds_give_others(notebook):
    states = latent.read(notebook["pipeline"], PROMPTS[:1])
    theirs = asking.generate(notebook["pipeline"], PROMPTS[:1], seed=3, steps=5)
    assert levels(notebook["pictures"](states, 3, 5), theirs) <= 2
    assert levels(notebook["pictures"](states, 4, 5), theirs) > 50


@pytest.mark.parametrize("strength", [0.4, 0.7, 1.0])
def test_skipped_steps_are_image_to_image(notebook, strength):
    """Its pipeline draws the latents first, then the noise, from one generator."""
    pipeline, scene = notebook["pipeline"], data.scenes(1, seed=3)
    theirs = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    x = data.to_model(scene.images)
    wanted = theirs(
        PROMPTS[0], image=(x + 1) / 2, strength=strength, num_inference_steps=10, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5), output_type="pt",
    ).images * 2 - 1  # fmt: skip
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        z0 = latent.encode(pipeline.vae, x, chance)
    drawn = torch.randn(z0.shape, generator=chance)
    patch = pytest.MonkeyPatch()
    patch.setitem(notebook, "noise", lambda count, seed: drawn)
    mine = notebook["redraw"](z0, latent.read(pipeline, PROMPTS[:1]), strength, 5, 10)
    patch.undo()
    assert levels(mine, wanted) <= 2


@torch.no_grad()
def test_the_encoder_by_hand_is_cliptextmodel_and_only_with_the_mask(notebook):
    encoder, tokens = notebook["text_encoder"], latent.tokens(notebook["pipeline"], PROMPTS)
    embedded, wanted = text.pieces(encoder).tokens(tokens), encoder(tokens).last_hidden_state
    mask = notebook["causal_mask"](77)
    assert torch.equal(mask, notebook["causal"])
    assert (notebook["encode"](embedded, mask) - wanted).abs().max() <= 1e-5
    assert (notebook["encode"](embedded, torch.zeros_like(mask)) - wanted).abs().max() > 1


@torch.no_grad()
def test_a_swapped_word_is_as_if_it_had_been_typed(notebook):
    pipeline, token = notebook["pipeline"], notebook["token_of"]
    table = notebook["pieces"].tokens.weight
    swapped = notebook["told_with"](PROMPTS[:1], token("blue"), table[token("red")])
    typed = latent.read(pipeline, [PROMPTS[0].replace("blue", "red")])
    assert (swapped - typed).abs().max() <= 1e-5
    tokens = latent.tokens(pipeline, PROMPTS[:1])
    solved = notebook["swap"](table[tokens], tokens, token("blue"), table[token("red")])
    assert torch.equal(solved, table[latent.tokens(pipeline, [PROMPTS[0].replace("blue", "red")])])


def test_solutions_are_what_the_package_does(notebook):
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 2, 77, 8, generator=generator)
    assert torch.allclose(notebook["mix"](one, two, 0.3), torch.lerp(one, two, 0.3), atol=1e-6)
    a, b = torch.rand(2, 9, 9, generator=generator) > 0.4
    assert notebook["overlap"](a, b) == attention.overlap(a, b)
    layer = notebook["unet"].down_blocks[0].attentions[0].transformer_blocks[0].attn2
    x = torch.randn(1, 64, layer.to_q.in_features, generator=generator)
    states = latent.read(notebook["pipeline"], PROMPTS[:1])
    wanted = attention.probabilities(layer, x, states)  # (1, heads, 64, 77)
    query, key = (attention.split_heads(y, layer.heads)[0] for y in (layer.to_q(x), layer.to_k(states)))
    assert (notebook["listening"](query, key) - wanted[0]).abs().max() < 1e-5


def test_a_stronger_pull_ends_closer_to_blue_and_the_open_prompt_gives_way_first(notebook):
    far = {
        name: [notebook["to_blue"](notebook["steered"]([prompt], s, 11)).item() for s in (0, 300, 1000)]
        for name, prompt in notebook["FISH"].items()
    }
    assert all(y[0] > y[1] > y[2] for y in far.values())
    assert far["fish"][1] < far["red fish"][1] and far["fish"][2] < far["red fish"][2]


def test_pictures_from_several_prompts_are_those_of_each_alone(notebook):
    """What is said of six nouns in one batch would be said of each."""
    prompts = list(notebook["FISH"].values())
    both = notebook["steered"](prompts, 0, 11)
    assert levels(both[:1], notebook["steered"](prompts[:1], 0, 11)) <= 2


def test_the_maps_of_all_words_add_up_to_one(notebook):
    zt = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    maps = notebook["maps_of_words"](zt, torch.tensor([600]), PROMPTS[0])
    assert maps.shape == (len(PROMPTS[0].split()) + 2, 8, 8)
    assert (maps.sum(0) - 1).abs().max() < 1e-5


def test_the_nouns_map_covers_the_subject_and_follows_it(notebook):
    """Other scenes, as many, than those of the notebook."""
    space = dict(notebook)
    source = (
        CELLS["iou"].source.replace("seed=11", "seed=12").replace("profile.effort(mini=24, full=8)", "24")
    )
    exec(source, space)
    for name in ("iou-run", "iou-follow"):
        exec(CELLS[name].source, space)
    covered, aside = space["covered"], space["aside"]
    assert len(covered) == 24 and len(aside) == 8
    assert covered.mean() >= 0.5
    assert space["others"].mean() <= covered.mean() - 0.05
    assert covered[aside].mean() > space["guessed"][aside].mean()


def test_what_is_learned_is_one_vector_and_the_networks_stay(notebook):
    """Four steps move it; nothing else has a gradient."""
    space = dict(notebook)
    for name in ("ti-data", "ti-loss", "ti-train"):
        exec(CELLS[name].source, space)
    start = notebook["pieces"].tokens.weight[space["SKS"]].clone()
    learned, losses = space["learn"](start, torch.Generator().manual_seed(0))
    assert learned.shape == (128,) and len(losses) == 4 and (learned - start).abs().max() > 0.01
    parts = [notebook[name] for name in ("unet", "vae", "text_encoder")]
    assert all(p.grad is None for part in parts for p in part.parameters())


def test_the_checkpoint_is_the_shipped_one(notebook):
    assert checkpoints.locate("sd") == checkpoints.verified("sd")
