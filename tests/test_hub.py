"""Full scale with the real clients, against a Hub on this machine: what is loaded, and every fault."""

import errno
import importlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from course_utils import checkpoints, data, downloads
from tests import published
from tests.hub import Fault, Repository

CLASSES = {
    "sd": diffusers.StableDiffusionPipeline,
    "sd-inpainting": diffusers.StableDiffusionInpaintPipeline,
    "sd-depth": diffusers.StableDiffusionDepth2ImgPipeline,
    "sd-upscaler": diffusers.StableDiffusionUpscalePipeline,
    "clip": CLIPModel,
}
FIRST, SECOND = checkpoints.MODELS["sd"].ids
WEIGHTS = r".*\.safetensors"
PLANTED = f"open({str(published.CAUGHT)!r}, 'w').close()\nclass Planted: pass\n".encode()


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    return one_thread


def small_files(count=2):
    """A repository that is quick to fetch, in the layout of a pipeline."""
    files = {f"part{i}/model.fp16.safetensors": bytes([i]) * 2_000_000 for i in range(count)}
    return files | {
        "model_index.json": b"{}",
        "part0/config.json": b'{"a": 1}',
        "part0/model.fp16.bin": published.TRAP,
    }


@pytest.fixture
def sd(hub):
    """The Hub, with something small under both ids of `sd`."""
    for hub_id in (FIRST, SECOND):
        hub.repositories["models", hub_id] = Repository(small_files())
    return hub


def cached(folder):
    """What lies in the caches below `folder` as finished content: name -> bytes."""
    blobs = Path(folder).rglob("blobs/*")
    return {path.name: path.read_bytes() for path in blobs if not path.name.endswith(".incomplete")}


def is_right(folder):
    """Whether the folder holds what the repository holds, as far as the course wants it."""
    files = {path: content for path, content in small_files().items() if not path.endswith(".bin")}
    return all((Path(folder) / path).read_bytes() == content for path, content in files.items())


def fetched(hub):
    return {path.split("/resolve/")[1].split("/", 1)[1] for _, path, _ in hub.asked if "/resolve/" in path}


# --- what is published -----------------------------------------------------------------------------


def test_every_id_of_the_table_is_published_here():
    for kind, table in (("models", checkpoints.MODELS), ("datasets", checkpoints.DATASETS)):
        for hub_id in (hub_id for each in table.values() for hub_id in each.ids):
            assert published.make(kind, hub_id), f"tests/published.py has no {hub_id}"
    assert published.make("models", "someone/else") is None


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_a_published_model_loads_and_nothing_else_is_fetched(hub, name):
    model = checkpoints.load(CLASSES[name], name)
    assert isinstance(model, CLASSES[name]) and model.dtype == torch.float32
    assert {Path(path).suffix for path in fetched(hub)} <= {".safetensors", ".json", ".txt"}
    weights = {path for path in fetched(hub) if path.endswith(".safetensors")}
    assert weights == {path for path in weights if ".fp16." in path or path == "model.safetensors"} != set()
    assert not published.CAUGHT.exists()


def test_the_alternates_load_as_well(hub):
    hub.faults.append(Fault("gone", f"{FIRST}|openai/.*"))
    pipeline = checkpoints.load(CLASSES["sd"], "sd")
    picture = pipeline("a red fish", num_inference_steps=1, height=64, width=64).images[0]
    assert picture.size == (64, 64)
    clip = CLIPProcessor.from_pretrained(checkpoints.locate("clip"))
    assert clip(text=["a red fish"], images=[picture], return_tensors="pt").pixel_values.shape[-1] == 224


def test_a_part_of_a_pipeline_and_a_class_that_does_not_fit(hub):
    vae = checkpoints.load(diffusers.AutoencoderKL, "sd", subfolder="vae")
    assert vae.dtype == torch.float32
    with pytest.raises(
        ValueError, match="for a StableDiffusionDepth2ImgPipeline, expected one with depth_est"
    ):
        checkpoints.load(CLASSES["sd-depth"], "sd")


@pytest.mark.parametrize(
    ("name", "count", "channels"), [("butterflies", 160, 3), ("flowers", 80, 3), ("digits", 700, 1)]
)
def test_a_published_set_loads(hub, name, count, channels):
    images = data.load(name, size_px=16)
    assert images.images.shape == (count, channels, 16, 16)
    assert images.source == f"{count} pictures from {checkpoints.DATASETS[name].ids[0]}"
    assert images.images.float().std() > 20
    assert list(images.labels) == [label for label, _ in checkpoints.DATASETS[name].label_columns]
    few = data.load(name, size_px=16, count=5)
    assert torch.equal(few.images, images.images[:5])


def test_the_digits_keep_their_labels(hub):
    images = data.load("digits", size_px=8)
    assert images.labels["digit"].tolist() == data.digits().labels["digit"][:700].tolist()


def test_any_other_set_is_cut_and_resized(hub):
    from PIL import Image

    picture = Image.new("RGB", (60, 20), (0, 200, 0))
    picture.paste((200, 0, 0), (20, 0, 40, 20))
    content = [published.encoded(np.asarray(each), "PNG") for each in (picture, picture.convert("RGBA"))]
    table = published.parquet({"image": content})
    hub.repositories["datasets", "someone/cats"] = Repository({"cats.parquet": table})
    images = data.load("someone/cats", size_px=8, count=2)
    assert images.images.shape == (2, 3, 8, 8) and images.source == "2 pictures from someone/cats"
    assert images.images[1, :, 4, 4].tolist() == [200, 0, 0]


def test_a_set_in_another_form_is_read_as_the_hub_converts_it(hub):
    hub.repositories["datasets", "someone/birds"] = Repository({"birds.zip": b"", "birds.py": PLANTED})
    table = published.make("datasets", "ylecun/mnist")["mnist/test-00000-of-00001.parquet"]
    files = {
        "default/test/0000.parquet": b"",
        "default/train/0000.parquet": table,
        "other/train/0.parquet": b"",
    }
    hub.repositories["datasets", "someone/birds@refs/convert/parquet"] = Repository(files)
    images = data.load("someone/birds", size_px=8)
    assert images.source == "200 pictures from someone/birds@refs/convert/parquet"


def test_the_ids_of_a_set_are_tried_in_order(hub, monkeypatch, capsys):
    table = {"birds": checkpoints.HubSet(("first/birds", "ylecun/mnist"), "CC0-1.0", 1, grey=True)}
    monkeypatch.setattr(importlib.import_module("course_utils.data.hub"), "DATASETS", table)
    assert data.hub("birds", size_px=8).source == "700 pictures from ylecun/mnist"
    assert capsys.readouterr().out.startswith("Took ylecun/mnist instead (first/birds: there is no such")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("text", "got a set with the columns text, expected one named 'image'"),
        (None, "got no set 'someone/texts' .*it has no"),
    ],
)
def test_a_set_without_pictures_is_refused(hub, tmp_path, column, words):
    from datasets import Dataset

    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "texts.parquet")
    files = {"texts.parquet": (tmp_path / "texts.parquet").read_bytes()} if column else {"texts.txt": b"a"}
    hub.repositories["datasets", "someone/texts"] = Repository(files)
    with pytest.raises((ValueError, ConnectionError), match=words):
        data.load("someone/texts", size_px=8)


# --- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [("gone", "there is no such repository"), ("gated", "it is gated: accept its terms on its page")],
)
@pytest.mark.parametrize("token", [None, "hf_known"])
def test_an_id_that_is_gone_or_gated_gives_way_to_the_next(
    sd, waits, monkeypatch, capsys, kind, words, token
):
    if token:
        sd.tokens[token] = "learner"
        monkeypatch.setenv("HF_TOKEN", token)
    sd.faults.append(Fault(kind, FIRST))
    assert is_right(checkpoints.locate("sd"))
    said = capsys.readouterr().out
    assert said.startswith(f"Took {SECOND} instead ({FIRST}: {words}") and said.count("\n") == 1
    assert not waits


def test_if_no_id_can_be_had_one_sentence_names_all_and_offers_mini(sd, waits):
    sd.faults += [Fault("gone", FIRST), Fault("gated", SECOND)]
    with pytest.raises(ConnectionError) as caught:
        checkpoints.locate("sd")
    message = str(caught.value)
    assert message.startswith(f"got no model 'sd' from the Hub ({FIRST}: there is no such repository")
    assert f"; {SECOND}: it is gated" in message and "COURSE_SCALE=mini" in message
    assert "\n" not in message and not waits


@pytest.mark.parametrize("kind", ["busy", "limit"])
@pytest.mark.parametrize("path", ["", WEIGHTS])
def test_a_hub_that_is_busy_for_a_while_is_asked_again(sd, waits, capsys, kind, path):
    sd.faults.append(Fault(kind, FIRST, path, times=1))
    assert is_right(checkpoints.locate("sd"))
    assert not any(SECOND in path for _, path, _ in sd.asked)
    if path == "":  # of a file, the client says it itself
        status = {"busy": "503 Service Unavailable", "limit": "429 Too Many Requests"}[kind]
        assert capsys.readouterr().out == f"{FIRST}: the Hub answered {status}. Trying again in 2 seconds.\n"
        assert waits == [2]


def test_a_hub_that_stays_busy_ends_in_a_sentence(sd, waits, capsys):
    sd.faults.append(Fault("busy"))
    with pytest.raises(ConnectionError, match="the Hub answered 503 Service Unavailable; .*=mini"):
        checkpoints.locate("sd")
    assert waits == [*downloads.WAITS, *downloads.WAITS]


def test_a_slow_hub_is_waited_for(sd, waits, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    sd.faults.append(Fault("slow", FIRST, "part1.*", times=1))
    assert is_right(checkpoints.locate("sd"))
    assert waits


def test_a_silent_hub_is_not_waited_for(sd, waits, monkeypatch, capsys):
    monkeypatch.setattr(downloads, "SILENCE", 0.2)
    sd.faults.append(Fault("silent", FIRST))
    assert is_right(checkpoints.locate("sd"))
    assert f"Took {SECOND} instead ({FIRST}: " in capsys.readouterr().out
    assert waits == [*downloads.WAITS]


def test_a_file_that_is_cut_is_completed(sd, waits):
    sd.faults.append(Fault("cut", FIRST, WEIGHTS, times=1))
    assert is_right(checkpoints.locate("sd"))
    assert not any(SECOND in path for _, path, _ in sd.asked)


@pytest.mark.parametrize("kind", ["cut", "wrong"])
def test_damaged_files_do_not_stay(sd, waits, tmp_path, capsys, kind):
    """While the first id is always damaged the second is taken; once all is well, the first is whole."""
    sd.faults.append(Fault(kind, FIRST, "part1.*"))
    assert is_right(checkpoints.locate("sd"))
    reason = {"cut": "", "wrong": "the checksum of part1/model.fp16.safetensors was wrong"}[kind]
    assert f"Took {SECOND} instead ({FIRST}: {reason}" in capsys.readouterr().out
    whole = set(small_files().values())
    assert all(content in whole for content in cached(tmp_path).values())
    sd.faults.clear()
    folder = checkpoints.locate("sd")
    assert FIRST.split("/")[0] in folder and is_right(folder)


@pytest.mark.parametrize("path", ["part1.*", ".*config.json"])
def test_a_wrong_checksum_is_seen_and_fetched_again(sd, waits, capsys, path):
    sd.faults.append(Fault("wrong", FIRST, path, times=1))
    assert is_right(checkpoints.locate("sd"))
    assert re.fullmatch(
        rf"{FIRST}: the checksum of .* was wrong. Trying again in 2 seconds.\n", capsys.readouterr().out
    )


def fill_the_disk(monkeypatch, after):
    """From now on there is room for `after` bytes of each file."""
    from huggingface_hub import file_download

    real = file_download.http_get

    def http_get(url, temp_file, **settings):
        real(url, temp_file, **settings)
        if temp_file.tell() > after:
            temp_file.truncate(after)
            raise OSError(errno.ENOSPC, "No space left on device", temp_file.name)

    monkeypatch.setattr(file_download, "http_get", http_get)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_files(sd, waits, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        fill_the_disk(patch, after=1000)
        with pytest.raises(
            OSError, match=rf"got a disk that is full \({tmp_path}\).*HF_HOME.*COURSE_SCALE=mini"
        ):
            checkpoints.locate("sd")
    assert not waits and not any(SECOND in path for _, path, _ in sd.asked)
    assert is_right(checkpoints.locate("sd"))


def test_a_cache_that_may_not_be_written_is_one_sentence(sd, waits, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(OSError, match="got a disk that may not be written .*set HF_HOME .*COURSE_SCALE=mini"):
        checkpoints.locate("sd")
    assert not waits


@pytest.mark.parametrize("kind", ["stop", "gone", "busy", "silent"])
def test_without_the_hub_what_is_there_is_used(sd, waits, monkeypatch, capsys, kind):
    folder = checkpoints.locate("sd")
    monkeypatch.setattr(downloads, "SILENCE", 0.2)
    sd.faults.append(Fault(kind))
    if kind == "stop":
        sd.stop()
    assert checkpoints.locate("sd") == folder
    assert capsys.readouterr().out == ""


def test_without_a_network_and_with_half_a_model_one_sentence_says_so(sd, waits):
    sd.faults += [Fault("cut", FIRST, "part1.*"), Fault("gone", SECOND)]
    with pytest.raises(ConnectionError):
        checkpoints.locate("sd")
    sd.stop()
    with pytest.raises(ConnectionError, match="got no model 'sd' from the Hub .*COURSE_SCALE=mini"):
        checkpoints.locate("sd")
    with pytest.raises(ConnectionError, match="got no set 'digits' .*give a folder of pictures, or .*=mini"):
        data.load("digits", size_px=8)


def test_offline_mode_is_said(sd, waits):
    from huggingface_hub import constants, utils

    begin_again = getattr(utils, "reset_sessions", lambda: None)  # older clients ask once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        begin_again()
        with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set: unset it and restart;"):
            checkpoints.locate("sd")
    begin_again()
    assert not waits


def test_an_interrupted_download_goes_on(sd, waits, monkeypatch):
    from huggingface_hub import file_download

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_download, "http_get", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.locate("sd")
    assert is_right(checkpoints.locate("sd"))


def test_two_notebooks_may_fetch_the_same(sd):
    with ThreadPoolExecutor(2) as pool:
        assert all(map(is_right, pool.map(checkpoints.locate, ["sd", "sd"])))
        sets = list(pool.map(lambda name: data.load(name, size_px=8), ["digits", "digits"]))
    assert torch.equal(sets[0].images, sets[1].images)


# --- what must not run -----------------------------------------------------------------------------


def test_pickles_are_refused_and_not_even_fetched(hub, waits):
    only = {"model_index.json": b"{}", "unet/diffusion_pytorch_model.fp16.bin": published.TRAP}
    for hub_id in (FIRST, SECOND):
        hub.repositories["models", hub_id] = Repository(dict(only))
    with pytest.raises(
        ConnectionError, match="it has no .*safetensors, which is what can be read without risk"
    ):
        checkpoints.load(CLASSES["sd"], "sd")
    assert not any(path.endswith(".bin") for path in fetched(hub))
    assert not published.CAUGHT.exists() and not waits


@pytest.mark.parametrize("loader", [CLASSES["sd"], diffusers.DiffusionPipeline])
@pytest.mark.parametrize("part", ["_class_name", "unet"])
def test_code_in_a_repository_does_not_run(hub, waits, loader, part):
    files = dict(published.make("models", FIRST))
    index = json.loads(files["model_index.json"]) | {part: ["planted", "Planted"]}
    files |= {
        "model_index.json": json.dumps(index).encode(),
        "planted.py": PLANTED,
        "unet/planted.py": PLANTED,
    }
    hub.repositories["models", FIRST] = Repository(files)
    with pytest.raises(ValueError, match=f"brings code of its own for {part}, expected classes of Diffusers"):
        checkpoints.load(loader, "sd")
    assert not any(path.endswith(".py") for path in fetched(hub))
    assert not published.CAUGHT.exists()


@pytest.mark.parametrize("also", [True, False])
def test_a_script_in_a_picture_set_does_not_run(hub, waits, also):
    files = {"planted.py": PLANTED}
    if also:
        files |= published.make("datasets", "ylecun/mnist")
    hub.repositories["datasets", "someone/planted"] = Repository(files)
    if also:
        assert len(data.load("someone/planted", size_px=8)) == 700
    else:
        with pytest.raises(ConnectionError, match="got no set 'someone/planted'.*it has no"):
            data.load("someone/planted", size_px=8)
    assert not any(path.endswith(".py") for path in fetched(hub))
    assert not published.CAUGHT.exists()
