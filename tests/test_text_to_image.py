"""The shipped `sd`, on fixed prompts: what its card promises, and everything that stock pipelines can do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from course_utils import checkpoints, data, scores
from course_utils.data import grammar
from recipes import score

SEED = 4711  # of prompts that no card was measured with
LEFT_OUT = (
    "DPMSolverSDEScheduler",  # needs torchsde, which the course does not
    "EDMEulerScheduler",  # for networks that take sigma and scaled input (Karras et al. 2022), not t
)
# Heun's mean of two slopes can't stand one step from t = 999, sigma 20,000, to t = 959, sigma 16
SETTINGS = {"HeunDiscreteScheduler": {"timestep_spacing": "leading"}}
PROMPTS = ["a drawing of a red striped fish on a beach", "a neon sign of a blue plain bird at night"]


@pytest.fixture(scope="module")
def folder():
    return checkpoints.verified("sd")


@pytest.fixture
def pipeline(folder):
    loaded = StableDiffusionPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def judge():
    return scores.load_judge("judge-scenes")


def pictures(pipeline, prompts=PROMPTS, **settings):
    """(N, 3, 64, 64) in [-1, 1], from one seed."""
    return score.generate(pipeline, prompts, seed=SEED, **settings)


def promised(folder, combinations):
    """The share of prompts with all attributes right that the card tells of."""
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    return float(re.search(rf"right, {combinations} combinations .* all ([\d.]+)%", card)[1]) / 100


@pytest.mark.parametrize("combinations", ["seen", "held out"])
def test_the_picture_is_what_the_prompt_asks_for_as_often_as_the_card_says(
    pipeline, folder, judge, combinations
):
    prompts, wanted = score.prompts(100, combinations, seed=SEED)
    hits = score.right(judge, pictures(pipeline, prompts), wanted)["all"]
    assert hits >= promised(folder, combinations) - 0.06  # two standard errors of 100 prompts


@pytest.mark.xfail(strict=True, reason="the goal is not reached yet: 96.8%, where the VAE alone has 98.0%")
def test_seen_combinations_are_what_the_prompt_asks_for_as_often_as_they_should(folder):
    assert promised(folder, "seen") >= 0.98


def test_held_out_combinations_are_what_the_prompt_asks_for_as_often_as_they_should(folder):
    assert promised(folder, "held out") >= 0.96


def test_the_card_tells_of_pictures_nearly_as_sharp_as_the_vae_lets_them_be(folder):
    card = (Path(folder) / "README.md").read_text(encoding="utf-8")
    made, through = re.search(r"Fréchet distance to drawings \| ([\d.]+) .*: ([\d.]+)\)", card).groups()
    assert float(made) <= 3 * float(through)


def test_samples_of_one_prompt_differ_as_drawings_do(pipeline):
    made = pictures(pipeline, ["a drawing of a spotted blue butterfly in a meadow"] * 32, guidance_scale=3.0)
    fixed = {
        "noun": "butterfly",
        "colour": "blue",
        "pattern": "spots",
        "background": "meadow",
        "style": "flat",
    }
    drawn = data.to_model(data.scenes(32, seed=SEED, combinations="any", **fixed).images)
    assert scores.diversity(made) >= 0.8 * scores.diversity(drawn)


def test_every_compatible_scheduler_draws_the_subject(pipeline, judge):
    wanted = torch.tensor([grammar.ATTRIBUTES["noun"].index(noun) for noun in ("fish", "bird")])
    wrong, given = [], pipeline.scheduler
    for kind in given.compatibles:
        if kind.__name__ in LEFT_OUT:
            continue
        pipeline.scheduler = kind.from_config(given.config, **SETTINGS.get(kind.__name__, {}))
        read = scores.read(judge, pictures(pipeline, steps=25, guidance_scale=3.0), "noun").answer
        if not torch.equal(read, wanted):
            wrong.append(kind.__name__)
    assert not wrong


def test_attention_slices_and_a_compiled_network_change_nothing(pipeline):
    plain = pictures(pipeline, steps=3)
    pipeline.enable_attention_slicing()
    assert (pictures(pipeline, steps=3) - plain).abs().max() < 1e-3
    pipeline.disable_attention_slicing()
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    assert (pictures(pipeline, steps=3) - plain).abs().max() < 1e-3


def test_a_lora_is_added_saved_and_loaded(pipeline, folder, tmp_path):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    plain = pictures(pipeline, steps=3)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    pipeline.unet.add_adapter(config, adapter_name="subject")
    with torch.no_grad():
        for name, parameter in pipeline.unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    changed = pictures(pipeline, steps=3)
    weights = convert_state_dict_to_diffusers(
        get_peft_model_state_dict(pipeline.unet, adapter_name="subject")
    )
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=weights)
    fresh = StableDiffusionPipeline.from_pretrained(folder)
    fresh.load_lora_weights(tmp_path)
    assert (changed - plain).abs().max() > 0.05
    assert (pictures(fresh, steps=3) - changed).abs().max() < 1e-3


def test_a_learned_word_is_loaded_and_heard(pipeline):
    plain = pictures(pipeline, ["a drawing of a <mine> at night"], steps=3)
    width = pipeline.text_encoder.config.hidden_size
    learned = torch.randn(width, generator=torch.Generator().manual_seed(0))
    pipeline.load_textual_inversion({"<mine>": learned})
    row = pipeline.tokenizer.convert_tokens_to_ids("<mine>")
    assert torch.allclose(pipeline.text_encoder.get_input_embeddings().weight[row], learned)
    assert (pictures(pipeline, ["a drawing of a <mine> at night"], steps=3) - plain).abs().max() > 0.05


def test_it_needs_nothing_of_the_course(folder, tmp_path):
    code = (
        "import sys; from diffusers import StableDiffusionPipeline as P; "
        f"p = P.from_pretrained({folder!r}); p('a fish', num_inference_steps=2).images[0].save('fish.png'); "
        "sys.exit(any(name.split('.')[0] in ('course_utils', 'recipes') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fish.png").exists()
