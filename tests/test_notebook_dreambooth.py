"""What notebook hackathon/dreambooth writes by hand equals what the package, and peft, use."""

from pathlib import Path

import nbformat
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from course_utils import diffusion, dreambooth
from tests import solutions

PATH = Path(__file__).parents[1] / "hackathon" / "dreambooth.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(PATH, 4).cells}


@pytest.fixture(scope="module")
def by_hand(one_thread):
    """The names that the imports, the table of memory and all solutions of the notebook define."""
    patch, space = pytest.MonkeyPatch(), {}
    patch.setenv("COURSE_SCALE", "mini")
    for name in ("imports", "full-memory", "full-table"):
        exec(CELLS[name].source, space)
    solutions.run(CELLS, space)
    yield space
    patch.undo()


def test_a_batch_is_the_packages(by_hand):
    z, text = torch.randn(7, 4, 8, 8), torch.randint(0, 900, (7, 77))
    rows = list(zip(z, text, strict=True))
    for mine, package in zip(
        by_hand["collate"](rows[:3], rows[3:]), dreambooth.collate(rows[:3], rows[3:]), strict=True
    ):
        assert torch.equal(mine, package)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_with_prior_preservation_is_the_packages(by_hand, weight):
    """The package's own noise and timesteps, drawn again in the same order."""
    alpha_bar, z = diffusion.cosine_alpha_bar(), torch.randn(6, 4, 8, 8)
    seen = []

    def model(zt, t, text):
        seen.append((zt, t))
        return torch.tanh(zt)

    package = dreambooth.loss(alpha_bar, "v", weight)(model, (z, None), torch.Generator().manual_seed(3))
    (zt, t) = seen[0]
    a = alpha_bar[t].reshape(-1, 1, 1, 1)
    eps = (zt - a.sqrt() * z) / (1 - a).sqrt()
    wanted = a.sqrt() * eps - (1 - a).sqrt() * z  # v of Salimans & Ho 2022
    assert by_hand["prior_loss"](torch.tanh(zt), wanted, weight).item() == pytest.approx(
        package.item(), rel=1e-3
    )


def test_a_merged_adapter_is_what_peft_merges(by_hand):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(7, 5, bias=False))
    before = layer[0].weight.detach().clone()
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["0"], "init_lora_weights": False}
    model = get_peft_model(layer, LoraConfig(**settings))
    weights = dict(model.named_parameters())
    a, b = (next(v for k, v in weights.items() if name in k).detach() for name in ("lora_A", "lora_B"))
    merged = model.merge_and_unload()[0].weight
    assert (by_hand["merge"](before, a, b, 6) - merged).abs().max() < 1e-6
    assert (merged - before).abs().max() > 1e-3


def test_the_snapshot_that_is_kept_has_forgotten_little(by_hand):
    best = by_hand["best_snapshot"]
    assert best([0, 10, 20, 30], [0.0, 0.9, 0.95, 1.0], [1.0, 0.97, 0.96, 0.5], 0.95) == 20
    assert best([0, 10, 20], [0.0, 0.9, 0.9], [0.7, 0.8, 0.6], 0.95) == 10


def test_the_table_counts_what_is_published(by_hand):
    """859,520,964 weights of the U-Net of Stable Diffusion 1.5, in float32 where they learn; Adam keeps two
    averages of each."""
    weights, adam, _ = by_hand["rows"]["unet", 32]
    assert weights == pytest.approx(859_520_964 * 4 / 1e9, rel=1e-3)
    assert adam == pytest.approx(2 * weights, rel=1e-3)
    assert by_hand["rows"]["unet", 8][1] == pytest.approx(weights / 2, rel=1e-3)
    weights, adam, step = by_hand["rows"]["lora", 32]
    assert 1.95 < weights < 2.02 and step < 2
    adapters = 5_984_256 + 12 * 16 * (4 * 2 * 768 + 2 * (768 + 3072))  # in the U-Net, in the text encoder
    assert adam == pytest.approx(2 * 4 * adapters / 1e9, rel=1e-3)
