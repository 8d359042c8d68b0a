"""Checks of unit3/01_stable_diffusion_introduction."""

from __future__ import annotations

import torch

from course_utils.check.verdict import Verdict, attempt, compare, no_answer, right, wrong
from course_utils.messages import tr

START, END, LONGEST = 900, 901, 77


def tokens(function) -> Verdict:
    """Exercise 1: the words of a prompt between start and end, 77 in all."""
    for count in (4, 0, 75, 76, 300):
        words = list(range(10, 10 + count))
        got, failed = attempt(function, list(words), START, END)
        if failed is not None:
            return failed
        if problem := _tokens_problem(got, words):
            return wrong(tr("for a prompt of {count} tokens {problem}.", count=count, problem=problem))
    return right(tr("77 tokens whatever the prompt, and the end is never lost."))


def _tokens_problem(got, words):
    """What is wrong with the tokens of these words, or None."""
    try:
        got = torch.as_tensor(got).tolist()
    except (TypeError, ValueError, RuntimeError):
        if got is None or got is Ellipsis:
            return no_answer()
        return tr("got {kind}, expected a list", kind=type(got).__name__)
    if not isinstance(got, list) or not all(isinstance(one, int) for one in got):
        return tr("got something else than a flat list of whole numbers")
    kept = words[: LONGEST - 2]
    wanted = [START, *kept, *[END] * (LONGEST - 1 - len(kept))]
    if got == wanted:
        return None
    if got == [START, *words][:LONGEST] and len(words) > LONGEST - 2:
        return tr("the end was cut off: shorten the words to 75 before you put start and end around them")
    if len(got) != LONGEST:
        return tr("got {got} tokens, expected {longest}", got=len(got), longest=LONGEST)
    if got[0] != START:
        return tr("the first token is {first}, expected the start, {start}", first=got[0], start=START)
    if got[1 : 1 + len(kept)] != kept:
        return tr("the words are not all there in their order, right after the start")
    after = got[1 + len(kept) :][:3]
    return tr(
        "what follows the words is {after}..., expected the end, {end}, up to the last place",
        after=after,
        end=END,
    )


def guided(function) -> Verdict:
    """Exercise 2: classifier-free guidance on the output for a doubled batch (Ho & Salimans 2022, eq. 6)."""
    output = torch.randn((6, 4, 2, 5), generator=torch.Generator().manual_seed(41))
    nothing, prompt, scale = *output.chunk(2), 3.5
    got, failed = attempt(function, output.clone(), scale)
    if failed is not None:
        return failed
    even, odd = output[::2], output[1::2]
    causes = {
        tr("the halves have changed places: the empty prompt comes first"): (
            prompt + scale * (nothing - prompt)
        ),
        tr("this is the paper's w, where 0 is off; here 1 is off: begin at the empty prompt"): (
            prompt + scale * (prompt - nothing)
        ),
        tr("the two weights must add up to 1"): nothing + scale * prompt,
        tr("the difference is missing: how far is it from the empty prompt to the prompt?"): scale * prompt,
        tr("only the difference came back: add it to the output for the empty prompt"): (
            scale * (prompt - nothing)
        ),
        tr("the batch was taken apart in pairs: its first half is empty, its second half are the prompts"): (
            even + scale * (odd - even)
        ),
    }
    wanted = nothing + scale * (prompt - nothing)
    if isinstance(got, torch.Tensor) and got.shape == output.shape:
        return wrong(tr("got as many outputs as came in, expected half: cut the batch in two with chunk(2)."))
    return compare(got, wanted, tr("two answers became one, drawn out along their difference."), causes)


def remaining(function) -> Verdict:
    """Exercise 3: the timesteps that image-to-image still takes."""
    for steps, strength in ((25, 0.6), (10, 1.0), (10, 0.0), (7, 0.5), (50, 0.01), (25, 0.04)):
        ts = torch.arange(1000 - 1000 // steps, -1, -(1000 // steps))[:steps]
        got, failed = attempt(function, ts.clone(), strength)
        if failed is not None:
            return failed
        if problem := _remaining_problem(got, ts, int(steps * strength)):
            return wrong(
                tr(
                    "with {steps} steps and strength {strength:g} {problem}.",
                    steps=steps,
                    strength=strength,
                    problem=problem,
                )
            )
    return right(tr("the noisiest timesteps are left out, and the last ones are taken."))


def _remaining_problem(got, ts, count):
    """What is wrong with the timesteps, of which the last `count` should be left, or None."""
    try:
        got = torch.as_tensor(got).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        if got is None or got is Ellipsis:
            return no_answer()
        return tr("got {kind}, expected timesteps", kind=type(got).__name__)
    steps, ts = len(ts), ts.tolist()
    if got == ts[steps - count :]:
        return None
    if got == ts[:count]:
        return tr(
            "the first timesteps are taken, expected the last: the picture needs no noise as strong as that"
        )
    if abs(len(got) - count) == 1 and got == ts[steps - len(got) :]:
        return tr(
            "{got} timesteps are taken, expected {count}: strength * steps is rounded down",
            got=len(got),
            count=count,
        )
    if got == ts[-count:]:
        return tr("all are taken, expected none: ts[-0:] is the whole of ts")
    if got == ts[count:]:
        return tr("as many are left out as should be taken: strength 1 takes all, strength 0 takes none")
    return tr(
        "got {got} timesteps, {first}..., expected {count}, {wanted}...",
        got=len(got),
        first=got[:3],
        count=count,
        wanted=ts[steps - count :][:3],
    )


def keep_known(function) -> Verdict:
    """Exercise 4: inpainting by latents: outside of the mask the source, as noisy as the rest."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    generator = torch.Generator().manual_seed(43)
    z, source, eps = torch.randn((3, 2, 4, 6, 6), generator=generator)
    mask, t = (torch.rand((1, 1, 6, 6), generator=generator) < 0.4).float(), torch.tensor([550])
    got, failed = attempt(
        function, z.clone(), source.clone(), eps.clone(), t.clone(), mask.clone(), scheduler
    )
    if failed is not None:
        return failed
    a = scheduler.alphas_cumprod[t]
    noisy = a.sqrt() * source + (1 - a).sqrt() * eps
    causes = {
        tr("mask and rest have changed places: where the mask is 1, the picture is drawn anew"): (
            mask * noisy + (1 - mask) * z
        ),
        tr("the source is clean, the rest is noisy: give the source the noise of timestep t"): (
            mask * z + (1 - mask) * source
        ),
        tr("add_noise takes the clean latents first and the noise second"): (
            mask * z + (1 - mask) * (a.sqrt() * eps + (1 - a).sqrt() * source)
        ),
        tr("the mask is missing at the new part, so both are added"): z + (1 - mask) * noisy,
        tr("the source lies everywhere: multiply it by 1 - mask"): mask * z + noisy,
        tr("the source is missing outside of the mask"): mask * z,
        tr("this is the source alone: inside of the mask belongs what is being drawn"): noisy,
        tr("nothing was changed: outside of the mask belongs the source"): z,
    }
    praise = tr("both parts are equally noisy, and only the masked one is new.")
    return compare(got, mask * z + (1 - mask) * noisy, praise, causes)
