"""Boxes, arrows and small pictures: the diagrams of Unit 3's README."""

from __future__ import annotations

import textwrap

import torch
from torch import Tensor

from course_utils import show

LEARNED, FIXED = "#DCEBF7", "#F3F1EA"  # of a part that was trained, and of a table or formula


class Diagram:
    """A page of `width` x `height` inches whose units are inches, y upwards."""

    def __init__(self, width: float, height: float, alt: str):
        self.figure = show.Picture(width, height, alt)
        self.figure.set_layout_engine("none")
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.ax.set_axis_off()

    def box(self, x: float, y: float, text: str, width=1.15, height=0.62, colour=LEARNED):
        """A labelled box around (x, y)."""
        from matplotlib.patches import FancyBboxPatch

        shape = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour, edgecolor="0.25", linewidth=1.2,
        )  # fmt: skip
        self.ax.add_patch(shape)
        self.note(x, y, text)

    def note(self, x: float, y: float, text: str, size=9, **settings):
        """Text around (x, y)."""
        self.ax.text(x, y, text, fontsize=size, **({"ha": "center", "va": "center"} | settings))

    def arrow(self, start: tuple[float, float], end: tuple[float, float], curve: float = 0.0, dashed=False):
        """An arrow, straight or curved, full or dashed."""
        style = {"arrowstyle": "-|>", "color": "0.2", "connectionstyle": f"arc3,rad={curve}", "lw": 1.3}
        style |= {"shrinkA": 2, "shrinkB": 2, "linestyle": "--" if dashed else "-"}
        self.ax.annotate("", end, start, arrowprops=style)

    def tile(self, x: float, y: float, picture: Tensor, side: float = 0.95, text: str = ""):
        """A picture (C, H, W), uint8 or in [-1, 1], around (x, y), with a text below."""
        half = side / 2
        self.ax.imshow(
            show.pixels(picture[None])[0],
            extent=(x - half, x + half, y - half, y + half),
            interpolation="nearest",
        )
        self.ax.set(xlim=(0, self.figure.get_figwidth()), ylim=(0, self.figure.get_figheight()))
        self.note(x, y - half - 0.05, text, 8, va="top")

    def channels(self, x: float, y: float, z: Tensor, side: float = 0.44, text: str = ""):
        """The four channels of latents (4, h, w) in a square of two by two around (x, y)."""
        reach = z.abs().max()
        for i, plane in enumerate(z / reach):
            across, down = (0.5 - i % 2) * -1.1 * side, (0.5 - i // 2) * 1.1 * side
            self.tile(x + across, y + down, plane[None].expand(3, -1, -1), side)
        self.note(x, y - 1.1 * side - 0.03, text, 8, va="top")


def text_encoding(tokenizer, text_encoder, prompt: str) -> show.Picture:
    """From a prompt to what the U-Net is told: tokens, ids, 77 vectors."""
    ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        states = text_encoder(ids).last_hidden_state[0]  # (77, width)
    width, shown = states.shape[1], ids[0, :12].tolist()
    alt = (
        f"The prompt {prompt!r} is cut into {len(tokenizer.tokenize(prompt))} tokens, put between a start "
        f"and an end token and filled up to 77; each has a number, the text encoder turns the 77 numbers "
        f"into 77 vectors, {width} wide at mini scale, and the cross-attention of the U-Net reads those."
    )
    page = Diagram(9.6, 3.5, alt)
    page.note(0.2, 3.25, f'"{prompt}"', 11, ha="left")
    names = [piece.replace("</w>", "") for piece in tokenizer.convert_ids_to_tokens(shown)]
    for i, (name, number) in enumerate(zip(names, shown, strict=True)):
        x = 0.55 + 0.68 * i
        page.box(
            x,
            2.6,
            {0: "start"}.get(i, "end" if number == tokenizer.eos_token_id else name),
            0.62,
            0.34,
            FIXED,
        )
        page.note(x, 2.28, str(number), 8)
    page.note(8.62, 2.6, "... 77 in all", 9, ha="left")
    page.note(0.2, 2.0, "tokenizer ↑", 9, ha="left")
    page.arrow((4.3, 2.15), (4.3, 1.85))
    page.box(4.3, 1.55, "text encoder (CLIP): each place looks at itself and at those before it", 4.9, 0.5)
    page.arrow((4.3, 1.28), (4.3, 1.02))
    image = states.T[:24].contiguous()
    page.ax.imshow(
        image, extent=(0.3, 8.3, 0.25, 0.98), cmap="cividis", aspect="auto", interpolation="nearest"
    )
    page.ax.set(xlim=(0, 9.6), ylim=(0, 3.5))
    page.note(
        4.3, 0.1, f"77 vectors, {width} wide (768 in Stable Diffusion 1.x, 1,024 in 2.x); 24 rows shown", 8
    )
    page.note(8.4, 0.62, "to every\ncross-attention", 8, ha="left")
    return page.figure


def conditioning() -> show.Picture:
    """Where words, timestep and pictures come into the U-Net."""
    alt = (
        "A U-Net: three levels down, a middle, three levels up, with skips across. The timestep is added "
        "inside of every block; every cross-attention asks the 77 vectors of the text; masks, depth maps and "
        "small pictures are extra channels of its input."
    )
    page, levels = Diagram(9.6, 4.4, alt), ((1.9, 2.9), (2.9, 2.15), (3.9, 1.4))
    page.box(0.85, 2.9, "noisy\nlatents", 0.95, colour=FIXED)
    page.box(0.85, 1.75, "mask, depth,\nsmall picture", 1.15, colour=FIXED)
    page.arrow((0.85, 2.06), (0.85, 2.58), dashed=True)
    page.note(0.8, 2.32, "more\nchannels", 7, ha="right")
    for i, (x, y) in enumerate(levels):
        page.box(x, y, "conv\nattention", 0.85, 0.55)
        page.box(9.2 - x, y, "conv\nattention", 0.85, 0.55)
        page.arrow((x + 0.43, y), (9.2 - x - 0.43, y), dashed=True)
        if i:
            before = levels[i - 1]
            page.arrow((before[0] + 0.2, before[1] - 0.28), (x - 0.2, y + 0.28))
            page.arrow((9.2 - x + 0.2, y + 0.28), (9.2 - before[0] - 0.2, before[1] - 0.28))
    page.note(4.6, 3.02, "skips", 8)
    page.box(4.6, 0.7, "middle", 0.85, 0.45)
    page.arrow((4.0, 1.12), (4.4, 0.93))
    page.arrow((4.8, 0.93), (5.2, 1.12))
    page.arrow((1.33, 2.9), (1.47, 2.9))
    page.arrow((7.73, 2.9), (8.15, 2.9))
    page.note(8.2, 2.9, "what is noise in it\n(eps or v)", 8, ha="left")
    page.box(2.6, 3.98, "timestep t\nadded inside every block", 2.0, 0.5, FIXED)
    page.box(6.6, 3.98, "77 vectors of the text\nasked by every cross-attention", 2.3, 0.5, FIXED)
    for x in (1.9, 7.3):
        page.arrow((2.6, 3.72), (x, 3.19))
        page.arrow((6.6, 3.72), (x, 3.19))
    return page.figure


def latent_diffusion(
    x: Tensor, z: Tensor, zt: Tensor, noise: Tensor, made: Tensor, picture: Tensor, prompt: str
) -> show.Picture:
    """Latent diffusion as a whole, with real latents (4, h, w): above those of x, below those of picture."""
    alt = (
        "Above, training: the encoder turns a picture into latents, noise is added, and the U-Net, told the "
        "text, has to undo it. Below, sampling: from noise the U-Net and the scheduler go step by step to "
        "clean latents, which the decoder turns into a picture."
    )
    page = Diagram(10.4, 4.6, alt)
    page.note(0.1, 4.4, "training", 11, ha="left", weight="bold")
    page.tile(0.75, 3.55, x, text=f"{x.shape[1]} × {x.shape[2]} × 3")
    page.box(2.15, 3.55, "encoder")
    page.channels(3.6, 3.55, z, text=f"{z.shape[1]} × {z.shape[2]} × 4")
    page.note(4.55, 3.85, "add noise")
    page.channels(5.5, 3.55, zt)
    page.box(7.25, 3.55, "U-Net\ntold t and text")
    page.note(9.0, 3.55, "its error in eps or v\nteaches the U-Net", 9)
    page.arrow((1.25, 3.55), (1.55, 3.55))
    page.arrow((2.75, 3.55), (3.05, 3.55))
    page.arrow((4.15, 3.55), (4.95, 3.55))
    page.arrow((6.05, 3.55), (6.65, 3.55))
    page.arrow((7.85, 3.55), (8.2, 3.55))
    page.note(0.1, 2.35, "sampling", 11, ha="left", weight="bold")
    page.channels(0.75, 1.4, noise, text="noise")
    page.box(2.6, 1.4, "U-Net")
    page.box(4.35, 1.4, "scheduler", colour=FIXED)
    page.channels(6.2, 1.4, made, text="latents")
    page.box(7.8, 1.4, "decoder")
    page.tile(9.4, 1.4, picture, text="\n".join(textwrap.wrap(prompt, 22)))
    page.box(2.6, 0.35, "text encoder", height=0.42)
    page.note(3.35, 0.35, f'← "{prompt}"', 8, ha="left")
    page.arrow((2.6, 0.57), (2.6, 1.08))
    page.arrow((1.3, 1.4), (2.0, 1.4))
    page.arrow((3.2, 1.4), (3.75, 1.4))
    page.arrow((4.35, 1.73), (2.6, 1.73), curve=0.35)
    page.note(3.5, 2.22, "25 times", 8)
    page.arrow((4.95, 1.4), (5.65, 1.4))
    page.arrow((6.75, 1.4), (7.2, 1.4))
    page.arrow((8.4, 1.4), (8.9, 1.4))
    return page.figure


def dreambooth(subject: Tensor, others: Tensor, words: str, plain: str) -> show.Picture:
    """What DreamBooth trains on: pictures (N, 3, H, W) of one subject, and of others of its class."""
    alt = (
        f"A few pictures of one creature are shown under the prompt {words!r}, and pictures of other "
        f"creatures under {plain!r}; both errors are added: it learns the one and keeps the others."
    )
    page = Diagram(9.6, 2.9, alt)
    for y, pictures, prompt in ((2.1, subject, words), (0.75, others, plain)):
        for i, one in enumerate(pictures[:4]):
            page.tile(0.65 + 1.05 * i, y, one)
        page.note(2.2, y - 0.6, f'"{prompt}"', 9)
        page.arrow((4.4, y), (5.35, 1.55 if y > 1 else 1.3))
    page.box(6.1, 1.42, "U-Net,\nfine-tuned", 1.35, 0.75)
    page.arrow((6.8, 1.42), (7.3, 1.42))
    page.note(
        7.4, 1.42, "error on the subject\n+ weight × error on the class\n(prior preservation)", 9, ha="left"
    )
    return page.figure
