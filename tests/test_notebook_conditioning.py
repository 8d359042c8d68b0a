"""What notebook unit2/02 writes by hand equals what the package uses, and does what its text says."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import torch

from course_utils import data, diffusion, guidance, train

PATH = Path(__file__).parents[1] / "unit2" / "02_class_conditioned_diffusion_model_example.ipynb"
CELLS = {cell.id: cell for cell in nbformat.read(PATH, 4).cells}


@pytest.fixture(scope="module")
def notebook(one_thread):
    """The names that the notebook defines, without what it trains, and all solutions under `solutions`."""
    space = {"device": "cpu", "SIZE": 8, "NONE": 10, "WIDTHS": (8, 8, 16), "BATCH": 16}
    exec(CELLS["imports"].source, space)
    digits = data.digits()[torch.arange(64)]
    space |= {"batches": data.Batches(digits, 16, flip=False), "real_labels": digits.labels["digit"]}
    space |= {"alpha_bar": diffusion.cosine_alpha_bar(), "digits": digits}
    for cell in CELLS.values():
        if (
            cell.cell_type == "code"
            and cell.id != "setup"
            and "exercise" not in cell.metadata.get("tags", [])
        ):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    exec(ast.get_source_segment(cell.source, node), space)
    space["solutions"] = {}
    for name, cell in CELLS.items():
        if name.endswith("-help"):
            code = re.search(r"```python\n(.*?)```", cell.source, re.S)[1]
            exec(code, {"torch": torch}, space["solutions"])
    return space


@pytest.fixture(scope="module")
def models(notebook):
    """Both variants, untrained."""
    torch.manual_seed(0)
    return notebook["ByChannels"]().eval(), notebook["ByEmbedding"]().eval()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_batch_has_the_labels_of_its_pictures(notebook):
    digits = notebook["digits"]
    pictures = data.to_model(digits.images)
    for n in (0, 3, 5):
        x0, label = notebook["batch_at"](n)
        rows = torch.cdist(x0.flatten(1), pictures.flatten(1)).argmin(1)
        assert torch.equal(pictures[rows], x0)
        assert torch.equal(digits.labels["digit"][rows], label)


def test_the_solutions_are_what_the_notebook_goes_on_with(notebook):
    xt, label, table = draw(6, 1, 3, 4), torch.tensor([3, 10, 0, 3, 9, 1]), torch.nn.Embedding(11, 4)
    mine = notebook["class_channels"](xt, label, table)
    assert torch.equal(mine, notebook["solutions"]["class_channels"](xt, label, table))
    label = torch.arange(500) % 10
    one, two = (
        drop(label, 0.1, torch.Generator().manual_seed(1))
        for drop in (notebook["drop_labels"], notebook["solutions"]["drop_labels"])
    )
    assert torch.equal(one, two)


def test_the_loss_is_that_of_the_package(notebook):
    def network(xt, t, label=None):
        return torch.tanh(xt + t.reshape(-1, 1, 1, 1) / 1000)

    x0 = draw(200, 1, 3, 3)
    mine = notebook["v_loss"](network, x0, torch.zeros(200).long(), torch.Generator().manual_seed(2))
    package = train.diffusion_loss(diffusion.cosine_alpha_bar(), "v")
    assert abs(mine - package(network, x0, torch.Generator().manual_seed(2))) < 1e-6


def test_only_the_label_of_some_pictures_is_dropped(notebook):
    """The loss that drops labels gives the network each picture with its own label, or with none."""
    seen = []

    def network(xt, t, label):
        seen.append(label)
        return xt

    label = torch.arange(1000) % 10
    notebook["dropping_loss"](network, (draw(1000, 1, 2, 2), label), torch.Generator().manual_seed(3))
    changed = seen[0] != label
    assert 0.05 < changed.float().mean() < 0.15
    assert (seen[0][changed] == 10).all()


@pytest.mark.parametrize("which", [0, 1])
def test_a_variant_listens_to_its_label_and_to_nothing_else(models, which):
    xt, t, label = draw(4, 1, 8, 8), torch.tensor([10, 300, 600, 990]), torch.tensor([0, 4, 9, 10])
    answer = models[which](xt, t, label)
    assert answer.shape == xt.shape
    other = models[which](xt, t, torch.tensor([0, 4, 8, 10]))
    changed = (answer - other).abs().amax((1, 2, 3))
    assert changed[2] > 1e-3 and changed[[0, 1, 3]].max() < 1e-5


def test_guidance_is_the_solution_around_two_calls(notebook, models):
    xt, label = draw(5, 1, 8, 8), torch.tensor([1, 5, 5, 0, 9])
    t, scale = torch.full((5,), 400), 2.5
    solutions = notebook["solutions"]
    with torch.no_grad():
        answers = solutions["both_answers"](models[0], xt, t, label)
        v_hat = solutions["guided"](*answers, scale)
        mine = notebook["guided_denoiser"](models[0], label, scale)(xt, t)
    package = diffusion.to_x0(v_hat, xt, t, diffusion.cosine_alpha_bar(), "v")
    assert (mine - package).abs().max() < 0.1  # bfloat16, where it is fast
    assert notebook["guidance"] is guidance


def test_fit_leaves_the_given_network_alone_and_trains_an_average(notebook, models):
    """So a cell that is run again begins where it did, and the average can be trained on."""
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    average = notebook["fit"](models[0], notebook["labelled_loss"], 2)
    assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())
    again = notebook["fit"](average, notebook["dropping_loss"], 1)
    assert any(not torch.equal(a, b) for a, b in zip(average.parameters(), again.parameters(), strict=True))


def test_read_as_asked(notebook):
    """Share for each class, of parts of different lengths."""

    class Judge(torch.nn.Module):
        questions = {"digit": 11}

        def forward(self, x):
            return {"digit": torch.nn.functional.one_hot(x.mean((1, 2, 3)).round().long(), 11) * 9.0}

    notebook["judge"] = Judge()
    parts = [torch.full((4 + digit, 1, 2, 2), float(digit)) for digit in range(10)]
    parts[3][:1] = 10.0
    parts[7][:11] = 1.0
    wanted = torch.tensor([1, 1, 1, 6 / 7, 1, 1, 1, 0, 1, 1])
    assert (notebook["read_as_asked"](parts) - wanted).abs().max() < 1e-6
