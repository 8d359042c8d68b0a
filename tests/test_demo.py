"""The page of unit2/demo.py: what it answers, over HTTP and in a real browser."""

import colorsys
import contextlib
import io
import re
import subprocess
import sys

import psutil
import pytest
import torch
from gradio_client import Client
from PIL import Image

from course_utils import demo
from tools import browser, lab, notebooks

SCRIPT = notebooks.ROOT / "unit2" / "demo.py"
START_SECONDS = 180


# The page, with a sampler that only paints


def paint(colour, scale, seed):
    if seed == 13:
        raise RuntimeError("unlucky\nand more")
    for t in (2, 1, 0):
        x = torch.tensor(colour).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
        yield t, torch.zeros_like(x), x


@pytest.fixture(scope="module")
def client():
    blocks = demo.page(paint, steps=3)
    demo.launch(blocks, prevent_thread_lock=True, quiet=True)
    yield Client(blocks.local_url, verbose=False, analytics_enabled=False)
    blocks.close()


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("#ff0080", (1, -1, 0.0039)),
        (" FF008040 ", (1, -1, 0.0039)),
        ("rgb(255, 0, 128)", (1, -1, 0.0039)),
        ("rgba(255.0, 0, 127.5, 0.5)", (1, -1, 0)),
        ("rgba(999, 0, 0, 1)", (1, -1, -1)),
    ],
)
def test_colours_are_read_as_colour_fields_write_them(text, colour):
    assert demo.to_colour(text) == pytest.approx(colour, abs=1e-3)


@pytest.mark.parametrize(
    "wrong", ["", "blue", "#12", "#gg0000", "rgb(1, 2)", "rgb(1.2.3, 0, 0)", None, 7, [1]]
)
def test_what_is_no_colour_is_named(wrong):
    with pytest.raises(ValueError, match="got the colour .* expected one such as #2060e0"):
        demo.to_colour(wrong)


def test_the_page_draws_what_the_sampler_gives(client):
    picture, words = client.predict("#2060e0", 300, 0, api_name="/draw")
    with Image.open(picture if isinstance(picture, str) else picture["path"]) as image:
        assert image.size == (demo.SIDE_PX, demo.SIDE_PX)
        assert image.convert("RGB").getpixel((9, 9)) == (0x20, 0x60, 0xE0)
    assert words == "Mean colour #2060e0, asked for #2060e0."


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (("blue", 300, 0), "got the colour 'blue', expected one such as #2060e0"),
        (("#2060e0", -1, 0), "-1"),
        (("#2060e0", None, 0), "None"),
        (("#2060e0", 300, None), "got the seed None, expected a number from 0 up"),
        (("#2060e0", 300, -1), "got the seed -1, expected a number from 0 up"),
        (("#2060e0", 300, 1e30), "expected a number from 0 up"),
        (("#2060e0", "much", 0), "'much'"),
        (("#2060e0", 300, 13), "unlucky"),
    ],
)
def test_a_bad_request_gets_a_message(client, request_, told):
    with pytest.raises(Exception) as caught:  # noqa: B017  the client has its own kinds
        client.predict(*request_, api_name="/draw")
    assert told in str(caught.value)
    assert "Traceback" not in str(caught.value) and "and more" not in str(caught.value)


def test_it_tells_nobody_and_asks_nobody(client):
    config = client.config
    assert config["analytics_enabled"] is False and config["enable_queue"]
    assert config["stylesheets"] == []


# The script, in a browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the demo, started by its one command from another folder."""
    folder = tmp_path_factory.mktemp("demo")
    port = lab.free_port(7860)
    command = [sys.executable, str(SCRIPT), "--port", str(port)]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=notebooks.kernel_environment(**notebooks.saved_scale()),
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        assert lab.answers(address, process, START_SECONDS), (folder / "log").read_text()
        listening = {
            c.laddr.ip for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"
        }
        assert listening == {"127.0.0.1"}
        yield address
    finally:
        process.terminate()
        process.wait()


def hue(colour):
    return 360 * colorsys.rgb_to_hsv(*(level / 255 for level in colour))[0]


def colour_field(page):
    """Where a colour is typed; a click on its button before the page has woken up does nothing."""
    from playwright.sync_api import TimeoutError as NotYet

    field = page.get_by_role("textbox", disabled=False).first
    for _ in range(30):
        page.get_by_role("main").get_by_role("button").first.click()
        with contextlib.suppress(NotYet):
            field.wait_for(timeout=1000)
            return field
    raise AssertionError("the colour field does not open")


@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
def test_a_chosen_colour_comes_and_a_bad_request_gets_a_message(address):
    from playwright.sync_api import expect

    folder = notebooks.empty_folder(browser.BUILD / "demo")
    with browser.chromium() as chromium:
        page, foreign = browser.new_page(chromium)
        page.goto(address)
        for wanted in ("#d02020", "#20a040"):
            colour_field(page).fill(wanted)
            page.keyboard.press("Enter")
            page.get_by_role("heading").click()  # closes the colour field
            page.get_by_role("button", name="Draw").click()
            expect(page.get_by_label("Outcome")).to_have_value(
                re.compile(wanted), timeout=START_SECONDS * 1000
            )
            page.screenshot(path=folder / f"{wanted[1:]}.png")
            source = page.locator("img[src*='/file=']").get_attribute("src")
            shown = Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB")
            mean = shown.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
            assert abs((hue(mean) - hue(bytes.fromhex(wanted[1:])) + 180) % 360 - 180) < 40, mean
        page.get_by_label("Seed").fill("-1")
        page.get_by_role("button", name="Draw").click()
        page.get_by_text("got the seed -1, expected a number from 0 up").wait_for()
        page.screenshot(path=folder / "message.png")
        assert "Traceback" not in page.content() and foreign == []
