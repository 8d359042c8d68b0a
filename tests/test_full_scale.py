"""What a learner does, with the real clients: opens a notebook at full scale, shares, runs out of memory."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel

from course_utils import checkpoints, runs
from tools import notebooks
from unit2 import finetune_model

TOKEN = "hf_" + "planted" * 5
LOADS = ("data.load(", "data.hub(", "checkpoints.")
NOTEBOOKS = notebooks.find_notebooks()
INTRODUCTION = notebooks.ROOT / "unit1" / "01_introduction_to_diffusers.ipynb"


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    return one_thread


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """An IPython shell in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell.instance(colors="nocolor")
    yield shell
    shell.set_custom_exc((), None)
    InteractiveShell.clear_instance()


def cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def run(cell, space, before):
    """Execute a cell, and, as far as it lacks names, the cells before it that define them."""
    while True:
        try:
            return exec(TransformerManager().transform_cell(cell.source), space)
        except NameError as error:
            place = max(i for i, each in enumerate(before) if defines(each, error.name))
            run(before[place], space, before[:place])


def defines(cell, name):
    nodes = list(ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))))
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return name in stored or any(getattr(node, "name", None) == name for node in nodes)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_that_set_up_and_load_run_at_full_scale(hub, tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_REHEARSAL", "2")
    space, every = {}, cells(path)
    for place, cell in enumerate(every):
        if cell.id in ("setup", "imports") or any(call in cell.source for call in LOADS):
            run(cell, space, every[:place])
    assert "Scale: full" in capsys.readouterr().out
    assert hub.asked or not any("data.load(" in cell.source for cell in every)


# --- sharing, and tokens ----------------------------------------------------------------------------


@pytest.fixture
def push(shell, hub, monkeypatch):
    """Run the cell of notebook unit1/01 that shares a pipeline, with a token planted."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks
    )
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    card = runs.model_card("My butterflies", "Trained by hand.", {"steps": 1})
    shell.user_ns |= {"pipeline": pipeline, "card": card}
    source = next(cell.source for cell in cells(INTRODUCTION) if cell.id == "push")
    source = re.sub("PUSH_TO = .*", 'PUSH_TO = "learner/my-butterflies"', source, count=1)

    def run():
        return shell.run_cell("from course_utils import hosting\n" + source)

    return run


def written(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


def test_a_pipeline_is_shared_with_its_card_and_loads_again(push, hub, shell, tmp_path, capsys, caplog):
    hub.tokens[TOKEN] = "learner"
    assert push().error_in_exec is None
    repository = hub.repositories["models", "learner/my-butterflies"]
    assert repository.files["README.md"].decode().endswith(shell.user_ns["card"].split("---")[-1])
    again = finetune_model.open_pipeline("learner/my-butterflies")
    pairs = zip(shell.user_ns["pipeline"].unet.parameters(), again.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    said = "".join(capsys.readouterr())
    assert f"{hub.address}/learner/my-butterflies/" in said
    assert TOKEN not in said + caplog.text and TOKEN.encode() not in written(tmp_path)


@pytest.mark.parametrize(("owner", "status"), [("somebody-else", 403), (None, 401)])
def test_a_token_without_the_right_to_write_is_refused_and_not_shown(
    push, hub, tmp_path, capsys, caplog, owner, status
):
    hub.tokens |= {TOKEN: owner} if owner else {}
    assert str(status) in str(push().error_in_exec)
    assert ("POST", "/api/repos/create", TOKEN) in hub.asked
    said = "".join(capsys.readouterr())
    assert str(status) in said
    assert TOKEN not in said + caplog.text and TOKEN.encode() not in written(tmp_path)


def test_a_token_does_not_show_itself(shell, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
    found = shell.run_cell("from course_utils import hosting\nhosting.token()").result
    assert found == TOKEN and f"Bearer {found}" == f"Bearer {TOKEN}"
    shell.run_cell("[hosting.token()]\n")
    shell.run_cell("secret = hosting.token()\n1 / 0")
    said = "".join(capsys.readouterr())
    assert "ZeroDivisionError" in said and TOKEN not in said


def test_a_download_with_a_token_does_not_write_it_down(hub, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(
        ConnectionError, match="the Hub did not accept the token: correct HF_TOKEN, or unset it"
    ):
        checkpoints.locate("clip")
    hub.tokens[TOKEN] = "learner"
    checkpoints.locate("clip")
    assert TOKEN not in "".join(capsys.readouterr()) + caplog.text
    assert TOKEN.encode() not in written(tmp_path)


# --- memory -----------------------------------------------------------------------------------------


@pytest.fixture
def opened(shell, monkeypatch, capsys):
    """A shell in which a notebook of the course has been set up."""
    monkeypatch.setenv("COURSE_SCALE", "mini")
    shell.run_cell('import torch, course_utils\ncourse_utils.start("unit1/01_introduction_to_diffusers")')
    capsys.readouterr()
    return shell


@pytest.mark.parametrize(
    "cell",
    ["torch.empty(1 << 52)", "raise torch.OutOfMemoryError('CUDA out of memory.')", "raise MemoryError"],
)
def test_without_memory_the_settings_to_lower_are_named(opened, capsys, cell):
    opened.run_cell("BATCH, SIZE = 64, 32")
    assert opened.run_cell(cell).error_in_exec is not None
    said = "".join(capsys.readouterr())
    assert "Error" in said and "Memory has run out on" in said
    assert "lower BATCH (64 now), SIZE (32 now) and run" in said and "COURSE_SCALE=mini" in said


def test_another_error_is_shown_as_it_is(opened, capsys):
    assert isinstance(opened.run_cell("raise RuntimeError('mine')").error_in_exec, RuntimeError)
    said = "".join(capsys.readouterr())
    assert "RuntimeError: mine" in said and "Memory" not in said


def test_a_script_without_memory_names_the_option(tmp_path, monkeypatch, capsys):
    def train(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("course_utils.train.train", train)
    options = ["--model", "ddpm-butterflies", "--count", "4", "--batch-size", "2"]
    assert finetune_model.main([*options, "--output", str(tmp_path / "run")]) == 2
    assert "memory has run out: lower --batch-size (2 now)" in capsys.readouterr().err


# --- a kernel that stops ------------------------------------------------------------------------------

BEGIN = """
import torch
from course_utils import runs, train
torch.manual_seed(0)
run = train.Run(torch.nn.Linear(2, 2), train.Recipe(steps=10**6, precision="fp32"))
steps = train.train(run, lambda n: torch.ones(4, 2), lambda model, x, generator: model(x).square().mean())
saved = runs.Checkpoints("states")
"""
TRAIN = """
for progress in steps:
    if progress.step == 3:
        saved.save(run)
        print("saved")
"""


def test_a_kernel_may_be_interrupted_and_restarted_in_the_middle_of_training(tmp_path):
    manager, client = start_new_kernel(cwd=str(tmp_path), env=notebooks.kernel_environment())

    def say(code):
        said = []
        reply = client.execute_interactive(code, output_hook=said.append, timeout=300)["content"]
        assert reply["status"] == "ok", reply["evalue"]
        return "".join(message["content"].get("text", "") for message in said)

    try:
        say(BEGIN)
        client.execute(TRAIN, stop_on_error=False)  # what is asked next is not to be dropped with it
        while client.get_iopub_msg(timeout=300)["content"].get("text") != "saved\n":
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=300)["content"]["ename"] == "KeyboardInterrupt"
        steps = "train.train(run, lambda n: torch.ones(4, 2), lambda model, x, g: model(x).square().mean())"
        assert say(f"before = run.step; print(next({steps}).step - before, before >= 3)") == "1 True\n"
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=300)
        assert say(BEGIN + "print(saved.resume(run), run.step, next(steps).step)") == "[] 3 4\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# --- what is never done -----------------------------------------------------------------------------

NEVER = (
    r"torch\.load\((?![^)]*weights_only=True)",
    r"pickle\.loads?\(",
    r"(trust_remote_code|allow_pickle|share) ?= ?True",
    r"(server_name|host|ip|default) ?= ?.0\.0\.0\.0",
    r"extractall\(",
)
SAFE = r"use_safetensors=True|checkpoints\.locate\(|from_pretrained\(.my-"  # the last: just written there


def sources():
    """Everything that learners run: (where, source)."""
    for place in ("course_utils", "unit*", "hackathon"):
        for path in notebooks.ROOT.glob(f"{place}/**/*.py"):
            yield path.name, path.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        for cell in cells(path):
            yield f"{path.name}: {cell.id}", TransformerManager().transform_cell(cell.source)


def loads(source):
    """The calls in a source that load weights, as text; tokenisers, processors and schedulers have none."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [node for node in calls if getattr(node.func, "attr", "") == "from_pretrained"]
    without = ("Tokenizer", "Processor", "Scheduler")
    return [ast.unparse(node) for node in calls if not ast.unparse(node.func.value).endswith(without)]


def test_no_code_of_others_is_run_and_nothing_listens_to_the_network():
    assert not [where for where, source in sources() if any(re.search(each, source) for each in NEVER)]
    calls = [(where, call) for where, source in sources() for call in loads(source)]
    assert len(calls) > 3 and not [each for each in calls if not re.search(SAFE, each[1])]
