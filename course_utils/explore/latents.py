"""The latent viewer: the channels of a picture's latents, and what becomes of it without one of them."""

from __future__ import annotations

import torch

from course_utils import latent
from course_utils.explore.frame import (
    as_pictures,
    choice,
    contact_sheet,
    known,
    panel,
    single,
    slider,
    stops,
    tiles,
    within,
)
from course_utils.messages import tr
from course_utils.show import COLOURS, Picture

FACTORS = (-1, 0, 0.5, 1, 2)
SIZE = (10.4, 2.7)  # inches


@torch.no_grad()
def _decoded(vae, x, factor):
    """Latents of x (1, 3, H, W), and decoded: as they are, and with each channel in turn times `factor`."""
    z = latent.encode(vae, x)  # (1, C, h, w)
    count = z.shape[1]
    changed = z * (1 + (factor - 1) * torch.eye(count, device=z.device, dtype=z.dtype))[:, :, None, None]
    pictures = latent.decode(vae, torch.cat([z, changed])).float().cpu()  # (1 + C, 3, H, W)
    return z[0].float().cpu(), pictures[:1], pictures[1:]


def _rms(a, b):
    """Root-mean-square difference of pictures (N, 3, H, W): (N,)."""
    return (a - b).square().mean((1, 2, 3)).sqrt()


def _draw_latent_viewer(figure, vae, images, picture, channel, factor):
    known("factor", factor, dict.fromkeys(FACTORS))
    x = images[within("picture", picture, 0, len(images) - 1)][None]  # (1, 3, H, W)
    z, decoded, changed = _decoded(vae, x, factor)
    chosen = within("channel", channel, 1, len(z)) - 1
    lost, change = _rms(decoded, x).item(), _rms(changed, decoded)
    parts = figure.subfigures(1, 3, width_ratios=(4.6, 3, 2.6))
    axes = {"left": 0.01, "right": 0.99, "top": 0.84, "bottom": 0.04}
    labels = ["picture", "decoded", f"channel {channel} times {factor:g}"]
    tiles(parts[0].subplots(gridspec_kw=axes), torch.cat([x, decoded, changed[chosen : chosen + 1]]), labels)
    _channels(parts[1], z, chosen, factor)
    _bars(
        parts[2].subplots(gridspec_kw={"left": 0.2, "right": 0.97, "top": 0.78, "bottom": 0.2}),
        change,
        chosen,
    )
    spreads = ", ".join(f"{spread:.2f}" for spread in z.std((1, 2)).tolist())
    told = ", ".join(f"{each:.2f}" for each in change.tolist())
    return (
        f"Picture {picture} as {len(z)} channels of {z.shape[2]} x {z.shape[1]} latents, with standard "
        f"deviations of {spreads}. Decoded as they are, it comes back {lost:.3f} away (root-mean-square "
        f"difference, pictures span -1 to 1). With one channel times {factor:g}, what is decoded changes by "
        f"{told}, channel by channel; channel {channel} is shown."
    )


def _channels(figure, z, chosen, factor):
    """Each channel as a map on a common scale; the chosen one in a frame."""
    columns = -(-len(z) // 2)
    grid = {"left": 0.06, "right": 0.8, "top": 0.84, "bottom": 0.06, "hspace": 0.35, "wspace": 0.15}
    axes, reach = figure.subplots(2, columns, gridspec_kw=grid).ravel(), z.abs().max().item()
    for i, (ax, plane) in enumerate(zip(axes, z, strict=False)):
        drawn = ax.imshow(plane, cmap="cividis", vmin=-reach, vmax=reach, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"channel {i + 1}" + (f" × {factor:g}" if i == chosen else ""), fontsize=8)
        ax.spines[:].set_linewidth(3 if i == chosen else 0.5)
    bar = figure.colorbar(drawn, cax=figure.add_axes((0.85, 0.12, 0.035, 0.68)))
    bar.ax.tick_params(labelsize=7)


def _bars(ax, change, chosen):
    drawn = ax.bar(range(1, len(change) + 1), change.tolist(), color=COLOURS[0], width=0.65)
    drawn[chosen].set(hatch="//", facecolor=COLOURS[1])
    ax.bar_label(drawn, fmt="%.2f", fontsize=8)
    ax.set(xticks=range(1, len(change) + 1), ylim=(0, 1), xlabel="channel")
    ax.set_title("root-mean-square change of the\ndecoded picture (-1 to 1)", fontsize=8, loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def draw_latent_viewer(vae, images, picture: int = 0, channel: int = 1, factor: float = 0) -> Picture:
    """A picture's latents, channel by channel, and the picture decoded with one of them multiplied.

    Against: "latents are a small picture in red, green and blue". Each channel carries colours and shapes
    alike, and the decoder needs them all. vae: an AutoencoderKL. images: (N, 3, H, W), uint8 or in [-1, 1],
    or an ImageSet. picture: 0 to N - 1. channel: 1 to the VAE's number of channels. factor: one of FACTORS; 0
    removes it.
    """
    return single(_draw_latent_viewer, SIZE, vae, as_pictures(images), picture, channel, factor)


def latent_viewer(vae, images):
    """`draw_latent_viewer` with controls for the picture, the channel and the factor."""
    images = as_pictures(images)
    controls = {
        "picture": slider(tr("picture"), 0, len(images) - 1, 0),
        "channel": choice(tr("channel"), list(range(1, vae.config.latent_channels + 1)), 1),
        "factor": stops(tr("times"), [(f"{f:g}", f) for f in FACTORS], 0),
    }
    return panel(lambda **settings: draw_latent_viewer(vae, images, **settings), controls)


def latent_viewer_sheet(vae, images, picture: int = 0) -> Picture:
    """`draw_latent_viewer` without each channel in turn."""
    settings = [
        {"picture": picture, "channel": i + 1, "factor": 0} for i in range(vae.config.latent_channels)
    ]
    intro = "The latent viewer with each channel removed in turn."
    return contact_sheet(_draw_latent_viewer, SIZE, vae, as_pictures(images), settings=settings, intro=intro)
