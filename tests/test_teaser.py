"""The recipe of the teaser's adapters, and the benchmark, with few steps on random weights."""

import json

import pytest
from safetensors.torch import load_file

from benchmarks import dreambooth as benchmark
from course_utils import checkpoints
from recipes import common, teaser
from tests.test_dreambooth import small


@pytest.fixture(autouse=True)
def _small(monkeypatch, one_thread, tmp_path):
    base = small()
    monkeypatch.setenv("COURSE_SCALE", "mini")
    monkeypatch.setenv("COURSE_REHEARSAL", "2")
    monkeypatch.setattr(checkpoints, "load", lambda kind, name: base)
    monkeypatch.setattr(common, "RUNS", tmp_path / "runs")


def test_the_teasers_adapters_are_trained_scored_and_saved(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(teaser, "STEPS", 2)
    monkeypatch.setattr(common, "folder", lambda name: tmp_path / name)
    monkeypatch.setattr(checkpoints, "note_checksums", lambda: None)
    monkeypatch.setattr(teaser, "fit", lambda base, fit=teaser.fit: fit(base, steps=2))
    teaser.build()
    weights = load_file(tmp_path / teaser.NAME / "pytorch_lora_weights.safetensors")
    assert weights and all("lora" in name for name in weights)
    card = (tmp_path / teaser.NAME / "README.md").read_text()
    assert "shows the individual" in card and "shows the individual" in capsys.readouterr().out


def test_the_benchmark_keeps_what_it_has_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "dreambooth.json")
    asked = ["--subjects", "ember", "--ways", "lora", "unet", "--weights", "1", "--steps", "1"]
    monkeypatch.setattr("sys.argv", ["benchmark", *asked])
    benchmark.main()
    told = capsys.readouterr().out
    assert told.count("subject") == 2 and "MISSED" in told
    assert len(json.loads(benchmark.RESULTS.read_text())) == 2
    monkeypatch.setattr(benchmark, "measure", lambda *a: pytest.fail("measured again"))
    benchmark.main()
    assert capsys.readouterr().out == told
    rows = json.loads(benchmark.RESULTS.read_text())
    assert all("leak" in row for row in rows.values())
