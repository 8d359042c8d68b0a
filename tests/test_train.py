"""The training loop against closed forms, and what it writes."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from course_utils import data, diffusion, runs, train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = train.Recipe(steps=12, learning_rate=1e-2, warmup_steps=3, precision="fp32")


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )


def denoise_loss(model, x0, generator):
    """A loss that draws from the generator, as the real one does."""
    noise = torch.randn(x0.shape, generator=generator)
    return (model(x0 + noise) - x0).square().mean()


def plain_loss(model, x0, generator):
    return (model(x0) - x0.flip(-1)).square().mean()


def batches(batch_size=4, **options):
    pixels = torch.randint(
        0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return data.Batches(data.ImageSet(pixels, "noise"), batch_size, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# The loop


def test_the_rate_warms_up_and_falls_to_zero():
    recipe = train.Recipe(steps=100, learning_rate=0.5, warmup_steps=10)
    assert [recipe.rate_at(n) for n in (0, 4, 9, 10, 55)] == pytest.approx([0.05, 0.25, 0.5, 0.5, 0.25])
    assert recipe.rate_at(99) == pytest.approx(0.5 / 90)
    assert max(recipe.rate_at(n) for n in range(100)) == 0.5
    short = train.Recipe(steps=5, learning_rate=0.5, warmup_steps=50)
    assert all(0 < short.rate_at(n) <= 0.05 for n in range(5))


def test_each_record_tells_of_a_finished_step():
    run = train.Run(network(), RECIPE)
    for i, progress in enumerate(train.train(run, batches(), plain_loss)):
        assert progress.step == run.step == i + 1
        assert progress.learning_rate == RECIPE.rate_at(i)
        assert progress.seconds == run.seconds > 0
        assert progress.grad_norm > 0
    assert run.step == RECIPE.steps
    assert list(train.train(run, batches(), plain_loss)) == []


def test_the_loss_is_that_before_the_step_and_training_lowers_it():
    run, at = train.Run(network(), replace(RECIPE, steps=60)), batches(batch_size=16, flip=False)
    before = plain_loss(run.model, at(0), None).item()
    losses = [progress.loss for progress in train.train(run, at, plain_loss)]
    assert losses[0] == pytest.approx(before, rel=1e-6)
    assert losses[-1] < 0.85 * losses[0]


def test_a_step_is_adamw_with_clipped_gradients():
    recipe = replace(RECIPE, steps=3, warmup_steps=1, max_norm=0.05, weight_decay=0.1)
    run, by_hand = train.Run(network(), recipe), network()
    optimizer = torch.optim.AdamW(by_hand.parameters(), betas=(0.9, 0.99), weight_decay=0.1)
    for progress in train.train(run, batches(), plain_loss):
        optimizer.zero_grad()
        plain_loss(by_hand, batches()(progress.step - 1), None).backward()
        optimizer.param_groups[0]["lr"] = recipe.rate_at(progress.step - 1)
        norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.05)
        assert progress.grad_norm == pytest.approx(norm.item(), rel=1e-5) and norm > 0.05
        optimizer.step()
        assert (weights(run.model) - weights(by_hand)).abs().max() < 1e-6


def test_the_average_follows_its_closed_form_and_has_the_last_step_in_it():
    recipe = replace(RECIPE, steps=40, ema_decay=0.7)
    run = train.Run(network(), recipe)
    average, first = weights(run.model).double(), weights(run.model)
    for progress in train.train(run, batches(), plain_loss):
        kept = min(0.7, progress.step / (progress.step + 10))  # 0.7 from step 24 on
        average = kept * average + (1 - kept) * weights(run.model).double()
        assert (weights(run.ema).double() - average).abs().max() < 1e-6
    assert not torch.equal(first, weights(run.ema))
    assert not run.ema.training and not any(p.requires_grad for p in run.ema.parameters())


def test_the_average_takes_over_buffers():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    run = train.Run(model, RECIPE)
    list(train.train(run, batches(), plain_loss))
    assert run.ema[1].num_batches_tracked == RECIPE.steps
    assert torch.equal(run.ema[1].running_mean, model[1].running_mean)


def test_accumulated_batches_are_one_large_batch():
    """The parts of a batch, one after the other, give the gradients and the loss of the whole."""
    whole = batches(batch_size=8, flip=False)
    runs = train.Run(network(), replace(RECIPE, accumulate=4)), train.Run(network(), RECIPE)
    in_parts = train.train(runs[0], lambda n: whole(n // 4)[n % 4 * 2 : n % 4 * 2 + 2], plain_loss)
    for a, b in zip(in_parts, train.train(runs[1], whole, plain_loss), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    assert (weights(runs[0].model) - weights(runs[1].model)).abs().max() < 1e-4


def test_a_resumed_run_repeats_an_unbroken_one_bit_for_bit(tmp_path):
    recipe = replace(RECIPE, accumulate=2)
    unbroken = train.Run(network(), recipe)
    losses = [p.loss for p in train.train(unbroken, batches(), denoise_loss)]
    first, seen = train.Run(network(), recipe), []
    for progress in train.train(first, batches(), denoise_loss):
        seen.append(progress.loss)
        if progress.step == 5:
            break
    torch.save(first.state(), tmp_path / "state.pt")
    second = train.Run(network(seed=9), recipe)
    second.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.step == 5 and second.seconds == first.seconds
    seen += [p.loss for p in train.train(second, batches(), denoise_loss)]
    assert seen == losses
    assert torch.equal(weights(second.model), weights(unbroken.model))
    assert torch.equal(weights(second.ema), weights(unbroken.ema))


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened():
    recipe, calls = replace(RECIPE, accumulate=2), []

    def interrupted(model, x0, generator):
        calls.append(0)
        if len(calls) == 6:  # the second batch of the third step
            raise KeyboardInterrupt
        return denoise_loss(model, x0, generator)

    whole, run = (train.Run(network(), recipe) for _ in range(2))
    list(train.train(whole, batches(), denoise_loss))
    with pytest.raises(KeyboardInterrupt):
        list(train.train(run, batches(), interrupted))
    assert run.step == 2
    assert [progress.step for progress in train.train(run, batches(), denoise_loss)] == list(range(3, 13))
    assert torch.equal(weights(run.model), weights(whole.model))
    assert torch.equal(weights(run.ema), weights(whole.ema))


def test_randomness_depends_on_seed_and_step_alone():
    torch.manual_seed(1)
    first = [p.loss for p in train.train(train.Run(network(), RECIPE), batches(), denoise_loss)]
    torch.manual_seed(2)
    torch.rand(7)
    assert first == [p.loss for p in train.train(train.Run(network(), RECIPE), batches(), denoise_loss)]
    other = replace(RECIPE, seed=1)
    assert first != [p.loss for p in train.train(train.Run(network(), other), batches(), denoise_loss)]


def test_a_loss_that_is_not_finite_ends_training_before_it_spoils_the_network():
    run = train.Run(network(), RECIPE)

    def loss(model, x0, generator):
        return plain_loss(model, x0, generator) * (math.nan if run.step == 2 else 1)

    with pytest.raises(
        FloatingPointError, match="got a loss of nan in step 3, expected a finite one: lower learn"
    ):
        list(train.train(run, batches(), loss))
    assert run.step == 2
    assert weights(run.model).isfinite().all() and weights(run.ema).isfinite().all()


def test_precision():
    cpu = torch.device("cpu")
    with train.autocast(cpu, "bf16"):
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
    with train.autocast(cpu, "fp32"):
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="got precision='fp8', expected one of auto, bf16, fp16, fp32"):
        train.autocast(cpu, "fp8")
    run = train.Run(network(), replace(RECIPE, precision="bf16"))
    list(train.train(run, batches(), plain_loss))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("prediction", diffusion.PREDICTIONS)
def test_diffusion_loss_is_zero_for_a_network_that_knows_the_target(prediction):
    alpha_bar = diffusion.cosine_alpha_bar()
    x0 = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = []

    def oracle(xt, t):
        seen.append(t)
        eps = diffusion.to_eps(x0.double(), xt.double(), t, alpha_bar.double())
        return diffusion.target(x0.double(), eps, t, alpha_bar.double(), prediction)

    loss = train.diffusion_loss(alpha_bar, prediction)
    assert loss(oracle, x0, torch.Generator().manual_seed(3)).item() < 1e-4
    assert loss(lambda xt, t: torch.zeros_like(xt), x0, torch.Generator().manual_seed(3)).item() > 0.1
    assert len(seen[0].unique()) > 1 and seen[0].min() >= 0 and seen[0].max() < 1000


WORKER = """
import sys
import torch
from accelerate import Accelerator
sys.path.insert(0, sys.argv[2])
from tests.test_train import RECIPE, batches, network, plain_loss, replace, train, weights
accelerator = Accelerator(cpu=True)
share = batches(2, flip=False, process=accelerator.process_index, processes=accelerator.num_processes)
run = train.Run(network(), replace(RECIPE, accumulate=2))
losses = [p.loss for p in train.train(run, share, plain_loss, accelerator)]
result = {"losses": losses, "model": weights(run.model), "ema": weights(run.ema)}
torch.save(result, f"{sys.argv[1]}/{accelerator.process_index}.pt")
accelerator.end_training()
"""


def test_two_processes_train_as_one_does_on_all_their_pictures(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [tmp_path / "worker.py", tmp_path, root]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    run = train.Run(network(), replace(RECIPE, accumulate=2))
    losses = [p.loss for p in train.train(run, batches(4, flip=False), plain_loss)]
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for result in results:
        assert result["losses"] == pytest.approx(losses, rel=1e-4)
        assert (result["model"] - weights(run.model)).abs().max() < 1e-4
        assert (result["ema"] - weights(run.ema)).abs().max() < 1e-4
    assert torch.equal(results[0]["model"], results[1]["model"])


def test_a_network_on_another_device_than_the_accelerator_is_refused():
    elsewhere = type("Accelerator", (), {"device": torch.device("cuda")})()
    with pytest.raises(ValueError, match="got a network on cpu, expected it on cuda"):
        next(train.train(train.Run(network(), RECIPE), batches(), plain_loss, elsewhere))


# Files


def a_run(steps=0):
    run = train.Run(network(), RECIPE)
    for _ in range(steps):
        next(train.train(run, batches(), plain_loss))
    return run


def saved(tmp_path, *steps):
    """A folder with checkpoints of these steps, and the run at the last of them."""
    checkpoints, run = runs.Checkpoints(tmp_path), train.Run(network(), RECIPE)
    for progress in train.train(run, batches(), plain_loss):
        if progress.step in steps:
            checkpoints.save(run)
        if progress.step == max(steps):
            return checkpoints, run


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_two_newest_checkpoints_stay(tmp_path):
    checkpoints, run = saved(tmp_path, 2, 3, 5)
    assert [file.name for file in checkpoints.files()] == ["step_000005.pt", "step_000003.pt"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step_000003.pt", "step_000005.pt"]
    other = a_run()
    assert checkpoints.resume(other) == []
    assert other.step == 5 and torch.equal(weights(other.model), weights(run.model))
    assert runs.Checkpoints(tmp_path / "none").resume(a_run()) == []


@pytest.mark.parametrize(
    "damage",
    [cut_in_half, lambda path: path.write_bytes(b""), lambda path: path.write_text("no checkpoint")],
    ids=["half", "empty", "text"],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken(tmp_path, damage):
    checkpoints, _ = saved(tmp_path, 3, 5)
    damage(checkpoints.files()[0])
    run = a_run()
    (sentence,) = checkpoints.resume(run)
    assert (
        sentence.startswith("got step_000005.pt, which is damaged (") and "took the one before it" in sentence
    )
    assert run.step == 3
    assert len(checkpoints.files()) == 2
    for _ in train.train(run, batches(), plain_loss):
        break
    checkpoints.save(run)
    assert [file.name for file in checkpoints.files()] == ["step_000004.pt", "step_000003.pt"]
    cut_in_half(checkpoints.files()[0]), cut_in_half(checkpoints.files()[1])
    with pytest.raises(
        ValueError, match="no whole checkpoint in .* expected at least one: remove the damaged"
    ):
        checkpoints.resume(a_run())


class Harmful:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    checkpoints, _ = saved(tmp_path, 3)
    torch.save({"model": Harmful(tmp_path / "harm")}, tmp_path / "step_000009.pt")
    run = a_run()
    assert len(checkpoints.resume(run)) == 1 and run.step == 3
    assert not (tmp_path / "harm").exists()


def test_a_file_that_fails_while_it_is_saved_leaves_the_old_one(tmp_path):
    path = tmp_path / "state.pt"
    runs.save_atomically({"step": 1}, path)
    with pytest.raises(Exception, match="pickle|local"):
        runs.save_atomically({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_fails_while_it_is_filled_leaves_the_old_one(tmp_path):
    path = tmp_path / "pipeline"
    for text in ("first", "second"):
        with runs.whole_folder(path) as folder:
            (folder / "file").write_text(text)
        assert (path / "file").read_text() == text
    with pytest.raises(OSError), runs.whole_folder(path) as folder:
        (folder / "file").write_text("third")
        raise OSError
    assert (path / "file").read_text() == "second" and list(tmp_path.iterdir()) == [path]
    path.rename(tmp_path / ".pipeline.old")  # killed between taking the old one away and putting the new one
    with pytest.raises(OSError), runs.whole_folder(path):
        raise OSError
    assert (path / "file").read_text() == "second"


def test_the_loss_log_is_cut_at_the_step_that_is_resumed(tmp_path):
    path, lines = tmp_path / "loss.jsonl", [train.Progress(n, n / 3, n / 7, 1.0, 1.0) for n in range(1, 6)]
    log = runs.LossLog(path)
    for progress in lines:
        log.add(progress)
    log.close()
    with open(path, "a") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    log = runs.LossLog(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    log.add(lines[3])
    log.sync()
    log.close()
    assert runs.read_losses(path) == {n: n / 3 for n in range(1, 5)}


def test_a_run_claims_its_folder(tmp_path):
    settings = {"size": 16, "channels": (8, 16)}
    folder = tmp_path / "runs" / "one"
    runs.claim(folder, settings, resume=False)
    runs.claim(folder, settings, resume=True)
    with pytest.raises(ValueError, match="already holds this run, expected an empty one: add --resume"):
        runs.claim(folder, settings, resume=False)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"other settings \(size 16 there and 32 here\)"):
            runs.claim(folder, {**settings, "size": 32}, resume)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="which is a file, expected a folder"):
        runs.claim(tmp_path / "file", settings, resume=False)
    with pytest.raises(ValueError, match="holds files but no run"):
        runs.claim(tmp_path, settings, resume=True)


def test_model_card():
    card = runs.model_card("Cats", "A model of cats.", {"steps": 7, "loss": "0.1"})
    header, body = card.split("---\n")[1:]
    assert "library_name: diffusers" in header
    assert body.startswith("\n# Cats\n\nA model of cats.\n") and "| steps | 7 |\n| loss | 0.1 |" in body
