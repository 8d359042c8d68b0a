"""A pytest plugin that gives nbval what a notebook's front end does, and nbval leaves out.

Saved outputs come from a front end that collects what an Output widget prints inside that widget, that
obeys `clear_output` and `update_display`, and that (in this course) leaves live widgets out of the saved
page. nbval sees the raw messages instead, and would find all those cells different. An error inside a widget
is let through: nbval then fails the cell, as it should.

    pytest --nbval -p tools.nbval_frontend NOTEBOOK
"""

import nbformat
from nbval import plugin
from nbval.kernel import RunningKernel

from tools import notebooks

OUTPUTS = ("stream", "display_data", "execute_result")
OUTPUT_SECONDS = 60  # nbval gives up after 5 seconds without a message, too few on a busy machine


class FrontEnd:
    """Decide, message by message, what one running cell shows."""

    def __init__(self, outputs):
        self.outputs = outputs  # nbval's own list: it appends each message that comes through
        self.capturing = set()  # ids of the Output widgets that collect at the moment
        self.displays = {}  # display id -> position in outputs
        self.clear_later = False

    def passes(self, message):
        """Return whether nbval shall see `message`, after doing what it asks of a front end."""
        kind, content = message["msg_type"], message["content"]
        if kind == "comm_msg":
            self.capture(content)
        elif kind == "clear_output" and not self.capturing:
            self.clear(content.get("wait", False))
        elif kind == "update_display_data":
            self.update(content)
        elif kind in OUTPUTS:
            return not self.capturing and not notebooks.is_widget_view(content) and self.show(content)
        return kind not in ("clear_output", "update_display_data")

    def capture(self, content):
        """Note that an Output widget begins or ends to collect: its `msg_id` is set or empty."""
        state = content.get("data", {}).get("state", {})
        if "msg_id" in state:
            (self.capturing.add if state["msg_id"] else self.capturing.discard)(content["comm_id"])

    def clear(self, wait):
        """Empty the cell's outputs, now or when the next one comes."""
        self.clear_later = wait
        if not wait:
            self.outputs.clear()
            self.displays.clear()

    def show(self, content):
        """Note where the output comes to stand; return True: it passes."""
        if self.clear_later:
            self.clear(wait=False)
        name = content.get("transient", {}).get("display_id")
        if name:
            self.displays[name] = len(self.outputs)
        return True

    def update(self, content):
        """Replace the output that has the display id of `content`."""
        position = self.displays.get(content.get("transient", {}).get("display_id"))
        if position is not None and position < len(self.outputs):
            self.outputs[position].data = nbformat.from_dict(content["data"])


def next_message(file, timeout=None, stream="iopub"):
    """Return the next message of a notebook file's kernel that its FrontEnd lets through."""
    while True:
        message = file.kernel.get_message(stream, timeout=timeout)
        front_end = getattr(file, "front_end", None)
        if front_end is None or front_end.passes(message):
            return message


def set_outputs(cell, outputs):
    """Keep the list in which nbval collects a cell's outputs, and begin a FrontEnd on it."""
    cell.collected_outputs = outputs
    cell.parent.front_end = None if outputs is None else FrontEnd(outputs)


def execute(kernel, source, allow_stdin=None):
    """Send a cell, with history: without, IPython shows a result in spite of a closing semicolon."""
    return kernel.kc.execute(source, allow_stdin=allow_stdin, store_history=True, stop_on_error=False)


def pytest_configure(config):
    """Put the three functions in the place of nbval's own."""
    RunningKernel.execute_cell_input = execute
    plugin.IPyNbFile.get_kernel_message = next_message
    plugin.IPyNbCell.test_outputs = property(lambda cell: cell.collected_outputs, set_outputs)


def pytest_collection_modifyitems(items):
    """Wait longer for outputs than nbval's five seconds."""
    for item in items:
        if isinstance(item, plugin.IPyNbCell):
            item.output_timeout = OUTPUT_SECONDS
