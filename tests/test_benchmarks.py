"""The comparisons of `make bench`: everything about them but the seconds, which no test asserts."""

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from peft import LoraConfig
from torch import nn

from benchmarks import (
    __main__,
    accelerator,
    budget,
    course,
    growth,
    measure,
    peak,
    peers,
    pictures,
    plain,
    quality,
    sampling,
    setup,
    throughput,
)
from course_utils import data, latent, show, swift
from recipes.sd import UNCHECKED
from tests.untrained import pipeline, shades

pytestmark = pytest.mark.usefixtures("one_thread")
NO_PEERS = not (peers.FOLDER / "installed.txt").exists()
needs_peers = pytest.mark.skipif(NO_PEERS, reason="`make bench` has not installed the peers here")


@pytest.fixture(scope="module")
def images():
    return data.butterflies(100)


@pytest.fixture(scope="module")
def text_to_image():
    return pipeline(StableDiffusionPipeline, **UNCHECKED)


def tiny(side=32):
    """A network of a few thousand parameters."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=side,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
    )


@pytest.fixture
def tiny_networks(monkeypatch):
    monkeypatch.setattr(throughput, "NETWORKS", {"wide": tiny, "small": tiny})
    for module in (budget, quality):
        monkeypatch.setattr(module, "small_unet", tiny)
        monkeypatch.setattr(module, "wide_unet", tiny)
    monkeypatch.setattr(budget, "example_unet", tiny)


@pytest.fixture
def few_unseen(monkeypatch):
    monkeypatch.setattr(budget, "UNSEEN", 80)


@pytest.fixture
def no_peers(monkeypatch):
    def refuse(*_):
        raise peers.Unavailable("got no environment, expected one.")

    monkeypatch.setattr(peers, "environment", refuse)


def drawn(module, result):
    """The bars and the figure of a result that has gone through JSON, as it stands in build/bench.json."""
    json.loads(json.dumps(result, allow_nan=False))
    figure = module.draw(result)
    assert isinstance(figure, show.Picture) and len(figure.alt) > 20
    assert figure.png().startswith(b"\x89PNG")
    return {bar.what: bar for bar in module.bars(result)}


# --- measuring ---


def test_the_flops_of_a_convolution_are_those_of_the_closed_form():
    conv, x = nn.Conv2d(3, 8, 5, padding=2), torch.randn(2, 3, 16, 16)
    forward = 2 * 2 * 8 * 16 * 16 * 3 * 5 * 5  # 2 for multiply and add, then B, C_out, H, W, C_in, k, k
    assert measure.flops(lambda: conv(x)) == forward
    assert measure.flops(lambda: conv(x).sum().backward()) == 2 * forward  # x itself needs no gradient
    x.requires_grad_()
    assert measure.flops(lambda: conv(x).sum().backward()) == 3 * forward


def test_the_flops_of_attention_count_on_a_cpu():
    q, k, v = torch.randn(3, 2, 4, 16, 8)
    wanted = 2 * (2 * 2 * 4 * 16 * 16 * 8)  # two products, each B, heads, N, N, D
    assert measure.flops(lambda: nn.functional.scaled_dot_product_attention(q, k, v)) == wanted


@pytest.mark.parametrize("power", [0, 1, 1.7, 2])
def test_the_exponent_of_a_law_is_found(power):
    x = (32, 64, 128)
    assert measure.exponent(x, [3e-3 * value**power for value in x]) == pytest.approx(power, abs=1e-9)


def test_all_take_turns_and_another_one_begins_each_round():
    order = []
    seconds = measure.turns({name: lambda n=name: order.append(n) for name in "abc"}, rounds=3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"  # the first round is not counted
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert measure.medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


@pytest.mark.parametrize(
    ("value", "relation", "reached"),
    [
        (1.4, "at least", True), (1.39, "at least", False), (1.4, "at most", True), (1.41, "at most", False),
        (1.4, "below", False), (1.39, "below", True), (None, "at most", None),
        (float("inf"), "at most", False),
    ],
)  # fmt: skip
def test_a_bar_is_reached_or_not(value, relation, reached):
    bar = measure.Bar("something", value, relation, 1.4)
    assert bar.reached is reached
    assert json.loads(json.dumps(bar.record(), allow_nan=False))["reached"] is reached
    assert {True: "reached", False: "NOT REACHED", None: "not measured"}[reached] in str(bar)


def test_cpu_seconds_are_those_of_work_by_this_process_and_its_children():
    clock = measure.CpuClock(children=True)
    before = clock()
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    of_a_child = clock()
    while clock() == of_a_child:
        sum(range(10**5))
    assert 0 <= before < of_a_child


def test_the_peak_is_that_of_the_fastest_product():
    assert peak.matrix_peak(torch.float32, (8, 64), 0.01) > 0
    race = {"images_per_second": {"course": 10.0, "a": 4.0}, "flops": {"course": 2e9, "a": 5e9}}
    assert peak.speeds(race) == {"course": 20.0, "a": 20.0}


# --- the other side ---


def test_the_published_networks_have_the_published_sizes():
    sizes = {"wide_unet": 18.5, "small_unet": 1.8, "example_unet": 113.7}
    with torch.device("meta"):
        for name, millions in sizes.items():
            found = sum(p.numel() for p in getattr(plain, name)().parameters()) / 1e6
            assert found == pytest.approx(millions, abs=0.1), name


def test_the_rate_of_diffusers_example_is_that_of_its_scheduler():
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=100 * 63)
    rate_at = plain.example_rate(1000)  # 63 batches of 16
    for step in range(1500):
        assert rate_at(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        scheduler.step()


def test_a_missing_environment_of_the_peers_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    pins = tmp_path / "peers.txt"
    pins.write_text("no-such-peer==1.0\n")
    with pytest.raises(peers.Unavailable) as caught:
        peers.environment(tmp_path / "peers", pins)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.count("expected") == 1
    assert "no-such-peer==1.0" in sentence and "run this again" in sentence
    assert not (tmp_path / "peers").exists()


def test_an_environment_that_is_there_is_taken_as_it_is(tmp_path, monkeypatch):
    pins = tmp_path / "peers.txt"
    pins.write_text("no-such-peer==1.0\n")
    (tmp_path / "installed.txt").write_text("no-such-peer==1.0\n")
    monkeypatch.setattr(subprocess, "run", None)  # nothing is installed
    assert peers.environment(tmp_path, pins) == tmp_path


ECHO = """
import json, sys
print(json.dumps({"parameters": 7}), flush=True)
for line in sys.stdin:
    if "fail" in line:
        sys.exit("got a failure.")
    print(line, end="", flush=True)
"""


def test_a_process_of_a_peer_answers_rests_and_ends(tmp_path, monkeypatch, images):
    import psutil

    monkeypatch.setattr(peers, "environment", lambda: tmp_path)
    program = tmp_path / "echo.py"
    program.write_text(ECHO)
    with peers.Peer({"peer": "echo"}, images.images[:2], program) as peer:
        process = psutil.Process(peer.process.pid)
        assert peer.facts == {"parameters": 7}
        assert peer.order(train=3) == {"train": 3}
        assert process.status() == psutil.STATUS_STOPPED  # it neither works ahead nor disturbs
        with pytest.raises(RuntimeError, match="no answer from the process of echo.*got a failure"):
            peer.order(fail=1)
    assert not process.is_running()


@needs_peers
@pytest.mark.parametrize("name", peers.NAMES)
def test_a_peer_trains_counts_and_samples(name, images):
    job = {"peer": name, "network": {"parameters": 1_800_000}, "batch": 16}
    with peers.Peer(job, images.images) as peer:
        assert peer.facts["parameters"] == pytest.approx(1_800_000, rel=0.25)
        assert peer.order(flops=2)["flops"] == pytest.approx(2 * peer.order(flops=1)["flops"], rel=0.01)
        spent = peer.order(train=2)["cpu_seconds"]
        answer = peer.order(train_until=spent + 0.01)
        assert answer["steps"] >= 1 and answer["cpu_seconds"] >= spent + 0.01
        samples = peer.sample(2)
        assert samples.shape == (2, 3, 32, 32) and samples.isfinite().all()


# --- the comparisons, at tiny sizes ---


def test_training_is_raced_without_the_peers(images, tiny_networks, no_peers):
    race = throughput.race("small", rounds=1, steps=1, batch=4, with_peers=True, images=images)
    assert race["peers"] == "got no environment, expected one."
    assert set(race["images_per_second"]) == {"course", "plain loop"} and set(race["ratio"]) == {"plain loop"}
    assert race["flops"]["course"] == race["flops"]["plain loop"] > 1e6
    assert 0.5 < race["loss_ratio"] < 2 and race["steps"] == 2
    bars = drawn(throughput, {"wide": race, "small": race})
    assert len(bars) == 8
    assert bars["images/s over smalldiffusion, same network"].reached is None


@needs_peers
def test_training_is_raced_with_the_peers(images, tiny_networks):
    race = throughput.race("small", rounds=1, steps=1, batch=16, with_peers=True, images=images)
    assert race["peers"] == "raced"
    everybody = {name + kind for name in peers.NAMES.values() for kind in ("", throughput.OWN)}
    assert set(race["ratio"]) == everybody | {"plain loop"}
    same = [race["parameters"][name] for name in ("course", "plain loop", *peers.NAMES.values())]
    assert len(set(same)) == 1
    bars = drawn(throughput, {"wide": race, "small": race})
    assert all(bar.reached is not None for bar in bars.values())


def test_what_a_budget_buys_is_scored(images, tiny_networks, no_peers, few_unseen):
    result = budget.compare((0.3, 0.6), 66, calls=2, images=images)
    assert set(result["cpu_seconds"]) == {"0.3", "0.6"}
    for rows in result["cpu_seconds"].values():
        assert set(rows) == {"course", budget.PUBLISHED, budget.EXAMPLE}
        for row in rows.values():
            assert row["frechet"] > 0 and 0 <= row["nearest_neighbour"] <= 1 and row["steps"] >= 1
    bars = drawn(budget, result)
    assert len(bars) == 2 * 4 * 2 and sum(bar.reached is None for bar in bars.values()) == 8


def test_the_nearest_neighbour_score_tells_kinds_apart():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, 8, generator=generator)
    assert abs(budget.nearest_neighbour_score(a, b) - 0.5) < 0.1
    assert budget.nearest_neighbour_score(a, b + 10) == 1
    assert budget.nearest_neighbour_score(a, a + 1e-6) == 0  # copies


def test_time_to_quality_has_its_share_or_says_that_there_is_none(images, tiny_networks, few_unseen):
    result = quality.compare(1, 4, looks=2, count=66, calls=2, images=images)
    assert [row["steps"] for row in result["course"]] == [2, 4]
    drawn(quality, result)
    (bar,) = quality.bars(result | {"share_of_cpu_time": None})
    assert bar.reached is False and bar.record()["value"] is None
    (bar,) = quality.bars(result | {"share_of_cpu_time": 0.25})
    assert bar.reached is True


def test_every_sampler_is_scored_and_the_cheapest_equal_one_raced(monkeypatch, few_unseen):
    monkeypatch.setattr(sampling, "PICTURES", 8)
    pipe = DDPMPipeline(tiny(), DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"))
    passed, sample = [], sampling.sample
    monkeypatch.setattr(sampling, "sample", lambda *given: passed.append(given[4]) or sample(*given))
    result = sampling.compare(pipe, calls=(2, 4), reference_steps=2, count=66, rounds=1)
    assert all(generator is passed[0] for generator in passed[:9])  # the parts of 66 go on with its noise
    assert set(result["curve"]) == set(sampling.SAMPLERS)
    assert all(len(values) == 2 for values in result["curve"].values())
    assert list(result["standards"]) == list(result["equals"])
    equals = [row for row in result["equals"].values() if row]
    names = {f"course, {row['sampler']}, {row['calls']} calls" for row in equals}
    assert equals and set(result["seconds"]) == {*names, "Diffusers, ddim, 50 calls"}
    for name, row in result["equals"].items():
        assert row is None or row["frechet"] <= sampling.EQUAL * result["standards"][name]
    drawn(sampling, result)
    monkeypatch.setattr(sampling, "EQUAL", 0.0)  # nothing is equal
    none = sampling.compare(pipe, calls=(2,), reference_steps=2, count=66, rounds=1)
    assert set(none["equals"].values()) == {None}
    assert not any(bar.reached for bar in drawn(sampling, none).values())


@pytest.mark.parametrize("prompts", [1, 3])
def test_the_fast_pictures_are_those_of_the_stock_pipeline(text_to_image, prompts):
    assert pictures.shades(text_to_image, pictures.PROMPTS[:prompts], steps=5) <= pictures.MOST_SHADES


@torch.no_grad()
def the_same(unet, width):
    """Whether the U-Net written out answers as the model does."""
    torch.manual_seed(0)
    zt, states, t = torch.randn(2, 4, 8, 8), torch.randn(2, 77, width), torch.tensor([400, 400])
    ours = swift.Swift(unet.eval(), states, [900, 400])(zt, t)
    theirs = unet(zt, t, states).sample
    assert theirs.std() > 0.01
    return torch.allclose(ours, theirs, atol=1e-5)


def test_the_u_net_written_out_is_the_miniatures(text_to_image):
    assert the_same(text_to_image.unet, 128)


def test_the_u_net_written_out_is_stable_diffusions():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "cross_attention_dim": 12}
    assert the_same(UNet2DConditionModel(sample_size=8, attention_head_dim=4, **sizes), 12)
    second = {"attention_head_dim": (1, 2, 2, 2), "use_linear_projection": True}  # as in its version 2
    assert the_same(UNet2DConditionModel(sample_size=8, **second, **sizes), 12)


def test_the_u_net_written_out_has_adapters_too(text_to_image):
    unet = copy.deepcopy(text_to_image.unet)
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"]))
    assert the_same(unet, 128)
    assert not torch.allclose(unet(*ONE).sample, text_to_image.unet(*ONE).sample, atol=1e-3)


ONE = (torch.ones(1, 4, 8, 8), torch.tensor([9]), torch.ones(1, 77, 128))


def test_an_unknown_u_net_is_refused_in_one_sentence(text_to_image):
    labelled = UNet2DConditionModel.from_config(text_to_image.unet.config, num_class_embeds=10)
    with pytest.raises(ValueError, match="num_class_embeds=10, expected one like those of Stable Diffusion"):
        swift.Swift(labelled, ONE[2], [9])


def test_the_fast_path_draws_without_guidance_too(text_to_image):
    generator = torch.Generator().manual_seed(0)
    ours = latent.draw(text_to_image, ["a red fish"], steps=4, scale=1, generator=generator)
    stock = {"num_inference_steps": 4, "guidance_scale": 1, "output_type": "pt"}
    theirs = text_to_image("a red fish", generator=torch.Generator().manual_seed(0), **stock).images
    assert shades(ours, theirs * 2 - 1) <= pictures.MOST_SHADES


def test_text_to_picture_is_raced(text_to_image):
    result = pictures.compare(text_to_image, (1, 2), rounds=1, steps=2)
    assert set(result) == {"1 prompt", "2 prompts"}
    assert {"seconds", "ratio", "shades"} <= set(result["1 prompt"])
    assert {"course", "Diffusers"} <= set(result["1 prompt"]["seconds"])
    bars = drawn(pictures, result)
    assert sum("shades" in what for what in bars) == 2
    assert all(bar.reached for what, bar in bars.items() if "shades" in what)


def test_the_shares_of_the_peak_come_from_races(monkeypatch, tiny_networks, no_peers, text_to_image, images):
    monkeypatch.setattr(pictures, "load", lambda: text_to_image)
    monkeypatch.setattr(peak, "matrix_peak", lambda *_: 100.0)
    race = throughput.race
    monkeypatch.setattr(throughput, "race", lambda name, **k: race(name, batch=4, images=images, **k))
    monkeypatch.setattr(peak, "PROMPTS", 1)
    result = peak.measure(quick=True)
    for name, row in result["share_of_bf16"].items():
        for who, share in row.items():
            assert share == pytest.approx(result["reached_gflops"][name][who] / 100)
    assert drawn(peak, result)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts the parent's")
def test_memory_is_that_of_the_process_and_not_of_its_parent():
    held = bytearray(b"1") * 900_000_000
    code = "from benchmarks import growth; print(growth._peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], cwd=growth.ROOT, capture_output=True, text=True)
    assert 50e6 < int(done.stdout) < len(held), done.stderr


def test_growth_is_fitted_to_points_of_fresh_processes(monkeypatch):
    usual = {"batch": 2, "side": 16, "pictures": 8, "steps": 2}
    row = growth.point(usual)
    assert set(row) == {"seconds_per_step", "memory_mb"} and min(row.values()) > 0
    laws = {
        "batch": lambda n: (0.1 * n, 5 * n),
        "side": lambda n: (n**2, n**2),
        "pictures": lambda n: (2, 60),
    }

    def made_up(settings):
        changed = next((name for name in laws if settings[name] != usual.get(name)), "pictures")
        seconds, memory = laws[changed](settings[changed])
        return {"seconds_per_step": seconds, "memory_mb": memory}

    monkeypatch.setattr(growth, "point", made_up)
    result = {what: growth.grow(what, (32, 64, 128), usual, {}) for what in laws}
    assert result["batch"]["exponent"] == pytest.approx({"seconds_per_step": 1, "memory_mb": 1})
    assert result["side"]["exponent"] == pytest.approx({"seconds_per_step": 2, "memory_mb": 2})
    assert result["pictures"]["exponent"] == pytest.approx({"seconds_per_step": 0, "memory_mb": 0}, abs=1e-9)
    assert all(bar.reached for bar in drawn(growth, result).values())


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_the_course_is_run_and_its_notebooks_measured(tmp_path):
    path = notebook(tmp_path / "short.ipynb", "print(1)")
    result = course.run([str(path)])
    assert result["ok"] and result["peak_gb"] > 0
    assert result["minutes"] == pytest.approx(result["notebooks"][0]["seconds"] / 60)
    bars = drawn(course, result)
    assert bars["notebooks that failed"].reached is True
    failed = result | {"notebooks": [{**result["notebooks"][0], "ok": False}]}
    assert {bar.what: bar for bar in course.bars(failed)}["notebooks that failed"].reached is False


def test_the_first_notebook_is_cut_behind_its_first_samples(tmp_path):
    path = notebook(tmp_path / "long.ipynb", "a = 1", "b = 2", "c = 3")
    setup.cut_after(path, "cell-1")
    assert [cell.source for cell in nbformat.read(path, 4).cells] == ["a = 1", "b = 2"]
    first = nbformat.read(peers.ROOT / setup.NOTEBOOK, 4)
    (cell,) = [cell for cell in first.cells if cell.id == setup.PICTURE]
    assert any("image/png" in output.get("data", {}) for output in cell.outputs)
    drawn(setup, {"seconds": {"clone": 1.0, "install": 2.0, "first pictures": 3.0}, "total": 6.0})


def test_a_gpu_is_compared_by_pictures_and_memory(monkeypatch, text_to_image):
    assert "expected a GPU" in accelerator.measure(quick=True) or torch.cuda.is_available()
    monkeypatch.setattr(accelerator, "peak_gb", lambda *_: 1.0)
    result = accelerator.compare(text_to_image, prompts=1, rounds=1, steps=2)
    assert set(result["dreambooth_peak_gb"]) == {"lora", "unet", "unet+text"}
    assert drawn(accelerator, result)


# --- the command ---


class Made:
    """A comparison that is made up."""

    @staticmethod
    def measure(quick):
        return {"ratio": 2.0 if quick else 1.0, "peers": "got none."}

    @staticmethod
    def bars(result):
        return [measure.Bar("ratio", result["ratio"], "at least", 1.5)]

    @staticmethod
    def draw(result):
        return show.curves({"a": ((1, 2), (3, 4))}, "x", "y", alt="A line from 3 to 4.")


def test_every_comparison_can_be_measured_judged_and_drawn():
    for name, module in __main__.table().items():
        assert all(callable(getattr(module, part)) for part in ("measure", "bars", "draw")), name


def test_the_command_writes_every_figure_and_says_what_is_missed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_SCALE", "mini")
    sentence = argparse.Namespace(__doc__="Left out.", measure=lambda quick: "left out of the quick run")
    Made.__doc__ = "Made up."
    monkeypatch.setattr(__main__, "table", lambda: {"made": Made, "left": sentence})
    __main__.main(["--build", str(tmp_path)])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["quick"] is False and found["machine"]["threads"] == torch.get_num_threads()
    row = found["comparisons"]["made"]
    assert row["bars"] == [
        {"what": "ratio", "value": 1.0, "relation": "at least", "limit": 1.5, "reached": False}
    ]
    assert (tmp_path / row["figure"]).read_bytes().startswith(b"\x89PNG")
    assert found["comparisons"]["left"]["result"] == "left out of the quick run"
    told = capsys.readouterr().out
    assert "1 bars not reached" in told and "NOT REACHED" in told
    __main__.main(["--quick", "--only", "made", "--build", str(tmp_path)])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["quick"] is True and found["comparisons"]["made"]["bars"][0]["reached"] is True
    assert not list(tmp_path.glob(".*"))  # written beside its place, then renamed


def test_an_unknown_comparison_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        __main__.main(["--only", "luck", "--build", str(tmp_path)])
    assert "luck" in capsys.readouterr().err
