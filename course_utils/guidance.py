"""Guidance: denoisers that wrap denoisers, and so steer every sampler of `diffusion`."""

from __future__ import annotations

from course_utils.diffusion import Denoiser


def classifier_free(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): away from what would be drawn without condition.

    x0_hat = unconditional + scale (conditional - unconditional). Scale 1 is the conditional model alone, 0
    the unconditional one; the paper's w is scale - 1. At a given xt, x0_hat, eps and v are affine functions
    of each other, so it makes no difference which of them is drawn out. The result is not cut to [-1, 1].
    """

    def denoise(xt, t):
        plain = unconditional(xt, t)
        return plain + scale * (conditional(xt, t) - plain)

    return denoise
