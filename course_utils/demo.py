"""A page for a browser: choose a colour, press, see what a guided sampler draws in it. Made with Gradio."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import gradio
from PIL import Image

from course_utils import diffusion, show
from course_utils.messages import tr

Sample = Callable[[Sequence[float], float, int], Iterable[diffusion.Step]]  # (colour, scale, seed) -> steps

SIDE_PX = 384
HEX = re.compile(r"#?([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})(?:[0-9a-f]{2})?", re.IGNORECASE)
LEVEL = r"\s*(\d+(?:\.\d+)?)\s*"
RGB = re.compile(rf"rgba?\({LEVEL},{LEVEL},{LEVEL}(?:,{LEVEL})?\)", re.IGNORECASE)
THEME = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing to fetch


def page(sample: Sample, steps: int, scale: float = 300) -> gradio.Blocks:
    """A page with a colour, a guidance scale, a seed, a button, and a picture; `launch` shows it.

    sample(colour, scale, seed): what a sampler of `diffusion` yields, (t, xt, x0_hat), with the pictures in
    [-1, 1] and the colour as three numbers in [-1, 1]; the first picture of the last x0_hat is shown. steps:
    how many it yields. scale: the one to begin with, and a third of the highest. What goes wrong becomes a
    message on the page.
    """

    def draw(colour, scale, seed, progress=gradio.Progress()):  # noqa: B008  Gradio looks for it here
        try:
            given = to_colour(colour), _number(tr("guidance scale"), scale), int(_number(tr("seed"), seed))
            walk = progress.tqdm(sample(*given), total=steps, unit=tr("steps"))
            tile = show.pixels(diffusion.last(walk))[0]
        except Exception as error:
            told = str(error).partition("\n")[0] or type(error).__name__
            raise gradio.Error(told, print_exception=False) from error
        red, green, blue = tile.mean((0, 1)).round().astype(int)
        mean = f"#{red:02x}{green:02x}{blue:02x}"
        picture = Image.fromarray(tile).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        return picture, tr("Mean colour {mean}, asked for {colour}.", mean=mean, colour=colour)

    title = tr("A butterfly of your colour")
    about = tr("The model was never told of colours: a loss guides it.")
    with gradio.Blocks(title=title, analytics_enabled=False) as blocks:
        gradio.Markdown(f"# {title}\n{about}")
        with gradio.Row():
            with gradio.Column():
                colour = gradio.ColorPicker("#2060e0", label=tr("Colour"))
                strength = gradio.Slider(0, 3 * scale, scale, label=tr("Guidance scale"))
                seed = gradio.Number(0, label=tr("Seed"), precision=0)
                button = gradio.Button(tr("Draw"), variant="primary")
            with gradio.Column():
                picture = gradio.Image(label=tr("Butterfly"), format="png", interactive=False, buttons=[])
                words = gradio.Textbox(label=tr("Outcome"), interactive=False)
        button.click(draw, [colour, strength, seed], [picture, words], show_progress_on=picture)
    return blocks.queue(max_size=16, default_concurrency_limit=1)


def launch(blocks: gradio.Blocks, host: str = "127.0.0.1", **settings) -> None:
    """Show a page to this machine only, or to all who reach `host`; settings are those of Gradio's launch."""
    blocks.launch(server_name=host, share=False, show_error=True, theme=THEME, **settings)


def to_colour(text: str) -> tuple[float, float, float]:
    """A colour as colour fields write it, "#2060e0" or "rgba(32, 96, 224, 1)" -> three numbers in [-1, 1].

    Raises ValueError for anything else.
    """
    by_hex, by_rgb = HEX.fullmatch(str(text).strip()), RGB.fullmatch(str(text).strip())
    if not (by_hex or by_rgb):
        raise ValueError(
            tr(
                "got the colour {text!r}, expected one such as #2060e0: choose it in the colour field.",
                text=text,
            )
        )
    levels = (int(part, 16) for part in by_hex.groups()) if by_hex else map(float, by_rgb.groups()[:3])
    return tuple(min(level, 255) / 127.5 - 1 for level in levels)


def _number(name, value):
    if not isinstance(value, (int, float)) or not 0 <= value < 2**63:
        raise ValueError(
            tr(
                "got the {name} {value!r}, expected a number from 0 up: type one, such as 1.",
                name=name,
                value=value,
            )
        )
    return value
