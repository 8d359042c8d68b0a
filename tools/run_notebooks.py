"""Execute notebooks from top to bottom, on copies; measure them; save fresh outputs if asked.

    python -m tools.run_notebooks [--save] [NOTEBOOK ...]
    python -m tools.run_notebooks --translated    # of each language, the notebook that takes the least time

Writes `build/run.json`, a page per notebook in `build/html/`, and with `--save` the notebooks themselves.
"""

import argparse
import json
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from nbclient import NotebookClient

from tools import notebooks

BUILD = notebooks.ROOT / "build"
TRACEBACK = "Traceback (most recent call last)"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SAMPLE_SECONDS = 0.2
SHOWN_LINES = 15


@dataclass(frozen=True)
class Result:
    """What one run of one notebook gave; `problems` are the reasons why it is not `ok`."""

    notebook: str
    seconds: float
    peak_rss_mb: float
    ok: bool
    problems: list = field(default_factory=list, compare=False)

    def record(self):
        """Return the part that goes into run.json."""
        return {key: value for key, value in asdict(self).items() if key != "problems"}


def main(argv=None):
    """Run the notebooks; return 1 if one failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="*", help="notebooks to run (default: all of the course)")
    parser.add_argument("--save", action="store_true", help="write the fresh outputs into the notebooks")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder for what this writes")
    parser.add_argument("--cell-seconds", type=int, default=1800, help="longest time for one cell")
    parser.add_argument("--translated", action="store_true", help="run one translation into each language")
    options = parser.parse_args(argv)
    paths = quickest_translated() if options.translated else notebooks.find_notebooks(options.notebook)
    if options.save and set(paths) & set(notebooks.find_translated()):
        sys.exit("The outputs of a translated notebook are the English one's: save that one, then make i18n.")
    results = []
    for path in paths:
        results.append(run_one(path, options))
        records = json.dumps([result.record() for result in results], indent=2)
        notebooks.write_text(records + "\n", options.build / "run.json")
    print(table(results))
    return 0 if all(result.ok for result in results) else 1


def quickest_translated():
    """Return for each language the translated notebook that takes the fewest minutes at `mini`."""
    from course_utils.hosting import COSTS

    def minutes(path):
        return COSTS[f"{path.parent.parent.name}/{path.stem}"]["mini"].minutes

    paths = sorted(notebooks.find_translated(), key=minutes)
    quickest = {path.parent.name: path for path in reversed(paths)}
    return list(quickest.values())


def run_one(path, options):
    """Run the notebook at `path`, write its page, save it if asked; return its Result."""
    name = notebooks.short_name(path)
    before = path.read_bytes()
    notebook = notebooks.read(path)
    print(f"\n{name}", flush=True)
    start = time.monotonic()
    problems, peak_mb = execute(notebook, name, options)
    seconds = time.monotonic() - start
    problems = problems or hidden_errors(notebook)
    cleaned = notebooks.clean(notebook)
    write_page(cleaned, options.build / "html" / Path(name).with_suffix(".html"))
    if options.save and not problems:
        problems += save(cleaned, path, before)
    for problem in problems:
        print(indented(problem), flush=True)
    return Result(name, round(seconds, 1), round(peak_mb, 1), not problems, problems)


def execute(notebook, name, options):
    """Execute `notebook` in place, in an empty folder; return (problems, peak memory in MB)."""
    folder = notebooks.empty_folder(options.build / "run" / Path(name).stem)
    memory = PeakMemory()
    progress = Progress(notebook)
    client = NotebookClient(
        notebook,
        timeout=options.cell_seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        record_timing=False,
        coalesce_streams=True,
        on_cell_execute=progress.begin,
        on_cell_executed=progress.end,
    )
    client.on_cell_start = lambda **_: memory.watch(client.km.provisioner.pid)
    environment = notebooks.kernel_environment(**(notebooks.saved_scale() if options.save else {}))
    environment["JPY_SESSION_NAME"] = name  # as Jupyter does: in a translation, messages are in its language
    try:
        with memory:
            client.execute(env=environment)
    except Exception as error:  # a failing cell, a dead kernel, a cell that took too long: all are reported
        progress.broken()
        return [f"cell {progress.cell_id}: {last_lines(str(error))}"], memory.peak_mb
    return [], memory.peak_mb


class Progress:
    """One line per code cell: number, id, seconds."""

    def __init__(self, notebook):
        codes = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        self.number_of = {cell.id: number for number, cell in enumerate(codes, 1)}
        self.total = len(codes)
        self.cell_id = "(before the first)"
        self.open_line = False

    def begin(self, cell, cell_index):
        """Start the line of `cell`."""
        self.cell_id, self.start, self.open_line = cell.id, time.monotonic(), True
        print(f"  {self.number_of[cell.id]:3d}/{self.total}  {cell.id:<28}", end=" ", flush=True)

    def end(self, cell, cell_index, execute_reply):
        """Finish the line of `cell`."""
        failed = execute_reply["content"]["status"] == "error"
        self.finish("failed" if failed else "")

    def broken(self):
        """Finish a line that has no end because the kernel died or the cell took too long."""
        if self.open_line:
            self.finish("stopped")

    def finish(self, word):
        """Print the seconds and `word`."""
        self.open_line = False
        print(f"{time.monotonic() - self.start:7.1f} s  {word}".rstrip(), flush=True)


class PeakMemory:
    """The largest resident memory of a process and its children, sampled while the context is open.

    Memory that children share with the process counts once for each, so this is an upper estimate; between
    two samples a short peak of a child can be missed (the process's own cannot, where /proc tells it).
    """

    def __init__(self):
        self.peak_mb = 0.0
        self.pid = None
        self.done = threading.Event()

    def watch(self, pid):
        """Measure the process `pid` now, and from now on."""
        self.pid = pid
        self.sample()

    def __enter__(self):
        self.thread = threading.Thread(target=self.sample_until_done, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def sample_until_done(self):
        """Sample until the context closes."""
        while not self.done.wait(SAMPLE_SECONDS):
            if self.pid is not None:
                self.sample()

    def sample(self):
        """Look once."""
        self.peak_mb = max(self.peak_mb, tree_mb(self.pid), own_peak_mb(self.pid))


def tree_mb(pid):
    """Return the resident memory of `pid` and its children, in MB; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    return sum(resident_bytes(member) for member in family) / 1e6


def resident_bytes(process):
    """Return the resident memory of one process in bytes; 0 when it is gone."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def own_peak_mb(pid):
    """Return the peak that Linux has recorded for `pid` itself, in MB; 0 elsewhere."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def hidden_errors(notebook):
    """Return what went wrong without stopping the run, above all in the callbacks of widgets."""
    problems = []
    for cell in notebook.cells:
        problems += [f"cell {cell.id}: {text}" for text in map(error_in, cell.get("outputs", [])) if text]
    for model in notebook.metadata.get("widgets", {}).get(notebooks.STATE_MIME, {}).get("state", {}).values():
        outputs = model.get("state", {}).get("outputs") or []
        problems += [f"a widget: {text}" for text in map(error_in, outputs) if text]
    return list(dict.fromkeys(problems))


def error_in(output):
    """Return the error that one output shows, or None."""
    if output["output_type"] == "error":
        return last_lines("\n".join(output["traceback"]) or f"{output['ename']}: {output['evalue']}")
    texts = [notebooks.text_of(output["text"])] if output.get("name") == "stderr" else []
    texts += [notebooks.text_of(v) for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return next((last_lines(text) for text in texts if TRACEBACK in text), None)


def last_lines(text):
    """Return the last lines of `text`, without colours."""
    return "\n".join(COLOURS.sub("", text).strip().splitlines()[-SHOWN_LINES:])


def indented(text):
    """Return `text` as a block under its notebook's progress lines."""
    return "\n".join("    " + line for line in text.splitlines())


def save(notebook, path, before):
    """Write `notebook` to `path` unless the file has changed since it was read; return the problems."""
    if path.read_bytes() != before:
        return [f"{path.name} was edited during the run, so its outputs were not saved: run this again."]
    notebooks.write(notebook, path)
    return []


def write_page(notebook, path):
    """Write `notebook` as an HTML page."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter(embed_images=False).from_notebook_node(notebook)
    notebooks.write_text(body, path)


def table(results):
    """Return the closing table: notebook, minutes, peak memory, result."""
    width = max([len("notebook"), *(len(result.notebook) for result in results)])
    lines = [f"\n{'notebook':<{width}}  minutes  peak MB  result"]
    for result in results:
        word = "ok" if result.ok else "failed: " + first_line(result.problems)
        lines.append(
            f"{result.notebook:<{width}}  {result.seconds / 60:7.2f}  {result.peak_rss_mb:7.0f}  {word}"
        )
    return "\n".join(lines)


def first_line(problems):
    """Return the last line of the first problem, which names the error."""
    return problems[0].splitlines()[-1][:100]


if __name__ == "__main__":
    sys.exit(main())
